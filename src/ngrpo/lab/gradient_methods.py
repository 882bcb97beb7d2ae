"""The methods whose gradients are compared: their names read, those that one batch cannot show refused, their rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ngrpo import objectives
from ngrpo.config import RunConfig
from ngrpo.config.literals import parse_literal
from ngrpo.errors import ConfigError
from ngrpo.objectives import NO_VIRTUAL, Objective, RelativeAdvantage, RolloutFacts, RolloutPlan
from ngrpo.stats import Interval, bootstrap_interval
from ngrpo.train.facts import columns, facts_at_hand, token_tensor
from ngrpo.train.needs import make_objective
from ngrpo.train.rows import group_rows
from ngrpo.train.training_rows import TrainingRow
from ngrpo.types import Group

DEFAULT_METHODS = ("grpo", "ngrpo", "dapo", "psr", "nsr", "w_reinforce")

KNOWN_FACTS = frozenset({"completion_tokens", "is_truncated", "is_abstained", "old_logprobs"})
"""What is known of completions that were sampled once, with nothing beside the model."""

REFUSED: list[tuple[Callable[[Objective], bool], str]] = [
    (
        lambda objective: objective.needs_critic,
        "needs a critic, a second model that is trained beside the policy: before training it knows nothing, and no "
        "gradient made with it would tell anything of the method.",
    ),
    (
        lambda objective: objective.needs_reference or "ref_logprobs" in objective.needs_facts,
        "measures its distance from a reference model, which is the starting model itself here: distance and gradient "
        "are zero. Leave kl_coef out.",
    ),
    (
        lambda objective: replace(objective.rollout, group_size=None) != RolloutPlan(),
        "changes what is sampled, or remembers earlier steps (ngrpo objectives NAME: rollout); groups are sampled once "
        "here, the same for every method.",
    ),
    (
        lambda objective: objective.needs_step_pass,
        "has a loss that is no sum over completions, so that the gradients of parts of a batch are not parts of its "
        "gradient.",
    ),
    (
        lambda objective: not objective.needs_facts <= KNOWN_FACTS,
        "reads more of a completion than its rewards, labels, tokens and log-probabilities.",
    ),
]
"""Who cannot be shown on groups that were sampled once, and why."""


@dataclass(frozen=True)
class Method:
    """A method under its label.

    Attributes:
        label: As the user wrote it: `ngrpo`, `ngrpo:num_virtual=2`.
        name: In the catalog.
        params: Its parameters.
        objective: The method.
    """

    label: str
    name: str
    params: Mapping[str, Any]
    objective: Objective


def make_methods(labels: Sequence[str], config: RunConfig) -> list[Method]:
    """Finds the methods, before anything is loaded.

    Args:
        labels: Each `NAME` or `NAME:key=value,key=value`.
        config: Group size, rewards and data of the run they would be in.

    Raises:
        ConfigError: A label cannot be read or is there twice, a method is unknown, cannot work on groups of this size,
            or needs what groups that were sampled once cannot give.
    """
    if twice := [label for label in labels if list(labels).count(label) > 1]:
        raise ConfigError(f"--method {twice[0]} was given twice. Give it once.")
    methods = []
    for label in labels:
        name, params = parse_method(label)
        if "aggregation" in params:
            raise ConfigError(
                f"--method {label}: the aggregation is held equal, the token mean over all tokens of the batch, so "
                "that gradients differ by what completions weigh and nothing else. Leave it out."
            )
        objective = objectives.get(name, **params)
        for is_refused, reason in REFUSED:
            if is_refused(objective):
                raise ConfigError(f"--method {label}: {name} {reason}")
        section = config.objective.model_copy(update={"name": name, "params": params})
        methods.append(Method(label, name, params, make_objective(config.model_copy(update={"objective": section}))))
    return methods


def parse_method(label: str) -> tuple[str, dict[str, Any]]:
    """A method's name and parameters.

    Raises:
        ConfigError: A parameter has no value.

    Example:
        >>> parse_method("ngrpo:num_virtual=2,clip_low=0.2")
        ('ngrpo', {'num_virtual': 2, 'clip_low': 0.2})
    """
    name, _, rest = label.partition(":")
    params = {}
    for pair in filter(None, rest.split(",")):
        key, is_given, text = pair.partition("=")
        if not is_given:
            raise ConfigError(f"--method {label}: {pair!r} has no value. Write NAME:key=value,key=value.")
        params[key.strip()] = parse_literal(text.strip())
    return name, params


def rows_by_group(objective: Objective, groups: Sequence[Group]) -> list[list[TrainingRow]]:
    """The rows that each group gives the update; none for one that the method's filter leaves out.

    Args:
        objective: The method.
        groups: A whole batch.
    """
    if not groups:
        return []
    rewards, ids, labels = columns(list(groups))
    kept = objective.keep(rewards, ids, correct=labels, rollout=_facts(groups))
    is_kept = [bool(part[0]) for part in torch.split(kept, [len(group.outcomes) for group in groups])]
    chosen = [group for group, each in zip(groups, is_kept, strict=True) if each]
    rest = iter(group_rows(objective, chosen, _facts(chosen)) if chosen else [])
    return [next(rest) if each else [] for each in is_kept]


def _facts(groups: Sequence[Group]) -> RolloutFacts:
    logprobs = token_tensor([each.logprobs for group in groups for each in group.completions]) if groups else None
    return RolloutFacts(**facts_at_hand(list(groups)), old_logprobs=logprobs)


def advantages_by_group(objective: Objective, groups: Sequence[Group]) -> list[list[float]]:
    """What each completion weighs, 0 throughout a group that the method's filter leaves out."""
    return [
        [row.advantage for row in rows] if rows else [0.0] * len(group.outcomes)
        for rows, group in zip(rows_by_group(objective, groups), groups, strict=True)
    ]


