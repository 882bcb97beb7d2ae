"""`ngrpo lab sensitivity`: grids over NGRPO's settings, and what `ngrpo report` draws of them."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ngrpo.cli.lab_ablation import Controls
from ngrpo.cli.lab_options import (
    Folder,
    Model,
    Overrides,
    Processes,
    Prompts,
    Ray,
    Samples,
    Steps,
    World,
    base_model,
    side_by_side,
    tell,
)


def sensitivity(
    overrides: Overrides = None,
    world: World = "countdown",
    axes: Annotated[
        str, typer.Option(help="Of clip_ratio, clip, virtual, group_size, hardness; with commas.")
    ] = "clip_ratio,virtual",
    folder: Folder = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each cell.")] = 3,
    steps: Steps = None,
    prompts: Prompts = None,
    samples: Samples = None,
    model: Model = None,
    virtual_below_maximum: Annotated[
        bool, typer.Option("--virtual-below-maximum", help="Virtual rewards of 0.25 and 0.5 of the task's best, too.")
    ] = False,
    advantages_only: Annotated[
        bool, typer.Option("--advantages-only", help="Only what virtual rewards do to advantages; nothing is trained.")
    ] = False,
    controls: Controls = True,
    processes: Processes = None,
    ray: Ray = None,
) -> None:
    """See how NGRPO depends on its settings: grids, each cell trained with several seeds, and heat maps of them.

    `clip_ratio`: clip_low to clip_high 1:3, 1:2, 1:1, 2:1, 3:1 with their sum held; clip_low bounds tokens of negative
    advantage, clip_high those of positive. `clip`: a grid of both around 0.16 and 0.24. `virtual`: number and value of
    virtual rewards, up to 4 times the task's best. `group_size`: NGRPO and GRPO with groups of 4 to 32, completions per
    step held. `hardness`: both at several shares of hard training prompts, in worlds that have these.

    First it is told, without any training, what virtual rewards do to advantages: a large one punishes correct answers.
    A difference whose interval contains zero is not established. Ctrl-C saves; the same command goes on.

    For example:

    `ngrpo lab sensitivity`

    `ngrpo lab sensitivity update.num_updates_per_step=16 --axes clip --seeds 5 --folder runs/clips`

    `ngrpo lab sensitivity --axes virtual --virtual-below-maximum`

    `ngrpo lab sensitivity --world misconception --axes hardness,group_size`

    `ngrpo lab sensitivity --advantages-only --virtual-below-maximum`
    """
    from ngrpo.lab.arms import resized, run_settings, with_settings
    from ngrpo.lab.controls import control_arms
    from ngrpo.lab.experiment import run_experiment
    from ngrpo.lab.sensitivity import analyse, plan_sensitivity
    from ngrpo.lab.setups import get
    from ngrpo.lab.tables import write_results
    from ngrpo.lab.virtual_advantages import advantage_table
    from ngrpo.record import console

    started = time.perf_counter()
    setup = resized(get(world), num_steps=steps, num_test_prompts=prompts, num_samples=samples)
    setup = with_settings(setup, overrides or ())
    plan, points = plan_sensitivity(
        setup,
        [axis.strip() for axis in axes.split(",")],
        num_seeds=seeds,
        model=base_model(model, world),
        virtual_below_maximum=virtual_below_maximum,
    )
    group_size = run_settings(setup).rollout.num_samples_per_prompt
    advantages = advantage_table(group_size, below_maximum=virtual_below_maximum)
    print_advantages(advantages)
    if advantages_only:
        return
    folder = folder or Path(f"runs/sensitivity-{world}")
    plan = replace(plan, arms=plan.arms + (control_arms() if controls else ()))
    with side_by_side(processes, ray, folder) as (run_tasks, _):
        note = console()
        note.print(f"Held equal: {'; '.join(plan.held_equal)}.", soft_wrap=True, markup=False)
        note.print(f"{len(plan.arms)} arms x {seeds} seeds.", markup=False)
        results = run_experiment(folder, plan, command=("ngrpo", *sys.argv[1:]), run_tasks=run_tasks)
    tables, more = analyse(results, points, advantages)
    write_results(folder, tables, more)
    tell(folder, tables, started)


def print_advantages(found: Sequence[Mapping[str, Any]]) -> None:
    """Prints what virtual rewards do to the advantages of a wrong and of a correct completion.

    Args:
        found: From `lab.virtual_advantages`.
    """
    from rich.console import Console
    from rich.table import Table

    out, size = Console(highlight=False, width=100), found[0]["group_size"]
    counts = range(size + 1) if size <= MAX_COLUMNS else range(0, size + 1, -(-size // MAX_COLUMNS))
    for kind in ("wrong", "correct"):
        table = Table(
            box=None, pad_edge=False, title=f"Advantage of a {kind} completion", title_justify="left",
            title_style="bold",
        )  # fmt: skip
        table.add_column(f"correct of {size}:")
        for count in counts:
            table.add_column(str(count), justify="right")
        for each in found:
            name = f"{each['num_virtual']} x {each['virtual_reward']:g}" if each["num_virtual"] else "GRPO (none)"
            table.add_row(name, *(_number(each, kind, count) for count in counts))
        out.print(table)
    punished = [each for each in found if each["punished_from"] is not None]
    out.print(
        "Rows: number x value of virtual rewards. In brackets: the group is left out (all right). A wrong completion "
        "among nothing but wrong ones weighs the same whatever a virtual one is worth.", soft_wrap=True,
    )  # fmt: skip
    for each in punished:
        out.print(
            f"{each['num_virtual']} x {each['virtual_reward']:g} [red]punishes correct completions[/] in groups with "
            f"{each['punished_from']} or more of them.", soft_wrap=True,
        )  # fmt: skip
    out.print()


MAX_COLUMNS = 9
"""Numbers of correct completions shown."""


def _number(each: Mapping[str, Any], kind: str, count: int) -> str:
    value = each[kind][count]
    if value is None:
        return ""
    text = f"{value:+.2f}" if round(value, 2) else "0"
    if not each["kept"][count]:
        return f"[dim]({text})[/]"
    return f"[red]{text}[/]" if kind == "correct" and value < 0 else text
