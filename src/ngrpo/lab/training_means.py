"""What training looked like, beside what came out of it: means of recorded metrics, and arms that ended as one.

A mechanism that hardly ever acted cannot be credited with a difference: clip fractions by sign belong beside every
comparison of clips, and the share of all-wrong groups beside every comparison of what is learned from them.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from ngrpo.evaluate.folder import read_described
from ngrpo.lab.arms import AGGREGATION, run_name, run_settings
from ngrpo.lab.experiment import Results
from ngrpo.lab.experiment_folder import runs_folder
from ngrpo.lab.jobs import EVAL
from ngrpo.lab.plan import Arm
from ngrpo.lab.tables import Cell, Table, Unit
from ngrpo.lab.updates import gradient_updates
from ngrpo.record import read_jsonl

SHOWN_METRICS: dict[str, tuple[str, Unit]] = {
    "groups/all_wrong_frac": ("all wrong", "percent"),
    "groups/all_right_frac": ("all right", "percent"),
    "groups/gradient_frac": ("with gradient", "percent"),
    "loss/clip_low_frac": ("clipped, A < 0", "percent"),
    "loss/clip_high_frac": ("clipped, A > 0", "percent"),
    "policy/entropy_nats": ("entropy", "nats"),
    "completion/mean_tokens": ("length", "tokens"),
}
"""Metrics of `record.metrics.METRICS` whose means are shown, each with the heading and the unit of its column."""

COLUMNS: dict[str, Unit] = {
    "updates": "updates",
    "completions": "completions",
    "kept groups": "percent",
    **dict(SHOWN_METRICS.values()),
    "last entropy": "nats",
    "lr": "rate",
}
"""Of the table of training, with their units."""


def mean_metrics(folder: Path, arm: Arm, seeds: Iterable[int]) -> dict[str, float | None]:
    """Mean of each of `SHOWN_METRICS` over the steps of a run, then over the runs of an arm.

    Args:
        folder: The experiment folder.
        arm: Which runs.
        seeds: Of them.

    Returns:
        By metric, in its own unit; None where no step recorded it.
    """
    runs = [_means(_step_rows(runs_folder(folder) / run_name(arm, seed))) for seed in seeds]
    found = {name: [run[name] for run in runs if name in run] for name in SHOWN_METRICS}
    return {name: float(np.mean(means)) if means else None for name, means in found.items()}


def _step_rows(folder: Path) -> list[dict[str, float]]:
    """What is on record of each rollout step of a run."""
    return [row for row in read_jsonl(folder / "metrics.jsonl") if "optim/lr" in row]


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each of `SHOWN_METRICS` over the steps that have it; without those that none has."""
    found = {name: [row[name] for row in rows if row.get(name) is not None] for name in SHOWN_METRICS}
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def equal_arms(folder: Path, arms: Iterable[Arm], seeds: Sequence[int]) -> list[tuple[str, str]]:
    """Pairs of arms that ended with the same weights, bit for bit, for every seed: what told them apart never acted.

    Args:
        folder: The experiment folder.
        arms: Arms none of whose runs failed.
        seeds: Of each.
    """
    weights = {
        arm.name: [
            read_described(runs_folder(folder) / run_name(arm, seed) / EVAL)["settings"]["weights"] for seed in seeds
        ]
        for arm in arms
    }
    return [(one, other) for one, other in combinations(weights, 2) if weights[one] == weights[other]]


def training_table(results: Results, *, equal: Sequence[tuple[str, str]] = ()) -> Table:
    """What training itself was like: the mean over the seeds of each arm, and from the least to the most of them.

    Args:
        results: Of any experiment; arms that failed are left to `tables.with_failed`.
        equal: From `equal_arms`, for the caption.
    """
    plan = results.plan
    config = run_settings(plan.setup)
    cells = {}
    for arm in plan.arms:
        if arm.name in results.rows:
            runs = [_facts(runs_folder(results.folder) / run_name(arm, seed)) for seed in plan.seeds]
            cells[arm.name] = {
                name: spread([run[name] for run in runs], unit)
                for name, unit in COLUMNS.items()
                if all(name in run for run in runs)
            }
    caption = (
        f"Updates: those with a gradient, of {config.train.num_steps * config.update.num_updates_per_step}. "
        "Completions: all that were sampled in training. All wrong, all right: of the sampled groups. With gradient: "
        "of the sampled completions. Clipped: of the tokens with a negative (positive) advantage, those that the lower "
        "(upper) bound stopped; where these shares are near zero the clip cannot matter. Last entropy: of the last "
        f"tenth of the steps. Losses are aggregated by the {AGGREGATION.replace('_', ' ')} in all arms, whatever a "
        "method uses as published."
    )
    if equal:
        same = "; ".join(f"{one} = {other}" for one, other in equal)
        caption += f" Ended with the same weights, bit for bit, for every seed: {same}."
    if edge := plan.notes.get("learning_rates", {}).get("at_the_edge"):
        caption += f" At the edge of the grid of learning rates, beyond which a better one may lie: {', '.join(edge)}."
    rollout = config.rollout
    return Table(
        title="Training",
        caption=caption,
        columns=tuple(COLUMNS),
        rows=cells,
        num_seeds=plan.num_seeds,
        footer=(
            f"Means over the training rollouts ({config.train.num_steps} steps of {rollout.num_prompts_per_step} "
            f"prompts x {rollout.num_samples_per_prompt} samples, unless an arm changes them), then over "
            f"{plan.num_seeds} seed{'s' * (plan.num_seeds != 1)}; the range is from the lowest to the highest seed and "
            "no interval."
        ),
    )


def _facts(folder: Path) -> dict[str, float]:
    """One run, by heading."""
    rows = _step_rows(folder)
    last = _means(rows[-max(1, len(rows) // 10) :])
    kept = sum(row["groups/num_kept"] for row in rows) / sum(row["groups/num_sampled"] for row in rows)
    return {
        "updates": float(sum(gradient_updates(folder))),
        "completions": float(rows[-1]["data/num_completions"]),
        "kept groups": kept,
        **{SHOWN_METRICS[name][0]: mean for name, mean in _means(rows).items()},
        "last entropy": last["policy/entropy_nats"],
        "lr": max(row["optim/lr"] for row in rows),
    }


def spread(values: Sequence[float], unit: Unit) -> Cell:
    """The mean of seeds as a cell, with the lowest and the highest of them for its ends.

    Args:
        values: One per seed: shares from 0 to 1, where the unit is percent.
        unit: Of the cell.
    """
    factor = 100.0 if unit == "percent" else 1.0
    return Cell(factor * float(np.mean(values)), factor * min(values), factor * max(values), unit)
