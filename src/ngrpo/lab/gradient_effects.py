"""What one update does to the model: entropy, log-probabilities of given completions, and how far it moves.

The update is made, looked at and taken back: weights are the same bits afterwards.

Axes: N completions, T tokens of one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ngrpo.config import RunConfig
from ngrpo.lab.gradient_batches import BATCHES
from ngrpo.lab.gradient_methods import as_cell, ratio_interval
from ngrpo.policy import Policy, can_share_prefix, completion_logprobs, share_rows, shared_states
from ngrpo.policy.head import logprobs_of_states
from ngrpo.train.memory import one_pass, within_memory
from ngrpo.train.optimizer import adamw
from ngrpo.train.packing import shared_microbatches
from ngrpo.train.step import PASS_TOKENS_ON_CPU, batches
from ngrpo.train.training_rows import TrainingRow
from ngrpo.types import Group

TokenIds = Sequence[int]


@dataclass(frozen=True, eq=False)
class TokenStats:
    """What a model says of one completion.

    Attributes:
        logprobs: [T] of its tokens, nats.
        entropies: [T] of the distributions they come from, nats.
    """

    logprobs: NDArray[np.float64]
    entropies: NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """Completions that an effect is measured on.

    Attributes:
        name: `natural`, `wrong in all_wrong`, `gold of all_wrong`, ...
        by_group: Places of its completions among the sequences that are scored, group by group.
        quantities: What is measured of them, of `entropy`, `logprob`, `kl`.
    """

    name: str
    by_group: tuple[tuple[int, ...], ...]
    quantities: tuple[str, ...]


def populations_of(
    groups: Sequence[Group], batches: Mapping[str, Sequence[int]], gold_of: Callable[[Group], Sequence[int] | None]
) -> tuple[list[tuple[TokenIds, TokenIds]], list[Population]]:
    """What effects are measured on.

    Args:
        groups: Every sampled group.
        batches: Places in them, by batch.
        gold_of: Token ids of a group's gold completion, or None.

    Returns:
        Prompts and completions, each of them once, and the populations that have any.
    """
    sequences: list[tuple[TokenIds, TokenIds]] = []
    place_of: dict[tuple[int, int | str], int] = {}

    def put(group: int, which: int | str, token_ids: Sequence[int]) -> int:
        if (group, which) not in place_of:
            place_of[group, which] = len(sequences)
            sequences.append((groups[group].prompt.token_ids, token_ids))
        return place_of[group, which]

    def completions(group: int, wanted: tuple[bool, ...]) -> tuple[int, ...]:
        pairs = zip(groups[group].completions, groups[group].outcomes, strict=True)
        return tuple(put(group, at, each.token_ids) for at, (each, told) in enumerate(pairs) if told.correct in wanted)

    found = []
    for name in BATCHES:
        lines = tuple(completions(group, (True, False)) for group in batches[name])
        found.append(Population(name, lines, ("entropy", "kl")))
    for wanted, batch in ((False, "all_wrong"), (False, "mixed"), (True, "mixed"), (True, "all_right")):
        lines = tuple(completions(group, (wanted,)) for group in batches[batch])
        found.append(Population(f"{'correct' if wanted else 'wrong'} in {batch}", lines, ("logprob",)))
    for batch in ("all_wrong", "mixed"):
        golds = [(group, gold_of(groups[group])) for group in batches[batch]]
        lines = tuple((put(group, "gold", gold),) for group, gold in golds if gold)
        found.append(Population(f"gold of {batch}", lines, ("logprob",)))
    return sequences, [each for each in found if each.by_group]


def score(
    policy: Policy, sequences: Sequence[tuple[TokenIds, TokenIds]], *, temperature: float, max_tokens: int
) -> list[TokenStats]:
    """Log-probabilities and entropies of given completions, in the precision of the weights.

    In bfloat16 the rounding of a forward pass is larger than the effect of an update.

    Args:
        policy: Not changed.
        sequences: Token ids of each prompt and of its completion.
        temperature: The sampling temperature.
        max_tokens: Budget of one forward pass.
    """
    exact = replace(policy, autocast_dtype=None)
    rows = [
        TrainingRow(tuple(prompt), tuple(completion), (), 0.0, group=place)
        for place, (prompt, completion) in enumerate(sequences)
    ]
    return within_memory(lambda budget: _score(exact, rows, temperature, budget), exact, max_tokens)


@torch.no_grad()
def _score(policy: Policy, rows: Sequence[TrainingRow], temperature: float, max_tokens: int) -> list[TokenStats]:
    nothing = TokenStats(np.empty(0), np.empty(0))
    found = [nothing] * len(rows)
    if can_share_prefix(policy):
        budget = min(max_tokens, PASS_TOKENS_ON_CPU) if policy.device.type == "cpu" else max_tokens
        for chunk, num_tokens in shared_microbatches(rows, budget):
            work = partial(_shared_stats, policy, chunk, temperature)
            for row, stats in zip(chunk, one_pass(work, num_rows=len(chunk), num_tokens=num_tokens), strict=True):
                found[row.group] = stats
        return found
    for chunk, batch in batches(policy, rows, max_tokens, None):
        work = partial(completion_logprobs, policy, batch, temperature=temperature, with_entropy=True)
        values = one_pass(work, num_rows=len(chunk), num_tokens=batch.input_ids.numel())
        for row, *lines in zip(chunk, *(value.double().cpu().numpy() for value in values), strict=True):
            found[row.group] = TokenStats(*(line[: len(row.completion_ids)].copy() for line in lines))
    return found


def _shared_stats(policy: Policy, rows: Sequence[TrainingRow], temperature: float) -> list[TokenStats]:
    batch = share_rows([(row.prompt_ids, row.completion_ids) for row in rows], policy)
    with shared_states(policy, batch) as states:
        values = logprobs_of_states(
            policy.model.get_output_embeddings(),
            states,
            batch.completion_ids,
            temperature=temperature,
            with_entropy=True,
        )
    lines = [[line.double().cpu().numpy() for line in value.split(batch.lengths)] for value in values]
    return [TokenStats(*pair) for pair in zip(*lines, strict=True)]


@contextmanager
def weights_restored(policy: Policy) -> Iterator[list[Tensor]]:
    """Whatever happens to the trainable weights inside, they are the same bits afterwards, without gradients.

    Yields:
        The weights as they were.
    """
    parameters = policy.trainable_parameters()
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        yield before
    finally:
        with torch.no_grad():
            for parameter, values in zip(parameters, before, strict=True):
                parameter.copy_(values)
                parameter.grad = None


def sgd_step(policy: Policy, norm: float) -> None:
    """Moves the weights by `norm`, in L2 norm, against the gradient that they have, which is not zero."""
    parameters = policy.trainable_parameters()
    length = torch.linalg.vector_norm(torch.stack([each.grad.double().norm() for each in parameters]))
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(parameter.grad, alpha=-norm / float(length))


def adam_step(policy: Policy, config: RunConfig) -> None:
    """The first step of training's AdamW, at `optim.lr`, with the gradient that the weights have."""
    adamw(policy.trainable_parameters(), config, peak=config.optim.lr).step()


