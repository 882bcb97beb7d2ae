"""Intervals over problems: by hand, invariants, and coverage by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.errors import ConfigError, DataError
from ngrpo.stats import bootstrap_interval, mean_interval, paired_interval, pass_at_k
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
