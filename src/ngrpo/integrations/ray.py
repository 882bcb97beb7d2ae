"""Sampling on a Ray cluster: an engine whose requests are sampled by worker processes, here and on other machines.

Each worker loads the model once and samples lots of requests; completions stream back as they end. A worker that dies
loses only what it was decoding: that is given out again, to another. Random numbers belong to the request, not to the
worker, so the tokens are those of one process (up to rounding, and exactly so in float64).
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from ngrpo.errors import Interrupted, MissingExtraError, NgrpoError
from ngrpo.integrations.ray_cluster import RayCluster, check_imports
from ngrpo.integrations.ray_worker import SamplingWorker, WorkerModel
from ngrpo.record import console
from ngrpo.rollout.engine import OnCompletions, SampleRequest, Sampling
from ngrpo.types import Completion

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise MissingExtraError(f'Ray is not installed: pip install "ngrpo[ray]" ({error}).') from error

FILL_ON_CPU = 128
"""Completions that keep a processor busy: lots are not made smaller than that, and on a GPU not below `max_rows`. The
tiny model takes 1.4 times as long for the same completions 64 at a time as 256 at a time, and 2 times 32 at a time."""

MOST_DEATHS = 3
"""Workers that die before they have given anything, without a completion between, before the sampling is given up.
Others do not count: many end at once with their machine."""

LATE_S = 60.0
"""Seconds after which it is said that no worker has begun."""

LOOK_S = 0.5
"""Seconds between two looks at whether to stop, while nothing comes."""


class RayEngine:
    """Samples on the workers of a cluster; an `Engine`.

    Args:
        workers: The processes.
        answers_are_boxed: See `rollout.engine_for`.
    """

    def __init__(self, workers: "RayWorkers", *, answers_are_boxed: bool) -> None:
        self.workers, self.answers_are_boxed = workers, answers_are_boxed

    def sample(
        self,
        requests: Sequence[SampleRequest],
        sampling: Sampling,
        *,
        on_completions: OnCompletions | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Completion]:
        """Samples every request; see `Engine.sample`.

        Raises:
            Interrupted: `should_stop` said so.
            UserError: A worker cannot import ngrpo or load the model.
            NgrpoError: The sampling failed on a worker, or workers die as soon as they start.
        """
        work = _Work(len(requests), self.workers)
        placed: list[Completion | None] = [None] * len(requests)
        try:
            while work.num_missing:
                if should_stop is not None and should_stop():
                    raise Interrupted("sampling was asked to stop")
                for worker, indices in work.hand_out():
                    lot = [(index, requests[index]) for index in indices]
                    worker.stream = worker.actor.sample.remote(lot, sampling, self.answers_are_boxed)
                for ended in work.collect():
                    for index, completion in ended:
                        placed[index] = completion
                    if on_completions is not None:
                        on_completions([index for index, _ in ended], [completion for _, completion in ended])
        except BaseException:
            self.workers.stop_busy()  # what they sample is of no use to anybody any more
            raise
        return placed  # type: ignore[return-value]


@dataclass(eq=False)
class _Worker:
    """One actor, and what is going on there.

    Attributes:
        actor: Its handle.
        loading: Answers when the model is loaded; None from then on.
        stream: The completions that come; None where it does nothing.
        missing: Indices of the requests it was given whose completions have not come.
        has_sampled: Whether a completion ever came.
    """

    actor: Any
    loading: Any
    stream: Any = None
    missing: frozenset[int] = frozenset()
    has_sampled: bool = False

    @property
    def awaited(self) -> Any:
        """What it will say next."""
        return self.loading if self.loading is not None else self.stream


class RayWorkers:
    """The worker processes of one evaluation; they start when there is something to sample.

    Args:
        cluster: Where they run.
        model: What they load.
    """

    def __init__(self, cluster: RayCluster, model: WorkerModel) -> None:
        self.cluster, self.model = cluster, model
        self.workers: list[_Worker] = []
        self.num_deaths = 0  # of those that never sampled, since a completion came
        self._say_at: float | None = None  # when it is worth a word that no worker has begun

    @property
    def fill(self) -> int:
        """Completions that keep a worker busy."""
        return self.model.max_rows if self.cluster.on_gpus else min(self.model.max_rows, FILL_ON_CPU)

    def start(self, count: int) -> None:
        """Sees that so many are there, or as many as there is room for."""
        # Restarting is ours: Ray would do it without a word, and for ever.
        make = ray.remote(SamplingWorker).options(**self.cluster.share, max_restarts=0, max_task_retries=0)
        while len(self.workers) < min(count, self.cluster.num_workers):
            self._say_at = time.monotonic() + LATE_S
            actor = make.remote()
            self.workers.append(_Worker(actor, actor.load.remote(self.model)))

    def say_if_late(self) -> None:
        """Says, once, that no worker has begun for a long time: Ray waits for room without a word."""
        if self._say_at is not None and time.monotonic() > self._say_at:
            self._say_at = None
            console().print(
                f"no Ray worker has loaded the model in {LATE_S:g} s: still reading it, or others use the cluster "
                "(ray status shows who). Waiting.",
                markup=False,
                soft_wrap=True,
            )

    def lose(self, worker: _Worker, error: BaseException) -> None:
        """Forgets a worker that died; another is started when there is something for it to do.

        Raises:
            ConfigError: It never began: its machine has no ngrpo.
            NgrpoError: Too many died.
        """
        self.workers.remove(worker)
        ray.kill(worker.actor)  # where only the connection was lost, it must not go on
        check_imports(error)
        self.num_deaths += not worker.has_sampled
        if self.num_deaths >= MOST_DEATHS:
            reason = " ".join(str(error).split())[:500]
            raise NgrpoError(
                f"{MOST_DEATHS} Ray workers died one after the other without sampling anything; the last: {reason} "
                "Perhaps memory ran out: lower --max-rows or --cache-gib. What was sampled is on disk; the same "
                "command goes on."
            ) from error
        console().print(
            f"a Ray worker died with {len(worker.missing)} samples unfinished: they are given out again.",
            markup=False,
            soft_wrap=True,
        )

    def stop_busy(self) -> None:
        """Ends the workers that are sampling or loading."""
        for worker in [worker for worker in self.workers if worker.awaited is not None]:
            self.workers.remove(worker)
            ray.kill(worker.actor)

    def close(self) -> None:
        """Ends all workers."""
        for worker in self.workers:
            ray.kill(worker.actor)
        self.workers = []


class _Work:
    """Which requests are still to be given out, and which are with whom."""

    def __init__(self, num_requests: int, workers: RayWorkers) -> None:
        self.workers = workers
        self.todo = deque(range(num_requests))
        self.total = self.num_missing = num_requests

    def hand_out(self) -> list[tuple[_Worker, list[int]]]:
        """Lots for the workers that have nothing to do."""
        if self.todo:
            self.workers.start(self.num_missing)
        given = []
        for worker in self.workers.workers:
            if worker.awaited is None and self.todo:
                size = lot_size(
                    len(self.todo),
                    total=self.total,
                    num_workers=len(self.workers.workers),
                    fill=self.workers.fill,
                )
                indices = [self.todo.popleft() for _ in range(size)]
                worker.missing = frozenset(indices)
                given.append((worker, indices))
        return given

    def collect(self) -> list[list[tuple[int, Completion]]]:
        """What has come from the workers since the last look; waits a little where nothing has."""
        busy = {worker.awaited: worker for worker in self.workers.workers if worker.awaited is not None}
        ready, _ = ray.wait(list(busy), num_returns=len(busy), timeout=0)
        if not ready:
            ready, _ = ray.wait(list(busy), num_returns=1, timeout=LOOK_S)
        if not ready and all(worker.loading is not None for worker in busy.values()):
            self.workers.say_if_late()
        return [ended for each in ready if (ended := self._listen(busy[each]))]

    def _listen(self, worker: _Worker) -> list[tuple[int, Completion]]:
        """The next word of a worker: completions, or nothing where it was of another kind."""
        try:
            if worker.loading is not None:
                ray.get(worker.loading)
                worker.loading = None
                return []
            ended = ray.get(next(worker.stream))
        except StopIteration:
            assert not worker.missing, "a lot ends when all of it has come"
            worker.stream = None
            return []
        except RayTaskError as error:  # what was called raised it: another worker would do the same
            if isinstance(error.cause, NgrpoError):
                raise error.cause from None
            raise NgrpoError(f"sampling failed on a Ray worker: {error.cause!r}\n{error}") from error
        except RayError as error:
            self.todo.extendleft(sorted(worker.missing, reverse=True))
            self.workers.lose(worker, error)
            return []
        self.workers.num_deaths = 0
        worker.has_sampled = True
        worker.missing -= {index for index, _ in ended}
        self.num_missing -= len(ended)
        return ended


def lot_size(num_todo: int, *, total: int, num_workers: int, fill: int) -> int:
    """How many requests to give out next.

    Large lots first, so that few pauses lie between, and smaller ones towards the end, so that all workers end
    together; but none so small that a worker would idle in it.

    Args:
        num_todo: Requests that nobody has, at least one.
        total: Requests in all.
        num_workers: Who works.
        fill: Requests that keep a worker busy.

    Example:
        >>> lot_size(1000, total=1000, num_workers=2, fill=32), lot_size(40, total=1000, num_workers=2, fill=32)
        (250, 32)
        >>> lot_size(3, total=3, num_workers=2, fill=32), lot_size(1, total=3, num_workers=2, fill=32)
        (2, 1)
    """
    least = min(fill, ceil(total / num_workers))
    return min(num_todo, max(least, ceil(num_todo / (2 * num_workers))))
