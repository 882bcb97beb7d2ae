"""One process in which a function is called: the handle its owner has, and what runs inside.

The process is a fresh interpreter that imports only the function it is given. It keeps its own deadlines by timers of
the kernel whose default action ends it even in the middle of C code, and its own memory limit; an owner that dies
leaves nothing behind. Requests travel as pickles; replies as lines of JSON, because they may come from a process in
which a model's text was executed.
"""

import importlib
import json
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

# Importing a grader takes a second or four; on a machine that is swapping it may take a minute.
START_DEADLINE_S = 120.0

# The process ends itself this long after the deadline on the wall, in case its owner was killed while it worked.
ORPHAN_GRACE_S = 2.0

MAX_REPLY_BYTES = 1 << 20
MAX_DETAIL_CHARS = 300

# -P and the parent's own path: a file called json.py in the current folder is not picked up by accident.
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from ngrpo.rewards.worker import serve; serve()"

# Hashes decide the order of sets, and with it what a grader does first: the same text gets the same verdict in every
# process. Threads of a library would be counted as the call's own time.
_SURROUNDINGS = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}

_HEADER = struct.Struct(">IQ")  # length of the pickle, number of the call

START = 2**64 - 1
"""The number of what is no call: the order, and the reply that the function is there."""

Status = Literal["ok", "raised", "timeout", "memory", "died"]


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker process is told first.

    Attributes:
        module: Where the factory is.
        name: Its name there.
        args: Its arguments.
        deadline_s: Processor time of a call.
        wall_s: Seconds of a call by the clock on the wall.
        memory_mib: Memory the process may take beyond what it holds when the factory is done.
    """

    module: str
    name: str
    args: tuple
    deadline_s: float
    wall_s: float
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker process sent back.

    Attributes:
        number: The call, or `START`.
        status: `ok`, `raised` or `memory`.
        value: What the function returned, when `ok`.
        detail: The exception otherwise.
        seconds: Processor time it took.
    """

    number: int
    status: Status
    value: Any
    detail: str
    seconds: float


class NotAReplyError(Exception):
    """A worker process sent something that it never sends by itself."""


