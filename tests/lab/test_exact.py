"""Exact pass@k: against hand values, against enumeration of all that a tiny model can write, and against sampling."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ngrpo import worlds
from ngrpo.data import load_prompts
from ngrpo.errors import RunFolderError
from ngrpo.lab import exact as exact_module
from ngrpo.lab.exact import exact_pass_at_k, log_probabilities, read_exact, score_answers, write_exact
from ngrpo.lab.tokenizer import character_tokenizer
from ngrpo.lab.warm_start import MAX_POSITIONS, WarmStart, new_model, train
from ngrpo.policy import Policy
from ngrpo.rollout import NativeEngine, SampleRequest, Sampling, random_key
from ngrpo.rollout.engine import EVALUATION
from ngrpo.types import Prompt

MISCONCEPTION = worlds.get("misconception")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def policy_of(tokenizer, model):
    return Policy(
        model=model.eval(),
        tokenizer=tokenizer,
        eos_token_ids=(tokenizer.eos_token_id,),
        pad_token_id=tokenizer.pad_token_id,
        max_positions=MAX_POSITIONS,
    )


def prompt_of(tokenizer, text):
    return Prompt(id=text, text=text, token_ids=tuple(tokenizer(text)["input_ids"]), gold="")


@pytest.fixture(scope="module")
def untrained():
    """A model of three characters in float64, with weights large enough for its choices to be far from even."""
    tokenizer = character_tokenizer("ab=", max_tokens=MAX_POSITIONS)
    model = new_model(tokenizer, 0, hidden_size=16).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    return policy_of(tokenizer, model)


@pytest.fixture(scope="module")
def misled():
    """A misconception base of few steps: it writes letters and digits, and is right now and then."""
    tokenizer = character_tokenizer(MISCONCEPTION.alphabet, max_tokens=MAX_POSITIONS)
    model = new_model(tokenizer, 0, hidden_size=16)
    warm_start = WarmStart("misconception_mild", num_steps=150, rows_per_step=32, lr=1e-2)
    shown = worlds.get("misconception_mild").demonstrations(warm_start.num_steps * warm_start.rows_per_step, 0)
    train(model, tokenizer, shown, warm_start, None)
    return policy_of(tokenizer, model)


# --- pass@k ---


@pytest.mark.parametrize(
    ("probability", "k", "expected"),
    [
        (0.5, 1, 0.5),
        (0.5, 3, 0.875),
        (0.25, 2, 0.4375),  # 1 - 9/16
        (1.0, 1, 1.0),
        (1.0, 64, 1.0),
        (1e-30, 1000, 1e-27),  # 1 - (1 - p) would be 0
    ],
)
def test_exact_pass_at_k_hand_values(probability, k, expected):
    assert exact_pass_at_k([np.log(probability)], [k]).item() == pytest.approx(expected, rel=1e-12, abs=0)


def test_exact_pass_at_k_never_right_is_zero():
    assert exact_pass_at_k([-np.inf], [1, 64]).tolist() == [[0.0, 0.0]]


@given(st.lists(st.floats(-200, 0), min_size=1, max_size=5))
def test_exact_pass_at_k_grows_with_k_and_starts_at_p(logprobs):
    passed = exact_pass_at_k(logprobs, [1, 2, 8, 256])
    assert (np.diff(passed) >= 0).all()
    assert ((passed >= 0) & (passed <= 1)).all()
    assert passed[:, 0] == pytest.approx(np.exp(logprobs), rel=1e-9)
    assert (passed <= np.array([1, 2, 8, 256]) * passed[:, :1] * (1 + 1e-9)).all()  # the union bound


# --- scoring ---


def all_texts(longest):
    return ["".join(letters) for length in range(longest + 1) for letters in product("ab=", repeat=length)]


def test_log_probabilities_are_the_product_of_every_choice(untrained):
    """Walks through the model by hand: one forward pass per token, without padding or batches."""
    tokenizer = untrained.tokenizer
    for prompt_text, text in (("a=", ""), ("ab=", "b"), ("b", "aab=")):
        prompt = prompt_of(tokenizer, prompt_text)
        ids, expected = list(prompt.token_ids), 0.0
        for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]:
            with torch.no_grad():
                logits = untrained.model(torch.tensor([ids])).logits[0, -1]
            expected += torch.log_softmax(logits / 0.7, -1)[token].item()
            ids.append(token)
        found = log_probabilities(untrained, [prompt], [text], temperature=0.7)
        assert found.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_probabilities_of_all_texts_and_of_what_is_cut_off_are_one(untrained, temperature):
    """Every sequence of up to four tokens that ends, of padding too, and every one of five that has not ended."""
    tokenizer, longest = untrained.tokenizer, 3
    prompt = prompt_of(tokenizer, "ab=")
    texts = all_texts(longest)
    total = np.exp(log_probabilities(untrained, [prompt] * len(texts), texts, temperature=temperature)).sum()
    # By brute force over token ids, one sequence at a time.
    brute = 0.0
    letters = [tokenizer(letter)["input_ids"][0] for letter in "ab="]
    for length in range(longest + 1):
        for ids in product(letters, repeat=length):
            sequence = [*prompt.token_ids, *ids, tokenizer.eos_token_id]
            with torch.no_grad():
                logits = untrained.model(torch.tensor([sequence])).logits[0] / temperature
            logprobs = torch.log_softmax(logits, -1)
            start = len(prompt.token_ids)
            brute += np.exp(sum(logprobs[i - 1, sequence[i]].item() for i in range(start, len(sequence))))
    assert total == pytest.approx(brute, abs=1e-9)
    assert 0 < total < 1


def test_score_answers_sums_over_what_is_accepted(untrained):
    """pass@k of a checker that accepts all texts of two letters: against enumeration of every text by itself."""
    accepted = tuple("".join(letters) for letters in product("ab=", repeat=2))
    prompts = [prompt_of(untrained.tokenizer, text) for text in ("ab=", "b", "a=a=")]
    answers = {"ab=": accepted, "b": accepted[:1], "a=a=": accepted[3:5]}
    found = score_answers(untrained, prompts, answers.__getitem__, ks=[1, 8], max_completion_tokens=3)
    for place, prompt in enumerate(prompts):
        alone = [log_probabilities(untrained, [prompt], [text]).item() for text in answers[prompt.text]]
        chance = sum(map(np.exp, alone))
        assert found.logprob[place] == pytest.approx(np.log(chance), abs=1e-9)
        assert found.pass_at_k[place] == pytest.approx([chance, 1 - (1 - chance) ** 8], rel=1e-9)
    assert found.prompt_ids == ("ab=", "b", "a=a=")
    assert found.strata == {}


def test_an_answer_that_is_cut_off_has_no_probability(untrained, tmp_path):
    """Limit 3, the end included: of `a`, `ab` and `abb` the last has no room. And where none fits there is nothing."""
    prompts = [prompt_of(untrained.tokenizer, text) for text in ("b", "ab=")]
    answers = {"b": ("a", "ab", "abb"), "ab=": ("aaa",)}
    found = score_answers(untrained, prompts, answers.__getitem__, ks=[1, 8], max_completion_tokens=3)
    alone = log_probabilities(untrained, [prompts[0]] * 2, ["a", "ab"])
    assert found.logprob[0] == pytest.approx(np.log(np.exp(alone).sum()), abs=1e-9)
    assert found.logprob[1] == -np.inf
    assert found.pass_at_k[1].tolist() == [0.0, 0.0]
    write_exact(tmp_path / "exact.json", found)
    assert "Infinity" not in (tmp_path / "exact.json").read_text()
    assert (read_exact(tmp_path / "exact.json").logprob == found.logprob).all()


def test_scores_do_not_depend_on_the_cut_or_the_order(untrained, monkeypatch):
    texts = all_texts(3)
    prompts = [prompt_of(untrained.tokenizer, "ab" * (1 + place % 3)) for place in range(len(texts))]
    together = log_probabilities(untrained, prompts, texts)
    monkeypatch.setattr(exact_module, "ROWS_PER_PASS", 7)
    assert log_probabilities(untrained, prompts, texts) == pytest.approx(together, abs=1e-9)
    backwards = log_probabilities(untrained, prompts[::-1], texts[::-1])
    assert backwards[::-1] == pytest.approx(together, abs=1e-9)
    assert log_probabilities(untrained, [], []).shape == (0,)


def test_exact_agrees_with_sampled_frequencies(misled):
    """Over 8 prompts of 1,000 samples each, chi-square of right against wrong; 99.99 % of 8 degrees is below 31.8."""
    prompts = load_prompts("world:misconception", misled.tokenizer, split="test", size=8).prompts
    found = score_answers(misled, prompts, MISCONCEPTION.answers, ks=[1], max_completion_tokens=6)
    chance = found.pass_at_k[:, 0]
    num_samples = 1000
    requests = [
        SampleRequest(prompt, random_key(seed=1, stream=EVALUATION, step=0, occurrence=place, sample=sample))
        for place, prompt in enumerate(prompts)
        for sample in range(num_samples)
    ]
    sampled = NativeEngine(misled).sample(requests, Sampling(MISCONCEPTION.max_completion_tokens))
    right = np.array(
        [MISCONCEPTION.check(each.prompt.text, one.text).correct for each, one in zip(requests, sampled, strict=True)]
    )
    counts = right.reshape(len(prompts), num_samples).sum(1)
    chi_square = ((counts - num_samples * chance) ** 2 / (num_samples * chance * (1 - chance))).sum()
    assert 20 < counts.sum() < 8 * num_samples - 20  # there is something to compare
    assert chi_square < 31.8
    assert found.strata == {"difficulty": ("easy", "hard") * 4}


# --- the file ---


def test_file_gives_back_what_was_written(tmp_path, misled):
    prompts = load_prompts("world:misconception", misled.tokenizer, split="test", size=6).prompts
    exact = score_answers(
        misled, prompts, MISCONCEPTION.answers, ks=[1, 8, 64], temperature=0.6, max_completion_tokens=6
    )
    write_exact(tmp_path / "exact.json", exact)
    again = read_exact(tmp_path / "exact.json")
    assert (again.logprob == exact.logprob).all()
    assert (again.prompt_ids, again.ks, again.temperature, again.strata) == (
        exact.prompt_ids, exact.ks, 0.6, exact.strata,
    )  # fmt: skip
    written = json.loads((tmp_path / "exact.json").read_text())
    assert np.array(written["pass_at_k"]) == pytest.approx(again.pass_at_k)
    assert written["prompt_ids"] == [prompt.id for prompt in prompts]


@pytest.mark.parametrize(
    "content",
    [None, "", "[]", "{}", '{"ks": [1], "temperature": 1, "prompt_ids": ["a", "b"], "strata": {}, "logprob": [-1.0]}',
     '{"ks": [1], "temperature": 1, "prompt_ids": ["a"], "strata": {}, "logprob": [0.5]}',
     '{"ks": [1], "temperature": 1, "prompt_ids": ["a"], "strata": {}, "logprob": ["x"]}'],
)  # fmt: skip
def test_broken_file_says_so(tmp_path, content):
    path = tmp_path / "exact.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RunFolderError, match=r"exact\.json .*Remove it and score again"):
        read_exact(path)
