"""Per-token terms of the policy's loss, unreduced.

Axes: N sequences (rows), T tokens. Log-probabilities are in nats. A policy term is a callable
`(inputs) -> TokenTerms`; every loss here is to be MINIMISED.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ngrpo.errors import ConfigError

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this many nats either way before `exp`, which keeps ratios finite in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenInputs:
    """What per-token terms are computed from: [N, T] each, at least float32, 0 where masked.

    Attributes:
        current_logprobs: Of the policy being trained; the only input gradients flow through, besides `entropies`.
        old_logprobs: At the start of the rollout step. Detached.
        advantages: Spread over tokens. Detached.
        mask: bool, true where a token counts.
        ref_logprobs: Of the frozen reference model, or None. Detached.
        entropies: Of the policy's distribution at each token (nats), or None.
    """

    current_logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    mask: Tensor
    ref_logprobs: Tensor | None = None
    entropies: Tensor | None = None

    @classmethod
    def of(
        cls,
        current_logprobs: Tensor,
        old_logprobs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        *,
        ref_logprobs: Tensor | None = None,
        entropies: Tensor | None = None,
    ) -> "TokenInputs":
        """Check shapes, and clear masked slots so that no NaN in them reaches a value or a gradient.

        The clearing comes before any arithmetic: `where` after it would stop the value, but not the gradient, because
        zero times NaN is NaN.

        Raises:
            ValueError: Shapes do not fit.
        """
        shape = current_logprobs.shape
        given = {"old_logprobs": old_logprobs, "mask": mask, "ref_logprobs": ref_logprobs, "entropies": entropies}
        for name, tensor in given.items():
            if tensor is not None and tensor.shape != shape:
                got = list(tensor.shape)
                raise ValueError(f"{name} must have the shape {list(shape)} of current_logprobs, got {got}.")
        if len(shape) != 2 or advantages.shape not in (shape, shape[:1]):
            raise ValueError(
                f"log-probabilities must be [N, T] and advantages [N] or [N, T], got {list(shape)} and "
                f"{list(advantages.shape)}."
            )
        mask = mask.to(torch.bool)
        dtype = torch.promote_types(current_logprobs.dtype, torch.float32)
        spread = advantages.unsqueeze(1).expand(shape) if advantages.ndim == 1 else advantages

        def cleared(tensor: Tensor) -> Tensor:
            return torch.where(mask, tensor, 0.0).to(dtype)

        return cls(
            current_logprobs=cleared(current_logprobs),
            old_logprobs=cleared(old_logprobs.detach()),
            advantages=cleared(spread.detach()),
            mask=mask,
            ref_logprobs=None if ref_logprobs is None else cleared(ref_logprobs.detach()),
            entropies=None if entropies is None else cleared(entropies),
        )

    def ratio(self) -> Tensor:
        """[N, T] exp(current - old), 1 where masked. A log-ratio beyond `MAX_LOG_RATIO` has no gradient.

        That changes the surrogate's gradient only where the advantage is negative and the token became more than e^20
        times likelier: elsewhere the clip has stopped the gradient already, or the ratio is below 1e-8.
        """
        log_ratio = self.current_logprobs - self.old_logprobs
        return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


@dataclass(frozen=True, slots=True, eq=False)
class TokenTerms:
    """Per-token terms, [N, T] each, 0 or false where masked. Not yet divided by anything.

    Attributes:
        loss: To be minimised; regularisers included. The only one with a gradient.
        ratio: exp(current - old). Detached.
        is_clipped_low: The advantage is negative and the ratio below its lower bound.
        is_clipped_high: The advantage is positive and the ratio above its upper bound.
        is_counted: bool, the tokens that enter the denominators: the mask, less rows the method removes.
        kl_nats: Estimate of the divergence from the reference model, or None without one. Detached.
    """

    loss: Tensor
    ratio: Tensor
    is_clipped_low: Tensor
    is_clipped_high: Tensor
    is_counted: Tensor
    kl_nats: Tensor | None = None


class PolicyTerm(Protocol):
    """The policy's own loss per token."""

    def __call__(self, inputs: TokenInputs) -> TokenTerms:
        """Terms with `kl_nats` left None."""
        ...


