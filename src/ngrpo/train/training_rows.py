"""What the update knows of a completion, and what one optimiser step measures.

Axes: N rows of the step, T completion positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ngrpo.objectives import TokenTerms


@dataclass(frozen=True)
class TrainingRow:
    """One completion as the update sees it.

    Attributes:
        prompt_ids: Token ids of the prompt.
        completion_ids: Token ids of the completion.
        old_logprobs: Log-probability of each completion token at the start of the rollout step, nats.
        advantage: From the whole group; may be zero. The mean over the tokens, where a method tells them apart.
        counts: Whether the row enters the denominators (a method may leave rows out).
        token_advantages: The advantage of each token, where a method tells them apart; else empty.
        group: Number of its group within the rollout step.
        old_values: What a critic said before each token at the start of the rollout step; else empty.
        value_targets: What it should have said; else empty.
        importance_weights: What the loss of each token counts, where sampler and trainer differ; else empty.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    old_logprobs: tuple[float, ...]
    advantage: float
    counts: bool = True
    token_advantages: tuple[float, ...] = ()
    group: int = 0
    old_values: tuple[float, ...] = ()
    value_targets: tuple[float, ...] = ()
    importance_weights: tuple[float, ...] = ()

    @property
    def has_gradient(self) -> bool:
        """Whether the policy's own loss has a gradient here."""
        return self.advantage != 0.0 or any(self.token_advantages)

    def with_advantage(self, advantage: float | Sequence[float]) -> "TrainingRow":
        """The same row with another advantage, or with one for each token; more than it has tokens are left out."""
        if isinstance(advantage, float):
            return replace(self, advantage=advantage, token_advantages=())
        tokens = tuple(advantage[: len(self.completion_ids)])
        return replace(self, advantage=sum(tokens) / max(1, len(tokens)), token_advantages=tokens)


@dataclass
class UpdateStats:
    """What one optimiser step measured; sums over tokens, divided when read.

    Attributes:
        loss: Value of the objective's loss, regularisers included.
        grad_norm: Before clipping.
        num_tokens: Completion tokens that went through the model and count.
        num_positive_tokens: Those with a positive advantage.
        num_negative_tokens: Those with a negative advantage.
        clipped_high_tokens: Positive-advantage tokens whose gradient the upper bound stopped.
        clipped_low_tokens: Negative-advantage tokens whose gradient the lower bound stopped.
        ratio_sum: Sum of probability ratios, current over old.
        old_kl_nats_sum: Sum of the k3 estimate of KL(old || current).
        reference_kl_nats_sum: Sum of the KL to the reference, where the objective has one.
        max_ratio: Largest probability ratio.
        old_kl_coef: Weight of the divergence from the old policy, where the loss has one that the step decides on.
        num_positions: Positions of the forward passes with gradient, padding included.
        num_filled_positions: Those of them that hold a token of a prompt or a completion.
    """

    loss: float = 0.0
    grad_norm: float = 0.0
    num_tokens: int = 0
    num_positive_tokens: int = 0
    num_negative_tokens: int = 0
    clipped_high_tokens: int = 0
    clipped_low_tokens: int = 0
    ratio_sum: float = 0.0
    old_kl_nats_sum: float = 0.0
    reference_kl_nats_sum: float = 0.0
    max_ratio: float = 0.0
    old_kl_coef: float | None = None
    num_positions: int = 0
    num_filled_positions: int = 0

    def add(self, terms: TokenTerms, advantages: Tensor, mask: Tensor) -> None:
        """Adds one microbatch."""
        ratio = terms.ratio[mask].double()
        self.num_tokens += int(mask.sum())
        self.num_positive_tokens += int((mask & (advantages > 0)).sum())
        self.num_negative_tokens += int((mask & (advantages < 0)).sum())
        self.clipped_high_tokens += int(terms.is_clipped_high.sum())
        self.clipped_low_tokens += int(terms.is_clipped_low.sum())
        if ratio.numel():
            self.ratio_sum += float(ratio.sum())
            self.max_ratio = max(self.max_ratio, float(ratio.max()))
            self.old_kl_nats_sum += float((ratio - 1.0 - ratio.log()).sum())
        if terms.kl_nats is not None:
            self.reference_kl_nats_sum += float(terms.kl_nats[mask].sum())


def padded(values: Sequence[Sequence[float]], *, like: Tensor) -> Tensor:
    """Per-token numbers of each row as one tensor of `like`'s shape [N, T], dtype and device; 0 beyond a row's end."""
    result = torch.zeros(like.shape, dtype=like.dtype)
    for place, row in enumerate(values):
        result[place, : len(row)] = torch.tensor(row, dtype=like.dtype)
    return result.to(like.device)


def token_advantages(rows: Sequence[TrainingRow], *, like: Tensor) -> Tensor:
    """[N, T] the advantage of every token, in `like`'s shape, dtype and device."""
    return padded([row.token_advantages or [row.advantage] * len(row.completion_ids) for row in rows], like=like)
