"""What one call may do to the process that it is made in."""

import functools
import pickle
import select
import signal
import sys
import time

import pytest

from ngrpo.rewards import pool as pool_module
from ngrpo.rewards import worker as worker_module
from ngrpo.rewards.pool import Pool, Reply
from ngrpo.rewards.worker import describe, describe_end
from pool_helpers import SLEEP, SPIN, ask, evaluating, is_running, values, wait_until


@pytest.fixture(scope="module")
def shared():
    pool = evaluating(num_workers=2)
    yield pool
    pool.close()


@pytest.fixture
def pool():
    pool = evaluating(deadline_s=0.3, num_workers=1)
    yield pool
    pool.close()


@pytest.fixture
def impatient(monkeypatch):
    """The deadline by the clock is not far behind the one by the processor."""
    monkeypatch.setattr(pool_module, "WALL_EXTRA_S", 0.0)
    monkeypatch.setattr(pool_module, "WALL_FACTOR", 2.0)


def test_every_call_has_a_reply_in_order(shared):
    assert ask(shared) == []
    replies = ask(shared, "[1, 'two', 3.5, None]", "1 / 0", "5")
    assert [(reply.status, reply.value, reply.detail) for reply in replies] == [
        ("ok", [1, "two", 3.5, None], ""),
        ("raised", None, "ZeroDivisionError: division by zero"),
        ("ok", 5, ""),
    ]
    assert values(ask(shared, *map(str, range(500)))) == list(range(500))


def test_the_time_is_the_processors(shared):
    assert all(0.0 < reply.seconds < 2.0 for reply in ask(shared, *["sum(range(10_000))"] * 20))
    assert ask(shared, "__import__('time').sleep(0.3)")[0].seconds < 0.1


def test_exit_and_interrupt_are_replies_too(shared):
    ask(shared, "1")
    pids = shared.pids
    assert [reply.detail for reply in ask(shared, "exit()", "(_ for _ in ()).throw(KeyboardInterrupt)")] == [
        "SystemExit: None",
        "KeyboardInterrupt",
    ]
    assert shared.pids == pids


def test_a_value_that_json_cannot_carry_is_an_exception(shared):
    assert ask(shared, "object()")[0].detail.startswith("TypeError")


def test_a_huge_value_is_an_exception(shared):
    detail = "ValueError: the result takes 3000002 bytes, more than 524288"
    assert [(reply.status, reply.detail) for reply in ask(shared, "'x' * 3_000_000", "'x' * 9")] == [
        ("raised", detail),
        ("ok", ""),
    ]


def test_printing_does_not_get_between_the_replies(shared):
    assert ask(shared, "print('x' * 100000) or __import__('os').system('echo hello') or 5")[0].value == 5


def test_any_text_gets_there_and_back(shared):
    text = "\x00 \u200f \ud800 \U0001f600 \n" + "9" * 100_000
    assert values(ask(shared, *[repr(text)] * 20)) == [text] * 20


def test_nothing_of_the_parent_is_imported(shared):
    assert ask(shared, "'pytest' in __import__('sys').modules")[0].value is False


def test_sets_have_one_order_in_every_process(shared, pool):
    listing = "list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})"
    assert ask(shared, listing)[0].value == ask(pool, listing)[0].value


def test_recursion_is_an_exception(shared):
    assert ask(shared, "(lambda f: f(f))(lambda f: f(f))")[0].detail.startswith("RecursionError")


# Deadlines and limits.


@pytest.mark.parametrize("text", [SPIN, "10 ** 10 ** 9", "__import__('os').system('sleep 60 &') or 9 ** 9 ** 9"])
def test_computing_past_the_deadline_is_a_timeout(pool, text):
    ask(pool, "1")
    pids = pool.pids
    assert ask(pool, "1", text, "2") == [
        Reply("ok", 1, "", pytest.approx(0, abs=0.3)),
        Reply("timeout", None, "no verdict within 0.3 s", 0.3),
        Reply("ok", 2, "", pytest.approx(0, abs=0.3)),
    ]
    assert pool.pids != pids
    wait_until(lambda: not is_running(pids[0]))


def test_what_a_call_started_ends_with_its_process(pool):
    (reply,) = ask(pool, "__import__('subprocess').Popen(['sleep', '60']).pid")
    assert is_running(reply.value)
    assert ask(pool, SPIN)[0].status == "timeout"
    wait_until(lambda: not is_running(reply.value))


