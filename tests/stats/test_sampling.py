"""The sampling error: exact sums, and against repeated sampling."""

from itertools import product

import numpy as np
import pytest

from ngrpo.errors import DataError
from ngrpo.stats import k_grid, pass_at_k, pass_at_k_auc, sampling_variances


def table_of(num_samples):
    ks, counts = k_grid(num_samples), np.arange(num_samples + 1)
    passed = np.stack([pass_at_k(num_samples, counts, k) for k in ks], axis=1)
    return np.column_stack([passed, pass_at_k_auc(ks, passed)])


def test_pass_at_1_is_p_times_1_minus_p_over_n():
    rates = (np.array([0, 3, 16]) + 0.1) / 16.2
    found = sampling_variances(table_of(16), [0, 3, 16])
    assert found[:, 0] == pytest.approx(rates * (1 - rates) / 16)


@pytest.mark.parametrize("correct", range(5))
def test_every_outcome_of_four_samples_enumerated(correct):
    table, rate = table_of(4), (correct + 0.1) / 4.2
    mean, mean_square = np.zeros(4), np.zeros(4)
    for outcome in product([0, 1], repeat=4):
        chance = rate ** sum(outcome) * (1 - rate) ** (4 - sum(outcome))
        mean, mean_square = mean + chance * table[sum(outcome)], mean_square + chance * table[sum(outcome)] ** 2
    assert sampling_variances(table, [correct])[0] == pytest.approx(mean_square - mean**2, abs=1e-15)


def test_it_is_the_spread_of_repeated_sampling():
    rng = np.random.default_rng(0)
    chances, table = rng.beta(1.0, 2.0, 100), table_of(32)
    correct = rng.binomial(32, chances, (4000, 100))
    true = table[correct].mean(axis=1).std(axis=0)
    estimated = np.sqrt(sampling_variances(table, np.arange(33))[correct].sum(axis=1)).mean(axis=0) / 100
    ratio = estimated / true
    assert ratio[0] == pytest.approx(1, abs=0.04)
    assert ratio[3] == pytest.approx(1, abs=0.1)  # k = 8
    assert ratio == pytest.approx(np.ones(7), abs=0.2)


def test_rows_are_those_of_the_problems():
    found = sampling_variances(table_of(8), [5, 0, 5])
    assert found.shape == (3, 5)
    assert (found[0] == found[2]).all()
    assert (found[0] != found[1]).all()


def test_bad_counts_are_refused():
    for correct in ([3], [-1], [0.5]):
        with pytest.raises(DataError, match="must be integers from 0 to 2, as the table is for"):
            sampling_variances([[0.0], [0.5], [1.0]], correct)
    with pytest.raises(DataError, match=r"\[counts, quantities\] for counts 0 to n, got the shape \[3\]"):
        sampling_variances([0.0, 0.5, 1.0], [1])
