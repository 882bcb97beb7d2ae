"""Drawing one token: the right distribution, exactly, at its edges too."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ngrpo.errors import ConfigError
from ngrpo.rollout import Sampling
from ngrpo.rollout import draw as draw_module
from ngrpo.rollout.draw import draw, truncated

LAST_UNIFORM = 1.0 - 2.0**-53  # the largest number a generator of [0, 1) gives
INF = math.inf


def sampling(**changes):
    return Sampling(max_completion_tokens=1, **changes)


def draw_each(logits, randoms, **changes):
    """Draws from the same logits once per random number."""
    rows = torch.tensor(logits, dtype=torch.float64).expand(len(randoms), -1)
    return draw(rows, torch.tensor(randoms, dtype=torch.float64), sampling(**changes))


def logits_of(probabilities):
    return [math.log(p) if p > 0 else -INF for p in probabilities]


# --- inverse CDF ---


def test_draw_cuts_the_unit_interval_where_the_cumulative_probabilities_are():
    # Cumulative 0.5, 0.75, 1: [0, 0.5) is token 0, [0.5, 0.75) token 1, [0.75, 1) token 2.
    tokens, logprobs, _ = draw_each(logits_of([0.5, 0.25, 0.25]), [0.0, 0.4999, 0.5001, 0.7499, 0.7501, LAST_UNIFORM])
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2]
    assert logprobs.exp().tolist() == pytest.approx([0.5, 0.5, 0.25, 0.25, 0.25, 0.25], abs=1e-15)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draws_follow_the_distribution_by_chi_square(temperature):
    probabilities = torch.tensor([0.4, 0.3, 0.0, 0.15, 0.1, 0.05], dtype=torch.float64)
    num_draws = 50_000
    generator = torch.Generator().manual_seed(1)
    randoms = torch.rand(num_draws, dtype=torch.float64, generator=generator)
    rows = probabilities.log().expand(num_draws, -1)
    tokens, _, _ = draw(rows, randoms, sampling(temperature=temperature))
    expected = probabilities ** (1.0 / temperature)
    expected = expected / expected.sum() * num_draws
    counts = torch.bincount(tokens, minlength=6).double()
    assert counts[2] == 0
    possible = expected > 0
    chi_square = float(((counts - expected)[possible] ** 2 / expected[possible]).sum())
    assert chi_square < 23.5  # 4 degrees of freedom: exceeded once in 10,000 seeds


def test_a_thin_tail_of_float32_logits_is_drawn_token_by_token():
    # Probabilities 1, 2^-26 and 2^-26 (before normalising): in float32 all cumulative sums would be 1.
    logits = torch.tensor([0.0, -26 * math.log(2), -26 * math.log(2)])
    randoms = torch.tensor([0.5, 1 - 1.5 * 2**-26, LAST_UNIFORM], dtype=torch.float64)
    tokens, logprobs, _ = draw(logits.expand(3, -1), randoms, sampling())
    assert tokens.tolist() == [0, 1, 2]
    assert logprobs.dtype == torch.float32
    assert logprobs.tolist() == pytest.approx([0.0, -26 * math.log(2), -26 * math.log(2)], abs=1e-6)


def test_a_random_number_that_rounding_brought_to_one_takes_the_last_possible_token():
    # Where there is no float64, 1 - 2^-53 becomes 1.
    logits = torch.tensor([[0.0, 0.0, -INF]])
    tokens, _, _ = draw(logits, torch.tensor([LAST_UNIFORM], dtype=torch.float32), sampling())
    assert tokens.tolist() == [1]


EDGES = st.sampled_from([0.0, 2.0**-53, 0.5, LAST_UNIFORM]) | st.floats(0, LAST_UNIFORM)
LOGITS = st.lists(st.floats(-1000, 1000) | st.just(-INF), min_size=1, max_size=8)


@given(LOGITS, EDGES, st.sampled_from([torch.float32, torch.float64]), st.sampled_from([0.3, 1.0, 3.0]))
def test_a_token_of_no_probability_is_never_drawn(logits, random, dtype, temperature):
    assume(any(value > -INF for value in logits))
    rows = torch.tensor([logits], dtype=dtype)
    tokens, logprobs, entropy = draw(
        rows, torch.tensor([random], dtype=torch.float64), sampling(temperature=temperature)
    )
    exact = (rows.double() / temperature).log_softmax(-1)[0]
    assert exact[tokens[0]] > -INF
    assert float(logprobs[0].detach()) == pytest.approx(float(exact[tokens[0]]), rel=1e-4, abs=1e-5)
    assert -1e-6 <= float(entropy[0]) <= math.log(len(logits)) + 1e-6


@given(LOGITS, EDGES, st.integers(1, 9), st.floats(0.01, 1.0))
def test_a_truncated_token_is_never_drawn(logits, random, top_k, top_p):
    assume(any(value > -INF for value in logits))
    rows = torch.tensor([logits], dtype=torch.float64)
    randoms = torch.tensor([random], dtype=torch.float64)
    tokens, logprobs, _ = draw(rows, randoms, sampling(top_k=top_k, top_p=top_p))
    assert truncated(rows, top_k, top_p)[0, tokens[0]] > -INF
    assert logprobs[0] > -INF


def test_many_logits_are_drawn_from_in_parts(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((7, 100), generator=generator, dtype=torch.float64)
    randoms = torch.rand(7, generator=generator, dtype=torch.float64)
    whole = draw(logits, randoms, sampling())
    monkeypatch.setattr(draw_module, "CACHED_NUMBERS", 250)  # two rows at a time
    for part, expected in zip(draw(logits, randoms, sampling()), whole, strict=True):
        assert torch.equal(part, expected)


# --- entropy and log-probabilities ---


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropy_and_logprob_by_the_formula(temperature):
    logits = [2.0, 1.0, 0.5, -INF, -3.0]
    weights = [math.exp(value / temperature) for value in logits]
    probabilities = [weight / sum(weights) for weight in weights]
    entropy = -sum(p * math.log(p) for p in probabilities if p > 0)
    tokens, logprobs, entropies = draw_each(logits, [0.01, 0.9], temperature=temperature)
    assert entropies.tolist() == pytest.approx([entropy, entropy], rel=1e-14)
    assert logprobs.tolist() == pytest.approx([math.log(probabilities[token]) for token in tokens], rel=1e-14)


def test_truncation_renormalises_logprob_and_entropy():
    # Of 0.5, 0.3, 0.2 the two likeliest stay: 5/8 and 3/8.
    tokens, logprobs, entropies = draw_each(logits_of([0.2, 0.5, 0.3]), [0.1, 0.9], top_k=2)
    assert tokens.tolist() == [1, 2]
    assert logprobs.tolist() == pytest.approx([math.log(5 / 8), math.log(3 / 8)], rel=1e-14)
    entropy = -(5 / 8) * math.log(5 / 8) - (3 / 8) * math.log(3 / 8)
    assert entropies.tolist() == pytest.approx([entropy, entropy], rel=1e-14)


# --- truncation ---


def kept(logits, top_k=0, top_p=1.0):
    row = truncated(torch.tensor([logits], dtype=torch.float64), top_k, top_p)[0]
    return [index for index, value in enumerate(row.tolist()) if value > -INF]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9), st.integers(1, 12))
def test_top_k_keeps_exactly_k_the_likeliest_and_of_equals_the_first(logits, top_k):
    ranked = sorted(range(len(logits)), key=lambda index: (-logits[index], index))
    assert kept([float(value) for value in logits], top_k=top_k) == sorted(ranked[:top_k])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.floats(0.001, 0.999))
def test_top_p_keeps_the_smallest_set_that_reaches_it(weights, top_p):
    ranked = sorted(range(len(weights)), key=lambda index: (-weights[index], index))
    sums = [sum(weights[index] for index in ranked[: size + 1]) / sum(weights) for size in range(len(weights))]
    assume(min(abs(value - top_p) for value in sums) > 1e-9)  # at equality rounding decides
    smallest = next(size for size, value in enumerate(sums, start=1) if value >= top_p)
    assert kept([math.log(weight) for weight in weights], top_p=top_p) == sorted(ranked[:smallest])


def test_top_p_counts_the_mass_that_top_k_left():
    # Of 0.4, 0.3, 0.2, 0.1 three stay: 4/9, 3/9, 2/9. The first two have 7/9 = 0.78 of that, though 0.7 of all.
    logits = logits_of([0.4, 0.3, 0.2, 0.1])
    assert kept(logits, top_k=3, top_p=0.75) == [0, 1]
    assert kept(logits, top_p=0.75) == [0, 1, 2]


def test_truncation_leaves_logits_it_keeps_and_its_input_alone():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert truncated(logits, 2, 1.0).tolist() == [[-INF, 3.0, 2.0]]
    assert truncated(logits, 0, 1.0) is logits
    assert logits.tolist() == [[1.0, 3.0, 2.0]]


# --- greedy and broken ---


def test_temperature_zero_takes_the_likeliest_token_for_certain():
    tokens, logprobs, entropies = draw_each([0.0, 3.0, 2.9], [0.0, LAST_UNIFORM], temperature=0.0)
    assert (tokens.tolist(), logprobs.tolist(), entropies.tolist()) == ([1, 1], [0.0, 0.0], [0.0, 0.0])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("broken", [[0.0, math.nan, 1.0], [0.0, INF, 1.0], [-INF, -INF, -INF]])
def test_logits_that_are_not_finite_show_in_what_is_returned(broken, temperature):
    tokens, logprobs, entropies = draw(
        torch.tensor([[0.0, 1.0, 2.0], broken]),
        torch.tensor([0.5, 0.5], dtype=torch.float64),
        sampling(temperature=temperature),
    )
    assert 0 <= int(tokens[1]) < 3  # nothing is looked up where nothing is, which on a GPU ends the process
    assert logprobs.isnan().tolist() == entropies.isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_completion_tokens": 0}, "max_completion_tokens must be 1 or more"),
        ({"temperature": -0.1}, "temperature finite and 0 or more"),
        ({"temperature": math.nan}, "temperature finite and 0 or more"),
        ({"temperature": INF}, "temperature finite and 0 or more"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p must be above 0 and at most 1"),
        ({"top_k": -1}, "top_k 0 or more"),
    ],
)
def test_impossible_sampling_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**{"max_completion_tokens": 1, **changes})
