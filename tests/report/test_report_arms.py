"""Means over seeds, smoothing and thinning, and how arms are told apart."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngrpo.report.arms import FIXED_COLOURS, mean_curves, smoothed, styled, thinned
from ngrpo.report.records import Notices, Run, Series


def run_of(name, values, first=1, role="method"):
    steps = np.arange(first, first + len(values))
    return Run(name, "grpo", role, Path(), series={"reward/mean": Series(steps, np.array(values, dtype=float))})


def curve_of(*runs):
    notices = Notices()
    (curve,), window = mean_curves(styled({"grpo": runs}), "reward/mean", notices)
    return curve, window, list(notices)


def test_mean_and_range_over_seeds():
    curve, window, told = curve_of(run_of("a", [0.0, 1.0, 2.0]), run_of("b", [4.0, 2.0, 2.0]))
    assert curve.mean.tolist() == [2.0, 1.5, 2.0]
    assert curve.low.tolist() == [0.0, 1.0, 2.0]
    assert curve.high.tolist() == [4.0, 2.0, 2.0]
    assert (curve.num_seeds, window, told) == (2, 1, [])


def test_a_mean_is_of_the_steps_that_all_seeds_have():
    curve, _, _ = curve_of(run_of("a", [1, 2, 3, 4]), run_of("b", [20, 30, 40, 50], first=2))
    assert curve.steps.tolist() == [2, 3, 4]
    assert curve.mean.tolist() == [11, 16.5, 22]


def test_a_seed_that_stopped_early_is_left_out_and_told():
    curve, _, told = curve_of(run_of("a", [1.0] * 10), run_of("b", [9.0] * 4), run_of("c", [3.0] * 5))
    assert curve.num_seeds == 2
    assert curve.mean.tolist() == [2.0] * 5
    assert len(told) == 1
    assert told[0].startswith("b ends at step 4")


def test_long_curves_are_smoothed_and_say_over_how_many_steps():
    values = np.arange(80.0)
    curve, window, _ = curve_of(run_of("a", values))
    assert window == 10
    assert curve.steps[0] == 10
    assert curve.mean[0] == pytest.approx(4.5)  # 0 to 9
    assert curve.mean[-1] == pytest.approx(74.5)  # 70 to 79


numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400)


@given(numbers, numbers, st.integers(4, 60))
def test_thinning_keeps_ends_and_extremes_of_all_curves(first, second, max_points):
    length = min(len(first), len(second))
    curves = [np.array(first[:length]), np.array(second[:length])]
    kept = thinned(curves, max_points)
    assert (kept[0], kept[-1]) == (0, length - 1)
    assert (np.diff(kept) > 0).all()
    assert len(kept) <= max(max_points, 2 + 2 * len(curves) + 2)
    for curve in curves:
        assert curve[kept].min() == curve.min()
        assert curve[kept].max() == curve.max()


def test_thinning_leaves_short_curves_whole():
    assert thinned([np.zeros(5)], 5).tolist() == [0, 1, 2, 3, 4]


def test_smoothing_does_not_need_a_full_window():
    assert smoothed(Series(np.array([3]), np.array([2.0])), 10).values.tolist() == [2.0]


def test_known_methods_keep_their_colours_and_no_two_arms_look_alike():
    arms = styled({name: [] for name in ("ngrpo", "grpo", *(f"arm {number}" for number in range(24)))})
    assert [arm.colour for arm in arms[:2]] == [FIXED_COLOURS["ngrpo"], FIXED_COLOURS["grpo"]] == ["#cc3311", "#4477aa"]
    assert len({(arm.colour, arm.dash) for arm in arms}) == len(arms)


def test_controls_and_bases_are_dashed():
    method, control, base = styled({role: [run_of("a", [1], role=role)] for role in ("method", "control", "base")})
    assert len({method.dash, control.dash, base.dash}) == 3
