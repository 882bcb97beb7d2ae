"""Arms: the runs of one method, their means over seeds, and how they are drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ngrpo.report.records import Comparison, Notices, Run, Series

FIXED_COLOURS = {
    "ngrpo": "#cc3311",
    "grpo": "#4477aa",
    "base": "#888888",
    "dapo": "#ee7733",
    "psr": "#228833",
    "nsr": "#aa3377",
    "w_reinforce": "#009988",
    "dr_grpo": "#ccbb44",
    "rloo": "#66ccee",
}
"""Of Tol's palettes, which the colour-blind can tell apart; NGRPO and GRPO as in the laboratory's other figures."""

SHARP_COLOURS = ("#aaaaaa", "#777777", "#bbaa99", "#8899aa")
"""Of the base at lower temperatures."""

OTHER_COLOURS = ("#7d5ba6", "#997700", "#ee99aa", "#55aadd", "#994455", "#99cc33", "#dd8844", "#779977")
"""For whatever else there is, readable on white and on black; dashes tell apart what colour may not."""

METHOD_DASHES = ((1, 0), (8, 2), (8, 2, 2, 2), (4, 2))

MAX_BANDS = 6
"""Most arms that all have bands: more of them hide the lines."""

SMOOTHING_STEPS, MIN_SMOOTHED = 10, 40
"""Curves are means over this many steps, of long runs over a fortieth: one step has a few dozen prompts only. Shorter
ones are not smoothed."""

MIN_FRAC_OF_LONGEST = 0.5
"""A seed that stopped earlier than this share of its arm's longest run would end the mean: it is left out."""