@dataclass(frozen=True, slots=True)
class ClippedSurrogate:
    """PPO's clipped surrogate with a bound for each side (PPO, arXiv 1707.06347, equation 7; NGRPO, equation 8).

        objective = min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A),    loss = -objective

    `clip_low` binds where the advantage is negative, `clip_high` where it is positive; at the very bound a token is not
    clipped. NGRPO's equation 8 has been transcribed with an outer max where the advantage is negative; that would
    take the trust region away, and the reference code has the form above.

    Attributes:
        clip_low: The ratio's lower bound is 1 - clip_low.
        clip_high: The ratio's upper bound is 1 + clip_high.
        dual_clip: Where the advantage is negative, the objective is at least `dual_clip` times the advantage: a ratio
            beyond `dual_clip` has no gradient. None is off. (verl's addition, used by DAPO's code.)

    Example:
        >>> surrogate = ClippedSurrogate(clip_low=0.16, clip_high=0.24)
        >>> ratio = torch.tensor([[0.5, 0.84, 1.0, 1.24, 1.5]])
        >>> ones, old = torch.ones(1), torch.zeros(1, 5)
        >>> -surrogate(TokenInputs.of(ratio.log(), old, ones, old == 0)).loss
        tensor([[0.5000, 0.8400, 1.0000, 1.2400, 1.2400]])
        >>> -surrogate(TokenInputs.of(ratio.log(), old, -ones, old == 0)).loss
        tensor([[-0.8400, -0.8400, -1.0000, -1.2400, -1.5000]])
    """

    clip_low: float
    clip_high: float
    dual_clip: float | None = None

    def __post_init__(self) -> None:
        if min(self.clip_low, self.clip_high) < 0:
            raise ConfigError(
                f"clip_low and clip_high must be 0 or more, got {self.clip_low!r} and {self.clip_high!r}: they are "
                "distances from a ratio of 1."
            )
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ConfigError(f"dual_clip must be above 1, got {self.dual_clip!r}: it bounds ratios from above.")

    def __call__(self, inputs: TokenInputs) -> TokenTerms:
        """[N, T] terms."""
        ratio, advantages = inputs.ratio(), inputs.advantages
        is_clipped_low = (advantages < 0) & (ratio < 1 - self.clip_low)
        is_clipped_high = (advantages > 0) & (ratio > 1 + self.clip_high)
        # Chosen by `where` and not by `min`: just past a bound both products can round to the same number, and the
        # gradient of `min` would then leak through a token that counts as clipped.
        bounded = torch.where(is_clipped_low, 1 - self.clip_low, ratio)
        bounded = torch.where(is_clipped_high, 1 + self.clip_high, bounded)
        if self.dual_clip is not None:
            bounded = torch.where((advantages < 0) & (ratio > self.dual_clip), self.dual_clip, bounded)
        return TokenTerms(
            loss=torch.where(inputs.mask, -bounded * advantages, 0.0),
            ratio=torch.where(inputs.mask, ratio.detach(), 0.0),
            is_clipped_low=is_clipped_low,
            is_clipped_high=is_clipped_high,
            is_counted=inputs.mask,
        )


@dataclass(frozen=True, slots=True)
class Reinforce:
    """The plain policy gradient, `-A log p`: no ratio, no clip (Williams 1992)."""

    def __call__(self, inputs: TokenInputs) -> TokenTerms:
        """[N, T] terms. The ratio is reported, not used."""
        is_clipped = torch.zeros_like(inputs.mask)
        return TokenTerms(
            loss=torch.where(inputs.mask, -inputs.current_logprobs * inputs.advantages, 0.0),
            ratio=torch.where(inputs.mask, inputs.ratio().detach(), 0.0),
            is_clipped_low=is_clipped,
            is_clipped_high=is_clipped,
            is_counted=inputs.mask,
        )
