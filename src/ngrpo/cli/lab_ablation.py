"""`ngrpo lab ablation`: the full factorial of NGRPO's mechanisms, its effects, and what `ngrpo report` draws of it."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

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

Controls = Annotated[bool, typer.Option("--controls/--no-controls", help="Entropy bonus and random reward besides.")]


def ablation(
    overrides: Overrides = None,
    world: World = "countdown",
    folder: Folder = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each of the 8 arms.")] = 5,
    steps: Steps = None,
    prompts: Prompts = None,
    samples: Samples = None,
    model: Model = None,
    clip_scale: Annotated[
        float, typer.Option(help="All clips times this, above 0: below 1 they bind more often, in every arm.")
    ] = 1.0,
    controls: Controls = True,
    processes: Processes = None,
    ray: Ray = None,
) -> None:
    """Take NGRPO apart: calibration x asymmetric clipping x keeping all-wrong groups, all eight combinations.

    Main effects and interactions in points, with 95 % intervals over seeds and prompts; an effect whose interval
    contains zero is not established. Without calibration, keeping an all-wrong group changes denominators only: what is
    learned from such groups is the effect of `keep` where calibration is on. Beside the effects it is told how many
    tokens were clipped, by sign: where that is next to nothing the clip cannot matter.

    Ctrl-C saves; the same command goes on. `ngrpo report FOLDER` draws it.

    For example:

    `ngrpo lab ablation`

    `ngrpo lab ablation update.num_updates_per_step=16 --clip-scale 0.5 --folder runs/tight_clips`

    `ngrpo lab ablation --world misconception --seeds 8`
    """
    from ngrpo.lab.ablation import analyse, plan_ablation
    from ngrpo.lab.arms import resized, with_settings
    from ngrpo.lab.controls import control_arms
    from ngrpo.lab.experiment import run_experiment
    from ngrpo.lab.setups import get
    from ngrpo.lab.tables import write_results
    from ngrpo.record import console

    started = time.perf_counter()
    folder = folder or Path(f"runs/ablation-{world}")
    setup = resized(get(world), num_steps=steps, num_test_prompts=prompts, num_samples=samples)
    plan = plan_ablation(
        with_settings(setup, overrides or ()),
        num_seeds=seeds,
        model=base_model(model, world),
        clip_scale=clip_scale,
    )
    plan = replace(plan, arms=plan.arms + (control_arms() if controls else ()))
    with side_by_side(processes, ray, folder) as (run_tasks, _):
        console().print(f"Held equal: {'; '.join(plan.held_equal)}.", soft_wrap=True, markup=False)
        results = run_experiment(folder, plan, command=("ngrpo", *sys.argv[1:]), run_tasks=run_tasks)
    tables, more = analyse(results)
    write_results(folder, tables, more)
    if "no_effects" in more:
        console().print(more["no_effects"], soft_wrap=True, markup=False)
    tell(folder, tables, started)