@pytest.mark.usefixtures("impatient")
def test_sleeping_is_a_timeout_by_the_clock(pool):
    assert [(reply.status, reply.detail) for reply in ask(pool, SLEEP, "2")] == [
        ("timeout", "no verdict within 0.6 s by the clock"),
        ("ok", ""),
    ]


def test_waiting_is_not_computing(pool):
    assert ask(pool, "__import__('time').sleep(0.9) or 7")[0].value == 7  # three times the deadline


def test_a_busy_owner_blames_nobody(pool):
    """Replies that came in time count, however late they are read."""
    ask(pool, "1")
    job = pool_module._Job(pool._order, [pickle.dumps(("3",))])
    job.take(pool._seats[0])
    job.send(is_contested=False)
    worker = pool._seats[0].worker
    wait_until(lambda: select.select([worker.replies], [], [], 0)[0])
    worker.expires_at = time.monotonic() - 100.0
    job.receive()
    assert job.replies[0].value == 3
    pool._give_all_seats(job)


def test_a_library_that_ignores_signals_does_not_disarm_the_deadline():
    before = signal.signal(signal.SIGPROF, signal.SIG_IGN)  # inherited by every process started now
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})
    try:
        pool = evaluating(deadline_s=0.2)
        assert ask(pool, SPIN)[0].detail == "no verdict within 0.2 s"  # not the one by the clock
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
        signal.signal(signal.SIGPROF, before)
    pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="macOS keeps no memory limit")
def test_memory_is_limited():
    pool = evaluating(num_workers=1, memory_mib=64)
    eight_gb, half = "len(bytearray(8 << 30))", "len(bytearray(32 << 20))"
    replies = ask(pool, half, eight_gb, half, "len([[0] * 1000 for _ in range(100_000)])", half)
    assert [reply.status for reply in replies] == ["ok", "memory", "ok", "memory", "ok"]
    assert replies[1].detail == "more than 64 MiB of memory"
    pool.close()


def test_a_call_that_ends_the_process_is_tried_twice_and_reported(tmp_path):
    pool = evaluating(num_workers=1)
    diary = tmp_path / "diary"
    note = f"open({str(diary)!r}, 'a').write('x') and "
    replies = ask(pool, "1", note + "__import__('os')._exit(3)", "2", "__import__('ctypes').string_at(0)", "3")
    assert [(reply.status, reply.value, reply.detail) for reply in replies] == [
        ("ok", 1, ""),
        ("died", None, "the grading process ended twice: exit status 3"),
        ("ok", 2, ""),
        ("died", None, "the grading process ended twice: SIGSEGV"),
        ("ok", 3, ""),
    ]
    assert diary.read_text() == "xx"
    pool.close()


def test_a_call_that_forks_is_answered_once(pool):
    ask(pool, "1")
    pids = pool.pids
    replies = ask(pool, "__import__('os').fork() > 0", *map(str, range(20)))
    assert values(replies) == [True, *range(20)]
    assert pool.pids == pids


def test_rubbish_on_the_pipe_is_not_a_reply():
    pool = Pool(functools.partial, args=(exec,), deadline_s=5.0, num_workers=1)
    rubbish = "import os\nfor fd in range(3, 9):\n try: os.write(fd, {!r})\n except OSError: pass"
    forgeries = [
        b"\xff" * 50 + b"\n",
        b'[7, "ok", 1, "", 0.0]\n',
        b'[1, "fine", 1, "", 0.0]\n',
        b'[1, "ok", 1, "", "0"]\n',
        b"[" * 5000 + b"\n",
    ]
    for forgery in [*forgeries, b'{"number": 1}\n', b"3\n", b"x" * 3_000_000]:
        replies = ask(pool, "pass", rubbish.format(forgery), "pass")
        assert [reply.status for reply in replies] == ["ok", "died", "ok"], forgery[:40]
        assert replies[1].detail == "the grading process ended twice: it sent something that is not a reply"
    pool.close()


def test_describe_is_short_and_survives_exceptions_that_cannot_be_printed():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    assert describe(Mute()) == "Mute"
    assert describe(ValueError()) == "ValueError"
    assert describe(ValueError("a\n  b")) == "ValueError: a b"
    assert len(describe(ValueError("x" * 10_000))) == worker_module.MAX_DETAIL_CHARS


@pytest.mark.parametrize(
    ("code", "name"), [(0, "exit status 0"), (1, "exit status 1"), (-9, "SIGKILL"), (-99, "signal 99")]
)
def test_ends_have_names(code, name):
    assert describe_end(code) == name
