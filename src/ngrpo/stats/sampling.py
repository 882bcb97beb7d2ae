"""The sampling error: how far would other samples of the very same problems have come out?"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ngrpo.errors import DataError

PSEUDO_COUNT = 0.1
"""Correct and wrong samples that a problem is taken to have had besides. With 0 the largest k would seem surer than
they are by 20 to 50 %, with 1/2 less sure by up to 150 %; docs/statistics.md has the comparison."""


def sampling_variances(by_count: ArrayLike, num_correct: ArrayLike) -> NDArray[np.float64]:
    """Variance of every quantity of every problem, had the same problem been sampled again.

    With problems fixed, only the number c of correct samples is random: binomial, its chance not known. In its place
    stands (c + 0.1) / (n + 0.2): c / n would say that a problem with c = 0 cannot turn out otherwise. The variance
    under that binomial is an exact sum over its n + 1 outcomes. The standard error of a mean over problems is the root
    of the sum of their variances, divided by their number; `mean_interval` includes it, as new problems are sampled
    anew.

    Args:
        by_count: [n + 1, M] each quantity (pass@k, its AUC, shares of groups) for c = 0, 1, ..., n of n correct.
        num_correct: [P] c of each problem.

    Returns:
        [P, M]. Of pass@1 the standard error is right within 3 %; of large k it is too large where most problems are out
        of reach, at k = n up to 2.3 times. One sample of a problem says nothing of how far another is from it: there it
        is a mere guess.

    Raises:
        DataError: A count is not an integer from 0 to n, or the table is not [counts, quantities].

    Example:
        >>> pass_at_1 = [[0.0], [0.5], [1.0]]
        >>> sampling_variances(pass_at_1, [1]).round(4).tolist()     # 0.5 * 0.5 / 2
        [[0.125]]
    """
    table, correct = np.asarray(by_count, dtype=np.float64), np.asarray(num_correct)
    if table.ndim != 2 or len(table) < 2:
        raise DataError(f"the table must be [counts, quantities] for counts 0 to n, got the shape {list(table.shape)}.")
    num_samples = len(table) - 1
    if correct.dtype.kind not in "iu" or (correct < 0).any() or (correct > num_samples).any():
        raise DataError(f"numbers of correct samples must be integers from 0 to {num_samples}, as the table is for.")
    counts = np.arange(num_samples + 1)
    log_factorials = np.array([math.lgamma(count + 1) for count in counts])
    log_ways = log_factorials[-1] - log_factorials - log_factorials[::-1]
    different, place = np.unique(correct, return_inverse=True)
    rates = ((different + PSEUDO_COUNT) / (num_samples + 2 * PSEUDO_COUNT))[:, None]
    chances = np.exp(log_ways + counts * np.log(rates) + counts[::-1] * np.log1p(-rates))
    return np.maximum(chances @ table**2 - (chances @ table) ** 2, 0.0)[place]
