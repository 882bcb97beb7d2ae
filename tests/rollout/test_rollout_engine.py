"""Random numbers of a completion, the scripted engine, and groups made of what engines return."""

import itertools

import numpy as np
import pytest
import torch

from helpers import EOS, EqualsGold, make_prompt, make_prompts
from ngrpo.errors import Interrupted
from ngrpo.policy import completion_logprobs, pad_rows
from ngrpo.rollout import NativeEngine, SampleRequest, Sampling, ScriptedEngine, random_key, sample_groups
from ngrpo.rollout.engine import EVALUATION, TRAINING, uniforms


def key(**changes):
    return random_key(**{"seed": 0, "stream": 0, "step": 0, "occurrence": 0, "sample": 0, **changes})


# --- uniform numbers ---


def test_numbers_belong_to_the_key_alone():
    keys = [key(sample=sample) for sample in range(5)]
    together = uniforms(keys, 4)
    for place, one in enumerate(keys):
        np.testing.assert_array_equal(uniforms([one], 4)[0], together[place])
    assert len(np.unique(together)) == 20


def test_more_numbers_go_on_where_fewer_ended():
    np.testing.assert_array_equal(uniforms([key()], 9)[:, :3], uniforms([key()], 3))


def test_numbers_stay_the_same_for_ever():
    # Written down once: results of an older version must be sampled again with these numbers.
    expected = [0.8802258711852519, 0.3252881093512462]
    assert uniforms([key(seed=1, step=2, occurrence=3, sample=4)], 2)[0].tolist() == pytest.approx(expected, abs=1e-16)


def test_numbers_are_uniform_and_keys_independent():
    numbers = uniforms([key(step=step, sample=sample) for step in range(20) for sample in range(20)], 50)
    counts = np.bincount((numbers.ravel() * 10).astype(int), minlength=10)
    expected = numbers.size / 10
    assert ((counts - expected) ** 2 / expected).sum() < 33.7  # chi-square, 9 degrees of freedom: once in 10,000
    # Neighbouring keys: 399 correlations of 50 numbers each, standard deviation 1/sqrt(50) = 0.14.
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in itertools.pairwise(numbers)]
    assert abs(np.mean(correlations)) < 0.03
    assert np.max(np.abs(correlations)) < 0.65


def test_streams_differ():
    assert TRAINING != EVALUATION
    assert uniforms([key(stream=TRAINING)], 1) != uniforms([key(stream=EVALUATION)], 1)


# --- the scripted engine ---


def answers(texts):
    return lambda request: texts[request.prompt.text]


def test_scripted_engine_gives_the_answers_with_the_policys_logprobs(policy64):
    prompts = make_prompts(("1,2,3=6:", "3,5,7,2=14:", "4,4,1=9:"))
    texts = {"1,2,3=6:": "1+2+3", "3,5,7,2=14:": "7+2*5-3", "4,4,1=9:": ""}
    requests = [SampleRequest(prompt, key(occurrence=place)) for place, prompt in enumerate(prompts)]
    told = []
    engine = ScriptedEngine(policy64, answers(texts), max_rows=2)
    completions = engine.sample(
        requests, Sampling(20, temperature=0.7), on_completions=lambda *ended: told.append(ended)
    )
    assert [completion.text for completion in completions] == list(texts.values())
    assert told == [([0, 1], completions[:2]), ([2], completions[2:])]
    for request, completion in zip(requests, completions, strict=True):
        assert completion.token_ids[-1] == EOS
        assert completion.finish_reason == "eos"
        ids = torch.tensor([[*request.prompt.token_ids, *completion.token_ids]])
        start = len(request.prompt.token_ids)
        plain = (policy64.model(input_ids=ids).logits[0, start - 1 : -1] / 0.7).log_softmax(-1).detach()
        chosen = plain.gather(-1, ids[0, start:, None])[:, 0]
        assert completion.logprobs == pytest.approx(chosen.tolist(), abs=1e-9)
        assert completion.entropy_nats == pytest.approx(float(-(plain.exp() * plain).sum(-1).mean()), abs=1e-9)


