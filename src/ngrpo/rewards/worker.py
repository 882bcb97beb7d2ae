"""One process that can be killed, and a hard deadline for every call made in it.

Graders meet text that makes them run for ever, eat the stack or leave the interpreter. Signals do not help: they need
the main thread, and arithmetic on huge integers does not look at them. A process does: past the deadline it is killed
and the next call starts another.

The process is a fresh interpreter that imports only the function it is given, not the program that uses it: scripts
need no `if __name__ == "__main__"`, and nothing of CUDA or of other threads is inherited. Requests travel as pickles,
replies as JSON, because a reply may come from a process in which a model's text was executed.
"""

import importlib
import json
import math
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from ngrpo.errors import RewardError

# Importing a grader takes a second or four; on a machine that is swapping it may take a minute.
START_DEADLINE_S = 120.0

# The worker ends itself this long after a deadline, in case the parent was killed while it computed.
ORPHAN_GRACE_S = 2

MAX_REPLY_BYTES = 1 << 20
MAX_DETAIL_CHARS = 300

# -P and the parent's own path: a file called json.py in the current folder is not picked up by accident.
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from ngrpo.rewards.worker import serve; serve()"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one call.

    Attributes:
        status: `ok`; `raised`; `timeout` (killed at the deadline); `died` (the process ended, twice).
        value: What the function returned, when `ok`.
        detail: The exception, or how it ended, otherwise.
    """

    status: Literal["ok", "raised", "timeout", "died"]
    value: Any = None
    detail: str = ""


class Worker:
    """A function in a process of its own, one call at a time. Started by the first call; safe to call from threads.

    Args:
        factory: A module-level function, called once in the process; what it returns is the function that `call`
            calls. Imports and warm-up belong into the factory: they do not count against the deadline.
        args: Arguments of the factory; they are pickled.
        deadline_s: Wall-clock seconds for each call.

    Example:
        >>> import operator
        >>> worker = Worker(operator.attrgetter, args=("real",), deadline_s=10.0)
        >>> worker.call(3).value
        3
        >>> worker.close()
    """

    def __init__(self, factory: Callable[..., Callable[..., Any]], *, args: tuple = (), deadline_s: float) -> None:
        if factory.__module__ == "__main__" or "<" in factory.__qualname__:
            raise ValueError(f"{factory.__qualname__!r} cannot be imported by another process: define it in a module.")
        self._order = pickle.dumps((factory.__module__, factory.__qualname__, args, deadline_s))
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the worker, or None when none runs. In a fork of the process that started it: none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def call(self, *args: Any) -> Reply:
        """Call the function in the worker.

        Args:
            *args: Its arguments; they are pickled.

        Returns:
            The reply, at the deadline at the latest (not counting a start of the process, and waiting for calls of
            other threads). A worker found dead is replaced, and the call is made once more: whether the call killed
            it or somebody else did cannot be told.

        Raises:
            RewardError: The process does not start, or the factory fails in it.
        """
        request = pickle.dumps(args)
        with self._lock:
            reply = self._call_once(request)
            return self._call_once(request) if reply.status == "died" else reply

    def close(self) -> None:
        """Kill the process, if one runs. The next call starts another."""
        with self._lock:
            self._stop()

    def _call_once(self, request: bytes) -> Reply:
        if self.pid is None:
            self._start()
        try:
            deadline = time.monotonic() + self._deadline_s
            self._send(request, deadline)
            return _parse_reply(self._receive(deadline))
        except TimeoutError:
            self._stop()
            return Reply("timeout", detail=f"no verdict within {self._deadline_s:g} s")
        except (OSError, ValueError) as error:
            self._stop()
            return Reply("died", detail=f"the grading process ended: {error}")
        except BaseException:  # Ctrl-C: half a message may be on the pipe
            self._stop()
            raise

    def _start(self) -> None:
        self._stop()
        deadline = time.monotonic() + START_DEADLINE_S
        try:
            self._spawn()
            self._send(self._order, deadline)
            reply = _parse_reply(self._receive(deadline))
        except (OSError, ValueError) as error:
            reply = Reply("died", detail=str(error) or f"no sign of life within {START_DEADLINE_S:g} s")
        except BaseException:
            self._stop()
            raise
        if reply.status != "ok":
            self._stop()
            raise RewardError(f"the process that grades answers could not be started: {reply.detail}.")

    def _spawn(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal is the parent's to handle
        )
        self._process = process
        self._finalizer = weakref.finalize(self, _kill, process)
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)

    def _stop(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._process, self._finalizer = None, None

    def _send(self, payload: bytes, deadline: float) -> None:
        descriptor = self._process.stdin.fileno()
        rest = memoryview(_frame(payload))
        while rest:
            _wait(descriptor, select.POLLOUT, deadline)
            rest = rest[os.write(descriptor, rest) :]

    def _receive(self, deadline: float) -> bytes:
        (length,) = struct.unpack(">I", self._read(4, deadline))
        if length > MAX_REPLY_BYTES:
            raise ValueError(f"it sent a reply of {length} bytes")
        return self._read(length, deadline)

    def _read(self, count: int, deadline: float) -> bytes:
        descriptor, data = self._process.stdout.fileno(), b""
        while len(data) < count:
            _wait(descriptor, select.POLLIN, deadline)
            chunk = os.read(descriptor, count - len(data))
            if not chunk:
                raise ConnectionError("it closed its pipe")
            data += chunk
        return data


def _wait(descriptor: int, event: int, deadline: float) -> None:
    """Wait until the pipe can be read or written; TimeoutError at the deadline. A closed pipe counts as ready."""
    poll = select.poll()
    poll.register(descriptor, event)
    left_s = deadline - time.monotonic()
    if left_s <= 0 or not poll.poll(math.ceil(left_s * 1000)):
        raise TimeoutError


def _frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def _parse_reply(payload: bytes) -> Reply:
    """Read a reply; ValueError when it is not one."""
    fields = json.loads(payload)
    if not isinstance(fields, list) or len(fields) != 3 or fields[0] not in ("ok", "raised"):
        raise ValueError("it sent something that is not a reply")
    return Reply(*fields)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a worker with everything it started. In a fork poll() finds no such child, and nothing is killed."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # ended since; macOS says so with EPERM
            process.kill()
    process.stdin.close()
    process.stdout.close()
    process.wait()


def serve() -> None:
    """Be the worker: read the order, then answer requests until the parent closes the pipe."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)  # what a scorer prints must not end up between the replies
    module, name, args, deadline_s = pickle.loads(_read_frame(requests) or b"")
    function: Callable[..., Any] | None = None

    def prepare() -> None:
        nonlocal function
        function = getattr(importlib.import_module(module), name)(*args)

    replies.write(_run(prepare))
    replies.flush()
    while function is not None and (request := _read_frame(requests)) is not None:
        # Without a handler SIGALRM ends the process even in the middle of C code.
        signal.alarm(math.ceil(deadline_s) + ORPHAN_GRACE_S)
        replies.write(_run(function, *pickle.loads(request)))
        signal.alarm(0)
        replies.flush()


def _read_frame(stream: BinaryIO) -> bytes | None:
    header = stream.read(4)
    return stream.read(struct.unpack(">I", header)[0]) if len(header) == 4 else None


def _run(function: Callable[..., Any], *args: Any) -> bytes:
    """Call, and frame what came of it."""
    try:
        return _frame(json.dumps(["ok", function(*args), ""]).encode())
    except BaseException as error:  # noqa: BLE001  graded text may raise anything, SystemExit included
        return _frame(json.dumps(["raised", None, describe(error)]).encode())


def describe(error: BaseException) -> str:
    """Name an exception in one short line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001  an exception may fail to print itself
        text = ""
    return f"{type(error).__name__}: {text}"[:MAX_DETAIL_CHARS] if text else type(error).__name__
