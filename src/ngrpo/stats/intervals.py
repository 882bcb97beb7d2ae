"""Intervals of a mean over problems whose coverage was measured, for one model and for the difference of two.

Axes: P problems, M quantities. Which intervals were tried, and how often they contain the truth for 30, 40 and 500
problems, is in docs/statistics.md; `python benchmarks/coverage.py` measures it again.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ngrpo.errors import ConfigError, DataError

UNSEEN_VARIANCE = 0.25
"""Squared deviation that one problem more is taken to add: of a value 0 or 1 with even odds. It keeps an interval from
closing around problems that came out alike by chance; chosen by coverage among 0, 0.1, 0.25, 0.5 and 1."""

ROUNDING = 1e-9
"""How far a value may lie outside of [0, 1]: sums of floats do, by less."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its interval; floats, or arrays where there are several quantities.

    Attributes:
        estimate: The mean over all problems.
        low: Lower end.
        high: Upper end.
    """

    estimate: NDArray[np.float64] | float
    low: NDArray[np.float64] | float
    high: NDArray[np.float64] | float


def mean_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Interval of a mean over problems of numbers in [0, 1], when other problems of the kind might have been drawn.

    Wilson's score interval with an effective number of problems. Of values that are 0 or 1 the variance is m (1 - m)
    and Wilson's interval stands as it is; values in between vary less, by a factor

        d = (sum (x - m)^2 + 1/4) / (P m (1 - m) + 1/4)

    and P problems are worth P / d. The quarter is the spread of one problem more that is 0 or 1 with even odds: even
    problems that are all alike do not say that every other is. The ends stay in [0, 1], 0 of 30 gives 0 to 11 %, and
    nothing is drawn at random.

    Args:
        values: [P] or [P, M] one number in [0, 1] per problem: c/n, pass@k, its AUC, maj@k, shares of groups.
        level: Wanted coverage, between 0 and 1.

    Returns:
        Mean and ends, floats for [P], else arrays [M].

    Raises:
        ConfigError: `level` is out of range.
        DataError: There is no problem, or a value lies outside of [0, 1].

    Source:
        Wilson 1927 (JASA 22); the effective size is that of survey samples (Korn and Graubard 1998), the quarter our
        own. Coverage: docs/statistics.md.

    Example:
        >>> none_of_30 = mean_interval([0] * 30)
        >>> none_of_30.low, round(none_of_30.high, 3)
        (0.0, 0.114)
        >>> half = mean_interval([0.5] * 30)
        >>> round(half.low, 3), round(half.high, 3)
        (0.468, 0.532)
    """
    x = _checked("values", values)
    num_problems, mean = len(x), x.mean(axis=0)
    spread, widest = ((x - mean) ** 2).sum(axis=0), num_problems * mean * (1 - mean)
    effect = (spread + UNSEEN_VARIANCE) / (np.maximum(widest, 0.0) + UNSEEN_VARIANCE)
    weight = _normal_quantile(level) ** 2 * effect / num_problems
    centre = (mean + weight / 2) / (1 + weight)
    half = np.sqrt(np.maximum(mean * (1 - mean), 0.0) * weight + weight**2 / 4) / (1 + weight)
    return _interval(mean, np.clip(centre - half, 0.0, mean), np.clip(centre + half, mean, 1.0))


def paired_interval(values: ArrayLike, others: ArrayLike, *, level: float = 0.95) -> Interval:
    """Interval of the mean difference of two models on the same problems.

    Student's interval of the differences, with one problem more that comes out differently, by as much as those that
    did (the mean size of a difference, each weighed by itself), or by 1 where none did: two models that agree on 30
    problems differ by 0 give or take 7 %, and not by exactly 0.

    Args:
        values: [P] or [P, M] one number in [0, 1] per problem.
        others: The other model's, of the same problems in the same order.
        level: Wanted coverage, between 0 and 1.

    Returns:
        Mean of `values - others` and ends in [-1, 1], floats for [P], else arrays [M].

    Raises:
        ConfigError: `level` is out of range.
        DataError: The shapes differ, there is no problem, or a value lies outside of [0, 1].

    Source:
        Student's t; the additional problem is our own. Coverage: docs/statistics.md.

    Example:
        >>> alike = paired_interval([0.0] * 30, [0.0] * 30)
        >>> alike.estimate, round(alike.low, 3), round(alike.high, 3)
        (0.0, -0.068, 0.068)
    """
    x, y = _checked("values", values), _checked("others", others)
    if x.shape != y.shape:
        raise DataError(f"the two have the shapes {list(x.shape)} and {list(y.shape)}. Give the same problems of both.")
    differences = x - y
    num_problems, mean = len(x), differences.mean(axis=0)
    total, squares = np.abs(differences).sum(axis=0), (differences**2).sum(axis=0)
    usual_size = np.where(total > 0, squares / np.where(total > 0, total, 1.0), 1.0)
    spread = ((differences - mean) ** 2).sum(axis=0) + usual_size**2
    half = student_quantile(level, num_problems - 1) * np.sqrt(spread) / num_problems
    return _interval(mean, np.clip(mean - half, -1.0, mean), np.clip(mean + half, mean, 1.0))


