"""What every engine must do: one suite over all of them.

The real vLLM is among them where it is installed and a GPU is there: `pytest tests/rollout/test_engine_contract.py -rs`
says whether it was. Everywhere its stand-in is, so that the code around vLLM runs.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from helpers import ALPHABET, EOS, MAX_POSITIONS, PAD, make_prompt, make_prompts, small_policy, small_tokenizer
from ngrpo.errors import Interrupted, ModelError
from ngrpo.policy import Policy, completion_logprobs, pad_rows
from ngrpo.rollout import Engine, NativeEngine, SampleRequest, Sampling, ScriptedEngine, random_key
from ngrpo.rollout.draw import truncated
from ngrpo.rollout.vllm import VllmEngine

NUM_SAMPLES, LIMIT = 4, 12


@dataclass
class Case:
    """One engine, and what can be held against it.

    Attributes:
        policy: What it samples from.
        make: Makes another engine of the kind.
        tolerance: How far its log-probabilities may be from the policy's, in nats.
        is_drawn: Whether its completions are drawn from the policy.
        is_repeatable: Whether the same keys give the same tokens.
    """

    policy: Policy
    make: Callable[[], Engine]
    tolerance: float = 1e-4
    is_drawn: bool = True
    is_repeatable: bool = True


def scripted(policy: Policy) -> ScriptedEngine:
    """Answers of different lengths, some of them too long."""

    def answer(request: SampleRequest) -> str:
        return request.prompt.text[: 1 + 3 * request.key[-1]] * (1 + request.key[-1])

    return ScriptedEngine(policy, answer, max_rows=5)


def gpu_policy() -> Policy:
    """Of a size that vLLM's kernels take: heads of 64 numbers. In bfloat16, as on a GPU by default."""
    config = Qwen2Config(
        vocab_size=len(ALPHABET) + 2, hidden_size=128, intermediate_size=192, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=MAX_POSITIONS, tie_word_embeddings=True,
        initializer_range=0.25, bos_token_id=None, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).eval().cuda()
    return Policy(model, small_tokenizer(), (EOS,), PAD, MAX_POSITIONS, autocast_dtype=torch.bfloat16)


@pytest.fixture(params=["native", "scripted", "stand_in", "vllm"])
def case(request):
    if request.param == "vllm":
        if importlib.util.find_spec("vllm") is None or not torch.cuda.is_available():
            pytest.skip("vLLM is not installed here, or there is no GPU")
        policy = gpu_policy()
        return Case(policy, lambda: VllmEngine(policy, cache_gib=0.5), tolerance=0.3, is_repeatable=False)
    policy = small_policy()
    if request.param == "native":
        return Case(policy, lambda: NativeEngine(policy, max_rows=7))
    if request.param == "scripted":
        return Case(policy, lambda: scripted(policy), is_drawn=False)
    request.getfixturevalue("vllm_stand_in")
    return Case(policy, lambda: VllmEngine(policy, max_rows=7, cache_gib=0.01))


def requests(*, step=0):
    """Several samples of prompts of six lengths."""
    return [
        SampleRequest(prompt, random_key(seed=0, stream=0, step=step, occurrence=place, sample=sample))
        for place, prompt in enumerate(make_prompts())
        for sample in range(NUM_SAMPLES)
    ]


def of_the_policy(policy, asked, completions, *, temperature=1.0, top_k=0, top_p=1.0):
    """Log-probability of each token of each completion under the policy: one full forward pass."""
    prompts, ids = [each.prompt.token_ids for each in asked], [each.token_ids for each in completions]
    batch = pad_rows(prompts, ids, pad_token_id=policy.pad_token_id, device=policy.device)
    if top_k == 0 and top_p == 1.0:
        with torch.no_grad():
            rows, _ = completion_logprobs(policy, batch, temperature=temperature)
        return [row[: len(own)].tolist() for row, own in zip(rows, ids, strict=True)]
    found = []
    for prompt, own in zip(prompts, ids, strict=True):
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*prompt, *own]], device=policy.device)).logits[0, len(prompt) - 1 : -1]
        rows = truncated(logits.float() / temperature, top_k, top_p).log_softmax(-1)
        found.append(rows[range(len(own)), list(own)].tolist())
    return found


def largest_gap(completions, expected):
    pairs = [
        (x, y) for each, row in zip(completions, expected, strict=True) for x, y in zip(each.logprobs, row, strict=True)
    ]
    return max(abs(x - y) for x, y in pairs)


# --- what comes back ---


def test_each_request_gets_its_own_completion_in_its_place(case):
    """That a completion is its request's shows in its log-probabilities, which another prompt would not give."""
    asked = requests()
    completions = case.make().sample(asked, Sampling(LIMIT))
    assert len(completions) == len(asked)
    assert largest_gap(completions, of_the_policy(case.policy, asked, completions)) < case.tolerance
    others = asked[NUM_SAMPLES:] + asked[:NUM_SAMPLES]
    assert largest_gap(completions, of_the_policy(case.policy, others, completions)) > 1.0


@pytest.mark.parametrize("temperature", [0.5, 1.5])
def test_logprobs_are_of_the_temperature_sampled_at(case, temperature):
    asked = requests()
    completions = case.make().sample(asked, Sampling(LIMIT, temperature))
    expected = of_the_policy(case.policy, asked, completions, temperature=temperature)
    assert largest_gap(completions, expected) < 2 * case.tolerance
    assert largest_gap(completions, of_the_policy(case.policy, asked, completions)) > 0.3


