"""Log-probabilities of given completions: those of the plain forward pass, whatever the padding."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import make_prompts, small_policy
from model_kinds import FLOAT32_ONLY, KINDS, kind_policy
from ngrpo.policy import Policy, completion_logprobs, pad_rows

CPU = torch.device("cpu")
PROMPTS = [prompt.token_ids for prompt in make_prompts()]
COMPLETIONS = [(5, 6, 7, 1), (9,), (2, 3, 4, 5, 6, 7, 8, 1), (17, 16), (10, 1), (12, 12, 12)]


def batch_of(prompts=PROMPTS, completions=COMPLETIONS, pad_token_id=0):
    return pad_rows(prompts, completions, pad_token_id=pad_token_id, device=CPU)


def plain_logprobs(policy, prompt, completion, temperature):
    """[T, V]: one unpadded row through the model, called plainly."""
    logits = policy.model(input_ids=torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0]
    return (logits[len(prompt) - 1 : -1] / temperature).log_softmax(-1)


# --- padding ---


def test_padding_by_hand():
    batch = batch_of([(5, 6, 7), (8,)], [(9,), (10, 11)])
    assert batch.input_ids.tolist() == [[5, 6, 7, 9, 0], [0, 0, 8, 10, 11]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 3], [0, 0, 0, 1, 2]]
    assert batch.completion_ids.tolist() == [[9, 0], [10, 11]]
    assert batch.mask.tolist() == [[True, False], [True, True]]


TOKENS = st.lists(st.integers(2, 9), min_size=1, max_size=6)


@given(st.lists(st.tuples(TOKENS, st.lists(st.integers(2, 9), max_size=6)), min_size=1, max_size=5))
def test_padding_loses_and_moves_nothing(rows):
    prompts, completions = zip(*rows, strict=True)
    batch = batch_of(prompts, completions)
    for row, (prompt, completion) in enumerate(rows):
        real = batch.attention_mask[row].bool()
        assert batch.input_ids[row][real].tolist() == [*prompt, *completion]
        assert batch.input_ids[row][~real].eq(0).all()
        assert batch.position_ids[row][real].tolist() == list(range(len(prompt) + len(completion)))
        assert batch.completion_ids[row][batch.mask[row]].tolist() == list(completion)
        assert batch.mask[row].sum() == len(completion)


# --- values ---


CASES = [(kind, torch.float32, 1e-4) for kind in KINDS]
CASES += [(kind, torch.float64, 1e-9) for kind in KINDS if kind not in FLOAT32_ONLY]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("kind", "dtype", "tolerance"), CASES)
@torch.no_grad()
def test_logprobs_and_entropies_are_those_of_the_plain_forward_pass(kind, dtype, tolerance, temperature):
    policy = kind_policy(kind, dtype)
    logprobs, entropies = completion_logprobs(policy, batch_of(), temperature=temperature, with_entropy=True)
    assert logprobs.shape == entropies.shape == (len(PROMPTS), max(map(len, COMPLETIONS)))
    assert logprobs.dtype == dtype
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        plain = plain_logprobs(policy, prompt, completion, temperature)
        chosen = [float(plain[position, token]) for position, token in enumerate(completion)]
        assert logprobs[row, : len(completion)].tolist() == pytest.approx(chosen, abs=tolerance, rel=0)
        direct = -(plain.exp() * plain).sum(-1)
        assert entropies[row, : len(completion)].tolist() == pytest.approx(direct.tolist(), abs=tolerance, rel=0)


@torch.no_grad()
def test_rows_do_not_see_each_other_or_their_padding(policy64):
    together, entropies = completion_logprobs(policy64, batch_of(), temperature=1.0, with_entropy=True)
    other_pad, _ = completion_logprobs(policy64, batch_of(pad_token_id=7), temperature=1.0)
    mask = batch_of().mask
    torch.testing.assert_close(other_pad[mask], together[mask], rtol=0, atol=1e-12)
    for row in range(len(PROMPTS)):
        alone, entropy = completion_logprobs(
            policy64, batch_of(PROMPTS[row : row + 1], COMPLETIONS[row : row + 1]), temperature=1.0, with_entropy=True
        )
        torch.testing.assert_close(alone[0], together[row, : alone.shape[1]], rtol=0, atol=1e-12)
        torch.testing.assert_close(entropy[0], entropies[row, : alone.shape[1]], rtol=0, atol=1e-12)


def test_without_entropy_there_is_none(policy):
    assert completion_logprobs(policy, batch_of(), temperature=1.0)[1] is None


@pytest.mark.parametrize("with_entropy", [False, True])
def test_no_completion_at_all(policy, with_entropy):
    batch = batch_of(PROMPTS[:2], [(), ()])
    logprobs, entropies = completion_logprobs(policy, batch, temperature=1.0, with_entropy=with_entropy)
    assert logprobs.shape == (2, 0)
    assert (entropies is not None) == with_entropy


def test_softmax_is_taken_in_float32_of_low_precision_logits():
    # Two tokens of 40 nats above the rest: in bfloat16 log-probabilities would be multiples of 2^-8 and worse.
    class Low(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids, logits_to_keep, **_):
            logits = torch.full((*input_ids.shape, 4), -40.0, dtype=torch.bfloat16)
            logits[..., 1] = logits[..., 2] = 0.0
            return SimpleNamespace(logits=logits[:, -logits_to_keep:])

    policy = Policy(Low(), None, (1,), 0, None)
    logprobs, _ = completion_logprobs(policy, batch_of([(3,)], [(1, 2)]), temperature=1.0)
    assert logprobs.dtype == torch.float32
    assert logprobs[0].tolist() == pytest.approx([-math.log(2)] * 2, abs=1e-7)


def test_autocast_is_used_where_the_policy_asks_for_it():
    policy = small_policy()
    exact, _ = completion_logprobs(policy, batch_of(), temperature=1.0)
    policy.autocast_dtype = torch.bfloat16
    rough, _ = completion_logprobs(policy, batch_of(), temperature=1.0)
    gap = float((exact - rough).detach()[batch_of().mask].abs().max())
    assert 1e-4 < gap < 0.5
    assert rough.dtype == torch.float32


# --- gradients ---


def test_gradients_are_those_of_the_plain_forward_pass():
    policy = small_policy(torch.float64)
    batch = batch_of()
    weights = torch.randn(batch.mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logprobs, entropies = completion_logprobs(policy, batch, temperature=0.7, with_entropy=True)
    ((logprobs + 0.1 * entropies) * weights)[batch.mask].sum().backward()
    gradients = {name: weight.grad.clone() for name, weight in policy.model.named_parameters()}
    policy.model.zero_grad()
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        plain = plain_logprobs(policy, prompt, completion, 0.7)
        chosen = plain.gather(-1, torch.tensor(completion)[:, None])[:, 0]
        entropy = -(plain.exp() * plain).sum(-1)
        ((chosen + 0.1 * entropy) * weights[row, : len(completion)]).sum().backward()
    for name, weight in policy.model.named_parameters():
        assert weight.grad.abs().max() > 0, name
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-9, atol=1e-10)
