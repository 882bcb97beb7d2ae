"""How many updates of a run had a gradient, and runs made longer until they had as many as others.

Every run makes the same number of optimiser steps per rollout step. Where a method's filter drops groups, or its
advantages are zero, some of these have no gradient: they move the weights by the optimiser's momentum only. **An update
counts when at least one completion in it has an advantage other than zero**, or when a regulariser (entropy, KL) gives
every completion a gradient.

Equal rollouts is the fair comparison of cost; equal updates asks whether a lead is only one of more updates. For that a
run with fewer is gone on with, in a copy, for more rollout steps, until it has as many as the method with the most in
the same seed, or has taken `MAX_STRETCH` times the steps.
"""

import json
import math
import shutil
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ngrpo import objectives
from ngrpo.config import RunConfig
from ngrpo.errors import ConfigError
from ngrpo.lab.jobs import (
    EVAL,
    EXACT,
    FAILED,
    OWN_FAILURES,
    Counter,
    Job,
    evaluate_job,
    is_evaluated,
    register,
    told,
    would_fail_again,
)
from ngrpo.lab.parallel import Report
from ngrpo.record import read_jsonl, write_json
from ngrpo.train import assemble, train
from ngrpo.train.checkpoint import checkpoint_steps
from ngrpo.train.rows import even_parts
from ngrpo.train.run_folder import read_run_file

EXTENSION = "extension.json"

MAX_STRETCH = 4
"""Most rollout steps of a lengthened run, in those of the others: a method that finds no gradient would go on for
ever."""


def gradient_updates(folder: Path) -> list[int]:
    """How many updates of each rollout step had a gradient.

    Args:
        folder: A run folder.

    Returns:
        One number per step on record, from the first; at most `update.num_updates_per_step`.

    Raises:
        RunFolderError: There is no run in the folder.
    """
    config = read_run_file(folder)["config"]
    objective = objectives.get(config["objective"]["name"], **config["objective"]["params"])
    is_regularised = bool(objective.regularisers)
    counts = []
    for _, rows in groupby(read_jsonl(folder / "groups.jsonl"), key=lambda row: row["step"]):
        kept = [row["advantages"] for row in rows if row["kept"]]
        parts = even_parts(kept, config["update"]["num_updates_per_step"])
        counts.append(sum(any(is_regularised or any(group) for group in part) for part in parts))
    return counts


@dataclass(frozen=True)
class Extension:
    """A finished run, to be made longer.

    Attributes:
        job: The lengthened run: its folder, the settings of the run as it was, how it is evaluated.
        source: The finished run.
        num_updates: Updates with a gradient that it shall have. Kept in its folder: for another number it is made anew.
    """

    job: Job
    source: Path
    num_updates: int

    @property
    def max_steps(self) -> int:
        """Rollout steps that it may take at most."""
        return MAX_STRETCH * self.job.num_steps


def check_extendable(config: RunConfig) -> None:
    """Refuses runs of which a longer one would not have been the same so far.

    Raises:
        ConfigError: The learning rate's schedule ends at `train.num_steps`.
    """
    if config.optim.schedule != "constant":
        raise ConfigError(
            f"--equal-updates makes runs longer, but optim.schedule = {config.optim.schedule!r} ends at "
            "train.num_steps: a longer run would be another from its start. Use a constant schedule."
        )


def run_extension(report: Report, extension: Extension) -> None:
    """Goes on with a copy of a finished run until it has the updates, and evaluates it.

    The steps taken do not depend on where it was interrupted: it is never trained past the first step with enough.

    Args:
        report: Told of samples.
        extension: What to do.

    Raises:
        Interrupted: Asked to stop while training; the state was saved.
    """
    job = extension.job
    evaluated = Counter(report, "evaluate")
    register(job.plugins)
    if not is_extended(extension):
        (job.folder / FAILED).unlink(missing_ok=True)
        try:
            _copy(extension)
            evaluate_job(_lengthen(extension), job, evaluated)
        except OWN_FAILURES as error:
            write_json(job.folder / FAILED, told(error))
    evaluated(job.num_samples)


def is_extended(extension: Extension) -> bool:
    """Whether everything of it is on disk, or that it failed and would fail again."""
    job = extension.job
    return _is_for(extension) and (is_evaluated(job) or would_fail_again(job.folder))


def _is_for(extension: Extension) -> bool:
    """Whether what is in the folder was made for this number of updates."""
    path = extension.job.folder / EXTENSION
    return not path.is_file() or json.loads(path.read_text(encoding="utf-8")) == _told(extension)


def _told(extension: Extension) -> dict[str, int]:
    return {"num_updates": extension.num_updates}


def _copy(extension: Extension) -> None:
    """The run folder without its evaluation, whole or not at all; instead of one that was for something else."""
    folder = extension.job.folder
    if not _is_for(extension):
        shutil.rmtree(folder)
    if not folder.exists():
        aside = folder.with_name(f".copying_{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(extension.source, aside, ignore=shutil.ignore_patterns(EVAL, EXACT))
        write_json(aside / EXTENSION, _told(extension))
        aside.rename(folder)


def _lengthen(extension: Extension) -> str:
    """Trains until there are enough updates; returns the model.

    So many further steps as are missing updates, at U a step, never lead past the first step with enough.
    """
    config, folder = extension.job.config, extension.job.folder
    assert config is not None
    while True:
        step = checkpoint_steps(folder / "checkpoints")[-1]
        missing = extension.num_updates - sum(gradient_updates(folder)[:step])
        if missing <= 0 or step >= extension.max_steps:
            return str(folder / "checkpoints" / f"step_{step:06d}")
        goal = min(extension.max_steps, step + math.ceil(missing / config.update.num_updates_per_step))
        longer = config.model_copy(update={"train": config.train.model_copy(update={"num_steps": goal})})
        run = assemble(longer, resume=True)
        try:
            train(run, on_step=lambda _: None)
        finally:
            run.close()