def test_logprobs_are_of_the_truncated_distribution(case):
    if not case.is_drawn or case.tolerance > 1e-3:
        pytest.skip("not drawn, or rounding may put a token on the other side of the cut")
    asked = requests()
    for truncation in ({"top_k": 3}, {"top_p": 0.6}, {"top_k": 4, "top_p": 0.8}):
        completions = case.make().sample(asked, Sampling(LIMIT, 0.8, **truncation))
        expected = of_the_policy(case.policy, asked, completions, temperature=0.8, **truncation)
        assert largest_gap(completions, expected) < case.tolerance


def test_no_requests_no_completions(case):
    assert case.make().sample([], Sampling(LIMIT)) == []


def test_completions_end_with_the_end_or_at_the_limit(case):
    completions = case.make().sample(requests(), Sampling(LIMIT))
    for completion in completions:
        ended = completion.token_ids[-1] == EOS
        assert completion.finish_reason == ("eos" if ended else "length")
        assert EOS not in completion.token_ids[:-1]
        assert 1 <= len(completion.token_ids) <= LIMIT
        assert ended or len(completion.token_ids) == LIMIT
        assert len(completion.logprobs) == len(completion.token_ids)
        assert completion.text == small_tokenizer().decode(completion.token_ids, skip_special_tokens=True)
        assert completion.entropy_nats >= 0.0
    assert {completion.finish_reason for completion in completions} == {"eos", "length"}


def test_a_limit_of_one_token(case):
    completions = case.make().sample(requests(), Sampling(1))
    assert {len(completion.token_ids) for completion in completions} == {1}


def test_greedy_completions_are_the_likeliest_and_certain(case):
    if not case.is_drawn:
        pytest.skip("its answers do not depend on the temperature")
    asked = requests()
    completions = case.make().sample(asked, Sampling(LIMIT, 0.0))
    assert all(set(completion.logprobs) == {0.0} for completion in completions)
    assert {completion.entropy_nats for completion in completions} == {0.0}
    for request, completion in list(zip(asked, completions, strict=True))[::NUM_SAMPLES]:
        ids = torch.tensor([[*request.prompt.token_ids, *completion.token_ids]], device=case.policy.device)
        with torch.no_grad():
            logits = case.policy.model(ids).logits[0, len(request.prompt.token_ids) - 1 : -1].float()
        chosen = logits.gather(-1, ids[0, len(request.prompt.token_ids) :].unsqueeze(-1)).squeeze(-1)
        assert float((logits.amax(-1) - chosen).max()) < case.tolerance


# --- randomness ---


def test_samples_of_a_prompt_differ_and_so_do_steps(case):
    if not case.is_drawn:
        pytest.skip("its answers are given")
    engine = case.make()
    one, other = ([each.token_ids for each in engine.sample(requests(step=step), Sampling(LIMIT))] for step in (0, 1))
    assert one != other
    assert all(len(set(one[at : at + NUM_SAMPLES])) > 1 for at in range(0, len(one), NUM_SAMPLES))


def test_the_same_keys_give_the_same_completions_in_any_company(case):
    if not case.is_repeatable:
        pytest.skip("vLLM does not promise it")
    asked = requests()
    whole = case.make().sample(asked, Sampling(LIMIT))
    parts = case.make().sample(asked[5:], Sampling(LIMIT)) + case.make().sample(asked[:5], Sampling(LIMIT))
    assert [each.token_ids for each in whole] == [each.token_ids for each in parts[-5:] + parts[:-5]]


# --- streaming and stopping ---


def test_completions_are_told_of_as_they_end_each_once(case):
    told, calls = {}, []

    def tell(indices, completions):
        calls.append(len(indices))
        assert not told.keys() & set(indices)
        told.update(zip(indices, completions, strict=True))

    asked = requests()
    completions = case.make().sample(asked, Sampling(LIMIT), on_completions=tell)
    assert [told[index] for index in range(len(asked))] == completions
    assert len(calls) > 1, "all at the end: nothing can be judged meanwhile"
    assert 0 not in calls


def test_an_error_of_the_listener_ends_the_sampling_and_not_the_engine(case):
    def fail(indices, completions):
        raise ZeroDivisionError("of the listener")

    engine = case.make()
    with pytest.raises(ZeroDivisionError, match="of the listener"):
        engine.sample(requests(), Sampling(LIMIT), on_completions=fail)
    assert len(engine.sample(requests(), Sampling(LIMIT))) == len(requests())


def test_it_stops_when_asked_and_can_go_on(case):
    engine, asked = case.make(), iter([False, True, True])
    with pytest.raises(Interrupted):
        engine.sample(requests(), Sampling(LIMIT), should_stop=lambda: next(asked))
    assert len(engine.sample(requests(), Sampling(LIMIT))) == len(requests())


# --- weights and room ---


def test_weights_are_those_of_the_moment(case):
    engine, asked = case.make(), requests()
    before = engine.sample(asked, Sampling(LIMIT))
    with torch.no_grad():
        for parameter in case.policy.model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    after = engine.sample(asked, Sampling(LIMIT))
    assert largest_gap(after, of_the_policy(case.policy, asked, after)) < case.tolerance
    assert largest_gap(before, of_the_policy(case.policy, asked, before)) > 0.5


def test_what_does_not_fit_into_the_model_is_refused(case):
    if not case.is_drawn:
        pytest.skip("it does not sample")
    with pytest.raises(ModelError, match=f"has 90 tokens.*{MAX_POSITIONS}"):
        case.make().sample([SampleRequest(make_prompt("1" * 90), (0,))], Sampling(MAX_POSITIONS - 89))