def without_virtual(objective: Objective) -> Objective | None:
    """The same method without its virtual samples; None where it has none."""
    advantage = objective.advantage
    if not isinstance(advantage, RelativeAdvantage) or advantage.virtual.num_virtual == 0:
        return None
    return replace(objective, advantage=replace(advantage, virtual=NO_VIRTUAL))


def virtual_share(objective: Objective, groups: Sequence[Group]) -> dict[str, Any] | None:
    """What the virtual samples do to the advantages of a batch, with 95 % bootstrap intervals over its groups.

    Args:
        objective: The method.
        groups: The batch, not empty.

    Returns:
        `with`, `without` and `difference`: mean advantages of `correct` and `wrong` completions, as intervals, None
        where there is no such completion; `rms_ratio`: root mean square of the advantages with the virtual samples over
        that without, None where that is 0. None for a method without virtual samples, or that is undefined without
        them at this group size.
    """
    plain = without_virtual(objective)
    if plain is None or plain.min_group_size > min(len(group.outcomes) for group in groups):
        return None
    labels = [[outcome.correct for outcome in group.outcomes] for group in groups]
    values = {
        "with": advantages_by_group(objective, groups),
        "without": advantages_by_group(plain, groups),
    }
    values["difference"] = [
        [one - other for one, other in zip(*pair, strict=True)] for pair in zip(*values.values(), strict=True)
    ]
    told: dict[str, Any] = {
        which: {
            name: as_cell(_mean_of(lines, labels, wanted)) for name, wanted in (("correct", True), ("wrong", False))
        }
        for which, lines in values.items()
    }
    squares = [[sum(value**2 for value in line) for line in values[which]] for which in ("with", "without")]
    ratio = ratio_interval(*squares) if sum(squares[1]) > 0 else None
    told["rms_ratio"] = as_cell(
        ratio and Interval(*(max(0.0, end) ** 0.5 for end in (ratio.estimate, ratio.low, ratio.high)))
    )
    return told


def _mean_of(lines: list[list[float]], labels: list[list[bool]], wanted: bool) -> Interval | None:
    chosen = [
        [value for value, label in zip(line, row, strict=True) if label is wanted]
        for line, row in zip(lines, labels, strict=True)
    ]
    counts = [len(line) for line in chosen]
    return ratio_interval([sum(line) for line in chosen], counts) if sum(counts) else None


def ratio_interval(sums: Sequence[float], counts: Sequence[float]) -> Interval:
    """A mean over what groups hold, such as tokens, and its bootstrap interval over groups.

    The ratio of two sums over groups, by its linearisation, so that every group may hold another number of them.

    Args:
        sums: Of each group.
        counts: Of each group; not all 0.

    Example:
        >>> interval = ratio_interval([2.0, 2.0, 2.0], [1, 1, 2])
        >>> interval.estimate, interval.low <= interval.estimate <= interval.high
        (1.5, True)
    """
    numerators, denominators = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    ratio = float(numerators.sum() / denominators.sum())
    around = bootstrap_interval((numerators - ratio * denominators) / denominators.mean())
    return Interval(ratio, ratio + float(around.low), ratio + float(around.high))


def as_cell(interval: Interval | None) -> dict[str, Any] | None:
    """An interval for JSON, with whether it excludes zero."""
    if interval is None:
        return None
    return {
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "established": bool(interval.low > 0 or interval.high < 0),
    }