class WorkerProcess:
    """The owner's handle of one worker process. Nothing here waits, except `kill` for the end of a killed process.

    Attributes:
        calls: Numbers of the calls that were sent and not answered, the first of them in work.
        is_ready: Whether the factory is done.
        expires_at: When by `time.monotonic` the process has to have said something.

    Raises:
        OSError: The interpreter cannot be started.
    """

    def __init__(self, order: Order) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, **_SURROUNDINGS},
            start_new_session=True,  # Ctrl-C in the terminal is the owner's to handle
        )
        self._finalizer = weakref.finalize(self, _kill, self._process)
        self.pid = self._process.pid
        self.requests, self.replies = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self.requests, False)
        os.set_blocking(self.replies, False)
        self.calls: deque[int] = deque()
        self.is_ready = False
        self.expires_at = time.monotonic() + START_DEADLINE_S
        self._wall_s = order.wall_s
        self._received = b""
        self._unsent = bytearray(_frame(START, pickle.dumps(order)))

    @property
    def has_ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.poll() is not None

    @property
    def has_unsent(self) -> bool:
        """Whether `flush` has something left to do."""
        return bool(self._unsent)

    def send(self, number: int, request: bytes) -> None:
        """Queue a call: its number, and its arguments pickled. `flush` sends it."""
        self.calls.append(number)
        self._unsent += _frame(number, request)
        if len(self.calls) == 1:
            self._expect_reply()

    def flush(self) -> None:
        """Write what the pipe takes now."""
        try:
            while self._unsent:
                del self._unsent[: os.write(self.requests, self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # it has ended; its last replies are still to be read
            self._unsent.clear()

    def read(self) -> list[bytes]:
        """Read the complete replies that are there.

        Raises:
            EOFError: The process has ended.
            NotAReplyError: It sent something too long for a reply.
        """
        try:
            chunk = os.read(self.replies, 1 << 16)
        except BlockingIOError:
            return []
        if not chunk:
            raise EOFError
        *lines, self._received = (self._received + chunk).split(b"\n")
        if len(self._received) > MAX_REPLY_BYTES:
            raise NotAReplyError
        return lines

    def accept(self, line: bytes) -> Answer:
        """Parse a reply, and note that its call is done.

        Raises:
            NotAReplyError: It is none, or not to the call in work.
        """
        answer = _parse(line)
        awaited = self.calls[0] if self.calls else None
        if answer.number != (awaited if self.is_ready else START):
            raise NotAReplyError
        if answer.number == START:
            self.is_ready = True
        elif answer.status != "memory":  # then the call stays what the process was at when it ended
            self.calls.popleft()
        self._expect_reply()
        return answer

    def kill(self) -> int:
        """End the process and everything it started.

        Returns:
            Its exit code as `subprocess` has it: how it ended, if it had ended by itself.
        """
        code = self._finalizer()
        return self._process.returncode if code is None else code

    def abandon(self) -> None:
        """In a fork of the owner: let go of the pipes and leave the process alone, which is the parent's."""
        self._process.returncode = 0  # so nobody here looks for it, or kills it
        self._finalizer()

    def _expect_reply(self) -> None:
        self.expires_at = time.monotonic() + self._wall_s if self.calls else float("inf")


def _frame(number: int, payload: bytes) -> bytes:
    return _HEADER.pack(len(payload), number) + payload


def _parse(line: bytes) -> Answer:
    try:
        answer = Answer(*json.loads(line))
    except (TypeError, ValueError, RecursionError) as error:
        raise NotAReplyError from error
    is_sound = isinstance(answer.detail, str) and isinstance(answer.seconds, float)
    if not is_sound or answer.status not in ("ok", "raised", "memory"):
        raise NotAReplyError
    return answer


def _kill(process: subprocess.Popen[bytes]) -> int:
    """Kill a worker with everything it started; the exit code."""
    if process.returncode is None:  # not collected, so nobody else can have its number
        with suppress(ProcessLookupError, PermissionError):  # macOS says so of a group of the dead
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    process.stdin.close()
    process.stdout.close()
    return process.wait()


def describe_end(code: int) -> str:
    """Name an exit code, as `subprocess` has them.

    Example:
        >>> describe_end(3), describe_end(-11)
        ('exit status 3', 'SIGSEGV')
    """
    try:
        return f"exit status {code}" if code >= 0 else signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


# What runs in the process.


def serve() -> None:
    """Be the worker: read the order, then answer requests until the owner closes the pipe."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)  # what a scorer prints must not end up between the replies
    _let_timers_kill()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    own_pid, functions = os.getpid(), []
    _, payload = _read_frame(requests) or (START, b"")
    order: Order = pickle.loads(payload)

    def prepare() -> None:
        functions.append(getattr(importlib.import_module(order.module), order.name)(*order.args))
        _limit_memory(order.memory_mib)

    replies.write(_answer(START, prepare))
    replies.flush()
    while functions and (frame := _read_frame(requests)) is not None:
        number, payload = frame
        signal.setitimer(signal.ITIMER_REAL, order.wall_s + ORPHAN_GRACE_S)
        signal.setitimer(signal.ITIMER_PROF, order.deadline_s)
        line = _answer(number, lambda payload=payload: functions[0](*pickle.loads(payload)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if os.getpid() != own_pid:
            os._exit(0)  # the call forked: one process answers, not two
        replies.write(line)
        replies.flush()


def _let_timers_kill() -> None:
    """Undo what the owner may have set: ignored and blocked signals are inherited."""
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _limit_memory(memory_mib: int) -> None:
    """Allow so much more than is held now. What is held depends on libraries and cores; a verdict must not.

    Counted are the private pages that can be written, as RLIMIT_DATA counts since Linux 4.7. macOS keeps no such limit.
    """
    if sys.platform != "linux":
        return
    held_pages = int(Path("/proc/self/statm").read_text().split()[5])
    _, hard_limit = resource.getrlimit(resource.RLIMIT_DATA)
    limit = held_pages * resource.getpagesize() + (memory_mib << 20)
    limit = limit if hard_limit == resource.RLIM_INFINITY else min(limit, hard_limit)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _read_frame(stream: BinaryIO) -> tuple[int, bytes] | None:
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    length, number = _HEADER.unpack(header)
    return number, stream.read(length)


def _answer(number: int, function: Callable[[], Any]) -> bytes:
    """Call, and make the line that says what came of it."""
    began_s = time.thread_time()  # that of the process moves in ticks while its timer runs
    try:
        status, detail, value = "ok", "", json.dumps(function())
        if len(value) > MAX_REPLY_BYTES // 2:
            raise ValueError(f"the result takes {len(value)} bytes, more than {MAX_REPLY_BYTES // 2}")
    except MemoryError as error:
        status, detail, value = "memory", describe(error), "null"
    except BaseException as error:  # noqa: BLE001  graded text may raise anything, SystemExit included
        status, detail, value = "raised", describe(error), "null"
    seconds = time.thread_time() - began_s
    return f'[{number}, "{status}", {value}, {json.dumps(detail)}, {seconds:.6f}]\n'.encode()


def describe(error: BaseException) -> str:
    """Name an exception in one short line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001  an exception may fail to print itself
        text = ""
    return f"{type(error).__name__}: {text}"[:MAX_DETAIL_CHARS] if text else type(error).__name__
