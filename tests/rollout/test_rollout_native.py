"""The native engine: what it samples is the model's own distribution, however the batch is cut."""

import dataclasses

import pytest
import torch
from transformers import GenerationConfig

from helpers import EOS, PAD, PROMPT_TEXTS, make_prompt, make_prompts, small_policy
from model_kinds import FLOAT32_ONLY, KINDS, kind_policy
from ngrpo.errors import Interrupted, ModelError, NumericsError
from ngrpo.rollout import NativeEngine, SampleRequest, Sampling, native, random_key

FLOAT32, FLOAT64 = torch.float32, torch.float64


def requests_for(prompts, *, num_samples=3, seed=0, stream=0, step=0):
    return [
        SampleRequest(prompt, random_key(seed=seed, stream=stream, step=step, occurrence=place, sample=sample))
        for place, prompt in enumerate(prompts)
        for sample in range(num_samples)
    ]


def sample(policy, requests, *, max_rows=256, **sampling):
    sampling.setdefault("max_completion_tokens", 12)
    return NativeEngine(policy, max_rows=max_rows).sample(requests, Sampling(**sampling))


def largest_gap(completions, others):
    """Largest difference of log-probabilities and mean entropies; the tokens must be the same."""
    assert [completion.token_ids for completion in completions] == [other.token_ids for other in others]
    assert [completion.text for completion in completions] == [other.text for other in others]
    pairs = list(zip(completions, others, strict=True))
    logprobs = max(abs(x - y) for a, b in pairs for x, y in zip(a.logprobs, b.logprobs, strict=True))
    return max(logprobs, *(abs(a.entropy_nats - b.entropy_nats) for a, b in pairs))


# --- the model's own distribution ---


def plain_distributions(policy, prompt_ids, completion_ids, *, temperature, top_k, top_p):
    """Log-probabilities [T, V] at each completion token: the model called plainly on one unpadded row."""
    ids = torch.tensor([[*prompt_ids, *completion_ids]])
    with torch.no_grad():
        logits = policy.model(input_ids=ids, use_cache=False).logits[0, len(prompt_ids) - 1 : -1]
    rows = []
    for row in logits / temperature:
        ranked = sorted(range(len(row)), key=lambda index: -float(row[index]))[: top_k or None]
        probabilities = row[ranked].softmax(-1).tolist()
        size = next((n for n in range(1, len(ranked)) if sum(probabilities[:n]) >= top_p), len(ranked))
        truncated = torch.full_like(row, -torch.inf)
        truncated[ranked[:size]] = row[ranked[:size]]
        rows.append(truncated.log_softmax(-1))
    return torch.stack(rows)


CASES = [(kind, FLOAT32, 1e-4) for kind in KINDS] + [
    (kind, FLOAT64, 1e-9) for kind in KINDS if kind not in FLOAT32_ONLY
]


