"""Independent tasks side by side on a Ray cluster: what `lab.parallel.run_tasks` does on the cores of one machine.

Tasks write into a folder that every machine of the cluster shares; that it is there is checked where a task starts.
"""

import contextlib
import os
import signal
import socket
import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ngrpo.errors import Interrupted, MissingExtraError, ModelError, NgrpoError, RunFolderError
from ngrpo.integrations.ray_cluster import check_imports
from ngrpo.record import console
from ngrpo.train.signals import stop_on_signals

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise MissingExtraError(f'Ray is not installed: pip install "ngrpo[ray]" ({error}).') from error

Report = Callable[[str, int], None]
"""What a task calls with the name of a counter and how far it has come since the last call."""

MOST_DEATHS = 3
"""Of the processes of one task, before it is given up: a run goes on from its last checkpoint each time."""

LOOK_S = 0.5
"""Seconds between two looks at what the tasks report, and, of each task, at whether to stop."""

SAVING_S = 60.0
"""How long tasks that are asked to stop may take to save."""


class Task(Protocol):
    """Something to do in a process of its own; `lab.parallel.Task` is one."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def function(self) -> Callable[[Report, Any], None]:
        """At the top level of a module; called with a `Report` and `argument`. Called again it goes on."""

    @property
    def argument(self) -> Any:
        """Picklable."""


def run_tasks_on_ray(tasks: Sequence[Task], *, num_processes: int, report: Report, folder: Path) -> None:
    """Runs tasks on the cluster that `ray_cluster.connect` has joined, one thread and one CPU each.

    A task whose process dies is given out again. On Ctrl-C or SIGTERM every task is asked to stop and waited for, so
    that runs save their state.

    Args:
        tasks: Independent of each other; they write below `folder`.
        num_processes: Tasks at the same time at most.
        report: Called in this process with what the tasks report.
        folder: Every machine of the cluster sees it, and the folder that this process is in, under these very paths.
            Made where it is not.

    Raises:
        Interrupted: Asked to stop.
        NgrpoError: A task failed, or its machine does not see the folder; the message has its name and its error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
    run = ray.remote(_run).options(num_cpus=1, max_retries=0)
    todo = deque(enumerate(tasks))
    running: dict[Any, tuple[int, Task]] = {}
    deaths: Counter[int] = Counter()
    told: Counter[str] = Counter()
    with _marked(folder) as mark, stop_on_signals() as should_stop:
        try:
            while todo or running:
                if should_stop():
                    raise Interrupted("asked to stop")
                while todo and len(running) < num_processes:
                    number, task = todo.popleft()
                    place = _Place(number, mailbox, mark, Path.cwd())
                    running[run.remote(task.function, task.argument, place)] = number, task
                ended, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_S)
                for counter, total in ray.get(mailbox.totals.remote()).items():
                    if total > told[counter]:
                        report(counter, total - told[counter])
                        told[counter] = total
                for each in ended:
                    number, task = running.pop(each)
                    if not _is_done(each, task.name, deaths[number]):
                        deaths[number] += 1
                        todo.appendleft((number, task))
        except BaseException:
            # Not ray.cancel: it comes again every two seconds, and a second Ctrl-C makes a run leave without saving.
            mailbox.stop.remote()
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=SAVING_S)
            raise
        finally:
            ray.kill(mailbox)


class _Mailbox:
    """What tasks and driver tell each other; an actor. A task that starts again does not count twice."""

    def __init__(self) -> None:
        self.so_far: dict[tuple[int, str], int] = {}
        self.are_to_stop = False

    def stop(self) -> None:
        """Asks all tasks to stop."""
        self.are_to_stop = True

    def is_to_stop(self) -> bool:
        """Whether they are asked to."""
        return self.are_to_stop

    def put(self, number: int, counter: str, total: int) -> None:
        """Moves a counter of a task forward."""
        self.so_far[number, counter] = max(total, self.so_far.get((number, counter), 0))

    def totals(self) -> dict[str, int]:
        """Of every counter, over all tasks."""
        totals: Counter[str] = Counter()
        for (_, counter), total in self.so_far.items():
            totals[counter] += total
        return dict(totals)


@dataclass(frozen=True)
class _Place:
    """Where a task runs.

    Attributes:
        number: Of the task.
        mailbox: Where it reports to.
        mark: A file in the folder that it writes to.
        working_folder: What relative paths begin at.
    """

    number: int
    mailbox: Any
    mark: Path
    working_folder: Path


def _run(function: Callable[[Report, Any], None], argument: Any, place: _Place) -> None:
    """One task, in a process of a worker; on its main thread, where a run hears that it is asked to stop."""
    import torch

    for folder, path in ((place.working_folder, place.working_folder), (place.mark.parent, place.mark)):
        if not path.exists():
            raise RunFolderError(
                f"the machine {socket.gethostname()} does not see {folder}. Give a --folder, and call the command in a "
                "folder, that all machines of the cluster share under the same path."
            )
    os.chdir(place.working_folder)
    torch.set_num_threads(1)
    is_over = threading.Event()
    threading.Thread(target=_stop_when_asked, args=(place.mailbox, is_over), name="stop", daemon=True).start()
    so_far: Counter[str] = Counter()

    def report(counter: str, count: int) -> None:
        so_far[counter] += count
        # Waited for: when the task is done, all that it reported has come.
        ray.get(place.mailbox.put.remote(place.number, counter, so_far[counter]))

    try:
        function(report, argument)
    finally:
        is_over.set()  # the process may take another task, which has a thread of its own


def _stop_when_asked(mailbox: Any, is_over: threading.Event) -> None:
    """Does to this process what `lab.parallel` does to one that is to stop."""
    with contextlib.suppress(RayError):  # there is no driver any more
        while not is_over.wait(LOOK_S):
            if ray.get(mailbox.is_to_stop.remote()):
                os.kill(os.getpid(), signal.SIGTERM)
                return


def _is_done(ended: Any, name: str, num_deaths: int) -> bool:
    """Whether a task that has ended is done; if not, its process died and it is to be given out again.

    Raises:
        NgrpoError: It failed, or its processes have died too often.
    """
    try:
        ray.get(ended)
        return True
    except RayError as error:
        check_imports(error)
        if isinstance(error, RayTaskError) and not isinstance(error.cause, Interrupted):
            raised = NgrpoError(f"{name}: {type(error.cause).__name__}: {error.cause}{_advice(error.cause)}")
            raised.add_note(str(error))  # with the lines it came through, on that machine
            raise raised from None
        if num_deaths + 1 >= MOST_DEATHS:
            raise NgrpoError(
                f"{name}: its process died {MOST_DEATHS} times; the last: {' '.join(str(error).split())[:500]} "
                "Perhaps memory ran out. What was finished is on disk; the same command goes on."
            ) from error
    console().print(f"the process of {name} died: it is given out again.", markup=False, soft_wrap=True)
    return False


def _advice(cause: BaseException | None) -> str:
    """What a cluster is to have, where a task missed it."""
    if isinstance(cause, ModelError):
        return " Every machine reads the base model under the same path (a world's own: set NGRPO_CACHE to share it)."
    return ""


@contextlib.contextmanager
def _marked(folder: Path) -> Iterator[Path]:
    """A file that only whoever sees this folder sees."""
    mark = folder.absolute() / f".ray-{uuid.uuid4().hex}"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)
