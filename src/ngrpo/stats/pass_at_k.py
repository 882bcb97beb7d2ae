"""The unbiased estimate of pass@k: would at least one of k samples be correct?"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ngrpo.errors import ConfigError, DataError


def pass_at_k(num_samples: ArrayLike, num_correct: ArrayLike, k: ArrayLike) -> NDArray[np.float64] | float:
    """Chance that at least one of `k` samples, drawn without replacement from those at hand, is correct.

        pass@k = 1 - C(n - c, k) / C(n, k)

    with n samples of a problem, c of them correct: an unbiased estimate of the chance that k fresh samples contain a
    correct one. Drawing with replacement, `1 - (1 - c/n)^k`, is not: it is too low.

    Args:
        num_samples: n of each problem; integers, at least `k`.
        num_correct: c of each problem; integers from 0 to n.
        k: Samples drawn; integers of at least 1. The three are broadcast against each other.

    Returns:
        One estimate per problem, in [0, 1]; a float where all three are single numbers. Averages over problems are the
        caller's, over a fixed set of problems.

    Raises:
        ConfigError: A problem has fewer than `k` samples, or `k` is below 1.
        DataError: A count is not an integer, or `num_correct` is negative or above `num_samples`.

    Source:
        Chen et al. 2021 (arXiv 2107.03374), equation 1. A product of k factors in [0, 1], so that large counts neither
        overflow nor cancel.

    Example:
        >>> pass_at_k(4, 2, 2)                       # 1 - C(2,2)/C(4,2) = 1 - 1/6
        0.8333333333333334
        >>> pass_at_k([8, 8, 8], [0, 4, 8], 1)
        array([0. , 0.5, 1. ])
    """
    missed = probability_of_none(num_samples, num_correct, k, name="k")
    return 1.0 - missed if missed.ndim else 1.0 - float(missed)


def probability_of_none(
    num_samples: ArrayLike, num_correct: ArrayLike, num_drawn: ArrayLike, *, name: str
) -> NDArray[np.float64]:
    """C(n - c, k) / C(n, k): the chance that none of `num_drawn` samples is correct. `name` is theirs, for messages."""
    given = {"num_samples": num_samples, "num_correct": num_correct, name: num_drawn}
    n, c, k = np.broadcast_arrays(*(_integers(key, values) for key, values in given.items()))
    _check_counts(n, c, k, name)
    missed = np.ones(n.shape)
    for drawn in range(int(k.max(initial=0))):
        is_drawn = drawn < k
        factor = np.maximum(n - c - drawn, 0) / np.where(is_drawn, n - drawn, 1)
        missed *= np.where(is_drawn, factor, 1.0)
    return missed


def _integers(name: str, values: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise DataError(f"{name} must be integers, got {array.dtype}. Pass counts, not fractions.")
    return array.astype(np.int64)


def _check_counts(n: NDArray[np.int64], c: NDArray[np.int64], k: NDArray[np.int64], name: str) -> None:
    if (k < 1).any():
        raise ConfigError(f"{name} must be 1 or more, got {k.min()}.")
    is_bad = (c < 0) | (c > n)
    if is_bad.any():
        raise DataError(
            f"{_where(is_bad)} has {c[is_bad].flat[0]} correct of {n[is_bad].flat[0]} samples. Count the correct ones "
            "among the samples."
        )
    is_short = n < k
    if is_short.any():
        needed, got = k[is_short].flat[0], n[is_short].flat[0]
        raise ConfigError(
            f"{name} = {needed} needs at least {needed} samples of every problem, {_where(is_short)} has {got}. Sample "
            f"more, or lower {name}."
        )


def _where(is_bad: NDArray[np.bool_]) -> str:
    """Where the first bad entry is, in words."""
    if is_bad.ndim == 0:
        return "the problem"
    index = tuple(int(position) for position in np.argwhere(is_bad)[0])
    return f"problem {index[0] if len(index) == 1 else index}"
