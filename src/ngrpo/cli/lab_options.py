"""What the experiments of `ngrpo lab` have in common on the command line."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ngrpo.lab.tables import Table

World = Annotated[str, typer.Option(help="The tiny world.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Rollout steps of each run. Default: the world's.")]
Prompts = Annotated[int | None, typer.Option(min=1, help="Held-out prompts evaluated. Default: the world's.")]
Samples = Annotated[int | None, typer.Option(min=8, help="Samples of each held-out prompt. Default: the world's.")]
Model = Annotated[str | None, typer.Option(help="Base model: a folder or a run folder. Default: the world's own.")]
Folder = Annotated[Path | None, typer.Option(help="Where everything goes. Default: runs/KIND-WORLD.")]
Processes = Annotated[int | None, typer.Option(min=1, help="Runs side by side. Default: the cores.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="key=value", help="Settings of every run: optim.lr=3e-4, update.num_updates_per_step=16."),
]


def base_model(model: str | None, world: str) -> str:
    """What the runs of an experiment start from: the world's own base, unless the user named a model."""
    from ngrpo.cli.models import local_model

    if model is None:
        return f"world:{world}"
    return model if model.startswith("world:") else local_model(model)


def tell(folder: Path, tables: "Sequence[Table]", started_s: float) -> None:
    """Prints what an experiment found: its tables, one line for each run that failed, and where everything is.

    Args:
        folder: The experiment folder.
        tables: In order.
        started_s: When the command began, by `time.perf_counter`.
    """
    from ngrpo.lab.jobs import failed_runs
    from ngrpo.lab.tables import print_tables

    print_tables(tables)
    for line in failed_runs(folder):
        typer.echo(line)
    typer.echo(f"{folder}   ({time.perf_counter() - started_s:.0f} s)\nnext:  ngrpo report {folder}")
