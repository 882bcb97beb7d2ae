"""Paths in, comparisons out: everything that can be read, sorted into what may be drawn together."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ngrpo.config.show import diff
from ngrpo.errors import RunFolderError
from ngrpo.report.census_file import read_census_file
from ngrpo.report.fields import or_tell
from ngrpo.report.find import find
from ngrpo.report.read_experiment import read_experiment, read_loose_evaluation
from ngrpo.report.read_run import read_run
from ngrpo.report.records import Comparison, Experiment, Notices, Run

FREE_OF_SEED = ("run.", "record.", "checkpoint.", "rollout.max_rows", "rollout.cache_gib", "data.seed")
"""Settings in which seeds of one arm may differ."""

MAX_NAMED_SETTINGS = 3
"""Most settings that tell the arms of one method apart in their names."""

MAX_VALUE = 24
"""Most characters of a setting in a name; of a path the end tells more."""


def read(
    paths: Sequence[Path], notices: Notices, on_progress: Callable[[str, float], None] = lambda stage, share: None
) -> list[Comparison]:
    """Reads everything that was given.

    Args:
        paths: Run, evaluation and experiment folders, parents of them, and census files.
        notices: Told of everything that is missing, damaged, or not to be compared.
        on_progress: Told the share of folders that were read.

    Returns:
        Experiments first, then runs by the data they were trained on.

    Raises:
        RunFolderError: Nothing at all could be read.
    """
    places = find(paths, notices)
    listed = [*places.experiments, *places.runs, *places.files, *places.evaluations]
    experiments, runs, loose = [], [], []
    for number, path in enumerate(listed):
        on_progress("reading", number / len(listed))
        if path in places.experiments:
            experiments += filter(None, [or_tell(partial(read_experiment, path, notices), str(path), notices)])
        elif path in places.runs:
            runs += filter(None, [or_tell(partial(read_run, path, notices), str(path), notices)])
        elif path in places.files:
            runs += or_tell(partial(read_census_file, path, notices), str(path), notices) or []
        else:
            loose += filter(None, [or_tell(partial(read_loose_evaluation, path, notices), str(path), notices)])
    on_progress("reading", 1.0)
    runs = [run for run in runs if run.series or run.evaluation or run.config]
    if not (runs or loose or any(kept or _has_results(experiment) for experiment, kept in experiments)):
        told = "\n".join(f"  {notice}" for notice in notices)
        raise RunFolderError(
            f"there is nothing to report in {', '.join(map(str, paths)) or 'no path'}:\n{told}\nGive run folders, "
            "evaluation folders, experiment folders, folders of these, or a census file (.jsonl)."
        )
    comparisons = [_of_experiment(experiment, kept) for experiment, kept in experiments]
    comparisons += _by_data([*runs, *loose], notices)
    comparisons = _uniquely_named(comparisons)
    for comparison in comparisons:
        _tell_differences(comparison, notices)
    return [_without_twins(comparison, notices) for comparison in comparisons]


def _has_results(experiment: Experiment) -> bool:
    return bool(experiment.results or experiment.gradients)


def _of_experiment(experiment: Experiment, runs: Iterable[Run]) -> Comparison:
    world, settings = experiment.description.get("world"), experiment.description.get("settings")
    split = settings.get("split") if isinstance(settings, Mapping) else None
    on_split = f", on {split} prompts" if split not in (None, "test") else ""
    name, in_world = experiment.folder.resolve().name, f" in the world {world}" if world else ""
    return Comparison(
        id=_slug(name),
        title=f"{experiment.kind}{in_world} ({name}){on_split}",
        runs=tuple(runs),
        experiment=experiment,
    )


def _by_data(runs: Sequence[Run], notices: Notices) -> list[Comparison]:
    """Runs of the same training prompts together, and evaluations with the runs evaluated on the same prompts."""
    trained: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.role != "base":
            trained[run.fingerprint or f"file {run.folder}" if not run.config else run.fingerprint].append(run)
    for run in (run for run in runs if run.role == "base"):
        fits = (key for key, others in trained.items() if any(_same_prompts(run, other) for other in others))
        key = next(fits, f"prompts of {run.evaluation.settings.get('data')}" if run.evaluation else "")
        trained[key].append(run)
    if len(trained) > 1:
        notices.add(
            f"The runs are of {len(trained)} different data sets. Each has figures of its own; their numbers are not "
            "to be compared."
        )
    names = Counter(_data_name(group) for group in trained.values())
    comparisons = []
    for key, group in trained.items():
        name = _data_name(group)
        title = f"{name} ({key[:8]})" if names[name] > 1 else name
        comparisons.append(Comparison(id=_slug(title), title=title, runs=tuple(_named_by_settings(group))))
    return comparisons


def _same_prompts(run: Run, other: Run) -> bool:
    return bool(run.evaluation and other.evaluation and run.evaluation.prompt_ids == other.evaluation.prompt_ids)


def _data_name(runs: Sequence[Run]) -> str:
    names = (run.data or (str(run.evaluation.settings.get("data")) if run.evaluation else "") for run in runs)
    return next((name for name in names if name), "runs")


def _named_by_settings(runs: Sequence[Run]) -> list[Run]:
    """Runs whose arms are told apart by their settings: the same method at two learning rates is two arms."""
    by_arm: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_arm[run.arm].append(run)
    names: dict[int, str] = {}
    for arm, group in by_arm.items():
        first = group[0]
        changed: dict[str, None] = {}
        for run in filter(_is_trained, group):
            changed |= dict.fromkeys(key for key, _, _ in diff(first.config, run.config) if _tells(key))
        for run in group:
            told = [f"{key.rpartition('.')[2]}={str(_at(run.config, key))[-MAX_VALUE:]}" for key in changed]
            more = [f"and {len(told) - MAX_NAMED_SETTINGS} more"] if len(told) > MAX_NAMED_SETTINGS else []
            names[id(run)] = ", ".join([arm, *told[:MAX_NAMED_SETTINGS], *more]) if _is_trained(run) else arm
    return [replace(run, arm=names[id(run)]) for run in runs]


def _is_trained(run: Run) -> bool:
    return bool(run.config) and run.role != "base"


def _tells(key: str) -> bool:
    return not any(key == free or (free.endswith(".") and key.startswith(free)) for free in FREE_OF_SEED)


def _at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _uniquely_named(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Runs of equal names get the folder before theirs, or a number; comparisons of equal ids a number."""
    counts = Counter(run.name for comparison in comparisons for run in comparison.runs)
    taken: set[str] = set()
    ids: set[str] = set()
    named = []
    for comparison in comparisons:
        runs = []
        for run in comparison.runs:
            parent = run.folder.resolve().parent
            longer = f"{parent.parent.name if parent.name == 'runs' else parent.name}/{run.name}"
            runs.append(replace(run, name=_free(longer if counts[run.name] > 1 else run.name, taken)))
        named.append(replace(comparison, id=_free(comparison.id, ids), runs=tuple(runs)))
    return named


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken; it is then taken, too."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free)
    return free


