"""`ngrpo quickstart` and `ngrpo lab`."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ngrpo.cli import lab_ablation, lab_gradients, lab_objectives, lab_sensitivity

BASE_STEPS = 1000
"""`lab.base.NUM_STEPS`, which is not imported here because it brings torch; a test holds them equal."""

app = typer.Typer(
    name="lab", no_args_is_help=True, rich_markup_mode="markdown", help="The laboratory: tiny worlds and their models."
)


app.command()(lab_objectives.objectives)
app.command()(lab_ablation.ablation)
app.command()(lab_sensitivity.sensitivity)
app.command()(lab_gradients.gradients)


@app.callback()
def _lab() -> None:
    """The laboratory: tiny worlds and their models."""


def quickstart(
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/quickstart"),
    steps: Annotated[int, typer.Option(min=1, help="Rollout steps of each run.")] = 80,
    seeds: Annotated[int, typer.Option(min=1, help="Runs per method.")] = 3,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts evaluated.")] = 128,
    samples: Annotated[int, typer.Option(min=8, help="Samples of each held-out prompt.")] = 128,
    base_steps: Annotated[int, typer.Option(min=1, help="Warm-start steps of the base model.")] = BASE_STEPS,
    processes: Annotated[int | None, typer.Option(min=1, help="Runs side by side. Default: the cores.")] = None,
) -> None:
    """See the whole story in minutes: a base model from scratch, GRPO and NGRPO from it, pass@k of all of them.

    Ctrl-C saves; the same command goes on. Finished parts are not done again: remove the folder to start anew.

    For example:

    `ngrpo quickstart`

    `ngrpo quickstart --seeds 5 --folder runs/five_seeds`
    """
    from ngrpo.lab.quickstart import (
        QuickstartSettings,
        as_difference_table,
        as_table,
        differences,
        quickstart_plan,
    )
    from ngrpo.lab.quickstart import quickstart as run_quickstart
    from ngrpo.lab.tables import seeds_caveat

    started = time.perf_counter()
    settings = QuickstartSettings(
        folder=folder,
        num_steps=steps,
        num_seeds=seeds,
        num_prompts=prompts,
        num_samples=samples,
        max_k=min(64, samples),
        num_processes=processes or os.cpu_count() or 1,
        base_steps=base_steps,
    )
    rows = run_quickstart(settings)
    out = Console(highlight=False)
    out.print(as_table(rows))
    out.print(
        "Percent, and 95 % intervals over prompts (base) or over seeds and prompts. n: seeds x prompts x "
        "samples. Groups of 8 drawn from the samples.\nHeld equal: "
        + "; ".join(quickstart_plan(settings).held_equal)
        + ".",
        soft_wrap=True,
    )
    out.print(as_difference_table(differences(rows)))
    out.print("* the interval excludes zero; any other difference is not established.")
    if caveat := seeds_caveat(seeds):
        out.print(caveat, soft_wrap=True)
    out.print(f"figure: {folder / 'quickstart.png'}   ({time.perf_counter() - started:.0f} s)", soft_wrap=True)
    out.print(f"next:  ngrpo report {folder}", soft_wrap=True)
    out.print("What more seeds in more worlds found, claim by claim: docs/findings.md of the project.", soft_wrap=True)


@app.command()
def base(
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: the cache.")] = None,
    world: Annotated[str, typer.Option(help="The tiny world.")] = "countdown",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps; fewer give a weaker base. Default: the world's own.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of rows and weights.")] = 0,
) -> None:
    """Build the base model of a tiny world from scratch, a genuine Hugging Face folder, and say what it is like.

    For example:

    `ngrpo lab base --out my_base`

    `ngrpo lab base --world misconception`

    `ngrpo lab base --out weak_base --steps 500`
    """
    from ngrpo.lab.base import build_base, cached_base, read_statistics
    from ngrpo.lab.base_statistics import as_line
    from ngrpo.record import console, progress_bar

    with progress_bar() as progress:
        bar = progress.add_task("base model", total=steps, unit="step", note="")

        def on_step(step: int, total: int, loss: float) -> None:
            progress.update(bar, completed=step, total=total, note=f"loss {loss:.3f}")

        if out is None:
            folder, was_cached = cached_base(world=world, num_steps=steps, seed=seed, on_step=on_step)
        else:
            folder, was_cached = build_base(out, world=world, num_steps=steps, seed=seed, on_step=on_step), False
        if was_cached:
            progress.remove_task(bar)
    console().print("cached, reused" if was_cached else "built", soft_wrap=True)
    console().print(as_line(read_statistics(folder, world)), soft_wrap=True)
    typer.echo(folder)


@app.command()
def random(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights.")] = 0,
) -> None:
    """Write a small random model that reads any text: to try data, rewards and settings without a download.

    Its completions are noise, so every group is all wrong: GRPO's gradient on it is exactly zero, NGRPO's is not.

    For example:

    `ngrpo lab random --out noise`

    `ngrpo eval noise --data math500.parquet --samples 2 --max-completion-tokens 64`
    """
    from ngrpo.lab.random_model import write_random_model

    typer.echo(write_random_model(out, seed=seed))
