"""Pass@k AUC: pass@k over all k at once, as one number."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ngrpo.errors import ConfigError, DataError


def k_grid(num_samples: int) -> list[int]:
    """The values of k that are reported for a number of samples: 1, 2, 4, ... up to `num_samples`, itself included.

    Args:
        num_samples: Samples per problem, at least 1.

    Returns:
        Ascending values of k.

    Raises:
        ConfigError: `num_samples` is below 1.

    Example:
        >>> k_grid(8), k_grid(100)
        ([1, 2, 4, 8], [1, 2, 4, 8, 16, 32, 64, 100])
    """
    if num_samples < 1:
        raise ConfigError(f"at least 1 sample per problem is needed, got {num_samples}.")
    powers = [1 << exponent for exponent in range(num_samples.bit_length())]
    return powers if powers[-1] == num_samples else [*powers, num_samples]


def pass_at_k_auc(ks: ArrayLike, values: ArrayLike) -> NDArray[np.float64] | float:
    """Average height of the pass@k curve over log2 k: the trapezoid area divided by its width.

    It depends on the grid: areas to different largest k are not comparable, so report that k beside the number. Of a
    single k it is the value itself. As it is linear in `values`, the area of a mean over problems is the mean of the
    problems' areas.

    Args:
        ks: [K] values of k, strictly increasing, at least 1.
        values: [K] or [..., K] pass@k at those k, in any unit.

    Returns:
        A float for [K], else an array [...], in the units of `values`.

    Raises:
        ConfigError: `ks` is empty or does not increase.
        DataError: The two differ in length, or a value is not finite.

    Source:
        NGRPO (arXiv 2509.18851), reference code calculate_metrics.py, whose grid of powers of two makes the widths
        equal: `(P_0/2 + P_1 + ... + P_m/2) / m`. It divides by zero where there is only one k.

    Example:
        >>> percent = [10, 16, 22, 28, 34, 40, 46, 52, 60]
        >>> round(pass_at_k_auc([1, 2, 4, 8, 16, 32, 64, 128, 256], percent), 6)
        34.125
    """
    ks, values = np.asarray(ks, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if ks.ndim != 1 or not len(ks) or not (ks >= 1).all() or not (np.diff(ks) > 0).all():
        raise ConfigError(f"ks must be at least 1 and increase, got {ks.tolist()}.")
    if values.shape[-1:] != ks.shape:
        raise DataError(
            f"there are {len(ks)} ks, but values have the shape {list(values.shape)}. Give one value per k, last axis."
        )
    if not np.isfinite(values).all():
        raise DataError("a value of pass@k is not finite. Leave out no problem: count it as 0 correct.")
    if len(ks) == 1:
        area = values[..., 0]
    else:
        widths = np.diff(np.log2(ks))
        area = ((values[..., 1:] + values[..., :-1]) / 2 * widths).sum(axis=-1) / widths.sum()
    return area if area.ndim else float(area)
