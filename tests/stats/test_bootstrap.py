"""Bootstrap intervals over prompts, and over seeds and prompts."""

import numpy as np
import pytest

from ngrpo.errors import ConfigError, DataError
from ngrpo.stats import bootstrap, bootstrap_interval


def test_interval_of_a_fair_coin_is_the_binomials():
    # 100 prompts, half right: a resampled mean is Binomial(100, .5)/100, whose 2.5 % and 97.5 % points are .40 and .60.
    interval = bootstrap_interval([0.0, 1.0] * 50, num_resamples=20_000)
    assert interval.estimate == 0.5
    assert interval.low == pytest.approx(0.40, abs=0.011)
    assert interval.high == pytest.approx(0.60, abs=0.011)
    assert type(interval.low) is float


def test_a_wider_level_is_a_wider_interval():
    values = np.random.default_rng(0).random(40)
    narrow, wide = (bootstrap_interval(values, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high


def test_two_prompts_by_hand():
    # Means of two draws from {0, 1}: 0, 1/2, 1 with chances 1/4, 1/2, 1/4. At level .4 the ends are inside the half.
    interval = bootstrap_interval([0.0, 1.0], level=0.4)
    assert (interval.low, interval.high) == (0.5, 0.5)
    interval = bootstrap_interval([0.0, 1.0], level=0.6)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_constant_values_and_single_prompts_are_points():
    for values in ([0.3] * 9, [0.3]):
        interval = bootstrap_interval(values)
        assert (interval.low, interval.high) == pytest.approx((0.3, 0.3))


def test_quantities_of_one_prompt_are_resampled_together():
    values = np.random.default_rng(1).random(30)
    both = bootstrap_interval(np.stack([values, 1 - values], axis=1), num_resamples=999)
    alone = bootstrap_interval(values, num_resamples=999)
    assert both.low.shape == (2,)
    assert both.low[0] == pytest.approx(alone.low)
    assert both.high[0] == pytest.approx(1 - both.low[1])


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(1).random(30)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_coverage_is_near_the_level():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        interval = bootstrap_interval(rng.normal(size=50), num_resamples=400, seed=trial)
        hits += interval.low <= 0.0 <= interval.high
    assert 0.89 <= hits / 300 <= 0.98


def test_blocks_resample_every_row_once(monkeypatch):
    monkeypatch.setattr(bootstrap, "BLOCK_VALUES", 100)
    interval = bootstrap_interval([0.0, 1.0] * 50, num_resamples=2_001)
    assert interval.low == pytest.approx(0.40, abs=0.02)


def test_bad_values_are_named():
    with pytest.raises(DataError, match=r"values need at least one prompt, got the shape \[0\]"):
        bootstrap_interval([])
    with pytest.raises(DataError, match=r"the value of prompt 1 is not finite"):
        bootstrap_interval([0.0, float("nan")])


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match=r"level must lie between 0 and 1, got 95"):
        bootstrap_interval([0.0, 1.0], level=95)
    with pytest.raises(ConfigError, match=r"num_resamples must be 1 or more, got 0"):
        bootstrap_interval([0.0, 1.0], num_resamples=0)