@pytest.mark.parametrize("truncation", [{}, {"top_k": 5, "top_p": 0.9}], ids=["all", "truncated"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("kind", "dtype", "tolerance"), CASES)
def test_logprobs_are_those_of_the_plain_forward_pass(kind, dtype, tolerance, temperature, truncation):
    policy = kind_policy(kind, dtype)
    requests = requests_for(make_prompts(), num_samples=2)
    completions = sample(policy, requests, max_rows=5, temperature=temperature, **truncation)
    for request, completion in zip(requests, completions, strict=True):
        expected = plain_distributions(
            policy,
            request.prompt.token_ids,
            completion.token_ids,
            temperature=temperature,
            top_k=truncation.get("top_k", 0),
            top_p=truncation.get("top_p", 1.0),
        )
        chosen = expected.gather(-1, torch.tensor(completion.token_ids).unsqueeze(-1)).squeeze(-1)
        assert completion.logprobs == pytest.approx(chosen.tolist(), abs=tolerance, rel=0)
        entropy = -(expected.exp() * expected.nan_to_num(neginf=0.0)).sum(-1).mean()
        assert completion.entropy_nats == pytest.approx(float(entropy), abs=tolerance)


def test_the_cases_above_have_mixed_lengths_and_both_ends(policy64):
    completions = sample(policy64, requests_for(make_prompts()))
    assert len({len(completion.token_ids) for completion in completions}) > 4
    assert {completion.finish_reason for completion in completions} == {"eos", "length"}
    assert len({len(prompt.token_ids) for prompt in make_prompts()}) == 6


# --- cutting ---


@pytest.fixture(scope="module")
def requests64():
    return requests_for(make_prompts(), num_samples=4)


@pytest.fixture(scope="module")
def sampled64(policy64, requests64):
    return sample(policy64, requests64, max_rows=1000)


@pytest.mark.parametrize("max_rows", [1, 3, 7])
def test_cutting_the_batch_changes_nothing(policy64, requests64, sampled64, max_rows):
    assert largest_gap(sample(policy64, requests64, max_rows=max_rows), sampled64) <= 1e-12


@pytest.mark.parametrize("max_rows", [5, 1000])
def test_the_order_of_requests_changes_nothing(policy64, requests64, sampled64, max_rows):
    order = torch.randperm(len(requests64), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = sample(policy64, [requests64[index] for index in order], max_rows=max_rows)
    assert largest_gap(shuffled, [sampled64[index] for index in order]) <= 1e-12


def test_other_prompts_in_the_batch_change_nothing(policy64, requests64, sampled64):
    longest = make_prompt("9,9,9,9,9=99:" * 3)
    others = requests_for([longest, make_prompt("1")], seed=9)
    together = sample(policy64, [others[0], *requests64, *others[1:]])
    assert largest_gap(together[1 : 1 + len(requests64)], sampled64) <= 1e-12


@pytest.mark.parametrize("fraction", [0.0, 2.0], ids=["compacted every token", "never compacted"])
@pytest.mark.parametrize("max_rows", [6, 1000])
def test_retiring_finished_rows_changes_nothing(monkeypatch, policy64, requests64, sampled64, fraction, max_rows):
    monkeypatch.setattr(native, "RETIRE_FRAC", fraction)
    assert largest_gap(sample(policy64, requests64, max_rows=max_rows), sampled64) <= 1e-12


def test_a_higher_limit_only_goes_on(policy64, requests64, sampled64):
    for longer, shorter in zip(sample(policy64, requests64, max_completion_tokens=20), sampled64, strict=True):
        assert longer.token_ids[: len(shorter.token_ids)] == shorter.token_ids
        if shorter.finish_reason == "eos":
            assert longer.token_ids == shorter.token_ids


def test_requests_are_answered_in_their_order_and_none_is_fine(policy):
    assert sample(policy, []) == []
    requests = requests_for(make_prompts(), num_samples=1)
    alone = [sample(policy, [request])[0].token_ids for request in requests]
    assert [completion.token_ids for completion in sample(policy, requests, max_rows=2)] == alone


# --- random numbers ---


KEY = {"seed": 1, "stream": 0, "step": 2, "occurrence": 3, "sample": 4}


@pytest.mark.parametrize("part", KEY)
def test_every_part_of_the_key_changes_the_tokens(policy64, part):
    prompt = make_prompt(PROMPT_TEXTS[2])
    keys = [KEY, KEY, {**KEY, part: KEY[part] + 1}]
    requests = [SampleRequest(prompt, random_key(**key)) for key in keys]
    first, same, other = (completion.token_ids for completion in sample(policy64, requests))
    assert first == same
    assert first != other


def test_two_occurrences_of_a_prompt_and_its_samples_differ(policy64):
    prompt = make_prompt(PROMPT_TEXTS[2])
    completions = sample(policy64, requests_for([prompt, prompt], num_samples=4))
    assert len({completion.token_ids for completion in completions}) == 8


def test_the_global_random_state_plays_no_part(policy64, requests64, sampled64):
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    assert largest_gap(sample(policy64, requests64), sampled64) <= 1e-12
    assert torch.equal(torch.random.get_rng_state(), before)


# --- how completions end ---


def test_a_completion_ends_with_its_end_of_sequence_token_or_at_the_limit(policy64, sampled64):
    for completion in sampled64:
        assert (completion.finish_reason == "eos") == (completion.token_ids[-1] == EOS)
        assert EOS not in completion.token_ids[:-1]
        assert len(completion.logprobs) == len(completion.token_ids) <= 12
        assert completion.is_truncated == (completion.finish_reason == "length")
        if completion.is_truncated:
            assert len(completion.token_ids) == 12
        spoken = [token for token in completion.token_ids if token not in (PAD, EOS)]
        assert completion.text == policy64.tokenizer.decode(spoken)
        assert "<|" not in completion.text


def test_every_end_of_sequence_id_ends_a_completion(policy64):
    ends = (EOS, 5, 9)
    several = dataclasses.replace(policy64, eos_token_ids=ends)
    completions = sample(several, requests_for(make_prompts(), num_samples=6))
    for completion in completions:
        assert not set(completion.token_ids[:-1]) & set(ends)
        assert (completion.finish_reason == "eos") == (completion.token_ids[-1] in ends)
    assert {completion.token_ids[-1] for completion in completions} >= set(ends)


def test_one_token(policy64):
    requests = requests_for(make_prompts(), num_samples=6)
    completions = sample(policy64, requests, max_completion_tokens=1)
    longer = sample(policy64, requests)
    assert {len(completion.token_ids) for completion in completions} == {1}
    assert [completion.token_ids[0] for completion in completions] == [other.token_ids[0] for other in longer]
    reasons = {completion.token_ids[0] == EOS: completion.finish_reason for completion in completions}
    assert reasons == {True: "eos", False: "length"}


def shapes_of_forward_passes(policy, num_samples, **options):
    """What goes through the model's own forward pass: [rows, tokens] of each, for two prompts, the first one twice."""
    shapes = []
    policy.model.model.register_forward_pre_hook(
        lambda module, arguments, options: shapes.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    never_ends = dataclasses.replace(policy, eos_token_ids=(999,))
    prompts = make_prompts(PROMPT_TEXTS[:2])
    requests = requests_for([*prompts, prompts[0]], num_samples=num_samples)
    sample(never_ends, requests, max_completion_tokens=5, **options)
    return shapes


def test_a_prompt_is_read_once_and_all_rows_advance_together():
    assert shapes_of_forward_passes(small_policy(), 4) == [(2, 11)]  # two distinct prompts; `compact` does the rest
    sliding = kind_policy("mistral_sliding_window", FLOAT32)
    assert shapes_of_forward_passes(sliding, 4) == [(2, 11)] + [(12, 1)] * 4  # then 12 rows, a token each


def test_a_prompt_is_not_read_again_for_samples_that_take_the_place_of_others():
    # The short prompt's 8 samples come first, 3 at a time; the 4 of the other join the last two of them.
    assert shapes_of_forward_passes(small_policy(), 4, max_rows=3) == [(1, 8), (1, 11)]


def test_where_rows_cannot_join_others_wait_until_all_have_ended():
    sliding = kind_policy("mistral_sliding_window", FLOAT32)
    shapes = shapes_of_forward_passes(sliding, 2, max_rows=4)
    assert shapes == [(1, 8)] + [(4, 1)] * 4 + [(1, 11)] + [(2, 1)] * 4


def test_prompts_are_read_in_parts_that_bound_the_memory(monkeypatch, policy64, requests64, sampled64):
    monkeypatch.setattr(native, "READ_TOKENS", 20)
    assert largest_gap(sample(policy64, requests64), sampled64) <= 1e-12
    # 8 + 11 columns would be two times 11; 20 allow one prompt only.
    assert shapes_of_forward_passes(small_policy(), 4) == [(1, 8), (1, 11)]


# --- memory ---


def test_the_memory_given_decides_how_many_rows_are_decoded_together(capsys, policy64, requests64, sampled64):
    # Two layers of two heads of 8 float64 numbers, keys and values: 512 bytes a token. Logits: 4 times 18 float32
    # numbers, 288 bytes a row. Not quite six times that is room for five.
    longest = max(len(request.prompt.token_ids) for request in requests64)
    per_row = 512 * (longest + 12) + 288
    engine = NativeEngine(policy64, cache_gib=5.99 * per_row / 2**30)
    sizes = []
    engine_draw = native.draw

    def draw(logits, *others):
        sizes.append(len(logits))
        return engine_draw(logits, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "draw", draw)
        completions = engine.sample(requests64, Sampling(12))
        engine.sample(requests64, Sampling(12))
    assert max(sizes) == 5
    assert largest_gap(completions, sampled64) <= 1e-12
    said = capsys.readouterr()
    assert (said.out + said.err).count("5 completions are decoded at a time, not 512") == 1  # not again


def test_a_row_that_takes_more_than_the_memory_given_is_decoded_alone(policy64, requests64, sampled64):
    engine = NativeEngine(policy64, cache_gib=1e-9)
    assert largest_gap(engine.sample(requests64, Sampling(12)), sampled64) <= 1e-12


# --- other edges ---


@pytest.mark.parametrize("texts", [("7",), ("7", "1,2,3=6:")], ids=["alone", "padded"])
def test_a_prompt_of_one_token(policy64, texts):
    prompts = make_prompts(texts)
    for request, completion in zip(requests_for(prompts), sample(policy64, requests_for(prompts)), strict=True):
        plain = plain_distributions(
            policy64, request.prompt.token_ids, completion.token_ids, temperature=1.0, top_k=0, top_p=1.0
        )
        chosen = plain.gather(-1, torch.tensor(completion.token_ids).unsqueeze(-1)).squeeze(-1)
        assert completion.logprobs == pytest.approx(chosen.tolist(), abs=1e-9)


def test_greedy_takes_the_likeliest_token_each_time(policy64):
    prompt = make_prompt(PROMPT_TEXTS[0])
    (first, second) = sample(policy64, requests_for([prompt], num_samples=2), temperature=0.0)
    assert first == second
    assert set(first.logprobs) == {0.0}
    ids = list(prompt.token_ids)
    for token in first.token_ids:
        assert token == int(policy64.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)


# --- what could go wrong ---


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_weights_are_a_numerics_error(temperature):
    policy = small_policy()
    with torch.no_grad():
        policy.model.model.norm.weight[0] = torch.nan
    with pytest.raises(NumericsError, match="weights are broken"):
        sample(policy, requests_for(make_prompts()), temperature=temperature)


def test_it_stops_between_tokens_when_asked(policy):
    asked = []

    def should_stop():
        asked.append(True)
        return len(asked) == 3

    engine = NativeEngine(policy)
    with pytest.raises(Interrupted, match="asked to stop"):
        engine.sample(requests_for(make_prompts()), Sampling(12), should_stop=should_stop)
    assert len(asked) == 3


@pytest.mark.parametrize("max_rows", [1, 4, 100])
def test_every_completion_is_told_once_under_its_own_index(policy, max_rows):
    told = []
    requests = requests_for(make_prompts())

    def on_completions(indices, completions):
        told.extend(zip(indices, completions, strict=True))

    completions = NativeEngine(policy, max_rows=max_rows).sample(requests, Sampling(4), on_completions=on_completions)
    assert sorted(index for index, _ in told) == list(range(len(requests)))
    assert all(completions[index] is completion for index, completion in told)


def test_the_models_own_generation_settings_are_ignored(policy64, requests64, sampled64):
    policy = small_policy(FLOAT64)
    policy.model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.1, top_k=1, repetition_penalty=5.0, max_new_tokens=2, eos_token_id=EOS
    )
    assert largest_gap(sample(policy, requests64), sampled64) == 0.0


def test_dropout_is_off_after_training_steps(requests64, sampled64):
    policy = small_policy(FLOAT64)
    policy.model.train()
    assert largest_gap(sample(policy, requests64), sampled64) == 0.0
    assert not policy.model.training


def test_what_does_not_fit_into_the_model_is_refused_by_name(policy):
    requests = requests_for([make_prompt("1" * 90, id="the long one"), make_prompt("2")])
    with pytest.raises(ModelError, match=r"'the long one' has 90 tokens; with 7 .* more than the 96"):
        sample(policy, requests, max_completion_tokens=7)
    assert len(sample(policy, requests, max_completion_tokens=6)) == 6  # 90 + 6 = 96 fits
    unbounded = dataclasses.replace(policy, max_positions=None)
    assert len(sample(unbounded, requests, max_completion_tokens=7)) == 6


def test_a_model_without_key_value_cache_is_refused(policy):
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=18, hidden_size=16, num_hidden_layers=1, state_size=4)).eval()
    with pytest.raises(ModelError, match="MambaForCausalLM keeps no key-value cache"):
        sample(dataclasses.replace(policy, model=model), requests_for(make_prompts()))
