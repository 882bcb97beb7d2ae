"""The training loop of a warm start: what is learned, and that losses are what they say."""

import pytest
import torch

from ngrpo import worlds
from ngrpo.lab import warm_start
from ngrpo.lab.tokenizer import character_tokenizer
from ngrpo.worlds import Demonstration

WORLD = worlds.get("countdown")
# Completions of one length, so one batch; the second prompt is one character longer, so the first row is padded.
PADDED = [Demonstration("1,2,3=6:", "1+2+3"), Demonstration("9,2,1=19:", "9*2+1")]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer(WORLD.alphabet, max_tokens=warm_start.MAX_POSITIONS)


def test_batches_learn_the_completion_and_its_end_only(tokenizer):
    shown = WORLD.demonstrations(60, 0)
    learned, seen = [], []
    for input_ids, is_target in warm_start.batches(shown, tokenizer):
        for ids, targets in zip(input_ids, is_target, strict=True):
            learned.append(tokenizer.decode(ids[targets]))
            seen.append(tokenizer.decode(ids).replace(tokenizer.pad_token, ""))
    eos = tokenizer.eos_token
    assert sorted(learned) == sorted(each.completion + eos for each in shown)
    assert sorted(seen) == sorted(each.prompt + each.completion + eos for each in shown)


def test_batches_leave_little_padding(tokenizer):
    batches = warm_start.batches(WORLD.demonstrations(256, 0), tokenizer)
    num_padding = sum(int((input_ids == tokenizer.pad_token_id).sum()) for input_ids, _ in batches)
    assert num_padding < 0.05 * sum(input_ids.numel() for input_ids, _ in batches)


def test_summed_loss_of_a_padded_batch_is_the_sum_of_its_rows(tokenizer):
    model = warm_start.new_model(tokenizer, 0).double()
    ((input_ids, is_target),) = warm_start.batches(PADDED, tokenizer)
    assert (input_ids == tokenizer.pad_token_id).sum() == 1
    expected = 0.0
    for shown in PADDED:
        ids = tokenizer(shown.prompt + shown.completion + tokenizer.eos_token)["input_ids"]
        logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
        expected -= sum(logprobs[i - 1, ids[i]].item() for i in range(len(shown.prompt), len(ids)))
    assert warm_start.summed_loss(model, input_ids, is_target).item() == pytest.approx(expected, rel=1e-12)


def test_summed_loss_runs_the_causal_kernel_without_a_mask(tokenizer, monkeypatch):
    calls = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def spy(*tensors, **options):
        calls.append((options["attn_mask"], options["is_causal"]))
        return kernel(*tensors, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    ((input_ids, is_target),) = warm_start.batches(PADDED, tokenizer)
    warm_start.summed_loss(warm_start.new_model(tokenizer, 0), input_ids, is_target)
    assert calls == [(None, True)] * warm_start.architecture(64)["num_hidden_layers"]


def test_batches_leave_out_what_is_not_to_be_learned():
    tokenizer = character_tokenizer(worlds.get("misconception").alphabet, max_tokens=warm_start.MAX_POSITIONS)
    shown = [Demonstration("47+85=", "P231", num_unlearned=1), Demonstration("41+25=", "L666")]
    ((input_ids, is_target),) = warm_start.batches(shown, tokenizer)
    learned = [tokenizer.decode(ids[targets]) for ids, targets in zip(input_ids, is_target, strict=True)]
    assert learned == ["231" + tokenizer.eos_token, "L666" + tokenizer.eos_token]


def test_train_counts_learned_tokens_only(monkeypatch):
    """The loss of a step is a mean over them: with every loss 1 per token it is 1, whatever is masked."""
    tokenizer = character_tokenizer(worlds.get("misconception").alphabet, max_tokens=warm_start.MAX_POSITIONS)
    model = warm_start.new_model(tokenizer, 0, hidden_size=8)
    one_each = lambda model, _, is_target: is_target.sum() + 0.0 * next(model.parameters()).sum()  # noqa: E731
    monkeypatch.setattr(warm_start, "summed_loss", one_each)
    recipe = warm_start.WarmStart("misconception", num_steps=3, rows_per_step=16)
    shown = worlds.get("misconception").demonstrations(48, 0)
    assert any(each.num_unlearned for each in shown)
    losses = warm_start.train(model, tokenizer, shown, recipe, None)
    assert losses == pytest.approx([1.0, 1.0, 1.0])