@dataclass(frozen=True, eq=False)
class Arm:
    """What is compared: a method over its seeds, a control, or the base.

    Attributes:
        name: For legends.
        role: As in `Run`.
        runs: One per seed.
        colour: The same in all figures.
        dash: Lengths of dashes and gaps; methods are drawn in full, controls and bases dashed.
    """

    name: str
    role: str
    runs: tuple[Run, ...]
    colour: str
    dash: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class MeanCurve:
    """A metric of an arm.

    Attributes:
        arm: Whose.
        steps: [T] rollout steps that every seed has.
        mean: [T] over seeds.
        low: [T] smallest of the seeds.
        high: [T] largest.
        num_seeds: How many.
    """

    arm: Arm
    steps: NDArray[np.int64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    num_seeds: int


def arms_of(comparison: Comparison) -> list[Arm]:
    """The arms of a comparison: the base first, then methods, then controls, each in the order they were found."""
    by_name: dict[str, list[Run]] = {}
    for run in comparison.runs:
        by_name.setdefault(run.arm, []).append(run)
    order = {"base": 0, "method": 1, "control": 2}
    return styled(dict(sorted(by_name.items(), key=lambda item: order.get(item[1][0].role, 1))))


def styled(runs_of: Mapping[str, Sequence[Run]]) -> list[Arm]:
    """Arms with colours and dashes: known names have theirs, others get one in turn.

    Args:
        runs_of: By name of the arm; none where an arm is of no run.
    """
    sharp = [name for name in runs_of if name.startswith("base at T=")]
    places = {name: place for place, name in enumerate(n for n in runs_of if n not in FIXED_COLOURS and n not in sharp)}
    arms = []
    for name, runs in runs_of.items():
        role = runs[0].role if runs else "method"
        turn, place = divmod(places.get(name, 0), len(OTHER_COLOURS))
        number = 0 if name in FIXED_COLOURS else place + turn + 1
        dash = {"base": (2, 2), "control": (5, 3)}.get(role, METHOD_DASHES[number % len(METHOD_DASHES)])
        colour = FIXED_COLOURS.get(name, OTHER_COLOURS[place])
        if name in sharp:
            at = sharp.index(name)
            colour, dash = SHARP_COLOURS[at % len(SHARP_COLOURS)], (2, 2 + 2 * at)
        arms.append(Arm(name, role, tuple(runs), colour, dash))
    return arms


def mean_curves(
    arms: Sequence[Arm], metric: str, notices: Notices, *, is_noisy: bool = True
) -> tuple[list[MeanCurve], int]:
    """A metric of every arm that has it, over seeds.

    Args:
        arms: Of one comparison.
        metric: Its name.
        notices: Told of seeds that are left out.
        is_noisy: Whether long curves are smoothed.

    Returns:
        The curves, and over how many steps each of their points is a mean.
    """
    longest = max(
        (len(run.series[metric].steps) for arm in arms for run in arm.runs if metric in run.series), default=0
    )
    window = smoothing_window(longest) if is_noisy else 1
    curves = []
    for arm in arms:
        series = [smoothed(run.series[metric], window) for run in _long_enough(arm, metric, notices)]
        curve = _mean_curve(arm, series)
        if curve is not None:
            curves.append(curve)
    return curves, window


def smoothing_window(num_points: int) -> int:
    """Over how many points a curve of this many is smoothed; 1 is not at all.

    Example:
        >>> smoothing_window(20), smoothing_window(80), smoothing_window(4000)
        (1, 10, 100)
    """
    if num_points < MIN_SMOOTHED:
        return 1
    return max(min(SMOOTHING_STEPS, num_points // 8), num_points // 40)


def smoothed(series: Series, window: int) -> Series:
    """Each point as the mean of the last `window`; the first points, which have fewer before them, are left out.

    Example:
        >>> import numpy as np
        >>> smoothed(Series(np.arange(4), np.array([1.0, 3.0, 5.0, 1.0])), 2).values.tolist()
        [2.0, 4.0, 3.0]
    """
    width = min(window, len(series.values))
    means = np.convolve(series.values, np.ones(width) / width, mode="valid")
    return Series(series.steps[width - 1 :], means)


def thinned(values: Sequence[NDArray[np.float64]], max_points: int) -> NDArray[np.int64]:
    """Which points of long curves are drawn: the first, the last, and the lowest and highest of every stretch.

    Args:
        values: Curves over the same steps, [T] each: of the first the lows and highs of stretches are kept, of all the
            lowest and highest point.
        max_points: About how many; at least 4.

    Returns:
        Rising indices; all of them where there are no more than `max_points`.

    Example:
        >>> import numpy as np
        >>> spike = np.zeros(1000)
        >>> spike[417] = 9
        >>> kept = thinned([spike], 8)
        >>> len(kept) <= 10, bool(417 in kept), kept[0].item(), kept[-1].item()
        (True, True, 0, 999)
    """
    first, length = values[0], len(values[0])
    if length <= max_points:
        return np.arange(length)
    kept = {0, length - 1}
    for curve in values:
        kept |= {int(np.argmin(curve)), int(np.argmax(curve))}
    for stretch in np.array_split(np.arange(length), max(1, (max_points - len(kept)) // 2)):
        kept |= {int(stretch[np.argmin(first[stretch])]), int(stretch[np.argmax(first[stretch])])}
    return np.array(sorted(kept))


def _long_enough(arm: Arm, metric: str, notices: Notices) -> list[Run]:
    """Runs that have the metric, without those that stopped early."""
    runs = [run for run in arm.runs if metric in run.series]
    longest = max((run.last_step for run in runs), default=0)
    short = [run for run in runs if run.last_step < MIN_FRAC_OF_LONGEST * longest]
    for run in short:
        notices.add(
            f"{run.name} ends at step {run.last_step}, other seeds of {arm.name} at {longest}: it was left out of the "
            "means over seeds, which would end there."
        )
    return [run for run in runs if run not in short]


def _mean_curve(arm: Arm, series: Sequence[Series]) -> MeanCurve | None:
    """Mean and range over seeds at the steps that all have; None where there are none."""
    if not series:
        return None
    steps = series[0].steps
    for each in series[1:]:
        steps = np.intersect1d(steps, each.steps, assume_unique=True)
    if not len(steps):
        return None
    values = np.stack([each.values[np.searchsorted(each.steps, steps)] for each in series])
    return MeanCurve(arm, steps, values.mean(axis=0), values.min(axis=0), values.max(axis=0), len(series))


def banded(arms: Sequence[Arm]) -> list[Arm]:
    """Arms that have bands: all, or, of more than `MAX_BANDS`, the first base and the reference (GRPO or the first)."""
    if len(arms) <= MAX_BANDS:
        return list(arms)
    bases = [arm for arm in arms if arm.role == "base"][:1]
    others = [arm for arm in arms if arm.role != "base"]
    return [*bases, *([arm for arm in others if arm.name == "grpo"] or others)[:1]]


def bands_text(arms: Sequence[Arm]) -> str:
    """Which arms have bands, where not all have; a sentence that follows another."""
    shown = banded(arms)
    return "" if len(shown) == len(arms) else f" Bands of {' and '.join(arm.name for arm in shown)} only."


def seeds_text(counts: Mapping[str, int]) -> str:
    """How many seeds each arm has, in as few words as will do.

    Example:
        >>> seeds_text({"grpo": 3, "ngrpo": 3}), seeds_text({"grpo": 1}), seeds_text({"base": 1, "grpo": 3, "ngrpo": 3})
        ('3 seeds of each', '1 seed', '3 seeds of each (1 of base)')
    """
    found = list(counts.values())
    most = max(found, key=lambda count: (found.count(count), count))
    by_count: dict[int, list[str]] = {}
    for name, count in counts.items():
        by_count.setdefault(count, []).append(name)
    others = [f"{count} of {_joined(names)}" for count, names in by_count.items() if count != most]
    of_each, told = " of each" if len(counts) > 1 else "", "; ".join(others)
    return f"{most} seed{'s' * (most != 1)}{of_each}{f' ({told})' if told else ''}"


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
