"""What a method needs of a run: found missing by name before anything is loaded, or made."""

from collections.abc import Callable

import torch

from ngrpo import objectives
from ngrpo.config import RunConfig
from ngrpo.data import PromptOrder
from ngrpo.errors import ConfigError, NgrpoError
from ngrpo.objectives import FACTS, KeepKinds, Objective, RolloutFacts
from ngrpo.policy import Policy
from ngrpo.rollout import reward_bounds
from ngrpo.rollout.choose import shaping_terms
from ngrpo.train.companion import Companion
from ngrpo.train.critic import CriticCompanion
from ngrpo.train.prompt_choice import InOrder, Prioritised, PromptChoice
from ngrpo.train.pruning import Pruned, PruningHistory, facts_unknown_to_history
from ngrpo.train.reference_values import ReferenceBaseline
from ngrpo.train.tracker import Tracker

TOKEN_FACTS = ("old_logprobs", "ref_logprobs", "values", "token_similarity")
"""Rollout facts that have one number per token."""


def make_objective(config: RunConfig) -> Objective:
    """The method with its parameters, tried on a group of the run's size before anything is loaded.

    Raises:
        ConfigError: Unknown method or parameter, one that needs what the run does not give, or one that cannot work
            with this group size or these rewards.
    """
    objective = objectives.get(config.objective.name, **config.objective.params)
    for is_needed, is_given, what in NEEDS:
        if is_needed(objective) and not is_given(config):
            raise ConfigError(f"objective {objective.name!r} needs {what}")
    if config.data.anchor_column is not None and objective.rollout.anchors is None:
        raise ConfigError(
            f"data.anchor_column = {config.data.anchor_column!r} has no effect: objective {objective.name!r} puts no "
            "given solutions into its groups. Leave it out, or choose a method that does, such as pvpo."
        )
    if config.critic is not None and not objective.needs_critic:
        raise ConfigError(
            f"objective {objective.name!r} has no critic, so critic.lr = {config.critic.lr:g} would have no effect. "
            "Leave the section critic out (critic=none), or choose a method that has one: ppo."
        )
    size = config.rollout.num_samples_per_prompt
    if objective.rollout.group_size not in (None, size):
        raise ConfigError(
            f"objective {objective.name!r} works on groups of {objective.rollout.group_size}, and "
            f"rollout.num_samples_per_prompt is {size}. Set it to {objective.rollout.group_size}."
        )
    least, best = reward_bounds(config.reward) or (0.0, 0.0)  # nobody knows what the user's own function pays
    try:
        _try_on_one_group(objective, [best] + [least] * (size - 1), is_shaped=bool(config.reward.shaping))
    except NgrpoError as error:
        problem = str(error)
    except Exception as error:  # noqa: BLE001  (a method of the user's own may raise anything)
        problem = f"it raised {type(error).__name__}: {error}"
    else:
        return objective
    raise ConfigError(
        f"objective {objective.name!r} cannot train on groups of {size} (rollout.num_samples_per_prompt) with "
        f"rewards from {least:g} to {best:g}{_told_apart(config)}: {problem}"
    )


def _try_on_one_group(objective: Objective, rewards: list[float], *, is_shaped: bool) -> None:
    """Takes the advantages of one group whose first completion is right, and looks at what comes.

    Args:
        objective: The method.
        rewards: Of the group.
        is_shaped: Whether they are to make a difference besides the labels.

    Raises:
        NgrpoError: The method refuses the group, gives something of another shape, or never reads a shaped reward.
    """
    size = len(rewards)
    labels, facts = [True] + [False] * (size - 1), stand_in_facts(size)
    advantages = objective.advantages(rewards, [0] * size, correct=labels, rollout=facts)
    if advantages.shape not in ((size,), (size, 1)):
        raise ConfigError(
            f"it gives advantages of shape {list(advantages.shape)} to {size} completions of one token each."
        )
    others = [value - 0.25 * (place % 2 == 0) for place, value in enumerate(rewards)]
    if is_shaped and torch.equal(advantages, objective.advantages(others, [0] * size, correct=labels, rollout=facts)):
        raise ConfigError(
            "it reads the labels and not the rewards, so reward.shaping would have no effect. Leave that out, or "
            "choose a method that reads rewards."
        )


def _told_apart(config: RunConfig) -> str:
    """What the bounds of the rewards are the sums of, for messages; nothing where that is the judge alone."""
    if not config.reward.shaping:
        return ""
    own = [f"{term.name} {' to '.join(f'{bound:g}' for bound in term.bounds)}" for term in shaping_terms(config.reward)]
    return f" (the judge {'of your own' if '.py:' in config.reward.name else '0 to 1'}, {', '.join(own)})"


def stand_in_facts(size: int) -> RolloutFacts:
    """Facts of completions of one token, to try a method on: every one of them given."""
    facts: dict[str, torch.Tensor] = {name: torch.zeros(size) for name in FACTS}
    facts |= {name: torch.zeros(size, 1) for name in TOKEN_FACTS}
    facts["completion_tokens"] = torch.ones(size, dtype=torch.long)
    facts["inclusion_weights"] = torch.ones(size)
    facts |= {name: torch.zeros(size, dtype=torch.bool) for name in ("is_truncated", "is_abstained")}
    return RolloutFacts(**facts)


