"""Which of the given paths, and of what lies below them, can be reported.

A folder is what it holds: `experiment.json` makes an experiment; `run.json`, `metrics.jsonl` or `groups.jsonl` a run;
`eval.json` an evaluation; any other is searched for these.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ngrpo.report.records import Notices

MAX_DEPTH = 4
"""How far below a given folder is searched."""

RUN_MARKS = ("run.json", "metrics.jsonl", "groups.jsonl")
_OF_FOLDERS = (*RUN_MARKS, "samples.jsonl", "eval.json", "experiment.json", "results.json", "gradients.json")
_SELECTIONS = ("runs", "learning_rate", "validation")
"""Parts of an experiment that are no results: what was chosen on validation prompts is not reported with it."""

_NOT_SEARCHED = ("checkpoints", "node_modules", "__pycache__")


@dataclass
class Places:
    """What was found, in the order of the paths, each place once.

    Attributes:
        experiments: Experiment folders.
        runs: Run folders that are of no experiment that was found.
        evaluations: Evaluation folders that are in no run folder that was found.
        files: Census files.
    """

    experiments: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    evaluations: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def find(paths: Sequence[Path], notices: Notices) -> Places:
    """Sorts the given paths, and what is below them, by what they are.

    Args:
        paths: Folders and files.
        notices: Told of paths that are missing or hold nothing.
    """
    places, seen = Places(), set()
    for path in paths:
        try:
            if not _sort(path, places, seen, MAX_DEPTH):
                is_there = path.exists()
                reason = "holds nothing that can be reported" if is_there else "does not exist"
                notices.add(f"{path} {reason}; it was left out.")
        except OSError as error:
            notices.add(f"{path} cannot be read ({error.strerror}); it was left out.")
    return places


def evaluations_in(folder: Path) -> list[Path]:
    """Evaluation folders of a run folder, `eval` first: itself is none."""
    found = [path for path in _subfolders(folder) if (path / "eval.json").is_file()]
    return sorted(found, key=lambda path: (path.name != "eval", path.name))


def _sort(path: Path, places: Places, seen: set[Path], depth: int) -> bool:
    """Puts a path where it belongs; false if there is nothing in it."""
    if not path.exists():
        return False
    real = path.resolve()
    if real in seen:
        return True
    if path.is_file():
        return _sort_file(path, places, seen)
    seen.add(real)
    kind = _kind(path, places)
    if kind is not None:
        kind.append(path)
        inner = _experiments_in(path) if kind is places.experiments else []
        for each in inner:
            _sort(each, places, seen, 0)
        return True
    inside = []
    if depth:
        loose = [each for each in sorted(path.glob("*.jsonl")) if each.is_file() and each.name != "samples.jsonl"]
        inside = [_sort(each, places, seen, depth - 1) for each in (*_subfolders(path), *loose)]
    return any(inside)


def _sort_file(path: Path, places: Places, seen: set[Path]) -> bool:
    """A file of a run, evaluation or experiment folder stands for the folder; another is a census if it can be one."""
    if path.name in _OF_FOLDERS:
        return _sort(path.parent, places, seen, 0)
    if path.suffix == ".jsonl":
        seen.add(path.resolve())
        places.files.append(path)
    return path.suffix == ".jsonl"


def _experiments_in(folder: Path) -> list[Path]:
    """Experiments that are results of an experiment, too: the same at equal updates, say."""
    inner = [each for each in _subfolders(folder) if each.name not in _SELECTIONS]
    return [each for each in inner if (each / "experiment.json").is_file()]


def _kind(folder: Path, places: Places) -> list[Path] | None:
    if (folder / "experiment.json").is_file():
        return places.experiments
    if (folder / "eval.json").is_file():
        return places.evaluations
    if any((folder / name).is_file() for name in RUN_MARKS):
        return places.runs
    return None


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        each
        for each in folder.iterdir()
        if each.is_dir() and not each.name.startswith(".") and each.name not in _NOT_SEARCHED
    )
