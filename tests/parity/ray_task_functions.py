"""Tasks of the tests, in a module that worker processes import."""

import os
import signal
import threading
import time
from pathlib import Path

from ngrpo.errors import Interrupted
from ngrpo.policy import load_tokenizer
from ngrpo.train.signals import stop_on_signals


def write(report, folder):
    """Leaves a file, and reports twice."""
    report("files", 1)
    Path(folder, f"{os.getpid()}-{time.monotonic_ns()}").touch()
    report("steps", 2)


def count_stoppers(report, folder):
    """Reports how many threads of this process wait to be asked to stop, once those of before had time to end."""
    until = time.monotonic() + 5.0
    while (count := sum(each.name == "stop" for each in threading.enumerate())) > 1 and time.monotonic() < until:
        time.sleep(0.05)
    report("stoppers", count)
    report("processes", not Path(folder, str(os.getpid())).exists())
    Path(folder, str(os.getpid())).touch()


def die_once(report, folder):
    """Is killed the first time, and goes on the second."""
    report("tries", 1)
    begun = Path(folder, "begun")
    if not begun.exists():
        begun.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    Path(folder, "ended").write_text(os.getcwd())


def die(report, folder):
    """Is killed each time."""
    Path(folder, f"{time.monotonic_ns()}").touch()
    os.kill(os.getpid(), signal.SIGKILL)


def stop_once(report, folder):
    """Is asked to stop the first time, as by a signal from elsewhere, and goes on the second."""
    begun = Path(folder, "begun")
    if not begun.exists():
        begun.touch()
        raise Interrupted("SIGTERM: saved")
    Path(folder, "ended").touch()


def fail_beside(report, folder):
    """Fails as soon as another task has begun."""
    while not Path(folder, "begun").exists():
        time.sleep(0.05)
    raise ValueError(f"no luck in {Path(folder).name}")


def miss_the_model(report, folder):
    """Reads a model that is not there."""
    load_tokenizer("/nowhere/to/be/found")


def wait_for_stop(report, folder):
    """Runs until it is asked to stop, as a training run does, and saves."""
    with stop_on_signals() as should_stop:
        Path(folder, "begun").touch()
        report("begun", 1)
        until = time.monotonic() + 60.0
        while not should_stop() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(5.0)  # saving takes its time
        Path(folder, "saved" if should_stop() else "late").touch()
