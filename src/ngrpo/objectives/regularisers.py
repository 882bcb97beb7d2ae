"""Terms added to the policy's loss, per token: divergence from a reference model, entropy.

Axes: N sequences (rows), T tokens. A regulariser is a callable `(inputs) -> [N, T]`, a loss to be minimised, which the
objective's own aggregation reduces together with the policy's terms.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from ngrpo.errors import ConfigError
from ngrpo.objectives.policy_terms import MAX_LOG_RATIO, TokenInputs


class Regulariser(Protocol):
    """A loss per token. May carry `needs_reference = True` or `needs_entropy = True`."""

    def __call__(self, inputs: TokenInputs) -> Tensor:
        """[N, T] to be added to the loss."""
        ...


def k3_kl(current_logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The k3 estimate of KL(current || reference) per token: `exp(d) - d - 1` with `d = ref - current`.

    Never negative; unbiased for tokens sampled from the current policy. Beyond d = 20 nats the exponential goes on
    along its tangent: finite in float32, and unlike a clamp its gradient keeps pulling the policy back.

    Args:
        current_logprobs: [N, T] nats.
        ref_logprobs: [N, T] nats, without gradient.

    Returns:
        [N, T] nats.

    Source:
        DeepSeekMath (arXiv 2402.03300), equation 4.

    Example:
        >>> import torch
        >>> k3_kl(torch.log(torch.tensor([0.5])), torch.log(torch.tensor([0.25])))   # 1/2 - log(1/2) - 1
        tensor([0.1931])
    """
    difference = ref_logprobs - current_logprobs
    near = difference.clamp(max=MAX_LOG_RATIO)
    return near.exp() * (1.0 + (difference - near)) - difference - 1.0


@dataclass(frozen=True, slots=True)
class ReferenceKL:
    """Keep close to a frozen reference model: `coef` times the k3 estimate.

    Attributes:
        coef: Weight of one nat of divergence.
    """

    coef: float

    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.coef < 0:
            raise ConfigError(f"kl_coef must be 0 or more, got {self.coef!r}: it is a penalty.")

    def __call__(self, inputs: TokenInputs) -> Tensor:
        """[N, T] loss."""
        if inputs.ref_logprobs is None:
            raise ConfigError("kl_coef is not 0, so the reference's log-probabilities are needed: ref_logprobs=...")
        return self.coef * k3_kl(inputs.current_logprobs, inputs.ref_logprobs)


@dataclass(frozen=True, slots=True)
class EntropyBonus:
    """Reward entropy: minus `coef` times the entropy of the policy's distribution at each token.

    Attributes:
        coef: Weight of one nat of entropy.
    """

    coef: float

    needs_entropy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.coef < 0:
            raise ConfigError(f"entropy_coef must be 0 or more, got {self.coef!r}: it is a bonus.")

    def __call__(self, inputs: TokenInputs) -> Tensor:
        """[N, T] loss."""
        if inputs.entropies is None:
            raise ConfigError("entropy_coef is not 0, so the policy's entropies are needed: entropies=...")
        return -self.coef * inputs.entropies
