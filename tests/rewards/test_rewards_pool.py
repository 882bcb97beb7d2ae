"""Many calls in several processes, that die, and programs of several kinds around them."""

import operator
import os
import random
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
from ngrpo.rewards import pool as pool_module
from ngrpo.rewards import worker as worker_module
from ngrpo.rewards.pool import Pool
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


def run_script(script, *, file=None):
    """Run a script, from standard input unless it is to be written into a file."""
    if file is not None:
        file.write_text(textwrap.dedent(script))
    return subprocess.run(
        [sys.executable, "-" if file is None else str(file)],
        check=False,
        input=textwrap.dedent(script) if file is None else None,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_random_kills_change_no_answer(tmp_path):
    diary = tmp_path / "diary"
    diary.write_text("")
    pool = evaluating(num_workers=2)
    chance, is_over, kills = random.Random(0), threading.Event(), []

    def kill_some():
        seen = 0
        while not is_over.wait(0.01):
            noted = diary.read_text().count("\n")
            pids = pool.pids
            if pids and noted >= seen + 20:  # whatever was lost with the last has been made up for
                pids and os.kill(chance.choice(pids), signal.SIGKILL)
                kills.append(noted)
                seen = noted

    killer = threading.Thread(target=kill_some)
    killer.start()
    note = f"open({str(diary)!r}, 'a').write('{{0}}\\n') and sum(range(50_000)) and {{0}}"
    replies = ask(pool, *(note.format(number) for number in range(400)))
    is_over.set()
    killer.join()
    assert values(replies) == list(range(400))
    noted = [int(line) for line in diary.read_text().split()]
    assert len(kills) >= 5
    assert set(noted) == set(range(400))
    assert len(noted) <= 400 + len(kills)
    pool.close()


def test_killing_what_is_idle_costs_nobody_a_try(shared, tmp_path):
    ask(shared, *["1"] * 100)
    for pid in shared.pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, shared.pids)))
    flag = str(tmp_path / "flag")
    end_once = f"__import__('os').mkdir({flag!r}) or __import__('os')._exit(1)"
    assert ask(shared, f"5 if __import__('os').path.exists({flag!r}) else {end_once}")[0].value == 5


def test_killed_while_starting_is_started_again(monkeypatch):
    pool = evaluating(num_workers=1)
    start, victims = pool_module.WorkerProcess, []

    def start_and_kill(order):
        worker = start(order)
        if len(victims) < 2:
            victims.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
        return worker

    monkeypatch.setattr(pool_module, "WorkerProcess", start_and_kill)
    assert values(ask(pool, "1", "2")) == [1, 2]
    assert len(victims) == 2
    pool.close()


# How many processes.


def test_a_small_batch_starts_one_process():
    pool = evaluating(num_workers=8)
    assert pool.pids == []
    ask(pool, *["1"] * 60)
    assert len(pool.pids) == 1
    pool.close()


def test_a_large_batch_starts_several_and_they_are_used():
    pool = evaluating(num_workers=3)
    text = "__import__('time').sleep(0.005) or __import__('os').getpid()"
    pids = values(ask(pool, *[text] * 200))
    assert set(pids) == set(pool.pids)
    assert len(pool.pids) == 3
    assert set(values(ask(pool, *[text] * 12))) == set(pids)  # what is there is used, for few calls too
    pool.close()


def test_slow_calls_start_more_however_few(monkeypatch):
    monkeypatch.setattr(pool_module, "PATIENCE_S", 0.2)
    pool = evaluating(num_workers=3)
    pids = values(ask(pool, *["__import__('time').sleep(0.9) or __import__('os').getpid()"] * 4))
    assert 2 <= len(set(pids)) <= 3
    pool.close()


def test_the_number_of_processes_is_that_of_the_cores(monkeypatch):
    assert len(evaluating()._seats) == pool_module.available_cores() >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert pool_module.available_cores() == 7


# Threads, forks, other programs.


def test_threads_share_the_processes(shared):
    with ThreadPoolExecutor(8) as threads:
        batches = list(threads.map(lambda start: ask(shared, *map(str, range(start, start + 40))), range(0, 400, 40)))
    assert [value for batch in batches for value in values(batch)] == list(range(400))


