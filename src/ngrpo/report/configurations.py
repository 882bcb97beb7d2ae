"""Each run's configuration, and the command that made it, as text."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ngrpo.report.arms import Arm
from ngrpo.report.read_run import command_text
from ngrpo.report.records import Comparison, Run

CHARACTERS_IN_ALL = 400_000
"""Of all texts together; further runs are told by what differs from the first of their arm."""


def configurations(comparisons: Sequence[tuple[Comparison, Sequence[Arm]]]) -> dict[str, str]:
    """Texts by the name of the run, and of experiments by their title.

    Args:
        comparisons: Each with its arms.
    """
    texts: dict[str, str] = {}
    for comparison, arms in comparisons:
        if comparison.experiment is not None:
            experiment = comparison.experiment
            settings = {key: value for key, value in experiment.description.items() if key not in ("runs", "command")}
            command = command_text(experiment.description.get("command"))
            texts[comparison.title] = _text(settings, command=command, folder=str(experiment.folder))
        for arm in arms:
            for run in arm.runs:
                texts[run.name] = _of_run(run)
    room = CHARACTERS_IN_ALL
    bounded = {}
    for name, text in texts.items():
        room -= len(text)
        bounded[name] = text if room > 0 else text.split("\n\n")[0] + "\n\nThe rest is in the run's own folder."
    return bounded


def _of_run(run: Run) -> str:
    return _text(run.config, command=run.command, folder=str(run.folder))


def _text(config: Mapping[str, Any], *, command: str, folder: str) -> str:
    head = [f"# folder: {folder}"] + ([f"# command: {command}"] if command else [])
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in _leaves(config, "")]
    return "\n".join(head) + "\n\n" + ("\n".join(lines) if lines else "# No settings were recorded.") + "\n"


def _leaves(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value