def _pays_from_0_to_1(config: RunConfig) -> bool:
    """Whether no reward can be below 0 or above 1, as far as that can be told."""
    bounds = reward_bounds(config.reward)
    return bounds is None or (bounds[0] >= 0.0 and bounds[1] <= 1.0)


def _reads_values_without_critic(objective: Objective) -> bool:
    return "values" in objective.needs_facts and not objective.needs_critic


NEEDS: list[tuple[Callable[[Objective], bool], Callable[[RunConfig], bool], str]] = [
    (
        lambda objective: "is_abstained" in objective.needs_facts,
        lambda config: bool(config.reward.abstain_phrases),
        "a verifier with three verdicts: right, wrong, and declined to answer. Say how a model declines, for example "
        """reward.abstain_phrases='["I don\\'t know"]'.""",
    ),
    (
        lambda objective: objective.needs_critic,
        lambda config: config.critic is not None,
        "a critic, a second model that is trained beside the policy. Set critic.lr, for example critic.lr=1e-5.",
    ),
    (
        _reads_values_without_critic,
        lambda config: False,
        "values of a critic, and says of none how it learns. Fill its slot critic, with a ValueLearning.",
    ),
    (
        lambda objective: objective.rollout.anchors is not None,
        lambda config: config.data.anchor_column is not None,
        "a given solution for prompts that the reference model never solves. Say which column of the data holds one, "
        "for example data.anchor_column=solution (null in rows that have none), or train without: "
        "objective.params.gold_anchors=false.",
    ),
    (
        lambda objective: objective.rollout.anchors is not None and objective.rollout.reference_values is None,
        lambda config: False,
        "to know which prompts the reference model never solves: give its RolloutPlan reference_values too.",
    ),
    (
        lambda objective: objective.rollout.prompts is not None and objective.rollout.tracker is None,
        lambda config: False,
        "an estimate of each prompt's reward, to draw prompts by: give its RolloutPlan a tracker too.",
    ),
    (
        lambda objective: objective.rollout.tracker is not None,
        _pays_from_0_to_1,
        "rewards from 0 to 1, which its tracker counts. Leave out the terms of reward.shaping that can take them below "
        "or above, or give them smaller weights.",
    ),
    (
        lambda objective: objective.rollout.tracker is not None and objective.rollout.group_size != 1,
        lambda config: False,
        "groups of one completion, which is what its tracker counts: give its RolloutPlan group_size=1 too.",
    ),
    (
        lambda objective: objective.rollout.pruning is not None and objective.group_filter != KeepKinds(),
        lambda config: False,
        "every prompt that was not pruned to enter the update: what is let in is weighted by how many were drawn, "
        "which a group filter that drops others makes wrong. Leave its slot group_filter empty.",
    ),
    (
        lambda objective: objective.rollout.pruning is not None and bool(facts_unknown_to_history(objective)),
        lambda config: False,
        "advantages that follow from rewards, labels and lengths, to prune prompts by what they were last time: other "
        "facts are not kept. Take the parts that read others out, or leave out the pruning of prompts.",
    ),
    (
        lambda objective: "tracker_values" in objective.needs_facts and objective.rollout.tracker is None,
        lambda config: False,
        "a tracker of each prompt's reward: give its RolloutPlan a tracker.",
    ),
    (
        lambda objective: "reference_rewards" in objective.needs_facts and objective.rollout.reference_values is None,
        lambda config: False,
        "the reference model's mean reward on each prompt: give its RolloutPlan reference_values.",
    ),
    (
        lambda objective: "inclusion_weights" in objective.needs_facts and objective.rollout.pruning is None,
        lambda config: False,
        "to know how likely each prompt was let in: give its RolloutPlan pruning too.",
    ),
]
"""Who needs something, whether the run gives it, and what it is, with the setting that provides it."""


def uses_reference_model(objective: Objective) -> bool:
    """Whether a run of this objective loads the frozen starting model besides the policy."""
    reads_it = objective.needs_reference or "ref_logprobs" in objective.needs_facts
    return reads_it or objective.rollout.reference_values is not None


def companions_for(config: RunConfig, objective: Objective, policy: Policy) -> tuple[Companion, ...]:
    """What the method keeps beside the policy.

    Args:
        config: A checked configuration.
        objective: The method.
        policy: For device, precision and tokenizer of other models; not changed.

    Raises:
        UserError: A model cannot be used.
    """
    companions: list[Companion] = []
    if objective.needs_critic:
        companions.append(CriticCompanion.load(config, policy))
    plan = objective.rollout
    if plan.tracker is not None:
        companions.append(Tracker(plan.tracker))
    if plan.reference_values is not None:
        companions.append(ReferenceBaseline(plan.reference_values, plan.anchors))
    if plan.pruning is not None:
        companions.append(PruningHistory(plan.pruning))
    return tuple(companions)


def prompt_choice_for(objective: Objective, order: PromptOrder, companions: tuple[Companion, ...]) -> PromptChoice:
    """How the method draws its prompts."""
    choice: PromptChoice = InOrder(order)
    for companion in companions:
        if objective.rollout.prompts is not None and isinstance(companion, Tracker):
            choice = Prioritised(objective.rollout.prompts, companion)
    for companion in companions:
        if isinstance(companion, PruningHistory):
            choice = Pruned(choice, companion)
    return choice
