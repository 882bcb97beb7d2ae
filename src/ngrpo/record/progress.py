"""Progress bars with rate and time left, for terminals and for logs."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

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

Item = TypeVar("Item")
Result = TypeVar("Result")


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


@contextmanager
def late_bars(patience_s: float = 2.0) -> Iterator[Callable[[str, float], None]]:
    """Bars for work that is mostly too short for one: each is shown once its stage has taken a while.

    Args:
        patience_s: Seconds from the first word of a stage until its bar is shown.

    Yields:
        What to call with the name of a stage and the share of it that is done, 0 to 1.
    """
    began_s: dict[str, float] = {}
    bars: dict[str, TaskID] = {}
    with ExitStack() as stack:
        progress: Progress | None = None

        def on_progress(stage: str, share: float) -> None:
            nonlocal progress
            now_s = time.monotonic()
            began_s.setdefault(stage, now_s)
            if stage not in bars and share < 1.0 and now_s - began_s[stage] >= patience_s:
                progress = progress or stack.enter_context(progress_bar())
                bars[stage] = progress.add_task(stage, total=100, unit="%", note="")
            if progress is not None and stage in bars:
                progress.update(bars[stage], completed=round(100 * share))

        yield on_progress


def with_late_bar(
    work: Callable[[Sequence[Item]], Sequence[Result]], stage: str, *, batch_size: int = 512, patience_s: float = 2.0
) -> Callable[[Sequence[Item]], list[Result]]:
    """The same work on a list, done in batches, with a bar where it takes long.

    Args:
        work: Takes items and returns one result for each.
        stage: Name of the bar.
        batch_size: Items between two updates.
        patience_s: Seconds until the bar is shown.

    Example:
        >>> with_late_bar(lambda words: [len(word) for word in words], "measuring", batch_size=1)(["a", "bc"])
        [1, 2]
    """

    def in_batches(items: Sequence[Item]) -> list[Result]:
        results: list[Result] = []
        with late_bars(patience_s) as on_progress:
            for start in range(0, len(items), batch_size):
                on_progress(stage, start / len(items))
                results.extend(work(items[start : start + batch_size]))
            on_progress(stage, 1.0)
        return results

    return in_batches
