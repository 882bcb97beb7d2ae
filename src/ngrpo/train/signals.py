"""SIGINT and SIGTERM as a request to stop where nothing is lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from ngrpo.record import console


class StopRequest:
    """Whether somebody asked the run to stop.

    Attributes:
        signal_name: The signal that asked, None before any.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __call__(self) -> bool:
        """True once asked."""
        return self.signal_name is not None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns the first SIGINT or SIGTERM into a request; a second SIGINT stops at once.

    Outside the main thread, where Python sets no handlers, nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, _: FrameType | None) -> None:
        if request.signal_name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal_name = signal.Signals(number).name
        # A handler may interrupt a write to the very stream; Python refuses to enter that again.
        with contextlib.suppress(RuntimeError):
            console().print(f"{request.signal_name}: saving, then leaving. Ctrl-C again leaves at once.")

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
