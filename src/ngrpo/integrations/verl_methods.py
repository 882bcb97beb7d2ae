"""What verl can carry of a method, part by part. Needs no verl: it is asked before anything is started.

verl calls an estimator with rewards per token, a mask and group ids, and nothing else; its losses, its aggregations and
its terms for entropy and for a reference model are its own, and are the same as ours (tests/parity).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ngrpo import objectives
from ngrpo.errors import ConfigError
from ngrpo.objectives import (
    ClippedSurrogate,
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
from ngrpo.objectives.filters import FILTERS

VERL_ESTIMATORS = frozenset(
    {
        "gae",
        "grpo",
        "grpo_passk",
        "grpo_vectorized",
        "gdpo",
        "gpg",
        "opo",
        "optimal_token_baseline",
        "reinforce_plus_plus",
        "reinforce_plus_plus_baseline",
        "remax",
        "rloo",
        "rloo_vectorized",
        "tir_optimal_token_baseline",
    }
)
"""Names of verl's own advantage estimators, which ours never take (verl 0.9.1; a test holds the list)."""

VERL_OWN = {
    "ppo": "gae",
    "reinforce_pp": "reinforce_plus_plus",
    "reinforce_pp_baseline": "reinforce_plus_plus_baseline",
}
"""Methods whose advantages differ from token to token: verl's own estimators of the same numbers, left to it."""

LABELS = "rewards have to be 0 or 1: verl gives an estimator no labels"
"""The difference where the advantages themselves read labels."""

NO_DUAL_CLIP = 1e9
"""`clip_ratio_c` of verl's vanilla loss, which cannot be switched off: a bound that no ratio reaches."""

ACTOR = "actor_rollout_ref.actor"

LOSS_PARAMETERS = {
    "clip_low": f"{ACTOR}.clip_ratio_low",
    "clip_high": f"{ACTOR}.clip_ratio_high",
    "dual_clip": f"{ACTOR}.clip_ratio_c",
    "weight_max": f"{ACTOR}.clip_ratio_high (less 1), with {ACTOR}.clip_ratio_low=1",
    "budget_tokens": f"{ACTOR}.loss_scale_factor",
    "aggregation": f"{ACTOR}.loss_agg_mode",
    "kl_coef": f"{ACTOR}.kl_loss_coef, with {ACTOR}.use_kl_loss=True",
    "entropy_coef": f"{ACTOR}.entropy_coeff",
    "reward_kl_coef": "algorithm.kl_ctrl.kl_coef, with algorithm.use_kl_in_reward=True",
    "gamma": "algorithm.gamma",
    "lam": "algorithm.lam",
    "value_clip": "critic.cliprange_value",
    "group_filter": "trainer.v1.sampler.sampler_kwargs.group_filter",
    "drop_zero_weight": "",
    "mask_truncated": "",
}
"""Parameters of methods that are no part of the advantage, and where verl has them instead; empty: nowhere."""

AGGREGATIONS = {
    token_mean: "token-mean",
    seq_mean_token_mean: "seq-mean-token-mean",
    seq_mean_token_sum: "seq-mean-token-sum",
}


@dataclass(frozen=True, slots=True)
class VerlLoss:
    """A policy term in verl's words.

    Attributes:
        loss_mode: Name of the policy loss.
        clip_ratio_low: `actor.clip_ratio_low`.
        clip_ratio_high: `actor.clip_ratio_high`.
        clip_ratio_c: `actor.clip_ratio_c`, the dual clip.
    """

    loss_mode: str
    clip_ratio_low: float = 0.2
    clip_ratio_high: float = 0.2
    clip_ratio_c: float = NO_DUAL_CLIP


@dataclass(frozen=True, slots=True)
class Support:
    """What becomes of a method in verl.

    Attributes:
        method: Its name in the catalog.
        estimator: verl's `algorithm.adv_estimator`; empty where verl cannot carry the method.
        obstacles: Which parts verl cannot carry, and why.
        differences: What is not the same where it can.
    """

    method: str
    estimator: str
    obstacles: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


def estimator_name(method: str) -> str:
    """What a method's advantages are called in verl: its own name, or `ngrpo_NAME` where verl has taken that.

    Example:
        >>> estimator_name("ngrpo"), estimator_name("grpo"), estimator_name("ppo")
        ('ngrpo', 'ngrpo_grpo', 'gae')
    """
    if method in VERL_OWN:
        return VERL_OWN[method]
    return f"ngrpo_{method}" if method in VERL_ESTIMATORS else method


def support(method: str, params: Mapping[str, Any] | None = None) -> Support:
    """Says whether verl can carry a method, and what differs then.

    Args:
        method: A name of the catalog.
        params: Its parameters. Left out, the defaults, and 0.5 for those that have none.

    Raises:
        ConfigError: The method or a parameter is unknown or impossible.

    Example:
        >>> support("lens").obstacles
        ('verl gives an estimator no old_logprobs',)
    """
    objective = objectives.get(method, **(_some_params(method) if params is None else params))
    obstacles = tuple(_obstacles(objective, is_verls=method in VERL_OWN))
    if obstacles:
        return Support(method, "", obstacles)
    return Support(method, estimator_name(method), (), tuple(_differences(objective)))


