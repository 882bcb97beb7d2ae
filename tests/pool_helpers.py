"""Driving a pool: with functions of the standard library, because another process can import those."""

import functools
import subprocess
import time

from ngrpo.rewards.pool import Pool

SPIN = "[0 for _ in iter(int, 1)]"
SLEEP = "__import__('time').sleep(60)"


def evaluating(deadline_s=10.0, **settings):
    """A pool that evaluates Python: the worst a scorer can do."""
    return Pool(functools.partial, args=(eval,), deadline_s=deadline_s, **settings)


def ask(pool, *texts):
    return pool.map([(text,) for text in texts])


def values(replies):
    assert {reply.status for reply in replies} == {"ok"}
    return [reply.value for reply in replies]


def is_running(pid):
    """Alive and no zombie: in a container nobody may collect an orphan."""
    listing = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True)
    state = listing.stdout.strip()
    return state != "" and not state.startswith("Z")


def wait_until(condition, limit_s=20.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
