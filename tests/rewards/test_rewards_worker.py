"""The worker is driven with functions of the standard library: another process can import those."""

import functools
import operator
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ngrpo.errors import RewardError
from ngrpo.rewards import worker as worker_module
from ngrpo.rewards.worker import Reply, Worker, describe


def evaluating(deadline_s=10.0):
    """A worker that evaluates Python: the worst a scorer can do."""
    return Worker(functools.partial, args=(eval,), deadline_s=deadline_s)


@pytest.fixture(scope="module")
def shared():
    worker = evaluating()
    worker.call("1")  # started, whichever test comes first
    yield worker
    worker.close()


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition, limit_s=10.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_a_call_returns_the_value(shared):
    assert shared.call("[1, 'two', 3.5, None]") == Reply("ok", [1, "two", 3.5, None])


def test_an_exception_is_a_reply(shared):
    assert shared.call("1 / 0") == Reply("raised", None, "ZeroDivisionError: division by zero")


def test_exit_and_interrupt_are_replies_too(shared):
    pid = shared.pid
    assert shared.call("exit()").status == "raised"
    assert shared.call("(_ for _ in ()).throw(KeyboardInterrupt)").status == "raised"
    assert shared.pid == pid


def test_a_value_that_json_cannot_carry_is_an_exception(shared):
    assert shared.call("object()").detail.startswith("TypeError")


def test_printing_does_not_get_between_the_replies(shared):
    assert shared.call("print('x' * 100000) or __import__('os').system('echo hello') or 5").value == 5


def test_any_text_gets_there_and_back(shared):
    text = "\x00 \u200f \ud800 \U0001f600 " + "9" * 100_000
    assert shared.call(repr(text)).value == text


def test_nothing_of_the_parent_is_imported(shared):
    assert shared.call("'pytest' in __import__('sys').modules").value is False


def test_the_deadline_is_met_and_the_next_call_works():
    worker = evaluating(deadline_s=0.5)
    worker.call("1")  # started: a start does not count
    pid, began = worker.pid, time.monotonic()
    assert worker.call("__import__('time').sleep(60)") == Reply("timeout", None, "no verdict within 0.5 s")
    assert 0.5 <= time.monotonic() - began < 2.0
    wait_until(lambda: not is_alive(pid))
    assert worker.call("2 + 2").value == 4
    worker.close()


def test_the_deadline_is_met_by_code_that_looks_at_no_signal():
    worker = evaluating(deadline_s=0.5)
    assert worker.call("10 ** 10 ** 9").status == "timeout"
    worker.close()


def test_a_call_that_ends_the_process_is_tried_twice_and_reported(tmp_path):
    worker = evaluating()
    diary = tmp_path / "diary"
    reply = worker.call(f"open({str(diary)!r}, 'a').write('x') and __import__('os')._exit(3)")
    assert reply.status == "died"
    assert reply.detail == "the grading process ended: it closed its pipe"
    assert diary.read_text() == "xx"
    assert worker.call("7").value == 7
    worker.close()


def test_a_worker_killed_while_idle_is_replaced(shared):
    shared.call("1")
    pid = shared.pid
    os.kill(pid, signal.SIGKILL)
    assert shared.call("1 + 1") == Reply("ok", 2)
    assert shared.pid != pid


def test_a_worker_killed_in_the_middle_still_answers(shared):
    shared.call("1")
    killer = threading.Timer(0.3, os.kill, (shared.pid, signal.SIGKILL))
    killer.start()
    assert shared.call("__import__('time').sleep(0.8) or 7") == Reply("ok", 7)
    killer.join()


def test_rubbish_on_the_pipe_is_not_a_reply():
    worker = Worker(functools.partial, args=(exec,), deadline_s=5.0)
    rubbish = "import os\nfor fd in range(3, 9):\n try: os.write(fd, b'\\xff' * 50)\n except OSError: pass"
    assert worker.call(rubbish).status == "died"
    forged = rubbish.replace("b'\\xff' * 50", "b'\\x00\\x00\\x00\\x03[1]'")
    assert worker.call(forged).detail.endswith("not a reply")
    assert worker.call("pass").status == "ok"
    worker.close()


def test_threads_get_their_own_answers(shared):
    with ThreadPoolExecutor(8) as pool:
        assert [reply.value for reply in pool.map(shared.call, map(str, range(100)))] == list(range(100))


