"""Percentile bootstrap intervals of a mean over prompts.

Axes: P prompts, R resamples; any further axes are quantities resampled together. For numbers without bounds, such as
lengths; of numbers in [0, 1], `mean_interval` and `paired_interval` hold the truth more often: with 30 prompts these
here are too narrow.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ngrpo.errors import ConfigError, DataError
from ngrpo.stats.intervals import Interval

BLOCK_VALUES = 1 << 22
"""Resampled indices held at once; bounds memory."""


def bootstrap_interval(
    values_by_prompt: ArrayLike, *, num_resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Interval of the mean over prompts, when other prompts of the same kind might have been drawn.

    Prompts are resampled with replacement. To compare two models, pass the differences prompt by prompt.

    Args:
        values_by_prompt: [P] or [P, ...] one number per prompt; of [P, ...] every quantity sees the same resamples.
        num_resamples: Resamples R.
        seed: Of the resampling.
        level: Share of resamples inside the interval, between 0 and 1.

    Returns:
        The mean and its percentile interval, in the units of the values. Of a single prompt the interval is a point and
        says nothing of other prompts.

    Raises:
        ConfigError: `num_resamples` or `level` is out of range.
        DataError: There is no prompt, or a value is not finite.

    Example:
        >>> interval = bootstrap_interval([0.0, 0.0, 1.0, 1.0], seed=0)
        >>> interval.estimate, interval.low, interval.high
        (0.5, 0.0, 1.0)
    """
    values = _checked(values_by_prompt)
    _check_settings(num_resamples, level)
    flat = values.reshape(len(values), -1)
    rng = np.random.default_rng(seed)
    means = [_resampled_weights(rng, num_rows, len(values)) @ flat for num_rows in _blocks(num_resamples, len(values))]
    return _interval(np.concatenate(means), values.mean(axis=0), level)


def _resampled_weights(rng: np.random.Generator, num_resamples: int, num_items: int) -> NDArray[np.float64]:
    """[R, items] how often each item was drawn in `num_items` draws with replacement, divided by the draws."""
    drawn = rng.integers(num_items, size=(num_resamples, num_items))
    cells = drawn + num_items * np.arange(num_resamples)[:, None]
    counts = np.bincount(cells.ravel(), minlength=num_resamples * num_items)
    return counts.reshape(num_resamples, num_items) / num_items


def _blocks(num_resamples: int, num_items: int) -> list[int]:
    """Resamples per block, so that no block holds more than `BLOCK_VALUES` indices (or one resample)."""
    per_block = max(1, BLOCK_VALUES // num_items)
    full, rest = divmod(num_resamples, per_block)
    return [per_block] * full + ([rest] if rest else [])


def _interval(means: NDArray[np.float64], estimate: NDArray[np.float64], level: float) -> Interval:
    """[R, M] resampled means -> the percentile interval around `estimate`."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0).reshape(2, *np.shape(estimate))
    if estimate.ndim == 0:
        return Interval(float(estimate), float(low), float(high))
    return Interval(estimate, low, high)


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or 0 in array.shape:
        raise DataError(f"values need at least one prompt, got the shape {list(array.shape)}.")
    if not np.isfinite(array).all():
        prompt = np.argwhere(~np.isfinite(array))[0][0]
        raise DataError(f"the value of prompt {prompt} is not finite. Every prompt counts: give it a number.")
    return array


def _check_settings(num_resamples: int, level: float) -> None:
    if num_resamples < 1:
        raise ConfigError(f"num_resamples must be 1 or more, got {num_resamples}.")
    if not 0 < level < 1:
        raise ConfigError(f"level must lie between 0 and 1, got {level}: 0.95 is a 95 % interval.")