def effect_of(
    policy: Policy,
    take_step: Callable[[], None],
    sequences: Sequence[tuple[TokenIds, TokenIds]],
    before: Sequence[TokenStats],
    populations: Sequence[Population],
    *,
    temperature: float,
    max_tokens: int,
) -> dict[str, Any]:
    """Makes an update, measures, and takes it back.

    Args:
        policy: The same bits afterwards.
        take_step: Moves the weights.
        sequences: Prompts and completions.
        before: From `score`, of the same.
        populations: What is measured on which of them.
        temperature: The sampling temperature.
        max_tokens: Budget of one forward pass.

    Returns:
        `step_norm`, how far the weights moved (L2), and `changes`, a list; see `gradients`.
    """
    with weights_restored(policy) as start:
        take_step()
        pairs = zip(policy.trainable_parameters(), start, strict=True)
        moved = [(now.detach() - was).double().norm() for now, was in pairs]
        after = score(policy, sequences, temperature=temperature, max_tokens=max_tokens)
    changes = [
        _change(population, quantity, per, before, after)
        for population in populations
        for quantity in population.quantities
        for per in (("token",) if quantity == "entropy" else ("token", "completion"))
    ]
    return {"step_norm": float(torch.stack(moved).norm()), "changes": changes}


def _change(
    population: Population, quantity: str, per: str, before: Sequence[TokenStats], after: Sequence[TokenStats]
) -> dict[str, Any]:
    """One change with its interval over groups: each group's completions before and after are a pair."""
    sums = [
        sum(float(QUANTITIES[quantity](before[place], after[place]).sum()) for place in places)
        for places in population.by_group
    ]
    counts = [
        sum(len(before[place].logprobs) for place in places) if per == "token" else len(places)
        for places in population.by_group
    ]
    return {
        "quantity": quantity,
        "of": population.name,
        "per": per,
        "unit": "nats",
        **as_cell(ratio_interval(sums, counts)),
        "num_groups": len(counts),
    }


def _entropy_change(before: TokenStats, after: TokenStats) -> NDArray[np.float64]:
    return after.entropies - before.entropies


def _logprob_change(before: TokenStats, after: TokenStats) -> NDArray[np.float64]:
    return after.logprobs - before.logprobs


def _kl(before: TokenStats, after: TokenStats) -> NDArray[np.float64]:
    """The k3 estimate of KL(before || after) at tokens drawn from before: unbiased, never negative."""
    gaps = after.logprobs - before.logprobs
    return np.expm1(gaps) - gaps


QUANTITIES: Mapping[str, Callable[[TokenStats, TokenStats], NDArray[np.float64]]] = {
    "entropy": _entropy_change,
    "logprob": _logprob_change,
    "kl": _kl,
}
