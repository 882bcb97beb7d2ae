"""pass@k of arms over their seeds, with intervals, on sets of prompts that are the same for all.

Axes: S seeds, P prompts, K values of k.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngrpo.report.arms import Arm
from ngrpo.report.records import Notices, Run
from ngrpo.stats import (
    Interval,
    bootstrap_interval,
    crossed_interval,
    k_grid,
    mean_interval,
    paired_interval,
    pass_at_k,
    pass_at_k_auc,
)


@dataclass(frozen=True, eq=False)
class Coverage:
    """pass@k of one arm.

    Attributes:
        arm: Whose.
        ks: [K] rising.
        values: [S, P, K] pass@k of each seed and prompt.
        seeds: [S] of the runs; None where a seed is not known.
        num_samples: Fewest samples of a prompt; None where the values are exact.
        temperature: At which the policy was evaluated; None where it is not known.
        interval: [K] of the mean over seeds and prompts: 95 %.
    """

    arm: Arm
    ks: tuple[int, ...]
    values: NDArray[np.float64]
    seeds: tuple[int | None, ...]
    num_samples: int | None
    temperature: float | None
    interval: Interval

    def until(self, max_k: int) -> NDArray[np.float64]:
        """[S, P] area under pass@k over log2 k from 1 to `max_k`, which is in the grid."""
        places = [place for place, k in enumerate(self.ks) if k <= max_k]
        return np.asarray(pass_at_k_auc([self.ks[place] for place in places], self.values[:, :, places]))


@dataclass(frozen=True, eq=False)
class PromptSet:
    """Arms that were evaluated on the same prompts.

    Attributes:
        name: Of the data; empty where it is not known.
        num_prompts: How many.
        coverages: In the order of the arms.
        is_exact: Whether pass@k was scored, not sampled.
    """

    name: str
    num_prompts: int
    coverages: tuple[Coverage, ...]
    is_exact: bool


def sampled_sets(arms: Sequence[Arm], notices: Notices) -> list[PromptSet]:
    """Sampled pass@k by set of prompts, the one with most evaluations first.

    Args:
        arms: Of one comparison.
        notices: Told of what is not comparable.
    """
    by_prompts: dict[tuple[str, ...], dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for arm in arms:
        for run in arm.runs:
            if run.evaluation:
                by_prompts[run.evaluation.prompt_ids][arm.name].append(run)
    sets = sorted(by_prompts.items(), key=lambda item: -sum(map(len, item[1].values())))
    if len(sets) > 1:
        notices.add(
            f"Evaluations are of {len(sets)} different sets of prompts ({', '.join(str(len(ids)) for ids, _ in sets)} "
            "prompts). Each has a figure of its own; their pass@k are not to be compared."
        )
    found = []
    for ids, runs_of in sets:
        coverages = [_sampled(arm, runs_of[arm.name]) for arm in arms if arm.name in runs_of]
        name = str(next(iter(runs_of.values()))[0].evaluation.settings.get("data") or "")  # type: ignore[union-attr]
        _tell_unequal(coverages, notices)
        found.append(PromptSet(name, len(ids), tuple(coverages), is_exact=False))
    return found


def exact_sets(arms: Sequence[Arm], notices: Notices) -> list[PromptSet]:
    """Exact pass@k, where worlds could score it; of the set of prompts that most runs have.

    Args:
        arms: Of one comparison.
        notices: Told of runs that are left out.
    """
    by_grid: dict[Any, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for arm in arms:
        for run in arm.runs:
            if run.exact:
                by_grid[run.exact.prompt_ids, run.exact.ks][arm.name].append(run)
    if not by_grid:
        return []
    sets = sorted(by_grid.items(), key=lambda item: -sum(map(len, item[1].values())))
    for _, runs_of in sets[1:]:
        names = ", ".join(run.name for runs in runs_of.values() for run in runs)
        notices.add(f"{names}: the exact pass@k is of other prompts or another range of k, and was left out.")
    (ids, ks), runs_of = sets[0]
    coverages = []
    for arm in arms:
        if runs := runs_of.get(arm.name):
            values = np.stack([run.exact.pass_at_k for run in runs if run.exact])
            seeds = tuple(run.seed for run in runs)
            known = (run.evaluation.settings.get("temperature") for run in runs if run.evaluation)
            coverages.append(Coverage(arm, ks, values, seeds, None, next(known, None), interval_of(values)))
    return [PromptSet("", len(ids), tuple(coverages), is_exact=True)]


def interval_of(values: NDArray[np.float64]) -> Interval:
    """95 % interval of means of shares: over seeds and prompts, or over prompts where there is one seed.

    Args:
        values: [S, P, M] in [0, 1].
    """
    if len(values) == 1:
        return mean_interval(values[0])
    found = crossed_interval(values)
    return Interval(found.estimate, np.maximum(found.low, 0.0), np.minimum(found.high, 1.0))


def difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> Interval:
    """95 % interval of `one - other`, paired by prompt, and by seed where both have several.

    Args:
        one: [S, P, M] in [0, 1].
        other: [S, P, M], or [1, P, M] of a single model.
    """
    if len(one) == len(other) == 1:
        return paired_interval(one[0], other[0])
    differences = one - other
    return bootstrap_interval(differences[0]) if len(differences) == 1 else crossed_interval(differences)


def common_max_k(coverages: Sequence[Coverage]) -> int:
    """The largest k that all grids have."""
    return max(set.intersection(*(set(coverage.ks) for coverage in coverages)))


def _sampled(arm: Arm, runs: Sequence[Run]) -> Coverage:
    evaluations = [run.evaluation for run in runs if run.evaluation]
    least = min(int(each.num_samples.min()) for each in evaluations)
    asked = [max(each.settings.get("ks") or [least]) for each in evaluations]
    ks = tuple(k_grid(min(least, *asked)))
    values = np.stack([pass_at_k(e.num_samples[:, None], e.num_correct[:, None], np.array(ks)) for e in evaluations])
    temperature = evaluations[0].settings.get("temperature")
    return Coverage(arm, ks, values, tuple(run.seed for run in runs), least, temperature, interval_of(values))


def _tell_unequal(coverages: Sequence[Coverage], notices: Notices) -> None:
    """Says where sizes or temperatures differ between what is drawn together."""
    ends = {coverage.ks[-1] for coverage in coverages}
    if len(ends) > 1:
        told = ", ".join(f"{coverage.arm.name} {coverage.ks[-1]}" for coverage in coverages)
        notices.add(
            f"The largest k differs ({told}). Areas under pass@k are given up to {common_max_k(coverages)}, which all "
            "have: areas to different k are not comparable."
        )
    samples = {coverage.num_samples for coverage in coverages}
    if len(samples) > 1:
        told = ", ".join(f"{coverage.arm.name} {coverage.num_samples}" for coverage in coverages)
        notices.add(f"The number of samples of each prompt differs ({told}): the estimates are not equally sure.")
    trained = {coverage.temperature for coverage in coverages if coverage.arm.role != "base"}
    if len(trained) > 1:
        told = ", ".join(f"{c.arm.name} {c.temperature}" for c in coverages if c.arm.role != "base")
        notices.add(f"Evaluations were sampled at different temperatures ({told}): part of a difference is from that.")