def supported_methods() -> list[str]:
    """Every method whose advantages are an estimator of ours in verl."""
    return [name for name in objectives.names() if name not in VERL_OWN and not support(name).obstacles]


def loss_of(objective: Objective) -> VerlLoss:
    """The policy loss of verl that is a method's policy term.

    Raises:
        ConfigError: verl has none.

    Example:
        >>> loss_of(objectives.get("ngrpo"))
        VerlLoss(loss_mode='vanilla', clip_ratio_low=0.16, clip_ratio_high=0.24, clip_ratio_c=1000000000.0)
    """
    term = objective.policy
    if isinstance(term, ClippedSurrogate):
        return VerlLoss("vanilla", term.clip_low, term.clip_high, term.dual_clip or NO_DUAL_CLIP)
    if isinstance(term, SequenceClippedSurrogate):
        return VerlLoss("gspo", term.clip_low, term.clip_high)
    if isinstance(term, DetachedWeight):  # verl's cap is a distance from 1, and so is its floor: 1 makes that 0
        return VerlLoss("cispo", 1.0, term.weight_max - 1.0)
    if isinstance(term, Reinforce):
        return VerlLoss("gpg")
    raise ConfigError(f"objective {objective.name!r} has a policy term verl has no loss for: {term!r}.")


def aggregation_of(objective: Objective) -> tuple[str, int | None]:
    """The `loss_agg_mode` and `loss_scale_factor` (tokens) of verl that are a method's aggregation.

    Raises:
        ConfigError: verl has none.

    Example:
        >>> aggregation_of(objectives.get("dr_grpo", budget_tokens=2048))
        ('seq-mean-token-sum-norm', 2048)
    """
    aggregation = objective.aggregation
    if isinstance(aggregation, partial) and aggregation.func is seq_mean_token_sum_norm:
        return "seq-mean-token-sum-norm", aggregation.keywords["budget_tokens"]
    if aggregation in AGGREGATIONS:
        return AGGREGATIONS[aggregation], None
    raise ConfigError(f"objective {objective.name!r} has an aggregation verl has none for: {aggregation!r}.")


def filter_name(objective: Objective) -> str:
    """The name of a method's group filter, which the sampler takes.

    Raises:
        ConfigError: It goes by something else than the kinds of groups.

    Example:
        >>> filter_name(objectives.get("ngrpo"))
        'drop_all_correct'
    """
    for name, kinds in FILTERS.items():
        if objective.group_filter == kinds:
            return name
    raise ConfigError(f"objective {objective.name!r} filters groups by {objective.group_filter!r}, which verl cannot.")


def advantage_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Of a method's parameters, those that its estimator is told: all but those that verl has settings for."""
    return {name: value for name, value in params.items() if name not in LOSS_PARAMETERS}


def advantage_needs_labels(objective: Objective) -> bool:
    """Whether more than the group filter reads labels; the filter is the sampler's, which has them.

    Example:
        >>> advantage_needs_labels(objectives.get("ngrpo")), advantage_needs_labels(objectives.get("psr"))
        (False, True)
    """
    return replace(objective, group_filter=KeepKinds()).needs_labels


def _some_params(method: str) -> dict[str, Any]:
    return {each.name: 0.5 for each in objectives.describe(method).parameters if each.is_required}


def _obstacles(objective: Objective, *, is_verls: bool) -> list[str]:
    found = []
    if objective.rollout != RolloutPlan():
        found.append("it changes what is sampled, which is verl's own")
    if objective.step_weight is not None or objective.needs_step_pass:
        found.append("each optimiser step needs a pass over all its rows first")
    known = {"completion_tokens"} | ({"values", "old_logprobs", "ref_logprobs"} if is_verls else set())
    if objective.mask_truncated:
        found.append("mask_truncated: verl gives an estimator no is_truncated")
    unknown = sorted(objective.needs_facts - known - {"is_truncated"})
    if unknown:
        found.append(f"verl gives an estimator no {' and no '.join(unknown)}")
    others = [part for part in objective.regularisers if not isinstance(part, (ReferenceKL, EntropyBonus))]
    if others and not objective.needs_step_pass:
        found.append(f"verl has no {others[0]!r}")
    if not isinstance(objective.group_filter, KeepKinds):
        found.append(f"it filters groups by {type(objective.group_filter).__name__}, not by their kinds")
    for ask in (loss_of, aggregation_of):
        try:
            ask(objective)
        except ConfigError as error:
            found.append(str(error))
    return found


def _differences(objective: Objective) -> list[str]:
    found = []
    if advantage_needs_labels(objective):
        found.append(LABELS)
    if objective.drop_zero_weight:
        found.append("completions of weight 0 stay in the denominators (as with drop_zero_weight = false)")
    if objective.needs_critic:
        found.append("the critic is verl's")
    if any(isinstance(part, ReferenceKL) for part in objective.regularisers):
        found.append("verl stops the divergence's gradient beyond 10 nats a token")
    return found
