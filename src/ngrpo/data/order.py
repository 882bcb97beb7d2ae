"""The order in which prompts are drawn: shuffled anew each epoch, and resumable from a single number."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True, slots=True)
class PromptOrder:
    """A pure function from a position to prompts. Nothing is remembered, so nothing but the position is saved.

    Attributes:
        num_prompts: How many there are, at least 1.
        seed: What the order depends on, at least 0.

    Example:
        >>> order = PromptOrder(num_prompts=4, seed=0)
        >>> order.take(0, 4) + order.take(4, 2) == order.take(0, 6)
        True
        >>> sorted(order.take(0, 4))
        [0, 1, 2, 3]
    """

    num_prompts: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_prompts < 1 or self.seed < 0:
            raise ValueError(f"num_prompts must be at least 1 and seed at least 0, got {self.num_prompts}, {self.seed}")

    def take(self, position: int, count: int) -> list[int]:
        """Draw prompts.

        Args:
            position: How many prompts were drawn since the run began.
            count: How many to draw; the draw may cross into the next epochs.

        Returns:
            Indices of prompts, [count]. Every epoch, `num_prompts` positions long, has each prompt once.
        """
        if position < 0 or count < 0:
            raise ValueError(f"position and count must not be negative, got {position}, {count}")
        indices: list[int] = []
        while len(indices) < count:
            epoch, offset = divmod(position + len(indices), self.num_prompts)
            indices.extend(_permutation(self.num_prompts, self.seed, epoch)[offset : offset + count - len(indices)])
        return indices


@lru_cache(maxsize=4)
def _permutation(num_prompts: int, seed: int, epoch: int) -> tuple[int, ...]:
    # Sorting raw output: numpy promises that bit generators keep their streams, but not what `permutation` does.
    keys = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(num_prompts)
    return tuple(np.argsort(keys, kind="stable").tolist())
