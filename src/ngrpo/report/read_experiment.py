"""An experiment folder as an `Experiment` and its runs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ngrpo.report.fields import or_tell
from ngrpo.report.find import evaluations_in
from ngrpo.report.read_run import command_text, read_evaluation, read_exact, read_json, read_run
from ngrpo.report.records import Evaluation, Experiment, Notices, Run


def read_experiment(folder: Path, notices: Notices) -> tuple[Experiment, list[Run]]:
    """Reads an experiment folder. Runs that are missing, yet to be made or damaged are told.

    Args:
        folder: Has an `experiment.json`.
        notices: Told what is wrong.

    Returns:
        The experiment, and those of its runs that have anything to show.
    """
    described = read_json(folder / "experiment.json", notices) or {}
    listed = described.get("runs")
    listed = [each for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
    runs, missing = [], []
    for entry in listed:
        at = folder / str(entry.get("folder") or f"runs/{entry.get('name')}")
        run = or_tell(partial(_listed_run, at, entry, notices), str(at.name)[:80], notices) if _is_folder(at) else None
        if run is None:
            missing.append(str(entry.get("name"))[:80])
        else:
            runs.append(replace(run, command=run.command or command_text(described.get("command"))))
    if missing:
        named = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        notices.add(f"{folder.name}: {len(missing)} of {len(listed)} runs have not been made yet or are lost: {named}.")
    if not listed and (folder / "runs").is_dir():  # what can be saved of a damaged description
        found = [at for at in sorted((folder / "runs").iterdir()) if (at / "run.json").is_file()]
        runs = [run for at in found if (run := or_tell(partial(read_run, at, notices), at.name, notices))]
    kind = str(described.get("kind") or "experiment")
    experiment = Experiment(
        folder=folder,
        kind=kind,
        description=described,
        results=_optional(folder / "results.json", notices),
        gradients=_optional(folder / "gradients.json", notices),
    )
    if not experiment.results and kind != "gradients":
        notices.add(f"{folder.name}: there is no results.json, so the experiment's own tables are not shown.")
    return experiment, _bases_once(runs)


def _bases_once(runs: Sequence[Run]) -> list[Run]:
    """Without a second copy of the same base: the sharp one may be one of several temperatures, too."""
    seen: set[Any] = set()
    kept = []
    for run in runs:
        same = (run.arm, run.evaluation.prompt_ids) if run.role == "base" and run.evaluation else run.name
        if same not in seen:
            kept.append(run)
        seen.add(same)
    return kept


def read_loose_evaluation(folder: Path, notices: Notices) -> Run | None:
    """An evaluation folder of its own as a run that was not trained; named after its folder, `eval` after the parent.

    Args:
        folder: Has an `eval.json`.
        notices: Told what is wrong.
    """
    name = folder.resolve().parent.name if folder.name == "eval" else folder.name
    evaluation = read_evaluation(folder, name, notices)
    if evaluation is None:
        return None
    described = read_json(folder / "eval.json", notices) or {}
    return Run(
        name=name,
        arm=_base_name(re.sub(r"[_-]seed[_-]?\d+$", "", name), evaluation),
        role="base",
        folder=folder,
        seed=_seed_in(name),
        evaluation=evaluation,
        exact=read_exact(folder.parent / "exact.json", notices),
        config=evaluation.settings,
        command=command_text(described.get("command")),
    )


def _listed_run(at: Path, entry: Mapping[str, Any], notices: Notices) -> Run | None:
    """A run of the list, under the list's names; None where there is nothing of it."""
    name, role = str(entry.get("name") or at.name), str(entry.get("role") or "method")
    arm = str(entry.get("arm") or name)
    if role == "base" or not (at / "run.json").is_file():
        folders = evaluations_in(at)
        if not folders:
            return None
        run = read_loose_evaluation(folders[0], notices)
        return run and replace(run, name=name, arm=_base_name(arm, run.evaluation), role=role)
    run = read_run(at, notices, name=name)
    seed = entry.get("seed")
    return replace(run, arm=arm, role=role, seed=seed if isinstance(seed, int) else run.seed)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that no file system takes
        return False


def _optional(path: Path, notices: Notices) -> Mapping[str, Any]:
    return (read_json(path, notices) or {}) if path.exists() else {}


def _base_name(arm: str, evaluation: Evaluation | None) -> str:
    """The sharper base says how sharp, as in the tables of experiments."""
    temperature = evaluation.settings.get("temperature") if evaluation else None
    return f"base at T={temperature:g}" if re.fullmatch(r"base_(sharp|T[\d.]+)", arm) and temperature else arm


def _seed_in(name: str) -> int | None:
    found = re.search(r"[_-]seed[_-]?(\d+)$", name)
    return int(found.group(1)) if found else None
