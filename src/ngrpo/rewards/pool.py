"""A function in several processes that can be killed, and a hard deadline for every call made in them.

Graders meet text that makes them run for ever, eat the memory or leave the interpreter. Signals do not help: they need
the main thread, and arithmetic on huge integers does not look at them. A process does: past the deadline it is ended,
the call it was at gets that verdict, and the calls behind it go to another process.

The deadline is on the processor time of a call, so that no verdict depends on how busy the machine is. The clock on
the wall is a second, generous deadline, for calls that wait instead of computing.

Nothing of the program is needed in the processes: scripts need no `if __name__ == "__main__"`, and nothing of CUDA or
of other threads is inherited.
"""

import math
import os
import pickle
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from signal import SIGALRM, SIGPROF
from typing import Any

from ngrpo.errors import RewardError
from ngrpo.rewards.worker import (
    START,
    START_DEADLINE_S,
    Answer,
    NotAReplyError,
    Order,
    Status,
    WorkerProcess,
    describe_end,
)

# The deadline by the clock on the wall, which a call meets that sleeps or waits for a lock.
WALL_FACTOR = 6.0
WALL_EXTRA_S = 5.0

# One more process is started for so many waiting calls: a start costs as much as a hundred comparisons of formulas.
CALLS_PER_START = 64

# And when calls still wait so long after the last start, in case they are few and slow.
PATIENCE_S = 2.0

# Calls sent to a process before the first is answered: it should not wait for us, nor they behind a slow one.
WINDOW = 4

# Calls that a process answers for one thread before it goes to another that waits.
TURN = 8

MAX_FAILED_STARTS = 3

_LONGEST_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one call.

    Attributes:
        status: `ok`; `raised`; `timeout`; `memory` (more than allowed, twice); `died` (the process ended, twice).
        value: What the function returned, when `ok`.
        detail: The exception, or how it ended, otherwise.
        seconds: Processor time of the call. Of a timeout, the deadline that was missed; 0 where nothing is known.
    """

    status: Status
    value: Any = None
    detail: str = ""
    seconds: float = 0.0


class Pool:
    """A function in several processes; each call has a hard deadline.

    Processes are started by the first calls, no more than the calls need, and kept for the next. Threads may call at
    the same time: they share the processes, and take turns where these are too few. While nothing is called, nothing
    runs. A fork of this process gets processes of its own.

    Args:
        factory: A module-level function, called once in each process; what it returns is the function to be called.
            Imports and warm-up belong into the factory: they do not count against the deadline.
        args: Arguments of the factory; they are pickled.
        deadline_s: Seconds of processor time for each call. By the clock on the wall it is 6 times as many and 5 more.
        num_workers: Most processes at a time; by default, as many as there are cores for this process.
        memory_mib: Memory that a process may take beyond what it holds after the factory. macOS keeps no such limit.

    Raises:
        ValueError: The factory cannot be imported by another process, or a number is not positive.

    Example:
        >>> import operator
        >>> pool = Pool(operator.attrgetter, args=("real",), deadline_s=10.0)
        >>> [reply.value for reply in pool.map([(3,), (4,)])]
        [3, 4]
        >>> pool.close()
    """

    def __init__(
        self,
        factory: Callable[..., Callable[..., Any]],
        *,
        args: tuple = (),
        deadline_s: float,
        num_workers: int | None = None,
        memory_mib: int = 1024,
    ) -> None:
        if factory.__module__ == "__main__" or "<" in factory.__qualname__:
            raise ValueError(f"{factory.__qualname__!r} cannot be imported by another process: define it in a module.")
        num_workers = available_cores() if num_workers is None else num_workers
        for name, number in (("deadline_s", deadline_s), ("num_workers", num_workers), ("memory_mib", memory_mib)):
            if not 0 < number < math.inf:
                raise ValueError(f"{name} is {number}: it has to be positive and finite.")
        wall_s = WALL_FACTOR * deadline_s + WALL_EXTRA_S
        self._order = Order(factory.__module__, factory.__qualname__, args, deadline_s, wall_s, memory_mib)
        self._num_workers = num_workers
        self._reset()
        _POOLS.add(self)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that were started and are not known to have ended."""
        return [seat.worker.pid for seat in self._seats if seat.worker is not None]

    def map(self, calls: Sequence[tuple]) -> list[Reply]:
        """Call the function once for each tuple of arguments.

        Args:
            calls: The arguments of each call; they are pickled.

        Returns:
            One reply per call, in order, whatever dies on the way. A call during which a process ended by itself or
            ran out of memory is made once more, in another: it may have been innocent.

        Raises:
            RewardError: A process cannot be started, or the factory fails in it.
        """
        job = _Job(self._order, [pickle.dumps(call) for call in calls])
        try:
            while job.num_open:
                self._take_seats(job)
                job.send(is_contested=bool(self._queue))
                job.receive()
                self._give_seats(job)
        finally:
            self._give_all_seats(job)
        return job.replies

    def close(self) -> None:
        """Kill the processes; those in use by another thread, as soon as it is done. The next call starts others."""
        with self._changed:
            doomed = [seat.worker for seat in self._seats if seat.owner is None]
            for seat in self._seats:
                seat.is_closing = seat.owner is not None
                seat.worker = seat.worker if seat.is_closing else None
        _kill_all(doomed)

    def _reset(self) -> None:
        self._seats = [_Seat() for _ in range(self._num_workers)]
        self._changed = threading.Condition()
        self._queue: deque[_Job] = deque()  # jobs that have no seat; while there are any, the others give theirs up

    def _forget(self) -> None:
        """In a fork: the processes are the parent's, and a thread that is not here may have held the lock."""
        for seat in self._seats:
            if seat.worker is not None:
                seat.worker.abandon()
        self._reset()

    def _take_seats(self, job: "_Job") -> None:
        """Get a job one seat, waiting for it if need be, and more if they are free and it has use for them."""
        with self._changed:
            if not job.seats:
                self._queue.append(job)
                try:
                    self._changed.wait_for(lambda: self._queue[0] is job and self._free_seats())
                    job.take(self._free_seats()[0])
                finally:
                    self._queue.remove(job)
                    self._changed.notify_all()
            for seat in self._free_seats():
                if self._queue or not job.wants(seat):
                    break
                job.take(seat)

    def _free_seats(self) -> list["_Seat"]:
        """The best first: with a process that is ready, with one that starts, with none."""
        free = [seat for seat in self._seats if seat.owner is None]
        return sorted(free, key=lambda seat: 2 if seat.worker is None else 1 - seat.worker.is_ready)

    def _give_seats(self, job: "_Job") -> None:
        """Take from a job what it has no more use for, or has had its turn with."""
        with self._changed:
            done = [seat for seat in job.seats if job.is_done_with(seat, is_contested=bool(self._queue))]
            job.seats = [seat for seat in job.seats if seat not in done]
            self._free(done)

    def _give_all_seats(self, job: "_Job") -> None:
        """End a job. One that was broken off (by Ctrl-C, say) may have left half a message on any pipe."""
        with self._changed:
            held = [seat for seat in self._seats if seat.owner is job]
            for seat in held:
                seat.is_closing |= job.num_open > 0
            self._free(held)

    def _free(self, seats: list["_Seat"]) -> None:
        doomed = [seat.worker for seat in seats if seat.is_closing]
        for seat in seats:
            seat.owner, seat.worker, seat.is_closing = None, None if seat.is_closing else seat.worker, False
        self._changed.notify_all()
        _kill_all(doomed)