def crossed_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Interval of a mean over seeds and prompts, when other seeds and other prompts might have been drawn.

    Every run meets the same prompts: the two are crossed. With y the mean of all, r of each seed, c of each prompt,

        A = P sum (r - y)^2 / (S - 1)        B = S sum (c - y)^2 / (P - 1)
        E = sum (v - r - c + y)^2 / ((S - 1)(P - 1))
        variance of y = (max(A, E) + max(B, E) - E) / (S P)

    and the interval is Student's, its degrees of freedom by Satterthwaite: few where seeds differ, many where prompts
    do. A bootstrap over both, usual here, takes the spread of five seeds for that of all: see docs/statistics.md.

    Args:
        values: [S, P] or [S, P, ...] one number per seed and prompt, at least two seeds; of [S, P, ...] one interval
            for each of the quantities. To compare two methods give the differences.
        level: Wanted coverage, between 0 and 1.

    Returns:
        Mean and ends, floats for [S, P], else arrays of the further axes. The ends have no bounds.

    Raises:
        ConfigError: `level` is out of range.
        DataError: There are not two seeds, there is no prompt, or a value is not finite.

    Source:
        Two-way random effects without replication (Searle, Casella and McCulloch 1992, Variance Components);
        Satterthwaite 1946 (Biometrics Bulletin 2).

    Example:
        >>> three_seeds = crossed_interval([[0.1, 0.5, 0.6], [0.2, 0.5, 0.8], [0.3, 0.5, 1.0]])
        >>> round(three_seeds.estimate, 3), round(three_seeds.low, 2), round(three_seeds.high, 2)
        (0.5, -0.2, 1.2)
    """
    array = np.asarray(values, dtype=np.float64)
    _check_level(level)
    if array.ndim < 2 or len(array) < 2 or 0 in array.shape:
        raise DataError(f"values must be [seeds, prompts, ...] of two seeds at least, got {list(array.shape)}.")
    if not np.isfinite(array).all():
        raise DataError(f"the value of seed, prompt {np.argwhere(~np.isfinite(array))[0].tolist()} is not finite.")
    num_seeds, num_prompts = array.shape[:2]
    free_seeds, free_prompts = num_seeds - 1, max(num_prompts - 1, 1)  # of one prompt all squares over prompts are 0
    mean, by_seed, by_prompt = array.mean(axis=(0, 1)), array.mean(axis=1), array.mean(axis=0)
    rest = array - by_seed[:, None] - by_prompt + mean
    error = (rest**2).sum(axis=(0, 1)) / (free_seeds * free_prompts)
    seeds = np.maximum(num_prompts * ((by_seed - mean) ** 2).sum(axis=0) / free_seeds, error)
    prompts = np.maximum(num_seeds * ((by_prompt - mean) ** 2).sum(axis=0) / free_prompts, error)
    total = seeds + prompts - error
    spread = seeds**2 / free_seeds + prompts**2 / free_prompts + error**2 / (free_seeds * free_prompts)
    degrees = np.divide(total**2, spread, out=np.full_like(total, num_seeds * num_prompts), where=spread > 0)
    quantiles = np.array([_between(level, float(each)) for each in np.ravel(degrees)]).reshape(np.shape(degrees))
    half = quantiles * np.sqrt(total / (num_seeds * num_prompts))
    return _interval(mean, mean - half, mean + half)


def _between(level: float, degrees: float) -> float:
    """Student's quantile for degrees that are no whole number: on the line between its neighbours, over 1 / degrees."""
    below = max(1, math.floor(degrees))
    share = (1 / below - 1 / max(degrees, 1.0)) / (1 / below - 1 / (below + 1))
    return (1 - share) * student_quantile(level, below) + share * student_quantile(level, below + 1)


def _normal_quantile(level: float) -> float:
    """Half width of a central interval of the standard normal distribution."""
    _check_level(level)
    return NormalDist().inv_cdf((1 + level) / 2)


def student_quantile(level: float, degrees: int) -> float:
    """Half width of a central interval of Student's t; infinite without a degree of freedom.

    The chance of the interval is a finite sum in the angle atan(t / sqrt(degrees)); the angle is found by bisection.
    """
    _check_level(level)
    if degrees < 1:
        return math.inf
    first = degrees % 2
    terms = np.arange(1, (degrees - first) // 2)
    ratios = (2 * terms - 1 + first) / (2 * terms + first)
    factors = np.concatenate([[1.0], np.cumprod(ratios)]) if degrees > 1 else np.zeros(1)
    powers = first + 2 * np.arange(len(factors))
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        series = math.sin(angle) * float((factors * math.cos(angle) ** powers).sum())
        chance = 2 / math.pi * (angle + series) if first else series
        low, high = (angle, high) if chance < level else (low, angle)
    return math.sqrt(degrees) * math.tan(low)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level must lie between 0 and 1, got {level}: 0.95 is a 95 % interval.")


def _checked(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2) or 0 in array.shape:
        raise DataError(f"{name} must be [problems] or [problems, quantities], got the shape {list(array.shape)}.")
    is_inside = (array >= -ROUNDING) & (array <= 1 + ROUNDING)
    if not is_inside.all():
        place = tuple(np.argwhere(~is_inside)[0])
        raise DataError(
            f"{name} of problem {place[0]} holds {array[place]}, which is not in [0, 1]. Give shares, not percent; of "
            "numbers without bounds `bootstrap_interval` is the interval."
        )
    return np.clip(array, 0.0, 1.0)


def _interval(estimate: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> Interval:
    if estimate.ndim == 0:
        return Interval(float(estimate), float(low), float(high))
    return Interval(estimate, low, high)
