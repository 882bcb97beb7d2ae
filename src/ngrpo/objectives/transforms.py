"""Reward transforms: what is done to the rewards before advantages are taken. Labels are never touched.

Axes: N completions (rows). A transform is a callable `(batch) -> [N] float64`.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ngrpo.errors import ConfigError
from ngrpo.objectives.batch import RewardBatch


class RewardTransform(Protocol):
    """New rewards for a batch. May carry `needs_labels = True`."""

    def __call__(self, batch: RewardBatch) -> Tensor:
        """[N] float64, the rewards that later parts see."""
        ...


@dataclass(frozen=True, slots=True)
class PlusMinusOne:
    """+1 for a completion labelled correct, -1 for any other, whatever its reward was (arXiv 2506.01347)."""

    needs_labels: ClassVar[bool] = True

    def __call__(self, batch: RewardBatch) -> Tensor:
        """[N] float64 of +1 and -1."""
        return torch.full_like(batch.rewards, -1.0).masked_fill(batch.correct, 1.0)


@dataclass(frozen=True, slots=True)
class OverlongPenalty:
    """DAPO's soft overlong punishment (arXiv 2503.14476): a penalty that grows over the last tokens of the budget.

    Nothing up to `max_tokens - buffer_tokens`, then linear down to `-penalty` at `max_tokens`, and `-penalty` beyond.

    Attributes:
        max_tokens: Longest completion allowed, in tokens.
        buffer_tokens: Tokens before the limit over which the penalty grows.
        penalty: Reward taken away at the limit, in reward units.
    """

    max_tokens: int
    buffer_tokens: int
    penalty: float

    def __post_init__(self) -> None:
        if not 1 <= self.buffer_tokens <= self.max_tokens:
            raise ConfigError(
                f"overlong_buffer_tokens {self.buffer_tokens} must lie between 1 and overlong_max_tokens "
                f"{self.max_tokens}: it is the part of the budget in which the penalty grows."
            )
        if self.penalty < 0:
            raise ConfigError(f"overlong_penalty must be 0 or more, got {self.penalty!r}: it is taken away.")

    def __call__(self, batch: RewardBatch) -> Tensor:
        """[N] float64, rewards less the penalty."""
        tokens_over = batch.fact("completion_tokens").double() - (self.max_tokens - self.buffer_tokens)
        return batch.rewards - self.penalty * (tokens_over / self.buffer_tokens).clamp(0.0, 1.0)
