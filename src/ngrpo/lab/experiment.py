"""Experiments: arms times seeds, each a run folder; trained and evaluated side by side, resumable, compared in pairs.

    FOLDER/experiment.json      the plan, written before anything runs
    FOLDER/runs/ARM_seedN/      an ordinary run folder, with an evaluation folder `eval/` below it
    FOLDER/runs/base/eval/      the base model; `base_sharp` is the base at lower temperature

A run that fails by itself takes no other with it. An arm of which a seed failed has no row: a mean over the seeds that
survived would be of easier ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ngrpo.errors import Interrupted
from ngrpo.lab.arms import check_names, evaluation_of, run_config, run_name, splits_of
from ngrpo.lab.audit import audit
from ngrpo.lab.base import cached_base
from ngrpo.lab.experiment_folder import base_name, keep_base, open_experiment, runs_folder, shown_temperatures
from ngrpo.lab.jobs import EVAL, Job, failure_of, is_settled, run_job
from ngrpo.lab.parallel import RunTasks, Task
from ngrpo.lab.plan import Arm, Plan, Role
from ngrpo.lab.results import Row, read_row
from ngrpo.record import console, progress_bar

__all__ = ["Arm", "Plan", "Results", "Role", "find_base", "run_experiment"]


@dataclass(frozen=True)
class Results:
    """What came out, ready for tables: rows with [seeds, prompts, quantities] inside.

    Attributes:
        plan: Of what.
        folder: The experiment folder.
        base: The base model.
        sharp: The base at lower temperature.
        rows: By arm name; arms of which a run failed are missing.
        failed: By arm name, why it has no row.
        cooler: The base at every lower temperature that was tried, highest first; empty where only one was.
        base_folder: Folder of the base model.
    """

    plan: Plan
    folder: Path
    base: Row
    sharp: Row
    rows: Mapping[str, Row]
    failed: Mapping[str, str] = field(default_factory=dict)
    cooler: tuple[Row, ...] = ()
    base_folder: str = ""


def run_experiment(folder: Path, plan: Plan, *, command: Sequence[str], run_tasks: RunTasks) -> Results:
    """Runs what is not on disk yet, and reads it all.

    Args:
        folder: The experiment folder; holds this plan already, or nothing.
        plan: What to run.
        command: The command line, for the record.
        run_tasks: Runs what is to be run, side by side.

    Raises:
        RunFolderError: The folder holds another plan, or was begun from other weights.
        ConfigError: An arm's settings cannot be.
        DataError: A problem is in two splits.
        Interrupted: Asked to stop; everything was saved, and the same command goes on.
    """
    check_names(plan.arms)
    # Mistakes are found before a base is built.
    configs = [run_config(plan, arm, 0, base=plan.model, folder=folder / run_name(arm, 0)) for arm in plan.arms]
    open_experiment(folder, plan, command, audit=audit(plan.setup, [config.data for config in configs]))
    base = find_base(plan.model, plan.base_steps)
    keep_base(folder, base)
    sharp_temperature = choose_temperature(folder, plan, base, run_tasks)
    evaluation = evaluation_of(plan)
    trained = [
        Job(place, base, run_config(plan, arm, seed, base=base, folder=place), evaluation, plan.plugins)
        for seed in plan.seeds
        for arm in plan.arms
        for place in [runs_folder(folder) / run_name(arm, seed)]
    ]
    bases = [
        Job(runs_folder(folder) / "base", base, None, evaluation),
        Job(runs_folder(folder) / "base_sharp", base, None, replace(evaluation, temperature=sharp_temperature)),
        *(
            Job(runs_folder(folder) / base_name(temperature), base, None, replace(evaluation, temperature=temperature))
            for temperature in shown_temperatures(plan)
        ),
    ]
    run_jobs(folder, [*trained, *bases], run_tasks=run_tasks)
    return replace(read_results(folder, plan), base_folder=base)


def find_base(model: str, num_steps: int | None = None) -> str:
    """The folder of the base model: a world's own, built where it is not in the cache, or what the user named.

    Args:
        model: `world:NAME`, or a folder.
        num_steps: Optimiser steps of a world's base; None: as many as its setup says.
    """
    kind, _, world = model.partition(":")
    if kind != "world":
        return model
    with progress_bar() as progress:
        bar = progress.add_task("base model", total=None, unit="step", note="")
        folder, was_cached = cached_base(
            world=world,
            num_steps=num_steps,
            on_step=lambda step, total, loss: progress.update(
                bar, completed=step, total=total, note=f"loss {loss:.3f}"
            ),
        )
        progress.remove_task(bar)
    console().print(f"base model: {'cached, reused' if was_cached else 'built'} ({folder})", soft_wrap=True)
    return str(folder)


def choose_temperature(folder: Path, plan: Plan, base: str, run_tasks: RunTasks) -> float:
    """The temperature of the sharpened base: of several, the one with the best pass@1 on validation prompts.

    Sharper sampling is the cheapest way to a higher pass@1. A training method that is not compared with the best of it
    gets credit for what no training is needed for. Of equals the higher one, which costs less coverage.
    """
    if len(plan.sharp_temperatures) == 1:
        return plan.sharp_temperatures[0]
    jobs = {
        temperature: Job(
            folder / "validation" / f"base_T{temperature:g}",
            base,
            None,
            replace(evaluation_of(plan), data=splits_of(plan.setup)[1], temperature=temperature),
        )
        for temperature in plan.sharp_temperatures
    }
    run_jobs(folder, list(jobs.values()), run_tasks=run_tasks)
    scores = {temperature: read_row("", [job.folder / EVAL]).pass_at_k[1].estimate for temperature, job in jobs.items()}
    return max(scores, key=lambda temperature: (scores[temperature], temperature))


def run_jobs(folder: Path, jobs: Sequence[Job], *, run_tasks: RunTasks) -> None:
    """Does what of some jobs is not on disk yet, side by side.

    Args:
        folder: The experiment folder, for messages.
        jobs: The longest work first.
        run_tasks: Runs them.

    Raises:
        Interrupted: Asked to stop; everything was saved.
    """
    todo = [job for job in jobs if not is_settled(job)]
    totals = {"train": sum(job.num_steps for job in todo), "evaluate": sum(job.num_samples for job in todo)}
    tasks = [Task(job.folder.name, run_job, job) for job in todo]
    run_side_by_side(folder, tasks, totals, run_tasks=run_tasks)


def run_side_by_side(folder: Path, tasks: Sequence[Task], totals: Mapping[str, int], *, run_tasks: RunTasks) -> None:
    """Runs tasks with a bar for each kind of work.

    Args:
        folder: The experiment folder, for messages.
        tasks: What to run; may be none.
        totals: Rollout steps of `train`, samples of `evaluate`; what has no total has no bar.
        run_tasks: Runs them.

    Raises:
        Interrupted: Asked to stop; everything was saved.
    """
    if not tasks:
        return
    units = {"train": "step", "evaluate": "sample"}
    with progress_bar() as progress:
        bars = {
            name: progress.add_task(name, total=total, unit=units[name], note=f"{len(tasks)} runs")
            for name, total in totals.items()
            if total
        }

        def report(counter: str, count: int) -> None:
            if counter in bars:
                progress.advance(bars[counter], count)

        try:
            run_tasks(tasks, report=report)
        except Interrupted:
            raise Interrupted(
                f"stopped; every run below {folder} saved its last finished step and every finished sample. The same "
                "command goes on from there."
            ) from None


def read_results(folder: Path, plan: Plan, *, difficulty: str | None = None) -> Results:
    """Reads a finished experiment.

    Args:
        folder: The experiment folder.
        plan: What it holds.
        difficulty: Only prompts of this kind, in worlds that have two; None: all.
    """
    rows, failed = {}, {}
    for arm in plan.arms:
        places = {seed: runs_folder(folder) / run_name(arm, seed) for seed in plan.seeds}
        failures = [f"seed {seed}: {why}" for seed, place in places.items() if (why := failure_of(place))]
        if failures:
            failed[arm.name] = f"{len(failures)} of {plan.num_seeds} runs failed. " + " ".join(failures)
        else:
            rows[arm.name] = read_row(arm.name, [place / EVAL for place in places.values()], difficulty=difficulty)

    def of_base(name: str) -> Row:
        row = read_row("base", [runs_folder(folder) / name / EVAL], difficulty=difficulty)
        return row if row.temperature == 1.0 else replace(row, name=f"base at T={row.temperature:g}")

    return Results(
        plan=plan,
        folder=folder,
        base=of_base("base"),
        sharp=of_base("base_sharp"),
        rows=rows,
        failed=failed,
        cooler=tuple(of_base(base_name(temperature)) for temperature in shown_temperatures(plan)),
    )