class _Seat:
    """A place for one process, and who has it."""

    def __init__(self) -> None:
        self.worker: WorkerProcess | None = None
        self.owner: _Job | None = None
        self.num_sent = 0  # calls since the owner took it
        self.is_closing = False


class _Job:
    """The calls of one `map`, and the seats that it holds."""

    def __init__(self, order: Order, requests: list[bytes]) -> None:
        self._order = order
        self._requests = requests
        self._suspects: set[int] = set()  # calls that were in work when a process ended
        self._num_failed_starts = 0
        self._settled_at = time.monotonic()  # when the last process was ready
        self.queue = deque(range(len(requests)))
        self.replies: list[Reply | None] = [None] * len(requests)
        self.num_open = len(requests)
        self.seats: list[_Seat] = []

    def wants(self, seat: _Seat) -> bool:
        """Whether one more seat is of use: always where a process waits, and else if that is worth a start."""
        if len(self.queue) <= sum(each.worker is None or not each.worker.calls for each in self.seats):
            return False
        is_starting = any(each.worker is None or not each.worker.is_ready for each in self.seats)
        is_late = not is_starting and time.monotonic() > self._settled_at + PATIENCE_S
        return seat.worker is not None or is_late or len(self.queue) > CALLS_PER_START * len(self.seats)

    def is_done_with(self, seat: _Seat, *, is_contested: bool) -> bool:
        """Whether a seat is idle, and nothing waits for it or it had its turn while another thread waits."""
        is_idle = seat.worker is None or not seat.worker.calls
        return is_idle and (not self.queue or (is_contested and seat.num_sent >= TURN))

    def take(self, seat: _Seat) -> None:
        seat.owner, seat.num_sent = self, 0
        self.seats.append(seat)
        if seat.worker is not None and seat.worker.has_ended:  # killed while idle: no call is to blame
            self._end(seat)

    def send(self, *, is_contested: bool) -> None:
        """Start processes where there are none, and give each something to do."""
        for seat in self.seats:
            if seat.worker is None and self.queue:
                seat.worker = self._start()
            worker = seat.worker
            if worker is None:
                continue
            room = min(WINDOW, max(1, len(self.queue) // (2 * len(self.seats))))
            while self.queue and worker.is_ready and len(worker.calls) < room:
                if is_contested and seat.num_sent >= TURN:
                    break
                number = self.queue.popleft()
                worker.send(number, self._requests[number])
                seat.num_sent += 1
            worker.flush()

    def receive(self) -> None:
        """Wait until something happens, and take note of it."""
        poll = select.poll()
        workers = [seat.worker for seat in self.seats if seat.worker is not None]
        for worker in workers:
            poll.register(worker.replies, select.POLLIN)
            if worker.has_unsent:
                poll.register(worker.requests, select.POLLOUT)
        now = time.monotonic()
        left_s = min((worker.expires_at - now for worker in workers), default=0.0)
        events = {number for number, _ in poll.poll(math.ceil(1000 * min(max(left_s, 0.0), _LONGEST_POLL_S)))}
        for seat in self.seats:
            if seat.worker is None:
                continue
            if seat.worker.replies in events:
                self._read(seat)
            elif now >= seat.worker.expires_at:  # before the wait: what was there has been read, however late we are
                self._expire(seat)

    def _start(self) -> WorkerProcess:
        try:
            return WorkerProcess(self._order)
        except OSError as error:
            raise _failed_start(str(error)) from error

    def _read(self, seat: _Seat) -> None:
        worker = seat.worker
        try:
            for line in worker.read():
                answer = worker.accept(line)
                if answer.number == START:
                    self._note_start(answer)
                elif answer.status == "memory":
                    self._end(seat)
                    self._suspect(answer.number, "memory", f"more than {self._order.memory_mib} MiB of memory")
                    return
                else:
                    self._settle(answer.number, Reply(answer.status, answer.value, answer.detail, answer.seconds))
        except EOFError:
            self._note_end(seat, "")
        except NotAReplyError:
            self._note_end(seat, "it sent something that is not a reply")

    def _note_start(self, answer: Answer) -> None:
        if answer.status != "ok":
            raise _failed_start(answer.detail)
        self._settled_at = time.monotonic()

    def _note_end(self, seat: _Seat, cause: str) -> None:
        """A process ended by itself: at a deadline, for a reason of its own, or because somebody killed it."""
        was_ready = seat.worker.is_ready
        code, number = self._end(seat)
        if not was_ready:
            self._num_failed_starts += 1
            if self._num_failed_starts >= MAX_FAILED_STARTS:
                raise _failed_start(f"it ended ({cause or describe_end(code)})")
        elif number is None:
            pass  # it had nothing to do
        elif code in (-SIGPROF, -SIGALRM):
            deadline_s = self._order.deadline_s
            detail = f"no verdict within {deadline_s:g} s"
            self._settle(number, Reply("timeout", detail=detail, seconds=deadline_s))
        else:
            self._suspect(number, "died", f"the grading process ended twice: {cause or describe_end(code)}")

    def _expire(self, seat: _Seat) -> None:
        """A process has said nothing for too long."""
        if not seat.worker.is_ready:
            raise _failed_start(f"no sign of life within {START_DEADLINE_S:g} s")
        wall_s = self._order.wall_s
        _, number = self._end(seat)
        self._settle(number, Reply("timeout", detail=f"no verdict within {wall_s:g} s by the clock", seconds=wall_s))

    def _end(self, seat: _Seat) -> tuple[int, int | None]:
        """End a process. The call in work is the caller's to judge, the others are innocent and wait again."""
        worker, seat.worker = seat.worker, None
        code = worker.kill()
        number = worker.calls.popleft() if worker.calls else None
        self.queue.extendleft(reversed(worker.calls))
        return code, number

    def _suspect(self, number: int, status: Status, detail: str) -> None:
        """Judge a call the second time it is seen at the end of a process."""
        if number in self._suspects:
            self._settle(number, Reply(status, detail=detail))
        else:
            self._suspects.add(number)
            self.queue.appendleft(number)

    def _settle(self, number: int, reply: Reply) -> None:
        self.replies[number] = reply
        self.num_open -= 1
        self._num_failed_starts = 0  # some process works, so the others will


def _failed_start(reason: str) -> RewardError:
    return RewardError(f"the process that grades answers could not be started: {reason}.")


def _kill_all(workers: Sequence[WorkerProcess | None]) -> None:
    for worker in workers:
        if worker is not None:
            worker.kill()


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


def _forget_all() -> None:
    for pool in list(_POOLS):
        pool._forget()


os.register_at_fork(after_in_child=_forget_all)
