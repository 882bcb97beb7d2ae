"""From kept groups to the rows of the optimiser steps."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from ngrpo.config import RunConfig
from ngrpo.errors import ConfigError
from ngrpo.objectives import Objective, RolloutFacts
from ngrpo.policy import Policy
from ngrpo.rollout import logprobs_are_exact
from ngrpo.train.facts import columns, facts_at_hand
from ngrpo.train.step import TrainingRow, logprobs_of
from ngrpo.types import Completion, Group

Item = TypeVar("Item")

VLLM_IMPORTANCE_CAP = 2.0
"""Of importance weights where vLLM samples and nothing is set: that of the sampler's correction in verl."""


def group_rows(objective: Objective, groups: list[Group], facts: RolloutFacts | None = None) -> list[list[TrainingRow]]:
    """Advantages of whole groups, and with them the rows of each group.

    Args:
        objective: The method.
        groups: The groups that enter the update; may be none.
        facts: What the method needs to know of their completions. Left out, what they carry themselves.

    Raises:
        ConfigError: The method gives an advantage that is not finite.
    """
    if not groups:
        return []
    rewards, ids, labels = columns(groups)
    facts = facts or RolloutFacts(**facts_at_hand(groups))
    values = objective.advantages(rewards, ids, correct=labels, rollout=facts)
    is_finite = values.isfinite().reshape(len(values), -1).all(dim=1)
    if not is_finite.all():
        row = int((~is_finite).nonzero()[0])
        raise ConfigError(
            f"objective {objective.name!r} gave the advantage {values[row].tolist()} to a completion of reward "
            f"{rewards[row].item()}, in a group with rewards {rewards[ids == ids[row]].tolist()}. Mend the method."
        )
    pairs = iter(zip(values.tolist(), objective.counted(values, facts).tolist(), strict=True))
    rows = [
        [_row(group.prompt.token_ids, completion, place, *next(pairs)) for completion in group.completions]
        for place, group in enumerate(groups)
    ]
    if objective.needs_critic:
        targets = objective.value_targets(rewards, ids, correct=labels, rollout=facts)
        rows = _with_values(rows, facts.values.tolist(), targets.tolist())
    return rows


def _row(
    prompt_ids: tuple[int, ...], completion: Completion, group: int, advantage: float | list[float], counts: bool
) -> TrainingRow:
    row = TrainingRow(prompt_ids, completion.token_ids, completion.logprobs, 0.0, counts, group=group)
    return row.with_advantage(advantage)


def _with_values(
    rows: list[list[TrainingRow]], values: list[list[float]], targets: list[list[float]]
) -> list[list[TrainingRow]]:
    """The same rows with what a critic said and what it should have said; both of them [N, T], padded."""
    pairs = iter(zip(values, targets, strict=True))

    def learned(row: TrainingRow) -> TrainingRow:
        old, wanted = (tuple(line[: len(row.completion_ids)]) for line in next(pairs))
        return replace(row, old_values=old, value_targets=wanted)

    return [[learned(row) for row in group] for group in rows]


def advantages_of(rows: list[list[TrainingRow]], kept: Sequence[bool]) -> list[list[float]]:
    """Advantages of every sampled group, for the records; none where the group was not kept.

    Args:
        rows: The rows of each kept group.
        kept: Whether each sampled group was kept.
    """
    rest = iter(rows)
    return [[row.advantage for row in next(rest)] if is_kept else [] for is_kept in kept]


def with_old_logprobs(policy: Policy, groups: list[Group], config: RunConfig) -> tuple[list[Group], dict[str, float]]:
    """The groups with the log-probabilities that the update's ratios start from: the sampler's own where exact.

    Args:
        policy: Not changed.
        groups: The groups that enter the update.
        config: How they were sampled, and how they will be updated on.

    Returns:
        The groups, and metrics of how far sampler and trainer are apart; none where the sampler is exact.
    """
    if logprobs_are_exact(config.rollout.engine, policy):
        return groups, {}
    return with_retaken_logprobs(policy, groups, config)