def test_a_long_batch_lets_others_have_a_turn():
    pool = evaluating(num_workers=1)
    long = threading.Thread(target=ask, args=(pool, *["__import__('time').sleep(0.01)"] * 300))
    long.start()
    wait_until(lambda: pool.pids)
    assert values(ask(pool, *["7"] * 30)) == [7] * 30  # four turns
    assert long.is_alive()
    long.join()
    pool.close()


def test_what_is_closed_while_in_use_is_ended_after_it():
    pool, replies = evaluating(num_workers=1), []
    busy = threading.Thread(target=lambda: replies.extend(ask(pool, "__import__('time').sleep(0.7) or 3", "4")))
    busy.start()
    wait_until(lambda: pool.pids and pool._seats[0].worker.calls)
    pool.close()
    busy.join()
    assert values(replies) == [3, 4]
    assert pool.pids == []


def test_pools_inside_of_pools(shared):
    inner = (
        "[reply.value for reply in __import__('ngrpo.rewards.pool', fromlist=['Pool'])"
        ".Pool(__import__('functools').partial, args=(eval,), deadline_s=5.0).map([('1 + 1',), ('2 + 2',)])]"
    )
    assert values(ask(shared, inner, "3")) == [[2, 4], 3]


def test_interrupting_leaves_the_pool_usable(shared):
    ask(shared, "1")
    pids = shared.pids
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        ask(shared, *["__import__('time').sleep(0.5) or 'late'"] * 20)
    timer.join()
    assert values(ask(shared, "'next'")) == ["next"]
    assert not set(pids) & set(shared.pids)


def test_interrupting_a_thread_that_waits_for_its_turn():
    pool = evaluating(num_workers=1)
    busy = threading.Thread(target=ask, args=(pool, "__import__('time').sleep(1.5)"))
    busy.start()
    wait_until(lambda: pool.pids)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        ask(pool, "1")
    timer.join()
    assert values(ask(pool, "2")) == [2]
    busy.join()
    pool.close()


def test_a_script_from_standard_input_needs_no_main_guard():
    done = run_script(
        """
        print("once")
        from ngrpo.rewards.math import grade
        print(grade(r"\\\\boxed{1+x}", "x+1").correct)
        """
    )
    assert (done.stdout, done.stderr) == ("once\nTrue\n", "")


def test_a_notebook_has_a_main_without_a_file_and_a_running_loop():
    done = run_script(
        """
        import asyncio, functools, sys, types
        sys.modules["__main__"] = types.ModuleType("__main__")
        async def cell():
            from ngrpo.rewards.pool import Pool
            pool = Pool(functools.partial, args=(eval,), deadline_s=10.0)
            print([reply.value for reply in await asyncio.to_thread(pool.map, [("1 + 1",)])])
            print([reply.value for reply in pool.map([("2 + 2",)])])
        asyncio.run(cell())
        """
    )
    assert (done.stdout, done.stderr) == ("[2]\n[4]\n", "")


def test_children_that_were_spawned_or_forked_have_pools_of_their_own(tmp_path):
    done = run_script(
        """
        import functools, multiprocessing, os
        from ngrpo.rewards.pool import Pool
        pool = Pool(functools.partial, args=(eval,), deadline_s=10.0)
        def ask(queue):
            queue.put([reply.value for reply in pool.map([("__import__('os').getppid()",)])] + [os.getpid()])
        if __name__ == "__main__":
            for method in ("spawn", "fork"):
                pool.map([("1",)])
                context = multiprocessing.get_context(method)
                queue = context.SimpleQueue()
                child = context.Process(target=ask, args=(queue,), daemon=True)
                child.start()
                parent, own = queue.get()
                child.join()
                print(method, parent == own == child.pid, child.exitcode)
        """,
        file=tmp_path / "script.py",
    )
    assert (done.stdout, done.stderr) == ("spawn True 0\nfork True 0\n", "")


