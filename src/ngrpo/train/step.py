"""One optimiser step: microbatches, one global denominator, finite check, update.

Where the model allows it, a microbatch is one row of real tokens with every prompt in it once (`policy.shared_prefix`);
elsewhere rows are padded or packed, which is the slow twin.

Axes: N rows of the step, M their completion tokens, T completion positions, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ngrpo.errors import NumericsError
from ngrpo.objectives import Counts, Objective, OldPolicyKL
from ngrpo.policy import (
    Policy,
    TokenBatch,
    backward_through_head,
    can_share_prefix,
    completion_logprobs,
    pack_rows,
    pad_rows,
    share_rows,
    shared_logprobs,
    shared_states,
    spread,
)
from ngrpo.train.memory import one_pass, within_memory
from ngrpo.train.packing import packed_microbatches, shared_microbatches
from ngrpo.train.training_rows import TrainingRow, UpdateStats, padded, token_advantages

PASS_TOKENS_ON_CPU = 2048
"""Largest pass over real tokens on a processor: what a larger one keeps for its backward falls out of the caches."""


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


def batches(
    policy: Policy, rows: Sequence[TrainingRow], max_tokens: int, packing_window: int | None
) -> Iterator[tuple[list[TrainingRow], TokenBatch]]:
    """Microbatches as the model reads them, with the rows of each.

    Args:
        policy: Knows the padding token and the device.
        rows: In any order.
        max_tokens: Budget of one forward pass, padding included.
        packing_window: Pack sequences, looking so far ahead; None pads each to the longest.
    """
    pad_token_id, device = policy.pad_token_id, policy.device
    if packing_window is None:
        for chunk in microbatches(rows, max_tokens):
            prompts, completions = [row.prompt_ids for row in chunk], [row.completion_ids for row in chunk]
            yield chunk, pad_rows(prompts, completions, pad_token_id=pad_token_id, device=device)
        return
    for lines in packed_microbatches(rows, max_tokens, packing_window):
        pairs = [[(row.prompt_ids, row.completion_ids) for row in line] for line in lines]
        chunk = [row for line in lines for row in line]
        yield chunk, pack_rows(pairs, pad_token_id=pad_token_id, device=device)


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
    packing_window: int | None = None,
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
        packing_window: Pack sequences into rows, looking so far ahead; None pads. Nothing but speed depends on it.

    Raises:
        NumericsError: Loss or gradient norm is not finite; weights and optimiser are untouched.
    """
    parameters = policy.trainable_parameters()
    counts = Counts(
        num_tokens=sum(len(row.completion_ids) for row in rows if row.counts),
        num_sequences=sum(row.counts for row in rows),
    )
    policy.model.train()
    coefs: list[float] = []
    if objective.needs_step_pass and rows:
        objective, rows = _objective_of_step(
            policy,
            objective,
            rows,
            temperature=temperature,
            max_microbatch_tokens=max_microbatch_tokens,
            packing_window=packing_window,
        )
        coefs = [part.coef for part in objective.regularisers if isinstance(part, OldPolicyKL)]
    # Rows without advantage have exactly zero gradient, unless a regulariser gives them one; those without tokens do.
    needed = [row for row in rows if row.completion_ids and (objective.regularisers or row.has_gradient)]
    step = _Step(policy, objective, counts, temperature, reference)
    stats = within_memory(
        lambda max_tokens: step.gradient(needed, max_tokens, packing_window),
        policy,
        max_microbatch_tokens,
        can_recompute=True,
    )
    stats.old_kl_coef = sum(coefs) if coefs else None
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


