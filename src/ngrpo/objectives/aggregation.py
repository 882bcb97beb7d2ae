"""From per-token terms to one number: the only division by a count, and that count is passed in.

Axes: N sequences (rows), T tokens. An aggregation is a callable `(loss, mask, counts) -> scalar`. `counts` are those of
the whole optimiser step, so that a step cut into microbatches gives the gradient of the uncut one: the losses add up. A
sequence must not be cut in two.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Counts:
    """What an optimiser step divides by. Add the counts of its microbatches (and ranks) before the first of them.

    Attributes:
        num_tokens: Tokens that count.
        num_sequences: Sequences with at least one such token; rows of padding are none.

    Example:
        >>> first, second = torch.ones(2, 3), torch.tensor([[1, 1, 0], [0, 0, 0]])
        >>> Counts.of(first) + Counts.of(second)
        Counts(num_tokens=8, num_sequences=3)
    """

    num_tokens: int
    num_sequences: int

    @classmethod
    def of(cls, mask: Tensor) -> "Counts":
        """Counts of one [N, T] mask."""
        tokens_per_row = mask.to(torch.bool).sum(dim=1)
        return cls(num_tokens=int(tokens_per_row.sum()), num_sequences=int((tokens_per_row > 0).sum()))

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.num_tokens + other.num_tokens, self.num_sequences + other.num_sequences)


class Aggregation(Protocol):
    """A scalar from per-token losses, their mask, and the counts of the whole optimiser step."""

    def __call__(self, loss: Tensor, mask: Tensor, counts: Counts) -> Tensor:
        """Scalar; 0 with a live graph where the mask is empty."""
        ...


def token_mean(loss: Tensor, mask: Tensor, counts: Counts) -> Tensor:
    """Every token of the step weighs the same: `sum(m l) / num_tokens` (DAPO, NGRPO).

    Args:
        loss: [N, T] per-token losses.
        mask: [N, T] bool, the tokens that count.
        counts: Of the whole optimiser step.

    Returns:
        A scalar.

    Example:
        >>> mask = torch.tensor([[True, False], [True, True]])
        >>> token_mean(torch.tensor([[3.0, 9.0], [0.0, 3.0]]), mask, Counts.of(mask))
        tensor(2.)
    """
    return _row_sums(loss, mask).sum() / _divisor(counts.num_tokens, mask)


def seq_mean_token_mean(loss: Tensor, mask: Tensor, counts: Counts) -> Tensor:
    """Every sequence weighs the same, whatever its length: `sum_i (1/T_i) sum_t(m l) / num_sequences` (GRPO).

    Args:
        loss: [N, T] per-token losses.
        mask: [N, T] bool, the tokens that count.
        counts: Of the whole optimiser step.

    Returns:
        A scalar.

    Example:
        >>> mask = torch.tensor([[True, False], [True, True]])
        >>> seq_mean_token_mean(torch.tensor([[3.0, 9.0], [0.0, 3.0]]), mask, Counts.of(mask))
        tensor(2.2500)
    """
    tokens_per_row = mask.sum(dim=1).clamp(min=1)
    return (_row_sums(loss, mask) / tokens_per_row).sum() / _divisor(counts.num_sequences, mask)


def seq_mean_token_sum(loss: Tensor, mask: Tensor, counts: Counts) -> Tensor:
    """The loss of whole sequences: `sum_i sum_t(m l) / num_sequences` (REINFORCE and RLOO).

    Args:
        loss: [N, T] per-token losses.
        mask: [N, T] bool, the tokens that count.
        counts: Of the whole optimiser step.

    Returns:
        A scalar.

    Example:
        >>> mask = torch.tensor([[True, False], [True, True]])
        >>> seq_mean_token_sum(torch.tensor([[3.0, 9.0], [0.0, 3.0]]), mask, Counts.of(mask))
        tensor(3.)
    """
    return _row_sums(loss, mask).sum() / _divisor(counts.num_sequences, mask)


def seq_mean_token_sum_norm(loss: Tensor, mask: Tensor, counts: Counts, *, budget_tokens: int) -> Tensor:
    """Sequence sums over a constant length: `sum_i (1/B) sum_t(m l) / num_sequences` (Dr. GRPO).

    Args:
        loss: [N, T] per-token losses.
        mask: [N, T] bool, the tokens that count.
        counts: Of the whole optimiser step.
        budget_tokens: The constant B, usually the longest completion allowed. It only rescales the loss.

    Returns:
        A scalar.

    Example:
        >>> mask = torch.tensor([[True, False], [True, True]])
        >>> seq_mean_token_sum_norm(torch.tensor([[3.0, 9.0], [0.0, 3.0]]), mask, Counts.of(mask), budget_tokens=6)
        tensor(0.5000)
    """
    return seq_mean_token_sum(loss, mask, counts) / budget_tokens


AGGREGATIONS = {
    "token_mean": token_mean,
    "seq_mean_token_mean": seq_mean_token_mean,
    "seq_mean_token_sum": seq_mean_token_sum,
}
"""Aggregations by the names that `aggregation=` takes."""


def _row_sums(loss: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, loss, 0.0).sum(dim=1)


def _divisor(count: int, mask: Tensor) -> int:
    """The count, or 1 for a step without tokens, whose sum is 0 already."""
    if count < 1 and mask.any():
        raise ValueError(
            f"the mask has tokens, but counts say {count}. Pass the counts of the whole optimiser step: "
            "the sum of Counts.of(mask) over its microbatches."
        )
    return max(count, 1)
