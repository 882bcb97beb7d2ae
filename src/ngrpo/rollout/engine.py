"""What every sampling engine is asked, and what its random numbers belong to."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ngrpo.errors import ConfigError
from ngrpo.types import Completion, Prompt

OnCompletions = Callable[[list[int], list[Completion]], None]
"""Told which requests have ended, as their indices, and their completions."""

TRAINING, EVALUATION, GREEDY, TRACKER_START, REFERENCE_VALUES, PROMPT_DRAW = range(6)
PROMPT_PRUNING, COMPLETION_PRUNING, DRAFTS = range(6, 9)
"""Streams of random numbers: a run's evaluations, and what a method samples besides, never disturb its rollouts."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        max_completion_tokens: Longest completion.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Nucleus mass; 1 keeps all.
        top_k: Keeps the k likeliest; 0 keeps all.

    Raises:
        ConfigError: One of them is out of range.
    """

    max_completion_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not (self.max_completion_tokens >= 1 and 0 <= self.temperature < math.inf):
            raise ConfigError(f"{self}: max_completion_tokens must be 1 or more, temperature finite and 0 or more.")
        if not (0 < self.top_p <= 1 and self.top_k >= 0):
            raise ConfigError(f"{self}: top_p must be above 0 and at most 1, top_k 0 or more.")


@dataclass(frozen=True)
class SampleRequest:
    """One completion to be sampled.

    Attributes:
        prompt: What to complete.
        key: What its random numbers are made from; see `random_key`.
    """

    prompt: Prompt
    key: tuple[int, ...]


def random_key(*, seed: int, stream: int, step: int, occurrence: int, sample: int) -> tuple[int, ...]:
    """The identity of one completion's random numbers.

    They belong to (run seed, step, occurrence of the prompt in the step, sample index), never to a place in a batch, so
    that cutting the batch differently changes nothing but float rounding.
    """
    return (seed, stream, step, occurrence, sample)


def uniforms(keys: Sequence[tuple[int, ...]], count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) for each key: [len(keys), count] float64.

    Example:
        >>> a, b = uniforms([(0, 0, 1, 2, 3), (0, 0, 1, 2, 4)], 5)
        >>> bool((a == uniforms([(0, 0, 1, 2, 3)], 5)[0]).all()), bool((a == b).any())
        (True, False)
    """
    rows = [np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).random(count) for key in keys]
    return np.stack(rows) if rows else np.empty((0, count))


def seed_of(key: tuple[int, ...], *, num_bits: int) -> int:
    """A seed below 2**num_bits for engines that draw their own random numbers: one for each completion.

    Args:
        key: See `random_key`.
        num_bits: What the engine takes, 64 at most.

    Example:
        >>> one, again, other = (seed_of((0, 0, 1, 2, sample), num_bits=31) for sample in (3, 3, 4))
        >>> one == again != other
        True
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> (64 - num_bits)


class Engine(Protocol):
    """Samples completions. Returns one per request, in the order of the requests."""

    def sample(
        self,
        requests: Sequence[SampleRequest],
        sampling: Sampling,
        *,
        on_completions: OnCompletions | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Completion]:
        """Samples every request.

        Args:
            requests: What to complete.
            sampling: How tokens are drawn.
            on_completions: Called with completions as they end, in any order, each exactly once and none after the
                return: indices of requests, and the completion of each. An error it raises ends the sampling.
            should_stop: Asked between tokens; true makes the engine raise `Interrupted`.
        """
        ...
