"""pass@k against exact enumeration, and its refusals."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.errors import ConfigError, DataError
from ngrpo.stats import pass_at_k


def test_every_small_case_equals_enumeration():
    for n in range(1, 9):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(combinations([True] * c + [False] * (n - c), k))
                exact = Fraction(sum(any(draw) for draw in draws), len(draws))
                assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-15)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_large_cases_equal_exact_fractions(data):
    n = data.draw(st.integers(1, 4096))
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    exact = 1 - Fraction(comb(n - c, k), comb(n, k))
    estimate = pass_at_k(n, c, k)
    assert estimate == pytest.approx(float(exact), abs=1e-12)
    assert 0.0 <= estimate <= 1.0


@pytest.mark.parametrize("c", [1, 2, 17, 64, 1000, 2048, 4095])
def test_4096_samples_at_every_power_of_two(c):
    for k in (1 << exponent for exponent in range(13)):
        exact = 1 - Fraction(comb(4096 - c, k), comb(4096, k))
        assert pass_at_k(4096, c, k) == pytest.approx(float(exact), rel=1e-12, abs=1e-15)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 64))
def test_it_rises_with_k_and_with_correct_samples_and_falls_with_wrong_ones(n):
    table = pass_at_k(n, np.arange(n + 1)[:, None], np.arange(1, n + 1))
    assert table.shape == (n + 1, n)
    assert (np.diff(table, axis=0) >= -1e-12).all()
    assert (np.diff(table, axis=1) >= -1e-12).all()
    assert table[:, 0] == pytest.approx(np.arange(n + 1) / n)
    assert table[:, -1].tolist() == [0.0] + [1.0] * n
    with_a_wrong_one = pass_at_k(n + 1, np.arange(n + 1)[:, None], np.arange(1, n + 1))
    assert (with_a_wrong_one <= table + 1e-12).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.data())
def test_one_sample_left_out_at_random_changes_nothing_on_average(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n - 1))
    without = [pass_at_k(n - 1, c - 1, k) * c if c else 0.0, pass_at_k(n - 1, c, k) * (n - c) if c < n else 0.0]
    assert sum(without) / n == pytest.approx(pass_at_k(n, c, k), abs=1e-12)


def test_ends_are_exact():
    assert pass_at_k(256, 0, 100) == 0.0
    assert pass_at_k(256, 256, 1) == 1.0
    assert pass_at_k(8, 3, 6) == 1.0  # every 6 of 8 contain a right one
    assert pass_at_k(256, 64, 1) == 0.25


def test_arrays_broadcast_and_ints_give_a_float():
    estimates = pass_at_k(4, [0, 1, 2, 4], 2)
    assert isinstance(estimates, np.ndarray)
    assert estimates.tolist() == pytest.approx([0.0, 0.5, 5 / 6, 1.0])
    table = pass_at_k(np.array([[4], [8]]), np.array([[1], [2]]), np.array([1, 2, 4]))
    assert table.shape == (2, 3)
    assert table[0].tolist() == pytest.approx([0.25, 0.5, 1.0])
    assert table[1].tolist() == pytest.approx([1 / 4, 1 - 15 / 28, 1 - 15 / 70])
    assert type(pass_at_k(4, 1, 1)) is float
    assert pass_at_k(np.array([], dtype=int), np.array([], dtype=int), 3).shape == (0,)


def test_the_mean_over_draws_is_unbiased():
    # n = 4 samples at p = .3: sum over c of Binomial(c) pass@2(c) is exactly 1 - .7^2.
    p = 0.3
    expected = sum(comb(4, c) * p**c * (1 - p) ** (4 - c) * pass_at_k(4, c, 2) for c in range(5))
    assert expected == pytest.approx(1 - 0.7**2, abs=1e-15)


def test_too_few_samples_are_an_error_that_names_the_problem():
    with pytest.raises(ConfigError, match=r"k = 8 needs at least 8 samples of every problem, problem 2 has 4"):
        pass_at_k([8, 8, 4, 2], [1, 0, 4, 0], 8)
    with pytest.raises(ValueError, match=r"the problem has 3\. Sample more, or lower k"):
        pass_at_k(3, 0, 4)
    with pytest.raises(ConfigError, match=r"problem \(1, 0\) has 4"):
        pass_at_k([[8], [4]], [[0], [0]], 8)


def test_impossible_counts_are_an_error_that_names_the_problem():
    with pytest.raises(DataError, match=r"problem 1 has 9 correct of 8 samples"):
        pass_at_k([8, 8], [0, 9], 1)
    with pytest.raises(DataError, match=r"problem 0 has -1 correct of 8 samples"):
        pass_at_k([8], [-1], 1)
    with pytest.raises(ConfigError, match=r"k must be 1 or more, got 0"):
        pass_at_k(8, 1, 0)
    with pytest.raises(DataError, match=r"num_correct must be integers, got float64"):
        pass_at_k(8, 1.0, 1)
