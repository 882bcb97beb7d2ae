"""What of an objective TRL's `GRPOTrainer` can carry, and by which of its settings. Needs no TRL.

TRL's losses are per token what ours are, and three of its eight (`dapo`, `cispo`, `grpo`) are enough:

    policy term                  loss_type            besides
    ClippedSurrogate             dapo or grpo         epsilon, epsilon_high, delta (the dual clip)
    SequenceClippedSurrogate     dapo or grpo         importance_sampling_level = "sequence"
    DetachedWeight               cispo                epsilon_high, the cap of the ratio itself
    Reinforce                    cispo                the old log-probabilities are taken away: the ratio is then 1

`dapo` and `cispo` divide the sum over tokens by `num_items_in_batch`, which is ours to set: by tokens it is the token
mean, by completions the sum over whole sequences, and so on. `grpo` is the mean of each sequence's own token mean.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from ngrpo.errors import ConfigError
from ngrpo.objectives import (
    ClippedSurrogate,
    Counts,
    DetachedWeight,
    EntropyBonus,
    KeepKinds,
    Objective,
    ReferenceKL,
    Reinforce,
    RolloutPlan,
    SequenceClippedSurrogate,
    seq_mean_token_mean,
    seq_mean_token_sum,
    seq_mean_token_sum_norm,
    token_mean,
)

GIVEN_FACTS = frozenset({"completion_tokens", "is_truncated", "old_logprobs"})
"""Facts of a rollout that the trainer can tell an objective."""

NOT_GIVEN = {
    "is_abstained": "TRL's rewards are numbers, without a verdict for declining to answer",
    "ref_logprobs": "TRL takes the reference model's log-probabilities for its own KL term, after sampling",
    "values": "TRL's GRPOTrainer trains no critic",
    "greedy_rewards": "TRL samples no greedy completion beside the group",
    "tracker_values": "TRL keeps no estimate of a prompt's reward from step to step",
    "reference_rewards": "TRL samples nothing from the reference model before training",
    "token_similarity": "TRL has no pass that compares the gradients of tokens",
    "inclusion_weights": "TRL's sampler leaves out no prompts",
    "uniforms": "TRL draws nothing among completions",
}
"""Why each of the other facts is not to be had."""

# The differences, as the documentation names and explains them.
MASKED = "dropped groups are masked, not replaced"
SHARED_DIVISOR = "the updates of a generation share a divisor"
ROWS_STAY = "completions that leave stay in the divisor"
ENTROPY_BY_MICROBATCH = "the entropy bonus is a mean over each microbatch's tokens"


@dataclass(frozen=True)
class Carried:
    """How TRL carries an objective.

    Attributes:
        settings: Values of `GRPOConfig` fields that the objective dictates.
        divisor: What `num_items_in_batch` has to be, from the tokens and completions of a generation that count.
        has_ratio: Whether the loss reads the ratio; without it the old log-probabilities are taken away.
        differences: What is not the same as in our own trainer, as docs/integrations_trl.md names and explains it.
    """

    settings: dict[str, Any]
    divisor: Callable[[Counts], int]
    has_ratio: bool
    differences: tuple[str, ...]


def carried(objective: Objective) -> Carried:
    """How TRL carries an objective.

    Args:
        objective: Any; methods of one's own included.

    Raises:
        ConfigError: It cannot; the message names the part, and says why.

    Example:
        >>> from ngrpo import objectives
        >>> found = carried(objectives.get("ngrpo"))
        >>> found.settings["loss_type"], found.settings["epsilon"], found.settings["epsilon_high"]
        ('dapo', 0.16, 0.24)
        >>> found.divisor(Counts(num_tokens=700, num_sequences=8))
        700
    """
    _refuse_what_needs_another_trainer(objective)
    settings = _defaults() | _regulariser_settings(objective) | _policy_settings(objective)
    return Carried(
        settings=settings,
        divisor=_divisor(objective),
        has_ratio=not isinstance(objective.policy, Reinforce),
        differences=_differences(objective),
    )


def rows_can_leave(objective: Objective) -> bool:
    """Whether the method itself takes completions out of the update."""
    return objective.group_filter != KeepKinds() or objective.drop_zero_weight or objective.mask_truncated


def _refuse_what_needs_another_trainer(objective: Objective) -> None:
    if objective.needs_critic:
        raise _cannot(objective, "critic", NOT_GIVEN["values"])
    if objective.step_weight is not None:
        raise _cannot(objective, "step_weight", "TRL has no pass over the rows of an optimiser step before the step")
    for plan in fields(RolloutPlan):
        if getattr(objective.rollout, plan.name) != plan.default:
            raise _cannot(objective, f"rollout.{plan.name}", "TRL samples each prompt alike, in its own order")
    for fact in sorted(objective.needs_facts - GIVEN_FACTS):
        raise _cannot(objective, fact, NOT_GIVEN[fact])


def _defaults() -> dict[str, Any]:
    """What every objective dictates: rewards are summed, and scaled by nobody but the objective."""
    return {
        "multi_objective_aggregation": "sum_then_normalize",
        "scale_rewards": "none",
        "importance_sampling_level": "token",
        "delta": None,
        "beta": 0.0,
        "entropy_coef": 0.0,
        "use_adaptive_entropy": False,
    }


def _policy_settings(objective: Objective) -> dict[str, Any]:
    policy = objective.policy
    is_mean_of_means = objective.aggregation is seq_mean_token_mean
    if isinstance(policy, (Reinforce, DetachedWeight)):
        if is_mean_of_means:
            raise _cannot(
                objective,
                "aggregation seq_mean_token_mean",
                f"TRL's loss for {type(policy).__name__} sums over tokens: have token_mean or seq_mean_token_sum",
            )
        cap = policy.weight_max if isinstance(policy, DetachedWeight) else 1.0
        return {"loss_type": "cispo", "epsilon_high": cap}
    if not isinstance(policy, (ClippedSurrogate, SequenceClippedSurrogate)):
        raise _cannot(objective, f"policy {type(policy).__name__}", "TRL has no loss of that form")
    settings: dict[str, Any] = {
        "loss_type": "grpo" if is_mean_of_means else "dapo",
        "epsilon": policy.clip_low,
        "epsilon_high": policy.clip_high,
    }
    if isinstance(policy, SequenceClippedSurrogate):
        return settings | {"importance_sampling_level": "sequence"}
    if policy.dual_clip is not None and policy.dual_clip < 1 + policy.clip_high:
        raise _cannot(
            objective,
            f"dual_clip {policy.dual_clip:g}",
            f"TRL's delta bounds positive advantages too, which are to go up to {1 + policy.clip_high:g}",
        )
    return settings | {"delta": policy.dual_clip}


def _regulariser_settings(objective: Objective) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for part in objective.regularisers:
        if isinstance(part, ReferenceKL) and "beta" not in settings:
            settings |= {"beta": part.coef, "use_bias_correction_kl": False}
        elif isinstance(part, EntropyBonus) and "entropy_coef" not in settings:
            settings |= {"entropy_coef": part.coef}
        else:
            raise _cannot(
                objective, f"regulariser {type(part).__name__}", "TRL has one KL to a reference, and one entropy bonus"
            )
    return settings


def _divisor(objective: Objective) -> Callable[[Counts], int]:
    """What the sum over tokens is divided by. TRL's `grpo` takes its means without it."""
    aggregation = objective.aggregation
    if aggregation in (token_mean, seq_mean_token_mean):
        return lambda counts: counts.num_tokens
    if aggregation is seq_mean_token_sum:
        return lambda counts: counts.num_sequences
    if isinstance(aggregation, partial) and aggregation.func is seq_mean_token_sum_norm:
        budget_tokens = aggregation.keywords["budget_tokens"]
        return lambda counts: counts.num_sequences * budget_tokens
    name = getattr(aggregation, "__name__", repr(aggregation))
    raise _cannot(objective, f"aggregation {name}", "TRL knows token and sequence means, and sums over sequences")


def _differences(objective: Objective) -> tuple[str, ...]:
    found = []
    can_leave = rows_can_leave(objective)
    if objective.group_filter != KeepKinds():
        found.append(MASKED)
    if objective.aggregation is seq_mean_token_mean:
        found += [ROWS_STAY] if can_leave else []
    elif objective.aggregation is token_mean or can_leave:  # completions are as many in each update, tokens are not
        found.append(SHARED_DIVISOR)
    if any(isinstance(part, EntropyBonus) for part in objective.regularisers):
        found.append(ENTROPY_BY_MICROBATCH)
    return tuple(found)


def _cannot(objective: Objective, part: str, why: str) -> ConfigError:
    return ConfigError(
        f"TRL's GRPOTrainer cannot carry {objective.name}: {part}: {why}. Train it with `ngrpo train`, or choose "
        "another method (docs/integrations_trl.md lists those that TRL carries)."
    )
