"""A learning rate for each method, chosen on validation prompts with seeds that are never reported.

Every method is trained at every rate of a grid, from seeds of its own (`FIRST_SEED` on), as an experiment of its own in
`FOLDER/learning_rate`. The highest mean of pass@1 over validation prompts and seeds decides; of equals, the lower rate.
pass@1 is what the reward asks for; a choice by coverage would favour rates at which nothing is learned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ngrpo.errors import NumericsError
from ngrpo.lab.experiment import run_experiment
from ngrpo.lab.parallel import RunTasks
from ngrpo.lab.plan import Arm, Plan

GRID_FACTORS = (0.3, 1.0, 3.0)
NUM_SEEDS = 2
FIRST_SEED = 1000
MAX_SAMPLES = 32
"""Samples of each validation prompt, where the world cannot be scored exactly."""


@dataclass(frozen=True)
class RateChoice:
    """What was chosen, and from what.

    Attributes:
        rates: By arm name.
        scores: By arm name and rate, mean pass@1 (0 to 1) on validation prompts; None where a run failed.
    """

    rates: Mapping[str, float]
    scores: Mapping[str, Mapping[float, float | None]]

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe, for `experiment.json`."""
        return {
            "decided_by": "mean pass@1 on the validation split; of equals the lower rate",
            "seeds": list(range(FIRST_SEED, FIRST_SEED + NUM_SEEDS)),
            "scores": {
                arm: {f"{rate:g}": score for rate, score in by_rate.items()} for arm, by_rate in self.scores.items()
            },
            "chosen": dict(self.rates),
            "at_the_edge": self.at_the_edge(),
        }

    def at_the_edge(self) -> list[str]:
        """Arms whose rate is the lowest or the highest of the grid: a better one may lie beyond."""
        return [arm for arm, rate in self.rates.items() if rate in (min(self.scores[arm]), max(self.scores[arm]))]


def grid_around(lr: float) -> tuple[float, ...]:
    """The rates that are tried.

    Args:
        lr: Of the world's setup.

    Example:
        >>> grid_around(1e-4)
        (3e-05, 0.0001, 0.0003)
    """
    return tuple(float(f"{factor * lr:.2g}") for factor in GRID_FACTORS)


def choose_rates(
    folder: Path, plan: Plan, *, grid: Sequence[float], command: Sequence[str], run_tasks: RunTasks
) -> RateChoice:
    """Trains every arm of a plan at every rate, and chooses.

    Args:
        folder: The experiment folder; the search goes to `learning_rate/` in it.
        plan: Of which the arms are tuned.
        grid: Rates, rising.
        command: The command line, for the record.
        run_tasks: Runs what is to be run, side by side.

    Raises:
        NumericsError: An arm failed at every rate.
    """
    samples = min(plan.setup.num_samples, MAX_SAMPLES)
    at = {(arm.name, rate): _at(arm, rate) for arm in plan.arms for rate in grid}
    search = replace(
        plan,
        kind="learning_rate",
        setup=replace(plan.setup, num_samples=samples, max_k=min(plan.setup.max_k, samples)),
        arms=tuple(at.values()),
        num_seeds=NUM_SEEDS,
        first_seed=FIRST_SEED,
        split="validation",
        sharp_temperatures=plan.sharp_temperatures[:1],
    )
    results = run_experiment(folder / "learning_rate", search, command=command, run_tasks=run_tasks)
    scores: dict[str, dict[float, float | None]] = {arm.name: {} for arm in plan.arms}
    for (name, rate), arm in at.items():
        row = results.rows.get(arm.name)
        scores[name][rate] = None if row is None else row.pass_at_k[1].estimate
    return RateChoice({name: best_rate(name, by_rate) for name, by_rate in scores.items()}, scores)


def best_rate(name: str, scores: Mapping[float, float | None]) -> float:
    """The rate with the highest score; of equals the lowest.

    Raises:
        NumericsError: There is no score.

    Example:
        >>> best_rate("grpo", {1e-5: 0.2, 1e-4: 0.3, 1e-3: 0.3, 1e-2: None})
        0.0001
    """
    known = {rate: score for rate, score in scores.items() if score is not None}
    if not known:
        tried = ", ".join(f"{rate:g}" for rate in scores)
        raise NumericsError(f"{name} failed at every learning rate of the grid ({tried}). Give lower ones.")
    return min(known, key=lambda rate: (-known[rate], rate))


def with_rate(arm: Arm, rate: float) -> Arm:
    """The same arm at another learning rate."""
    return replace(arm, overrides=(*arm.overrides, f"optim.lr={rate!r}"))


def _at(arm: Arm, rate: float) -> Arm:
    return replace(with_rate(arm, rate), name=f"{arm.name} lr {rate:g}", factors={**arm.factors, "lr": rate})
