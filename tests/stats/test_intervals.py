"""Intervals over problems: by hand, invariants, and coverage by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.errors import ConfigError, DataError
from ngrpo.stats import bootstrap_interval, crossed_interval, mean_interval, paired_interval, pass_at_k
from ngrpo.stats.intervals import student_quantile

Z_SQUARED = 1.959963984540054**2
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("correct", "problems", "low", "high"),
    # Published values of Wilson's interval without continuity correction.
    [(1, 10, 0.0179, 0.4042), (8, 10, 0.4902, 0.9433), (81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611)],
)
def test_zeros_and_ones_give_wilsons_interval(correct, problems, low, high):
    interval = mean_interval([1.0] * correct + [0.0] * (problems - correct))
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((correct / problems, low, high), abs=5e-5)


def test_none_of_thirty_is_zero_to_eleven_percent():
    interval = mean_interval([0] * 30)
    assert (interval.estimate, interval.low) == (0.0, 0.0)
    assert interval.high == pytest.approx(Z_SQUARED / (30 + Z_SQUARED))  # 0.1135
    all_right = mean_interval([1] * 30)
    assert (all_right.low, all_right.high) == pytest.approx((1 - interval.high, 1.0))


def test_values_in_between_count_as_more_problems():
    # Half of 40 problems at 0.4, half at 0.6: sum of squares 40 * 0.01 = 0.4, of zeros and ones it would be 10.
    effect = (0.4 + 0.25) / (10 + 0.25)
    weight = Z_SQUARED * effect / 40
    half = math.sqrt(0.25 * weight + weight**2 / 4) / (1 + weight)
    interval = mean_interval([0.4, 0.6] * 20)
    assert (interval.low, interval.high) == pytest.approx((0.5 - half, 0.5 + half))


def test_many_problems_give_the_plain_normal_interval():
    values = np.random.default_rng(0).beta(2, 3, 20_000)
    interval = mean_interval(values)
    half = 1.96 * values.std() / math.sqrt(20_000)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=1e-3)


@settings(deadline=None, max_examples=100)
@given(SHARES)
def test_ends_enclose_the_mean_within_shares_and_mirror(values):
    interval = mean_interval(values)
    assert 0.0 <= interval.low <= interval.estimate <= interval.high <= 1.0
    assert interval.low < interval.high  # never a point: no number of problems proves that all are alike
    mirrored = mean_interval([1 - value for value in values])
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((interval.low, interval.high), abs=1e-9)
    wider = mean_interval(values, level=0.99)
    assert wider.low - 1e-12 <= interval.low <= interval.high <= wider.high + 1e-12


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=40))
def test_a_difference_turns_its_sign_with_the_two(pairs):
    first, second = zip(*pairs, strict=True)
    interval, reverse = paired_interval(first, second), paired_interval(second, first)
    assert -1.0 <= interval.low <= interval.estimate <= interval.high <= 1.0
    assert (interval.low, interval.high) == pytest.approx((-reverse.high, -reverse.low), abs=1e-12)
    assert interval.estimate == pytest.approx(np.mean(first) - np.mean(second), abs=1e-12)


def test_columns_are_quantities_by_themselves():
    first, second = np.random.default_rng(0).random((2, 20, 3))
    for both, alone in (
        (mean_interval(first), mean_interval(first[:, 1])),
        (paired_interval(first, second), paired_interval(first[:, 1], second[:, 1])),
    ):
        assert both.low.shape == both.high.shape == both.estimate.shape == (3,)
        second_column = [ends[1] for ends in (both.estimate, both.low, both.high)]
        assert second_column == pytest.approx([alone.estimate, alone.low, alone.high], abs=1e-12)
        assert type(alone.low) is float


def test_differences_by_hand():
    # Differences 1/2, 1/2, 0 (seven times), -1/4: mean 0.075, usual size (1/4 + 1/4 + 1/16) / 1.25 = 0.45,
    # sum of squared deviations 0.5625 - 10 * 0.075^2 = 0.50625, t of 9 degrees 2.262157.
    first = [0.5, 1.0, 0.3, 0, 0, 0, 0, 0, 0, 0.25]
    second = [0.0, 0.5, 0.3, 0, 0, 0, 0, 0, 0, 0.5]
    interval = paired_interval(first, second)
    half = 2.262157 * math.sqrt(0.50625 + 0.45**2) / 10
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((0.075, 0.075 - half, 0.075 + half))


def test_models_that_agree_everywhere_may_still_differ():
    interval = paired_interval([1.0] * 30, [1.0] * 30)
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((0.0, -2.04523 / 30, 2.04523 / 30))
    alone = paired_interval([1.0], [0.0])
    assert (alone.low, alone.high) == (-1.0, 1.0)


def test_a_constant_difference_is_nearly_certain():
    interval = paired_interval([0.3] * 30, [0.2] * 30)
    assert (interval.low, interval.high) == pytest.approx((0.1 - 0.2045 / 30, 0.1 + 0.2045 / 30), abs=1e-5)


@pytest.mark.parametrize(
    ("level", "degrees", "quantile"),
    [(0.95, 1, 12.7062), (0.95, 2, 4.30265), (0.95, 3, 3.18245), (0.99, 5, 4.03214), (0.9, 10, 1.81246),
     (0.95, 29, 2.04523), (0.95, 30, 2.04227), (0.95, 1000, 1.96234)],
)  # fmt: skip
def test_students_quantiles_are_those_of_the_tables(level, degrees, quantile):
    assert student_quantile(level, degrees) == pytest.approx(quantile, rel=3e-6)


def aime_like(rng, size):
    kind = rng.random(size)
    often, seldom = rng.beta(2.0, 1.5, size), rng.beta(0.25, 2.5, size)
    return np.where(kind < 0.4, 0.0, np.where(kind < 0.85, seldom, often))


AIME_MEAN = 0.45 * 0.25 / 2.75 + 0.15 * 2.0 / 3.5
TRIALS = 3000


@pytest.mark.parametrize("num_samples", [1, 16, 256])
def test_coverage_of_pass_at_1_with_30_problems_is_what_it_says(num_samples):
    rng = np.random.default_rng(7)
    values = rng.binomial(num_samples, aime_like(rng, (30, TRIALS))) / num_samples
    interval = mean_interval(values)
    coverage = ((interval.low <= AIME_MEAN) & (interval.high >= AIME_MEAN)).mean()
    assert 0.935 <= coverage <= 0.97
    plain = bootstrap_interval(values[:, :1000], num_resamples=500)
    assert ((plain.low <= AIME_MEAN) & (plain.high >= AIME_MEAN)).mean() < coverage - 0.01


def test_coverage_of_large_k_and_of_never_solved_sets():
    rng = np.random.default_rng(8)
    chances = aime_like(rng, (30, TRIALS))
    values = pass_at_k(64, rng.binomial(64, chances), 64)
    truth = (1 - (1 - aime_like(rng, 10**6)) ** 64).mean()
    interval = mean_interval(values)
    assert ((interval.low <= truth) & (interval.high >= truth)).mean() >= 0.935
    rare = rng.binomial(1, 0.05, (30, TRIALS))  # a fifth of these sets has no problem solved at all
    interval = mean_interval(rare)
    assert ((interval.low <= 0.05) & (interval.high >= 0.05)).mean() >= 0.935
    plain = bootstrap_interval(rare[:, :1000], num_resamples=500)
    assert ((plain.low <= 0.05) & (plain.high >= 0.05)).mean() < 0.85


@pytest.mark.parametrize("num_samples", [1, 16, 256])
def test_coverage_of_differences(num_samples):
    rng = np.random.default_rng(9)
    chances = aime_like(rng, (30, TRIALS))
    better = chances + 0.3 * chances * (1 - chances) * rng.random(chances.shape) * 2
    truth = 0.3 * (0.45 * (0.25 * 2.5) / (2.75 * 3.75) + 0.15 * (2.0 * 1.5) / (3.5 * 4.5))
    first, second, again = (rng.binomial(num_samples, p) / num_samples for p in (better, chances, chances))
    interval = paired_interval(first, second)
    assert 0.92 <= ((interval.low <= truth) & (interval.high >= truth)).mean() <= 0.995
    alike = paired_interval(second, again)
    assert ((alike.low > 0) | (alike.high < 0)).mean() <= 0.055  # called different, and the same model


def test_bad_values_are_named():
    with pytest.raises(
        DataError, match=r"values must be \[problems\] or \[problems, quantities\], got the shape \[0\]"
    ):
        mean_interval([])
    with pytest.raises(DataError, match=r"values of problem 1 holds 40.0, which is not in \[0, 1\].*not percent"):
        mean_interval([0.3, 40.0])
    with pytest.raises(DataError, match=r"others of problem 2 holds nan"):
        paired_interval([0, 0, 0], [0, 1, float("nan")])
    with pytest.raises(DataError, match=r"shapes \[3\] and \[2\]. Give the same problems of both"):
        paired_interval([0, 0, 0], [0, 1])
    for interval in (mean_interval, lambda values, level: paired_interval(values, values, level=level)):
        with pytest.raises(ConfigError, match=r"level must lie between 0 and 1, got 95"):
            interval([0.0, 1.0], level=95)


def test_rounding_outside_of_shares_is_forgiven():
    assert mean_interval([1 + 1e-12, 1.0]).estimate == 1.0


# --- seeds and prompts ------------------------------------------------------------------------------------------------


def test_the_crossed_interval_by_hand():
    # y = 3; r = 2, 4; c = 1, 3, 5. A = 3 (1 + 1) / 1 = 6; B = 2 (4 + 0 + 4) / 2 = 8; what is left is -1, 1, 0 of the
    # first seed and 1, -1, 0 of the second: E = 4 / (1 * 2) = 2. Variance (6 + 8 - 2) / 6 = 2.
    values = [[-1.0, 3.0, 4.0], [3.0, 3.0, 6.0]]
    degrees = 12**2 / (6**2 / 1 + 8**2 / 2 + 2**2 / 2)  # 144 / 70 = 2.057
    share = (1 / 2 - 1 / degrees) / (1 / 2 - 1 / 3)
    quantile = (1 - share) * 4.302653 + share * 3.182446  # Student's for 2 and 3 degrees
    interval = crossed_interval(values)
    assert interval.estimate == pytest.approx(3.0)
    assert interval.high - 3.0 == pytest.approx(quantile * math.sqrt(2), rel=1e-6)
    assert 3.0 - interval.low == pytest.approx(quantile * math.sqrt(2), rel=1e-6)


def test_seeds_that_agree_are_students_interval_over_prompts():
    prompts = np.array([0.0, 0.2, 0.9, 0.4, 0.1])
    interval = crossed_interval(np.tile(prompts, (4, 1)))
    assert interval.high - prompts.mean() == pytest.approx(
        student_quantile(0.95, 4) * prompts.std(ddof=1) / math.sqrt(5)
    )


def test_prompts_that_agree_are_students_interval_over_seeds():
    seeds = np.array([0.1, 0.2, 0.6])
    interval = crossed_interval(np.tile(seeds[:, None], (1, 50)))
    assert interval.high - seeds.mean() == pytest.approx(student_quantile(0.95, 2) * seeds.std(ddof=1) / math.sqrt(3))


def test_no_difference_at_all_is_zero_without_width():
    interval = crossed_interval(np.zeros((3, 7)))
    assert (interval.estimate, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_one_prompt_has_the_interval_of_its_seeds():
    interval = crossed_interval([[0.1], [0.2], [0.6]])
    assert interval.high == pytest.approx(0.3 + student_quantile(0.95, 2) * np.std([0.1, 0.2, 0.6], ddof=1) / 3**0.5)


@given(st.integers(0, 10_000))
def test_crossed_intervals_move_and_grow_with_the_values(seed):
    values = np.random.default_rng(seed).normal(size=(3, 6, 2))
    interval, moved = crossed_interval(values), crossed_interval(2.0 - 3.0 * values)
    assert moved.low == pytest.approx(2.0 - 3.0 * np.asarray(interval.high))
    assert moved.high == pytest.approx(2.0 - 3.0 * np.asarray(interval.low))
    shuffled = crossed_interval(values[::-1, np.random.default_rng(seed + 1).permutation(6)])
    assert (shuffled.low, shuffled.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    first = crossed_interval(values[..., 0])
    assert (first.low, first.high) == pytest.approx((interval.low[0], interval.high[0]))


@pytest.mark.parametrize(("seeds", "prompts", "rest"), [(0.05, 0.0, 0.1), (0.01, 0.1, 0.2), (0.03, 0.1, 0.2)])
def test_crossed_intervals_of_five_seeds_hold_the_truth(seeds, prompts, rest):
    random = np.random.default_rng(3)
    values = (
        seeds * random.normal(size=(5, 1, 1500))
        + prompts * random.normal(size=(1, 60, 1500))
        + rest * random.normal(size=(5, 60, 1500))
    )
    interval = crossed_interval(values)
    held = float(((interval.low <= 0) & (interval.high >= 0)).mean())
    assert 0.93 <= held <= 0.985


def test_one_seed_says_nothing_of_others():
    with pytest.raises(DataError, match=r"of two seeds at least, got \[1, 3\]"):
        crossed_interval([[0.0, 1.0, 0.5]])
    with pytest.raises(DataError, match="is not finite"):
        crossed_interval([[0.0, 1.0], [math.nan, 0.0]])
    with pytest.raises(ConfigError, match="level"):
        crossed_interval([[0.0, 1.0], [1.0, 0.0]], level=95)