def test_scripted_answers_are_cut_off_at_the_limit(policy):
    requests = [SampleRequest(make_prompt("1,2,3=6:"), key())]
    engine = ScriptedEngine(policy, lambda request: "1+2+3")
    (cut,) = engine.sample(requests, Sampling(5))
    assert (cut.text, cut.finish_reason, len(cut.token_ids)) == ("1+2+3", "length", 5)
    (whole,) = engine.sample(requests, Sampling(6))
    assert (whole.text, whole.finish_reason, len(whole.token_ids)) == ("1+2+3", "eos", 6)


def test_scripted_engine_stops_when_asked(policy):
    engine = ScriptedEngine(policy, lambda request: "1")
    with pytest.raises(Interrupted, match="asked to stop"):
        engine.sample([SampleRequest(make_prompt("1"), key())], Sampling(5), should_stop=lambda: True)


def test_the_trainer_finds_the_logprobs_that_the_native_engine_recorded(policy64):
    prompts = make_prompts()
    requests = [SampleRequest(prompt, key(occurrence=place)) for place, prompt in enumerate(prompts)]
    completions = NativeEngine(policy64).sample(requests, Sampling(12, temperature=0.7))
    batch = pad_rows(
        [prompt.token_ids for prompt in prompts],
        [completion.token_ids for completion in completions],
        pad_token_id=policy64.pad_token_id,
        device=policy64.device,
    )
    logprobs, _ = completion_logprobs(policy64, batch, temperature=0.7)
    for row, completion in zip(logprobs.detach(), completions, strict=True):
        assert row[: len(completion.logprobs)].tolist() == pytest.approx(completion.logprobs, abs=1e-12)


# --- groups ---


class NumberedEngine:
    """Answers every request with its key, so that one sees which went where."""

    def sample(self, requests, sampling, *, on_completions=None, should_stop=None):
        from ngrpo.types import Completion

        self.requests = list(requests)
        completions = [Completion((EOS,), (-1.0,), str(request.key), "eos") for request in requests]
        on_completions(list(range(len(requests))), completions)
        return completions


def test_groups_keep_prompts_samples_and_outcomes_together():
    prompts = [make_prompt(text, gold=gold) for text, gold in [("1", "a"), ("2", str((7, 1, 5, 11, 1))), ("1", "b")]]
    engine = NumberedEngine()
    groups = sample_groups(
        engine,
        EqualsGold(),
        prompts,
        num_samples=2,
        sampling=Sampling(4),
        seed=7,
        stream=1,
        step=5,
        occurrences=[10, 11, 12],
    )
    assert [group.prompt for group in groups] == prompts
    texts = [[completion.text for completion in group.completions] for group in groups]
    assert texts == [[str((7, 1, 5, 10 + place, sample)) for sample in range(2)] for place in range(3)]
    assert [group.num_correct for group in groups] == [0, 1, 0]
    assert [outcome.correct for outcome in groups[1].outcomes] == [False, True]
    assert [request.prompt.text for request in engine.requests] == ["1", "1", "2", "2", "1", "1"]


def test_a_refill_counts_occurrences_on(policy64):
    prompts = make_prompts()[:4]
    options = {"num_samples": 2, "sampling": Sampling(6), "seed": 0, "stream": 0, "step": 1}
    engine = NativeEngine(policy64)
    whole = sample_groups(engine, EqualsGold(), prompts, **options)
    first = sample_groups(engine, EqualsGold(), prompts[:1], **options)
    rest = sample_groups(engine, EqualsGold(), prompts[1:], occurrences=range(1, len(prompts)), **options)
    tokens = [[completion.token_ids for completion in group.completions] for group in whole]
    assert [[completion.token_ids for completion in group.completions] for group in first + rest] == tokens
