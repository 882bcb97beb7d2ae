"""`ngrpo lab objectives`."""

import sys
import time
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
from ngrpo.cli.plugins import Plugins, load_plugins


def objectives(
    overrides: Overrides = None,
    world: World = "countdown",
    methods: Annotated[
        str, typer.Option(help="Names from `ngrpo objectives`, by commas. Differences are to grpo, or to the first.")
    ] = "grpo,ngrpo,dapo,psr,nsr,w_reinforce",
    seeds: Annotated[int, typer.Option(min=1, help="Runs per method. A claim needs 5 at least.")] = 3,
    first_seed: Annotated[
        int, typer.Option(min=0, help="First of the seeds: 5 repeats a finding of seeds 0 to 4.")
    ] = 0,
    steps: Steps = None,
    prompts: Prompts = None,
    samples: Samples = None,
    folder: Folder = None,
    model: Model = None,
    choose_lr: Annotated[
        bool,
        typer.Option(
            "--choose-lr",
            help="Choose one for each method from 0.3, 1 and 3 times the world's, by pass@1 on validation prompts, "
            "with two seeds that are not reported. Adds six runs per method.",
        ),
    ] = False,
    equal_updates: Annotated[
        bool,
        typer.Option(
            "--equal-updates",
            help="Compare after equal numbers of updates with a gradient, too: runs that had fewer are gone on with.",
        ),
    ] = False,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls/--no-controls",
            help="GRPO with an entropy bonus, GRPO under a random reward, the base at its best temperature.",
        ),
    ] = True,
    processes: Processes = None,
    ray: Ray = None,
    plugin: Plugins = None,
) -> None:
    """Compare methods from one base model, with everything else held equal, over seeds, with intervals.

    Ctrl-C saves; the same command goes on. A run that fails does not stop the others.

    For example:

    `ngrpo lab objectives`

    `ngrpo lab objectives --methods grpo,ngrpo --seeds 5 --world misconception`

    `ngrpo lab objectives rollout.num_samples_per_prompt=32 --folder runs/groups_of_32`

    `ngrpo lab objectives --methods grpo,mine --plugin mine.py --folder runs/mine`

    `ngrpo lab objectives --choose-lr --equal-updates`

    `ngrpo lab objectives --seeds 10 --ray 10.0.0.1:6379`
    """
    from ngrpo.lab.arms import resized, with_settings
    from ngrpo.lab.objectives_experiment import ObjectivesSettings, estimate_s, objectives_plan, run_objectives
    from ngrpo.lab.setups import get
    from ngrpo.record import console

    started = time.perf_counter()
    load_plugins(plugin)
    folder = folder or Path(f"runs/objectives-{world}")
    setup = resized(get(world), num_steps=steps, num_test_prompts=prompts, num_samples=samples)
    settings = ObjectivesSettings(
        folder=folder,
        setup=with_settings(setup, overrides or ()),
        methods=tuple(name.strip() for name in methods.split(",")),
        num_seeds=seeds,
        first_seed=first_seed,
        model=base_model(model, world),
        plugins=tuple(str(path.resolve()) for path in plugin or ()),
        with_controls=controls,
        chooses_rates=choose_lr,
        equal_updates=equal_updates,
        command=("ngrpo", *sys.argv[1:]),
    )
    plan = objectives_plan(settings)
    note = console()
    with side_by_side(processes, ray, folder) as (run_tasks, num_processes):
        note.print("Held equal: " + "; ".join(plan.held_equal) + ".", soft_wrap=True, markup=False)
        minutes = max(1, round(estimate_s(settings, num_processes) / 60))
        note.print(f"About {minutes} min in {num_processes} processes, besides a base that has to be built.")
        tables = run_objectives(settings, run_tasks)
    tell(folder, tables, started)
