"""One optimiser step: microbatches, one global denominator, finite check, update.

Axes: N rows of the step, T completion positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ngrpo.errors import NumericsError
from ngrpo.objectives import Counts, Objective, TokenTerms
from ngrpo.policy import Policy, completion_logprobs, pad_rows


@dataclass(frozen=True)
class TrainingRow:
    """One completion as the update sees it.

    Attributes:
        prompt_ids: Token ids of the prompt.
        completion_ids: Token ids of the completion.
        old_logprobs: Log-probability of each completion token at the start of the rollout step, nats.
        advantage: From the whole group; may be zero.
        counts: Whether the row enters the denominators (a method may leave rows out).
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    old_logprobs: tuple[float, ...]
    advantage: float
    counts: bool = True


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

    def add(self, terms: TokenTerms, advantages: Tensor, mask: Tensor) -> None:
        """Adds one microbatch."""
        ratio = terms.ratio[mask].double()
        signs = advantages.unsqueeze(-1).expand_as(mask)
        self.num_tokens += int(mask.sum())
        self.num_positive_tokens += int((mask & (signs > 0)).sum())
        self.num_negative_tokens += int((mask & (signs < 0)).sum())
        self.clipped_high_tokens += int(terms.is_clipped_high.sum())
        self.clipped_low_tokens += int(terms.is_clipped_low.sum())
        if ratio.numel():
            self.ratio_sum += float(ratio.sum())
            self.max_ratio = max(self.max_ratio, float(ratio.max()))
            self.old_kl_nats_sum += float((ratio - 1.0 - ratio.log()).sum())
        if terms.kl_nats is not None:
            self.reference_kl_nats_sum += float(terms.kl_nats[mask].sum())


def microbatches(rows: Sequence[TrainingRow], max_tokens: int) -> Iterator[list[TrainingRow]]:
    """Cuts rows into microbatches whose padded size stays within a token budget.

    Rows of like length go together. A row longer than the budget is a microbatch of its own.

    Args:
        rows: In any order.
        max_tokens: Budget of one forward pass, padding included.
    """
    ordered = sorted(rows, key=lambda row: (len(row.completion_ids), len(row.prompt_ids)))
    chunk: list[TrainingRow] = []
    width = length = 0
    for row in ordered:
        new_width, new_length = max(width, len(row.prompt_ids)), max(length, len(row.completion_ids))
        if chunk and (len(chunk) + 1) * (new_width + new_length) > max_tokens:
            yield chunk
            chunk, new_width, new_length = [], len(row.prompt_ids), len(row.completion_ids)
        chunk.append(row)
        width, length = new_width, new_length
    if chunk:
        yield chunk


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    rows: Sequence[TrainingRow],
    *,
    temperature: float,
    max_microbatch_tokens: int,
    max_grad_norm: float,
    reference: Policy | None = None,
) -> UpdateStats:
    """Takes one optimiser step.

    The denominators are counted once over all rows, so the gradient does not depend on how they are cut. The optimiser
    steps even when every advantage is zero: gradients are then zero, not absent, and momentum goes on as under any
    other method (skipping such steps handicaps methods that drop groups).

    Args:
        policy: Trained in place.
        optimizer: Over its trainable parameters.
        objective: The method.
        rows: The rows of this step; may be empty.
        temperature: The sampling temperature.
        max_microbatch_tokens: Budget of one forward pass.
        max_grad_norm: Gradients are scaled down to this norm.
        reference: The frozen model of a KL term.

    Raises:
        NumericsError: Loss or gradient norm is not finite; weights and optimiser are untouched.
    """
    stats = UpdateStats()
    parameters = policy.trainable_parameters()
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
    counts = Counts(
        num_tokens=sum(len(row.completion_ids) for row in rows if row.counts),
        num_sequences=sum(row.counts for row in rows),
    )
    # Rows without advantage have exactly zero gradient, unless a regulariser gives them one.
    has_regulariser = objective.needs_reference or objective.needs_entropy
    needed = rows if has_regulariser else [row for row in rows if row.advantage != 0.0]
    policy.model.train()
    for chunk in microbatches(needed, max_microbatch_tokens):
        loss, terms, advantages, mask = _microbatch_loss(
            policy, objective, chunk, counts=counts, temperature=temperature, reference=reference
        )
        loss.backward()
        stats.loss += float(loss.detach())
        stats.add(terms, advantages, mask)
    policy.model.eval()
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    stats.grad_norm = float(norm)
    if not (torch.isfinite(norm) and abs(stats.loss) < float("inf")):
        raise NumericsError(
            f"loss {stats.loss} and gradient norm {stats.grad_norm} are not both finite; the update was not made. "
            "Lower optim.lr, or look at the last rows of groups.jsonl for what changed."
        )
    optimizer.step()
    return stats


def _microbatch_loss(
    policy: Policy,
    objective: Objective,
    rows: Sequence[TrainingRow],
    *,
    counts: Counts,
    temperature: float,
    reference: Policy | None,
) -> tuple[Tensor, TokenTerms, Tensor, Tensor]:
    """The loss of some rows, divided by the denominators of the whole step."""
    batch = pad_rows(
        [row.prompt_ids for row in rows],
        [row.completion_ids for row in rows],
        pad_token_id=policy.pad_token_id,
        device=policy.device,
    )
    current, entropies = completion_logprobs(
        policy, batch, temperature=temperature, with_entropy=objective.needs_entropy
    )
    old = torch.zeros_like(current)
    for place, row in enumerate(rows):
        old[place, : len(row.old_logprobs)] = torch.tensor(row.old_logprobs, dtype=current.dtype)
    reference_logprobs = None
    if objective.needs_reference:
        assert reference is not None, "assemble loads a reference where the objective needs one"
        with torch.no_grad():
            reference_logprobs, _ = completion_logprobs(reference, batch, temperature=temperature)
    advantages = torch.tensor([row.advantage for row in rows], dtype=current.dtype, device=current.device)
    counted = batch.mask & torch.tensor([row.counts for row in rows], device=current.device).unsqueeze(-1)
    terms = objective.token_terms(
        current, old, advantages, counted, ref_logprobs=reference_logprobs, entropies=entropies
    )
    return objective.reduce(terms, counted, counts=counts), terms, advantages, counted
