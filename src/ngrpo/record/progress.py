"""Progress bars with rate and time left, for terminals and for logs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class RateColumn(ProgressColumn):
    """Units finished per second."""

    def render(self, task: Task) -> Text:
        """Shows the speed of one task, `unit` taken from its fields."""
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit", "")
        if not speed:
            return Text(f"- {unit}/s", style="progress.data.speed")
        return Text(f"{speed:.1f} {unit}/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit}", style="progress.data.speed")


def console() -> Console:
    """Where progress and notes go: standard error, so that results can be piped."""
    return Console(file=sys.stderr, highlight=False)


class LineProgress(Progress):
    """For logs and pipes, where a bar cannot move: one line per task every few seconds, and one at its end."""

    seconds_between_lines = 10.0

    def __init__(self, *columns: ProgressColumn, console: Console, speed_estimate_period: float) -> None:
        super().__init__(*columns, console=console, disable=True, speed_estimate_period=speed_estimate_period)
        self._due_s: dict[TaskID, float] = {}
        self._done_before: dict[TaskID, float] = {}

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Updates a task and prints its line when it is due."""
        task, now_s = self._tasks[task_id], self.get_time()
        was_finished = task.finished
        self._done_before.setdefault(task_id, task.completed)
        self._due_s.setdefault(task_id, (task.start_time or now_s) + self.seconds_between_lines)
        super().update(task_id, **changes)
        if not was_finished and (task.finished or now_s >= self._due_s[task_id]):
            self._due_s[task_id] = now_s + self.seconds_between_lines
            self.console.print(self._line(task), emoji=False, soft_wrap=True)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advances a task; see `update`."""
        self.update(task_id, advance=advance)

    def _line(self, task: Task) -> str:
        elapsed_s = task.elapsed or 0.0
        rate = (task.completed - self._done_before[task.id]) / elapsed_s if elapsed_s else 0.0
        left_s = f"{task.remaining / rate:.0f}" if rate and task.remaining is not None else "?"
        unit, note = task.fields.get("unit", ""), task.fields.get("note", "")
        return (
            f"{task.description} {task.completed:.0f}/{task.total:.0f} {unit}, {rate:.2f}/s, "
            f"{elapsed_s:.0f} s gone, {left_s} s left{'  ' + note if note else ''}"
        )


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar that shows share done, rate, time gone and time left, and a free `note` field.

    Tasks are added with `add_task(description, total=..., unit="step", note="")`.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    where = console()
    kind = Progress if where.is_terminal else LineProgress
    with kind(*columns, console=where, speed_estimate_period=600.0) as progress:
        yield progress