@dataclass(frozen=True)
class _Step:
    """What all microbatches of one optimiser step have in common; arguments as of `update`."""

    policy: Policy
    objective: Objective
    counts: Counts
    temperature: float
    reference: Policy | None

    def gradient(self, rows: Sequence[TrainingRow], max_tokens: int, packing_window: int | None) -> UpdateStats:
        """Leaves the gradient of the step's loss in the parameters, whatever was there before."""
        for parameter in self.policy.trainable_parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
        stats = UpdateStats()
        if can_share_prefix(self.policy) and (self.reference is None or can_share_prefix(self.reference)):
            for chunk, num_tokens in shared_microbatches(rows, _pass_tokens(self.policy, max_tokens)):
                one_pass(partial(self._add_shared, stats, chunk), num_rows=len(chunk), num_tokens=num_tokens)
        else:
            for chunk, batch in batches(self.policy, rows, max_tokens, packing_window):
                work = partial(self._add_padded, stats, chunk, batch)
                one_pass(work, num_rows=len(chunk), num_tokens=batch.input_ids.numel())
        return stats

    def _add_shared(self, stats: UpdateStats, rows: list[TrainingRow]) -> None:
        """Adds the gradient of one microbatch; log-probabilities exist for some completions at a time only."""
        batch = share_rows([(row.prompt_ids, row.completion_ids) for row in rows], self.policy)
        reference_logprobs: Sequence[Tensor] = ()
        if self.objective.needs_reference:
            values = shared_logprobs(self._reference(), batch, temperature=self.temperature)
            reference_logprobs = values.split(batch.lengths)

        def loss_of(first: int, last: int, logprobs: Tensor, entropies: Tensor | None) -> Tensor:
            lengths = torch.tensor(batch.lengths[first:last], device=logprobs.device)
            mask = torch.arange(max(batch.lengths[first:last]), device=logprobs.device) < lengths.unsqueeze(-1)
            reference = reference_logprobs[first:last]
            return self._loss(
                stats,
                rows[first:last],
                mask,
                spread(logprobs, mask),
                entropies=None if entropies is None else spread(entropies, mask),
                reference_logprobs=spread(torch.cat(reference), mask) if reference else None,
            )

        with shared_states(self.policy, batch) as states, self.policy.arithmetic():
            backward_through_head(
                self.policy.model.get_output_embeddings(),
                states,
                batch.completion_ids,
                batch.lengths,
                temperature=self.temperature,
                with_entropy=self.objective.needs_entropy,
                loss_of=loss_of,
            )
        stats.num_positions += batch.input_ids.numel()
        stats.num_filled_positions += batch.input_ids.numel()

    def _add_padded(self, stats: UpdateStats, rows: list[TrainingRow], batch: TokenBatch) -> None:
        """The same from padded or packed rows."""
        current, entropies = completion_logprobs(
            self.policy, batch, temperature=self.temperature, with_entropy=self.objective.needs_entropy
        )
        reference_logprobs = None
        if self.objective.needs_reference:
            with torch.no_grad():
                reference_logprobs, _ = completion_logprobs(self._reference(), batch, temperature=self.temperature)
        loss = self._loss(stats, rows, batch.mask, current, entropies=entropies, reference_logprobs=reference_logprobs)
        loss.backward()
        stats.num_positions += batch.input_ids.numel()
        stats.num_filled_positions += sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)

    def _loss(
        self,
        stats: UpdateStats,
        rows: Sequence[TrainingRow],
        mask: Tensor,
        current: Tensor,
        *,
        entropies: Tensor | None,
        reference_logprobs: Tensor | None,
    ) -> Tensor:
        """The loss of some rows, divided by the denominators of the whole step; [N, T] in, a scalar out."""
        old = padded([row.old_logprobs for row in rows], like=current)
        advantages = token_advantages(rows, like=current)
        counted = mask & torch.tensor([row.counts for row in rows], device=current.device).unsqueeze(-1)
        weights = [row.importance_weights for row in rows]
        terms = self.objective.token_terms(
            current,
            old,
            advantages,
            counted,
            ref_logprobs=reference_logprobs,
            entropies=entropies,
            importance_weights=padded(weights, like=current) if any(weights) else None,
        )
        loss = self.objective.reduce(terms, counted, counts=self.counts)
        stats.loss += float(loss.detach())
        stats.add(terms, advantages, counted)
        return loss

    def _reference(self) -> Policy:
        assert self.reference is not None, "assemble loads a reference where the objective needs one"
        return self.reference


