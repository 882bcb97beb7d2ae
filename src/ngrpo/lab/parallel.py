"""Independent tasks side by side on the cores, one process each, with progress from all of them."""

import contextlib
import multiprocessing as mp
import queue
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from ngrpo.errors import Interrupted, NgrpoError

Report = Callable[[str, int], None]
"""What a task calls with the name of a counter and how far it has come since the last call."""


@dataclass(frozen=True)
class Task:
    """Something to do in a process of its own.

    Attributes:
        name: For messages.
        function: At the top level of a module; called with a `Report` and `argument`.
        argument: Picklable.
    """

    name: str
    function: Callable[[Report, Any], None]
    argument: Any


class RunTasks(Protocol):
    """Runs tasks somewhere: `run_tasks` with its number of processes given does so on the cores of this machine."""

    def __call__(self, tasks: Sequence[Task], *, report: Report) -> None:
        """As `run_tasks`."""


def run_tasks(tasks: Sequence[Task], *, num_processes: int, report: Report) -> None:
    """Runs tasks, `num_processes` at a time, each on one thread.

    Processes are spawned, and each takes tasks until none is left. On Ctrl-C or SIGTERM every process is asked to stop
    and waited for, so that runs save their state.

    Args:
        tasks: Independent of each other.
        num_processes: Processes at the same time.
        report: Called in this process with what the tasks report.

    Raises:
        Interrupted: Asked to stop.
        NgrpoError: A task failed; the message has its name and its error. Or a worker died, or all ended too soon.
    """
    context = mp.get_context("spawn")
    todo: Any = context.Queue()
    told: Any = context.Queue()
    workers = [
        context.Process(target=_work, args=(list(tasks), todo, told), daemon=True)
        for _ in range(min(num_processes, len(tasks)))
    ]
    for place in [*range(len(tasks)), *[None] * len(workers)]:  # a None for each worker: there is no more
        todo.put(place)
    with _interrupt_on_sigterm():
        for worker in workers:
            worker.start()
        try:
            _listen(len(tasks), workers, told, report)
        except (KeyboardInterrupt, _Terminated):
            raise Interrupted("asked to stop") from None
        finally:
            _end(workers)


def _listen(num_tasks: int, workers: Sequence[Any], told: Any, report: Report) -> None:
    """Passes on what the workers say until every task is done."""
    done = 0
    while done < num_tasks:
        have_ended = not any(worker.is_alive() for worker in workers)  # before listening: what they said is heard
        try:
            kind, *rest = told.get(timeout=1.0)
        except queue.Empty:
            dead = [worker for worker in workers if worker.exitcode not in (None, 0)]
            if dead:
                raise NgrpoError(
                    f"a worker process died with exit code {dead[0].exitcode}, without a word: perhaps for lack of "
                    "memory. What was finished is on disk; the same command goes on."
                ) from None
            if have_ended:
                raise NgrpoError(
                    f"every worker process has ended, and {num_tasks - done} of {num_tasks} tasks are not done: were "
                    "they asked to stop? What was finished is on disk; the same command goes on."
                ) from None
            continue
        if kind == "failed":
            name, message, details = rest
            error = NgrpoError(f"{name}: {message}")
            error.add_note(details)
            raise error
        if kind == "done":
            done += 1
        else:
            report(*rest)


def _end(workers: Sequence[Any]) -> None:
    """Asks what still runs to stop, and waits while it saves."""
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    for worker in workers:
        worker.join(timeout=60.0)


def _work(tasks: Sequence[Task], todo: Any, told: Any) -> None:
    """One worker process."""
    import torch

    torch.set_num_threads(1)
    with contextlib.suppress(KeyboardInterrupt):
        while (place := todo.get()) is not None:
            task = tasks[place]
            try:
                task.function(lambda counter, count: told.put(("progress", counter, count)), task.argument)
            except Interrupted:
                return
            except Exception as error:  # noqa: BLE001  (whatever it is, the parent says it)
                told.put(("failed", task.name, f"{type(error).__name__}: {error}", traceback.format_exc()))
                return
            told.put(("done",))


class _Terminated(BaseException):
    """SIGTERM in the parent."""


@contextlib.contextmanager
def _interrupt_on_sigterm() -> Any:
    def handle(_: int, __: FrameType | None) -> None:
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
