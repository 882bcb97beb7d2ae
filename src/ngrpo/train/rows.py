"""From kept groups to the rows of the optimiser steps."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from ngrpo.errors import ConfigError
from ngrpo.objectives import Objective, RolloutFacts
from ngrpo.policy import Policy, completion_logprobs, pad_rows
from ngrpo.train.rollout import columns
from ngrpo.train.step import TrainingRow, microbatches
from ngrpo.types import Group

Item = TypeVar("Item")


def group_rows(objective: Objective, groups: list[Group]) -> list[list[TrainingRow]]:
    """Advantages of whole groups, and with them the rows of each group.

    Args:
        objective: The method.
        groups: The groups that enter the update; may be none.

    Raises:
        ConfigError: The method gives an advantage that is not finite.
    """
    if not groups:
        return []
    rewards, ids, labels = columns(groups)
    completions = [completion for group in groups for completion in group.completions]
    facts = RolloutFacts(
        completion_tokens=torch.tensor([len(completion.token_ids) for completion in completions]),
        is_truncated=torch.tensor([completion.is_truncated for completion in completions]),
    )
    values = objective.advantages(rewards, ids, correct=labels, rollout=facts)
    if not values.isfinite().all():
        row = int((~values.isfinite()).nonzero()[0])
        raise ConfigError(
            f"objective {objective.name!r} gave the advantage {values[row].item()} to a completion of reward "
            f"{rewards[row].item()}, in a group with rewards {rewards[ids == ids[row]].tolist()}. Mend the method."
        )
    pairs = iter(zip(values.tolist(), objective.counted(values, facts).tolist(), strict=True))
    return [
        [
            TrainingRow(group.prompt.token_ids, completion.token_ids, completion.logprobs, *next(pairs))
            for completion in group.completions
        ]
        for group in groups
    ]


def advantages_of(rows: list[list[TrainingRow]], kept: Sequence[bool]) -> list[list[float]]:
    """Advantages of every sampled group, for the records; none where the group was not kept.

    Args:
        rows: The rows of each kept group.
        kept: Whether each sampled group was kept.
    """
    rest = iter(rows)
    return [[row.advantage for row in next(rest)] if is_kept else [] for is_kept in kept]


@torch.no_grad()
def with_retaken_logprobs(
    policy: Policy, rows: list[list[TrainingRow]], temperature: float, max_microbatch_tokens: int
) -> tuple[list[list[TrainingRow]], float]:
    """Old log-probabilities from the forward pass that the update itself makes.

    For arithmetic in which the sampler's cached decoding and the update's full forward pass differ visibly (bfloat16);
    with float32 weights and arithmetic the sampler's own numbers are exact.

    Args:
        policy: Not changed.
        rows: The rows of each group.
        temperature: The sampling temperature.
        max_microbatch_tokens: Budget of one forward pass.

    Returns:
        The rows, and the largest difference to the sampler's log-probabilities, nats.
    """
    retaken: dict[int, tuple[float, ...]] = {}
    gap_nats = 0.0
    flat = [row for group in rows for row in group]
    for chunk in microbatches(flat, max_microbatch_tokens):
        batch = pad_rows(
            [row.prompt_ids for row in chunk],
            [row.completion_ids for row in chunk],
            pad_token_id=policy.pad_token_id,
            device=policy.device,
        )
        values, _ = completion_logprobs(policy, batch, temperature=temperature)
        for row, line in zip(chunk, values.tolist(), strict=True):
            new = tuple(line[: len(row.completion_ids)])
            gaps = (abs(a - b) for a, b in zip(new, row.old_logprobs, strict=True))
            gap_nats = max(gap_nats, *gaps, 0.0)
            retaken[id(row)] = new
    return [[replace(row, old_logprobs=retaken[id(row)]) for row in group] for group in rows], gap_nats


def even_parts(items: Sequence[Item], count: int) -> Iterator[Sequence[Item]]:
    """Cuts a sequence into `count` runs whose sizes differ by one at most; some are empty when items are few.

    Example:
        >>> [list(part) for part in even_parts("abcde", 3)]
        [['a', 'b'], ['c', 'd'], ['e']]
    """
    size, rest = divmod(len(items), count)
    start = 0
    for place in range(count):
        end = start + size + (place < rest)
        yield items[start:end]
        start = end