def _without_twins(comparison: Comparison, notices: Notices) -> Comparison:
    """One run of each seed of an arm: a second is no new sample of the method."""
    best: dict[tuple[str, int], Run] = {}
    for run in comparison.runs:
        if run.seed is not None and run.role != "base":
            other = best.setdefault((run.arm, run.seed), run)
            if other is not run:
                longer = max(other, run, key=lambda each: (each.last_step, each.evaluation is not None))
                best[run.arm, run.seed] = longer
                left_out = run if longer is other else other
                notices.add(
                    f"{other.name} and {run.name} are both seed {run.seed} of {run.arm}: {left_out.name} was left out, "
                    "because a second run of a seed says nothing new."
                )
    runs = [r for r in comparison.runs if r.seed is None or r.role == "base" or best[r.arm, r.seed] is r]
    return replace(comparison, runs=tuple(runs))


def _tell_differences(comparison: Comparison, notices: Notices) -> None:
    """Says in what the runs of a comparison differ that they should not differ in."""
    if comparison.experiment is not None and comparison.experiment.kind == "sensitivity":
        return  # data and group sizes are among the settings that it varies
    prints = {run.fingerprint for run in comparison.runs if run.fingerprint and run.role != "base"}
    if len(prints) > 1:
        notices.add(
            f"{comparison.title}: its runs were trained on {len(prints)} different data sets (their fingerprints "
            "differ), so differences between them may come from the data."
        )
    sizes = sorted({run.group_size for run in comparison.runs if run.group_size})
    if len(sizes) > 1:
        told = ", ".join(map(str, sizes))
        notices.add(
            f"{comparison.title}: the runs have groups of {told} completions. Larger groups are all wrong less often, "
            "so their shares of all-wrong groups are not comparable."
        )


def _slug(text: str) -> str:
    kept = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in text.lower())
    return "-".join(part for part in kept.split("-") if part) or "runs"