def with_retaken_logprobs(
    policy: Policy, groups: list[Group], config: RunConfig
) -> tuple[list[Group], dict[str, float]]:
    """Old log-probabilities from the forward pass that the update itself makes; a given solution keeps its author's.

    For where the sampler's numbers and those of the update's full forward pass differ visibly (bfloat16, vLLM); with
    float32 weights and arithmetic the native engine's own are exact.

    Args:
        policy: Not changed.
        groups: The groups that enter the update.
        config: How they were sampled, and how they will be updated on.

    Returns:
        The groups, and metrics of how far sampler and trainer are apart.
    """
    own = [(group.prompt, each) for group in groups for each in group.completions if not each.is_anchor]
    retaken = logprobs_of(
        policy,
        [(prompt.token_ids, each.token_ids) for prompt, each in own],
        temperature=config.rollout.temperature,
        max_microbatch_tokens=config.update.max_microbatch_tokens,
        packing_window=config.update.packing_window,
    )
    metrics = _mismatch([each.logprobs for _, each in own], retaken)
    rest = iter(retaken)
    return [
        replace(
            group,
            completions=tuple(
                each if each.is_anchor else replace(each, logprobs=next(rest)) for each in group.completions
            ),
        )
        for group in groups
    ], metrics


def _mismatch(sampled: Sequence[Sequence[float]], retaken: Sequence[Sequence[float]]) -> dict[str, float]:
    """How far two sets of log-probabilities of the same tokens are apart; nothing where there is no token."""
    gaps = _flat(retaken) - _flat(sampled)
    if not gaps.numel():
        return {}
    ratios = gaps.exp()
    return {
        "policy/sampler_gap_nats": float(gaps.abs().max()),
        "policy/sampler_ratio_mean": float(ratios.mean()),
        "policy/sampler_kl_nats": float((ratios - 1.0 - gaps).mean()),
    }


def _flat(rows: Sequence[Sequence[float]]) -> torch.Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=torch.float64)


def importance_cap(config: RunConfig) -> float | None:
    """The most that a token's importance weight may be; None where tokens get none.

    Example:
        >>> from ngrpo.config import load_config
        >>> importance_cap(load_config("tiny", [])), importance_cap(load_config("tiny", ["rollout.engine=vllm"]))
        (None, 2.0)
    """
    cap = config.update.max_importance_weight
    if cap is None:
        return VLLM_IMPORTANCE_CAP if config.rollout.engine == "vllm" else None
    return None if cap == "off" else cap


def with_importance_weights(
    rows: list[list[TrainingRow]], sampled: list[Group], max_weight: float
) -> list[list[TrainingRow]]:
    """The same rows with the weight of each token: its old probability over the one it was sampled with, capped.

    Tokens come from the sampler's distribution and the loss is about the trainer's; where the two differ, the weight
    makes expectations those of the trainer, and the cap bounds its variance (truncated importance sampling, Yao et al.
    2025, as in verl and TRL). Where the sampler's numbers are exact every weight is 1.

    Args:
        rows: Of each group, with the trainer's `old_logprobs`.
        sampled: The same groups as they were sampled.
        max_weight: The cap.

    Example:
        >>> from ngrpo.types import Prompt
        >>> row = TrainingRow((7,), (8, 9), (-1.0, -1.0), 1.0)
        >>> completion = Completion((8, 9), (-1.5, -3.0), "", "eos")
        >>> group = Group(Prompt("a", "a", (7,), None), (completion,), ())
        >>> [[weighted]] = with_importance_weights([[row]], [group], max_weight=2.0)
        >>> weighted.importance_weights                                   # exp(0.5), and exp(2) capped
        (1.6487212707001282, 2.0)
    """

    def weighted(row: TrainingRow, completion: Completion) -> TrainingRow:
        gaps = _flat([row.old_logprobs]) - _flat([completion.logprobs])
        return replace(row, importance_weights=tuple(gaps.exp().clamp(max=max_weight).tolist()))

    return [
        [weighted(row, completion) for row, completion in zip(line, group.completions, strict=True)]
        for line, group in zip(rows, sampled, strict=True)
    ]


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