@torch.no_grad()
def _objective_of_step(
    policy: Policy,
    objective: Objective,
    rows: Sequence[TrainingRow],
    *,
    temperature: float,
    max_microbatch_tokens: int,
    packing_window: int | None,
) -> tuple[Objective, list[TrainingRow]]:
    """The objective and the rows of one optimiser step, for a loss that is no sum over completions."""
    logprobs = logprobs_of(
        policy,
        [(row.prompt_ids, row.completion_ids) for row in rows],
        temperature=temperature,
        max_microbatch_tokens=max_microbatch_tokens,
        packing_window=packing_window,
    )
    width = max(map(len, logprobs))
    current = padded(logprobs, like=torch.empty(len(rows), width, dtype=torch.float64))
    is_per_token = any(row.token_advantages for row in rows)
    bound, advantages = objective.for_step(
        current,
        padded([row.old_logprobs for row in rows], like=current),
        token_advantages(rows, like=current)
        if is_per_token
        else torch.tensor([row.advantage for row in rows], dtype=torch.float64),
        padded([[float(row.counts)] * len(row.completion_ids) for row in rows], like=current),
        [row.group for row in rows],
    )
    return bound, [row.with_advantage(value) for row, value in zip(rows, advantages.tolist(), strict=True)]


@torch.no_grad()
def logprobs_of(
    policy: Policy,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    temperature: float,
    max_microbatch_tokens: int,
    packing_window: int | None = None,
) -> list[tuple[float, ...]]:
    """Log-probabilities (nats) of completions under a model as it is now, by plain forward passes.

    Args:
        policy: Not changed.
        sequences: Token ids of each prompt and of its completion.
        temperature: The sampling temperature.
        max_microbatch_tokens: Budget of one forward pass, padding included.
        packing_window: Pack sequences into rows, looking so far ahead; None pads.

    Returns:
        One tuple per sequence, in the order given.
    """
    rows = [
        TrainingRow(tuple(prompt), tuple(completion), (), 0.0, group=place)
        for place, (prompt, completion) in enumerate(sequences)
    ]
    return within_memory(
        lambda max_tokens: _logprobs_of(policy, rows, temperature, max_tokens, packing_window),
        policy,
        max_microbatch_tokens,
    )


def _logprobs_of(
    policy: Policy, rows: Sequence[TrainingRow], temperature: float, max_tokens: int, packing_window: int | None
) -> list[tuple[float, ...]]:
    found: list[tuple[float, ...]] = [()] * len(rows)
    if can_share_prefix(policy):
        for chunk, num_tokens in shared_microbatches(rows, _pass_tokens(policy, max_tokens)):
            batch = share_rows([(row.prompt_ids, row.completion_ids) for row in chunk], policy)
            work = partial(shared_logprobs, policy, batch, temperature=temperature)
            values = one_pass(work, num_rows=len(chunk), num_tokens=num_tokens)
            for row, line in zip(chunk, values.split(batch.lengths), strict=True):
                found[row.group] = tuple(line.tolist())
        return found
    for chunk, batch in batches(policy, rows, max_tokens, packing_window):
        work = partial(completion_logprobs, policy, batch, temperature=temperature)
        values, _ = one_pass(work, num_rows=len(chunk), num_tokens=batch.input_ids.numel())
        for row, line in zip(chunk, values.tolist(), strict=True):
            found[row.group] = tuple(line[: len(row.completion_ids)])
    return found


def _pass_tokens(policy: Policy, max_tokens: int) -> int:
    """The budget of one pass over real tokens."""
    return min(max_tokens, PASS_TOKENS_ON_CPU) if policy.device.type == "cpu" else max_tokens