def test_interrupting_a_call_leaves_the_worker_usable(shared):
    shared.call("1")
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        shared.call("__import__('time').sleep(5) or 'late'")
    timer.join()
    assert shared.call("'next'").value == "next"


def test_a_factory_that_fails_says_why():
    worker = Worker(operator.itemgetter, deadline_s=1.0)  # itemgetter() wants an argument
    with pytest.raises(RewardError, match=r"could not be started: TypeError: .*itemgetter"):
        worker.call(1)
    assert worker.pid is None


def test_an_interpreter_that_fails_says_so(monkeypatch):
    for executable in (shutil.which("false"), "/no/such/python"):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(RewardError, match="could not be started: "):
            evaluating().call("1")


def test_a_start_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(worker_module, "START_DEADLINE_S", 0.3)
    worker = Worker(time.sleep, args=(30,), deadline_s=1.0)
    with pytest.raises(RewardError, match=r"no sign of life within 0\.3 s"):
        worker.call()


def test_functions_that_cannot_be_imported_are_refused():
    with pytest.raises(ValueError, match="define it in a module"):
        Worker(lambda: len, deadline_s=1.0)


def test_close_ends_the_process_and_may_be_repeated():
    worker = evaluating()
    worker.close()
    worker.call("1")
    pid = worker.pid
    worker.close()
    worker.close()
    assert worker.pid is None
    assert not is_alive(pid)
    assert worker.call("3").value == 3
    worker.close()


def test_a_forgotten_worker_is_ended():
    worker = evaluating()
    worker.call("1")
    pid = worker.pid
    del worker
    assert not is_alive(pid)


def run_script(script, **kwargs):
    return subprocess.run(
        [sys.executable, "-"],
        check=False,
        input=textwrap.dedent(script),
        capture_output=True,
        text=True,
        timeout=60,
        **kwargs,
    )


def test_a_script_from_standard_input_needs_no_main_guard():
    done = run_script(
        """
        print("once")
        from ngrpo.rewards.math import grade
        print(grade(r"\\\\boxed{1+x}", "x+1").correct)
        """,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.stdout, done.stderr) == ("once\nTrue\n", "")


def test_a_fork_does_not_disturb_its_parent():
    done = run_script(
        """
        import functools, os, sys
        from ngrpo.rewards.worker import Worker
        worker = Worker(functools.partial, args=(eval,), deadline_s=10.0)
        before = worker.call("__import__('os').getpid()").value
        child = os.fork()
        in_fork = worker.call("__import__('os').getpid()").value
        if child == 0:
            sys.exit(0 if in_fork != before else 1)
        print(in_fork == before, os.waitpid(child, 0)[1], worker.call("5").value, worker.pid == before)
        """,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == "True 0 5 True\n", done.stderr


@pytest.mark.parametrize("request_text", ["1", "__import__('time').sleep(30)"])
def test_a_worker_does_not_outlive_a_killed_parent(request_text, tmp_path):
    pid_file = tmp_path / "pid"
    script = f"""
        import functools, os, threading, time
        from ngrpo.rewards.worker import Worker
        worker = Worker(functools.partial, args=(eval,), deadline_s=0.9)
        worker.call("1")
        threading.Timer(0.3, os.kill, (os.getpid(), 9)).start()
        open({str(pid_file)!r}, "w").write(str(worker.pid))
        worker.call({request_text!r})
        time.sleep(30)
        """
    run_script(script, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    # Idle, it sees the pipe close. Busy, its alarm goes off: deadline (rounded up) and grace together are 3 s.
    wait_until(lambda: not is_running(int(pid_file.read_text())), limit_s=10.0)


def is_running(pid):
    """Alive and no zombie: in a container nobody may collect an orphan."""
    listing = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True)
    state = listing.stdout.strip()
    return state != "" and not state.startswith("Z")


def test_describe_is_short_and_survives_exceptions_that_cannot_be_printed():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    assert describe(Mute()) == "Mute"
    assert describe(ValueError()) == "ValueError"
    assert describe(ValueError("a\n  b")) == "ValueError: a b"
    assert len(describe(ValueError("x" * 10_000))) == worker_module.MAX_DETAIL_CHARS
