"""What the experiments of `ngrpo lab` have in common on the command line."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ngrpo.lab.parallel import RunTasks
    from ngrpo.lab.tables import Table

World = Annotated[str, typer.Option(help="The tiny world.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Rollout steps of each run. Default: the world's.")]
Prompts = Annotated[int | None, typer.Option(min=1, help="Held-out prompts evaluated. Default: the world's.")]
Samples = Annotated[int | None, typer.Option(min=8, help="Samples of each held-out prompt. Default: the world's.")]
Model = Annotated[str | None, typer.Option(help="Base model: a folder or a run folder. Default: the world's own.")]
Folder = Annotated[Path | None, typer.Option(help="Where everything goes. Default: runs/KIND-WORLD.")]
Processes = Annotated[int | None, typer.Option(min=1, help="Runs side by side. Default: the cores.")]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="local|auto|HOST:PORT",
        help="Run on a Ray cluster, a run per CPU: one started here (what --ray alone means), the one here, that "
        "head's. Its machines share --folder, the base model and the folder that you are in.",
    ),
]
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


@contextmanager
def side_by_side(processes: int | None, ray: str | None, folder: Path) -> Iterator[tuple["RunTasks", int]]:
    """What runs the tasks of an experiment, and how many at a time: on the cores of this machine, or on a Ray cluster.

    Args:
        processes: At a time, if the user says so.
        ray: Address of a cluster, which is joined now, so that a wrong one is known before anything is done.
        folder: The experiment folder.
    """
    if ray is None:
        from ngrpo.lab.parallel import run_tasks

        num_processes = processes or os.cpu_count() or 1
        yield partial(run_tasks, num_processes=num_processes), num_processes
        return
    from ngrpo.integrations.ray_cluster import connect
    from ngrpo.integrations.ray_tasks import run_tasks_on_ray

    cluster = connect(ray, device="cpu")
    try:
        num_processes = min(processes or cluster.num_workers, cluster.num_workers)
        yield partial(run_tasks_on_ray, num_processes=num_processes, folder=folder), num_processes
    finally:
        cluster.close()


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
