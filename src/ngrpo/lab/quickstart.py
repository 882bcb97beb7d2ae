"""The whole story in minutes: a base model from scratch, GRPO and NGRPO from it side by side, pass@k of all of them.

An experiment like any other (`lab.experiment`), with two arms. Everything but the mechanism is held equal: prompts and
their order, random numbers, optimiser, learning rate, warm-up, updates per step, token-mean aggregation, no KL, no
entropy bonus, no refill. What differs is NGRPO's: the virtual reward in each group's statistics, the asymmetric clip,
and that all-right groups are left out of the loss.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ngrpo.errors import NgrpoError
from ngrpo.lab import setups
from ngrpo.lab.arms import held_equal, run_name
from ngrpo.lab.base import NUM_STEPS
from ngrpo.lab.experiment import run_experiment
from ngrpo.lab.experiment_folder import runs_folder
from ngrpo.lab.figures import draw_quickstart
from ngrpo.lab.parallel import run_tasks
from ngrpo.lab.plan import Arm, Plan
from ngrpo.lab.results import Row
from ngrpo.lab.tables import (
    OWN_UNITS,
    WEIGHTING,
    Cell,
    difference_cells,
    difference_table,
    value_table,
    write_results,
)
from ngrpo.stats import Interval

METHODS = ("grpo", "ngrpo")


@dataclass(frozen=True)
class QuickstartSettings:
    """How large the quickstart is.

    Attributes:
        folder: Where everything goes.
        num_steps: Rollout steps of each run.
        num_seeds: Runs per method.
        num_prompts: Held-out prompts evaluated.
        num_samples: Samples of each.
        max_k: Largest k of pass@k; at most `num_samples`.
        num_processes: Runs side by side.
        base_steps: Warm-start steps of the base model.
    """

    folder: Path
    num_steps: int = 80
    num_seeds: int = 3
    num_prompts: int = 128
    num_samples: int = 128
    max_k: int = 64
    num_processes: int = 2
    base_steps: int = NUM_STEPS


def quickstart(settings: QuickstartSettings) -> list[Row]:
    """Runs what is not on disk yet, and draws the figure.

    Args:
        settings: How large; another size needs another folder.

    Returns:
        One row per line of the table: base, sharper base, then each method over its seeds.

    Raises:
        NgrpoError: A run failed.
        RunFolderError: The folder holds another experiment, or a quickstart of another size.
        Interrupted: Asked to stop; everything was saved and the same command goes on.
    """
    plan = quickstart_plan(settings)
    command = ("ngrpo", *sys.argv[1:])
    side_by_side = partial(run_tasks, num_processes=settings.num_processes)
    results = run_experiment(settings.folder, plan, command=command, run_tasks=side_by_side)
    if results.failed:
        raise NgrpoError(" ".join(f"{name}: {why}" for name, why in results.failed.items()))
    rows = [results.base, results.sharp, *(results.rows[method] for method in METHODS)]
    tables = [value_table("Held-out prompts", rows, quantities=list(rows[0].values), caption=WEIGHTING)]
    tables += [difference_table(f"Differences to {other.name}", rows[2:], other) for other in rows[:2]]
    tables.append(difference_table("Differences to grpo", rows[3:], rows[2]))
    write_results(settings.folder, tables)
    runs = {arm.name: [runs_folder(settings.folder) / run_name(arm, seed) for seed in plan.seeds] for arm in plan.arms}
    draw_quickstart(settings.folder / "quickstart.png", rows, runs)
    return rows


def quickstart_plan(settings: QuickstartSettings) -> Plan:
    """Two methods in countdown; pass@k from samples, as of any model."""
    setup = replace(
        setups.get("countdown"),
        num_steps=settings.num_steps,
        num_test_prompts=settings.num_prompts,
        num_samples=settings.num_samples,
        max_k=settings.max_k,
    )
    arms = tuple(Arm(method, method) for method in METHODS)
    return Plan(
        kind="quickstart",
        setup=setup,
        arms=arms,
        num_seeds=settings.num_seeds,
        model="world:countdown",
        held_equal=held_equal(setup, arms),
        base_steps=settings.base_steps,
        is_exact=False,
    )


def as_table(rows: Sequence[Row]) -> Any:
    """The table that is printed: one column per model, narrow enough for 80 characters."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("percent")
    for row in rows:
        table.add_column(row.name, justify="right")
    for name in rows[0].values:
        label = f"groups {name}" if name.startswith(("all", "mixed")) else name
        if unit := OWN_UNITS.get(name):
            table.add_row(f"{name}, {unit}", *(_cell(row.values[name], scale=1, digits=2) for row in rows))
        else:
            table.add_row(label, *(_cell(row.values[name], scale=100, digits=1) for row in rows))
    table.add_row("seeds", *(f"{row.num_seeds}" for row in rows))
    table.add_row("prompts", *(f"{row.num_prompts}" for row in rows))
    table.add_row("samples of each", *(f"{row.num_samples}" for row in rows))
    return table


def differences(rows: Sequence[Row]) -> dict[str, dict[str, Cell]]:
    """The comparisons that the quickstart is about: the methods with each other, and with the base.

    Args:
        rows: As `quickstart` returns them.
    """
    base, sharp, grpo, ngrpo = rows
    pairs = ((ngrpo, grpo), (grpo, base), (ngrpo, base), (grpo, sharp), (ngrpo, sharp))
    return {f"{one.name} - {other.name}": difference_cells(one, other) for one, other in pairs}


def as_difference_table(found: dict[str, dict[str, Cell]]) -> Any:
    """Differences in points, with a star where they are established."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("points")
    own = next(iter(found.values()))
    names = [name for name in own if name != "pass@8" and name not in OWN_UNITS]  # more columns would not fit
    for name in names:
        table.add_column(name, justify="right")
    for title, values in found.items():
        cells = []
        for cell in (values[name] for name in names):
            star = "*" if cell.established else " "
            cells.append(f"{cell.estimate:+.1f}{star} [dim]{cell.low:+.1f}..{cell.high:+.1f}[/]")
        table.add_row(title, *cells)
    return table


def _cell(value: Interval, *, scale: float, digits: int) -> str:
    estimate, low, high = (f"{scale * number:.{digits}f}" for number in (value.estimate, value.low, value.high))
    return f"{estimate} [dim]{low}-{high}[/]"
