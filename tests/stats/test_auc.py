"""Pass@k AUC and its grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.errors import ConfigError, DataError
from ngrpo.stats import k_grid, pass_at_k, pass_at_k_auc

PAPER_KS = [1, 2, 4, 8, 16, 32, 64, 128, 256]


def test_the_papers_vector():
    # (.10/2 + .16 + .22 + .28 + .34 + .40 + .46 + .52 + .60/2) / 8 = 2.73 / 8
    values = [0.10, 0.16, 0.22, 0.28, 0.34, 0.40, 0.46, 0.52, 0.60]
    assert pass_at_k_auc(PAPER_KS, values) == pytest.approx(0.34125, abs=1e-12)
    assert pass_at_k_auc(PAPER_KS, np.array(values) * 100) == pytest.approx(34.125, abs=1e-10)


def test_uneven_steps_weigh_by_their_width_in_log2_k():
    # k 1, 2, 8: widths 1 and 2; heights (0 + .3)/2 and (.3 + .9)/2
    assert pass_at_k_auc([1, 2, 8], [0.0, 0.3, 0.9]) == pytest.approx((0.15 * 1 + 0.6 * 2) / 3)


def test_a_single_k_is_its_own_average():
    assert pass_at_k_auc([1], [0.3]) == 0.3
    assert pass_at_k_auc([4], [[0.3], [0.5]]).tolist() == [0.3, 0.5]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 16), min_size=1, max_size=6))
def test_the_area_of_the_mean_is_the_mean_of_the_areas(num_correct):
    ks = k_grid(16)
    values = pass_at_k(16, np.array(num_correct)[:, None], np.array(ks))
    areas = pass_at_k_auc(ks, values)
    assert areas.shape == (len(num_correct),)
    assert areas.mean() == pytest.approx(pass_at_k_auc(ks, values.mean(axis=0)), abs=1e-12)
    assert ((areas >= 0) & (areas <= 1)).all()


def test_a_constant_curve_has_its_own_height():
    assert pass_at_k_auc([1, 3, 7, 100], [0.4] * 4) == pytest.approx(0.4)


def test_the_grid_ends_with_all_samples():
    assert k_grid(1) == [1]
    assert k_grid(8) == [1, 2, 4, 8]
    assert k_grid(12) == [1, 2, 4, 8, 12]
    assert k_grid(256) == PAPER_KS
    with pytest.raises(ConfigError, match="at least 1 sample per problem is needed, got 0"):
        k_grid(0)


@pytest.mark.parametrize("ks", [[], [2, 1], [1, 1], [0, 1]])
def test_ks_must_increase(ks):
    with pytest.raises(ConfigError, match="ks must be at least 1 and increase"):
        pass_at_k_auc(ks, [0.1] * len(ks))


def test_values_must_fit():
    with pytest.raises(DataError, match=r"there are 2 ks, but values have the shape \[3\]"):
        pass_at_k_auc([1, 2], [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match="not finite"):
        pass_at_k_auc([1, 2], [0.1, float("nan")])
