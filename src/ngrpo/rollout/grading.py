"""Sampling with the judging at the same time.

A reward whose work is done in other processes is asked from a thread of its own, as completions end: with two cores,
one samples while the other grades. Any other reward is asked on the caller's thread, in groupings that depend on
nothing but the order in which completions end.
"""

import threading
from collections.abc import Callable, Sequence

import torch

from ngrpo.errors import Interrupted, NgrpoError
from ngrpo.rewards import Reward, judges_elsewhere
from ngrpo.rewards.pool import CALLS_PER_START, available_cores
from ngrpo.rollout.engine import Engine, SampleRequest, Sampling
from ngrpo.types import Completion, Outcome

LEAST_AT_ONCE = 32
"""Completions that are waited for before a reward is asked alongside: every call takes time from the sampling."""

OnJudged = Callable[[list[int], list[Completion], list[Outcome]], None]
"""Told which requests have been judged, as their indices, with their completions and outcomes."""


def sample_and_judge(
    engine: Engine,
    reward: Reward,
    requests: Sequence[SampleRequest],
    sampling: Sampling,
    on_judged: OnJudged,
    *,
    num_at_once: int,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Samples every request and judges every completion.

    Nothing runs on when this has returned or raised. What raises ends both. Where an engine gives up, what it has given
    is judged first: sampling it again may take hours. Where somebody wants to stop, or a reward fails, it is lost.

    Args:
        engine: Samples.
        reward: Judges.
        requests: What to complete.
        sampling: How tokens are drawn.
        on_judged: Called with completions as they are judged, in any order, each exactly once; perhaps from another
            thread, and never from two at a time. What it raises, this raises.
        num_at_once: Completions that a reward is asked for together if it is asked on this thread; fewer only at the
            end. Those of one call are in the order of the requests.
        should_stop: Asked between tokens; true makes this raise `Interrupted`.
    """
    prompts = [request.prompt for request in requests]

    def judge(ended: Sequence[tuple[int, Completion]]) -> None:
        indices, completions = [index for index, _ in ended], [completion for _, completion in ended]
        on_judged(indices, completions, reward([prompts[index] for index in indices], completions))

    if judges_elsewhere(reward):
        judging: _Alongside | _Between = _Alongside(judge)
    else:
        judging = _Between(judge, num_at_once)
    with judging:
        engine.sample(
            requests,
            sampling,
            on_completions=judging.add,
            should_stop=lambda: judging.has_failed or (should_stop is not None and should_stop()),
        )


_Judge = Callable[[Sequence[tuple[int, Completion]]], None]


class _Between:
    """Judges on the caller's thread whenever enough completions have ended, and the rest at the end."""

    has_failed = False  # what goes wrong is raised where it happens

    def __init__(self, judge: _Judge, num_at_once: int) -> None:
        self._judge, self._num_at_once = judge, num_at_once
        self._waiting: list[tuple[int, Completion]] = []

    def add(self, indices: list[int], completions: list[Completion]) -> None:
        """Takes completions that have ended; see `Engine.sample`."""
        self._waiting += zip(indices, completions, strict=True)
        while len(self._waiting) >= self._num_at_once:
            self._judge_first(self._num_at_once)

    def _judge_first(self, count: int) -> None:
        first, self._waiting = self._waiting[:count], self._waiting[count:]
        try:
            with torch.inference_mode(False):  # engines sample in that mode, which a user's function need not know of
                self._judge(sorted(first, key=lambda ended: ended[0]))
        except BaseException:
            self._waiting.clear()  # it is not asked again
            raise

    def __enter__(self) -> "_Between":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if _is_judged_after(kind) and self._waiting:
            self._judge_first(len(self._waiting))


def _is_judged_after(kind: type[BaseException] | None) -> bool:
    """Whether what waits is judged when the sampling has ended so."""
    return kind is None or (issubclass(kind, NgrpoError) and not issubclass(kind, Interrupted))


class _Alongside:
    """Judges on a thread of its own whatever has ended since it last looked."""

    def __init__(self, judge: _Judge) -> None:
        self._judge = judge
        # What keeps the reward's processes busy, and no more: leaving waits for the calls that have begun.
        self._most_at_once = CALLS_PER_START * available_cores()
        self._waiting: list[tuple[int, Completion]] = []
        self._is_complete = False  # no more will come
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._has_ended = threading.Event()
        # A daemon, so that a second Ctrl-C, which breaks off the waiting for it, ends the program at once.
        self._thread = threading.Thread(target=self._work, name="judging", daemon=True)

    @property
    def has_failed(self) -> bool:
        """Whether the judging has ended with an error, so that there is no use in sampling on."""
        return self._error is not None

    def add(self, indices: list[int], completions: list[Completion]) -> None:
        """Takes completions that have ended; see `Engine.sample`."""
        with self._changed:
            self._waiting += zip(indices, completions, strict=True)
            if len(self._waiting) >= LEAST_AT_ONCE:
                self._changed.notify()

    def _work(self) -> None:
        try:
            while ended := self._next():
                self._judge(ended)
        except BaseException as error:  # noqa: BLE001  raised where the sampling ends
            self._error = error
        self._has_ended.set()

    def _next(self) -> list[tuple[int, Completion]]:
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) >= LEAST_AT_ONCE or self._is_complete)
            first, self._waiting = self._waiting[: self._most_at_once], self._waiting[self._most_at_once :]
            return first

    def _complete(self, *, keep_waiting: bool) -> None:
        with self._changed:
            self._is_complete = True
            if not keep_waiting:
                self._waiting.clear()
            self._changed.notify()
        self._has_ended.wait()  # not `join`, which takes a thread for ended once Ctrl-C has broken it off
        self._thread.join()

    def __enter__(self) -> "_Alongside":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._complete(keep_waiting=_is_judged_after(kind))
        except BaseException:  # Ctrl-C while the rest was judged
            self._complete(keep_waiting=False)
            raise
        if self._error is not None and (kind is None or issubclass(kind, Interrupted)):
            raise self._error
