import os
import signal
import threading
import time

import pytest

from ngrpo.errors import Interrupted, NgrpoError
from ngrpo.lab.parallel import Task, run_tasks


def count_up(report, argument):
    for _ in range(argument):
        report("counted", 1)


def fail(report, argument):
    raise ValueError(f"no {argument}")


def die(report, argument):
    os._exit(9)


def stop(report, argument):
    raise Interrupted("asked to stop")


def sleep(report, argument):
    report("started", 1)
    time.sleep(argument)


def test_every_task_runs_once_and_reports():
    totals: dict[str, int] = {}

    def report(counter, count):
        totals[counter] = totals.get(counter, 0) + count

    run_tasks([Task(f"t{number}", count_up, number) for number in range(1, 6)], num_processes=2, report=report)
    assert totals == {"counted": 1 + 2 + 3 + 4 + 5}


def test_a_failing_task_is_named_with_its_error():
    with pytest.raises(NgrpoError, match="the bad one: ValueError: no luck"):
        run_tasks([Task("the bad one", fail, "luck")], num_processes=1, report=lambda *_: None)


def test_a_worker_that_dies_without_a_word_is_noticed():
    with pytest.raises(NgrpoError, match="died with exit code 9"):
        run_tasks([Task("t", die, None)], num_processes=1, report=lambda *_: None)


def test_workers_that_all_ended_too_soon_are_noticed():
    """Asked to stop one by one, and not through this process."""
    with pytest.raises(NgrpoError, match="2 of 2 tasks are not done"):
        run_tasks([Task("t", stop, None)] * 2, num_processes=2, report=lambda *_: None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_every_worker(number):
    begun = threading.Event()

    def interrupt():
        begun.wait(60)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    started = time.perf_counter()
    with pytest.raises(Interrupted):
        run_tasks([Task("t", sleep, 300)] * 2, num_processes=2, report=lambda *_: begun.set())
    thread.join()
    assert time.perf_counter() - started < 60