def test_a_fork_does_not_disturb_its_parent():
    """Not even one made while another thread holds the lock, and is never seen again."""
    done = run_script(
        """
        import functools, os, sys, threading
        from ngrpo.rewards.pool import Pool
        pool = Pool(functools.partial, args=(eval,), deadline_s=10.0, num_workers=1)
        def ask(text):
            return pool.map([(text,)])[0].value
        before = ask("__import__('os').getpid()")
        thread = threading.Thread(target=lambda: pool._changed.acquire())
        thread.start()
        thread.join()
        child = os.fork()
        if child == 0:
            sys.exit(0 if ask("__import__('os').getpid()") != before else 1)
        pool._changed = threading.Condition()
        print(ask("__import__('os').getpid()") == before, os.waitpid(child, 0)[1], ask("5"), pool.pids == [before])
        """
    )
    assert (done.stdout, done.stderr) == ("True 0 5 True\n", "")


@pytest.mark.parametrize(
    ("text", "is_forked"), [("1", False), ("1", True), (SPIN, False), (SLEEP, False), ("'x' * 400_000", False)]
)
def test_no_worker_outlives_a_killed_parent(text, is_forked, tmp_path):
    pid_file = tmp_path / "pid"
    run_script(
        f"""
        import functools, os, threading, time
        from ngrpo.rewards import pool as pool_module
        pool_module.WALL_EXTRA_S, pool_module.WALL_FACTOR = 0.0, 1.0
        pool = pool_module.Pool(functools.partial, args=(eval,), deadline_s=0.8, num_workers=1)
        pool.map([("1",)])
        open({str(pid_file)!r}, "w").write(str(pool.pids[0]))
        if {is_forked} and os.fork() == 0:  # holds nothing of ours open
            os.close(1), os.close(2)
            time.sleep(40)
        threading.Timer(0.4, os.kill, (os.getpid(), 9)).start()
        pool.map([({text!r},)] * 3)
        time.sleep(30)
        """
    )
    # Idle, it sees the pipe close. Computing or sleeping, a timer goes off.
    wait_until(lambda: not is_running(int(pid_file.read_text())))


# Beginning and end.


def test_a_factory_that_fails_says_why():
    pool = Pool(operator.itemgetter, deadline_s=1.0)  # itemgetter() wants an argument
    with pytest.raises(RewardError, match=r"could not be started: TypeError: .*itemgetter"):
        pool.map([(1,)])
    assert pool.pids == []


def test_an_interpreter_that_fails_says_so(monkeypatch):
    for executable, reason in ((shutil.which("false"), r"it ended \(exit status 1\)"), ("/no/python", "No such file")):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(RewardError, match=f"could not be started: .*{reason}"):
            ask(evaluating(), "1")


def test_a_start_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(worker_module, "START_DEADLINE_S", 0.3)
    monkeypatch.setattr(pool_module, "START_DEADLINE_S", 0.3)
    pool = Pool(time.sleep, args=(30,), deadline_s=1.0)
    with pytest.raises(RewardError, match=r"no sign of life within 0\.3 s"):
        pool.map([()])


def test_functions_that_cannot_be_imported_are_refused():
    with pytest.raises(ValueError, match="define it in a module"):
        Pool(lambda: len, deadline_s=1.0)


@pytest.mark.parametrize("setting", [{"deadline_s": 0.0}, {"num_workers": 0}, {"memory_mib": -1}])
def test_numbers_that_make_no_sense_are_refused(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=rf"{name} is -?[01](\.0)?: it has to be positive and finite"):
        evaluating(**setting)


def test_close_ends_the_processes_and_may_be_repeated(pool):
    pool.close()
    ask(pool, "1")
    (pid,) = pool.pids
    pool.close()
    pool.close()
    assert pool.pids == []
    assert not is_running(pid)
    assert values(ask(pool, "3")) == [3]


def test_a_forgotten_pool_is_ended():
    pool = evaluating(num_workers=2)
    ask(pool, *["1"] * 100)
    pids = pool.pids
    assert len(pids) == 2
    del pool
    assert not any(map(is_running, pids))


def test_the_end_of_the_program_is_the_end_of_its_processes():
    done = run_script(
        """
        import functools
        from ngrpo.rewards.pool import Pool
        pool = Pool(functools.partial, args=(eval,), deadline_s=10.0)
        pool.map([("1",)])
        print(pool.pids[0])
        """
    )
    assert done.stderr == ""
    wait_until(lambda: not is_running(int(done.stdout)))
