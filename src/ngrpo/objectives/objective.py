"""An objective: the frozen record of its parts, and the four things one does with it.

Axes: N completions (rows), T tokens.

    kept       = objective.keep(rewards, groups, correct=labels)              which groups enter the update
    advantages = objective.advantages(rewards, groups, correct=labels)        how much each completion counts
    terms      = objective.token_terms(current, old, advantages, mask)        per token, unreduced
    loss       = objective.reduce(terms, mask)                                one number

Advantages are computed on whole groups, before any row is dropped.
"""

from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ngrpo.errors import ConfigError
from ngrpo.objectives._inputs import fact_tensor, group_ids, same_length, statistics_device
from ngrpo.objectives.advantages import AdvantageEstimator
from ngrpo.objectives.aggregation import Aggregation, Counts
from ngrpo.objectives.batch import RewardBatch, RolloutFacts
from ngrpo.objectives.filters import GroupFilter, KeepKinds
from ngrpo.objectives.groups import GroupIndex
from ngrpo.objectives.plan import RolloutPlan
from ngrpo.objectives.policy_terms import PolicyTerm, TokenInputs, TokenTerms
from ngrpo.objectives.regularisers import Regulariser, k3_kl
from ngrpo.objectives.step_pass import StepInputs, StepWeight
from ngrpo.objectives.transforms import RewardTransform
from ngrpo.objectives.value_learning import ValueLearning


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A method as the sum of its parts. Immutable; `dataclasses.replace` gives a variant.

    Attributes:
        advantage: Rewards and groups to advantages.
        policy: Log-probabilities and advantages to per-token losses.
        aggregation: Per-token losses to one number.
        group_filter: Which groups enter the update.
        reward_transforms: Applied to the rewards in this order, before the advantages.
        regularisers: Added to the policy's loss, per token.
        step_weight: New advantages for each optimiser step, from the policy as it is then; for losses that are no sum
            over completions.
        critic: How a critic learns, for methods whose advantages need its `values`.
        rollout: What the method changes about sampling.
        drop_zero_weight: Completions of advantage 0 leave the update altogether, denominators included; otherwise they
            stay in the denominators.
        mask_truncated: Completions cut off by the token limit leave the update, denominators included.
        name: The method's name in the catalog, for messages.
    """

    advantage: AdvantageEstimator
    policy: PolicyTerm
    aggregation: Aggregation
    group_filter: GroupFilter = field(default_factory=KeepKinds)
    reward_transforms: tuple[RewardTransform, ...] = ()
    regularisers: tuple[Regulariser, ...] = ()
    step_weight: StepWeight | None = None
    critic: ValueLearning | None = None
    rollout: RolloutPlan = field(default_factory=RolloutPlan)
    drop_zero_weight: bool = False
    mask_truncated: bool = False
    name: str = "objective"

    @property
    def needs_reference(self) -> bool:
        """Whether `token_terms` needs `ref_logprobs`."""
        return any(getattr(part, "needs_reference", False) for part in self.regularisers)

    @property
    def needs_entropy(self) -> bool:
        """Whether `token_terms` needs `entropies`."""
        return any(getattr(part, "needs_entropy", False) for part in self.regularisers)

    @property
    def needs_critic(self) -> bool:
        """Whether a critic has to be trained along, on `value_targets`."""
        return self.critic is not None

    @property
    def needs_labels(self) -> bool:
        """Whether `advantages` or `keep` reads the verifier's labels."""
        return any(getattr(part, "needs_labels", False) for part in _parts_within(self))

    @property
    def needs_facts(self) -> frozenset[str]:
        """Fields of `RolloutFacts` that `advantages`, `value_targets`, `keep` and `counted` read."""
        facts = {fact for part in _parts_within(self) for fact in getattr(part, "needs_facts", ())}
        return frozenset(facts | ({"is_truncated"} if self.mask_truncated else set()))

    @property
    def needs_step_pass(self) -> bool:
        """Whether each optimiser step needs a forward pass without gradient over its rows first, for `for_step`."""
        return self.step_weight is not None or any(hasattr(part, "for_step") for part in self.regularisers)

    @property
    def min_group_size(self) -> int:
        """Fewest completions per group that `advantages` is defined for."""
        return max(getattr(part, "min_group_size", 1) for part in (self.advantage, *_parts_within(self.advantage)))

    def parts(self) -> dict[str, str]:
        """Each slot that is filled, as text: what the method is made of."""
        texts = {slot.name: _part_text(getattr(self, slot.name)) for slot in fields(self) if slot.name != "name"}
        return {slot: text for slot, text in texts.items() if text}

    def batch(
        self, rewards: Any, groups: Any, *, correct: Any = None, rollout: RolloutFacts | None = None
    ) -> RewardBatch:
        """What `advantage` is called with: the input of `advantages`, checked, after the reward transforms."""
        batch = RewardBatch.of(self.name, rewards, groups, correct, rollout)
        for transform in self.reward_transforms:
            batch = replace(batch, rewards=transform(batch))
        return batch

    def advantages(
        self, rewards: Any, groups: Any, *, correct: Any = None, rollout: RolloutFacts | None = None
    ) -> Tensor:
        """One advantage per completion.

        Args:
            rewards: [N] finite numbers: a tensor, an array or a list.
            groups: [N] integer group ids, in any order, groups of any sizes.
            correct: [N] the verifier's labels. Left out, rewards that are all 0 or 1 are their own labels.
            rollout: What else the method needs to know of the completions.

        Returns:
            [N] (or [N, T], from an estimator that tells tokens apart), in input order, detached: float64 for float64
            rewards, float32 for any other. Statistics are float64 in either case. With `mask_truncated`, a truncated
            completion gets 0; `counted` takes it out of the denominators as well.

        Raises:
            RewardError: A reward is not finite or not a number, or a label is neither 0 nor 1.
            ConfigError: A group is too small, the virtual reward too low, or a needed label or fact is missing.
            ValueError: Shapes do not fit.

        Example:
            >>> from ngrpo import objectives
            >>> objectives.get("ngrpo").advantages([0, 0, 0, 1, 0, 0, 0, 0], groups=[1, 1, 1, 1, 2, 2, 2, 2])
            tensor([-0.7303, -0.7303, -0.7303,  1.0954, -0.4472, -0.4472, -0.4472, -0.4472])
        """
        batch = self.batch(rewards, groups, correct=correct, rollout=rollout)
        advantages = self.advantage(batch).detach()
        if advantages.shape[:1] != batch.rewards.shape:
            raise ConfigError(
                f"the advantage function of {self.name} returned the shape {list(advantages.shape)} for "
                f"{len(batch.rewards)} completions. Return one advantage per completion, [N] or [N, T]."
            )
        if self.mask_truncated:
            is_truncated = batch.fact("is_truncated").to(torch.bool)
            advantages = advantages.masked_fill(is_truncated.reshape(-1, *[1] * (advantages.ndim - 1)), 0.0)
        return _like_rewards(advantages, batch, rewards)

    def value_targets(
        self, rewards: Any, groups: Any, *, correct: Any = None, rollout: RolloutFacts | None = None
    ) -> Tensor:
        """What the critic's values should have been: advantages before any whitening, plus the values.

        Args:
            rewards: [N] as in `advantages`.
            groups: [N] integer group ids.
            correct: [N] labels, as in `advantages`.
            rollout: As in `advantages`, with the critic's `values`.

        Returns:
            [N, T] in reward units, 0 on padding, detached; precision as in `advantages`. `critic.token_losses` takes
            them.

        Raises:
            RewardError: As in `advantages`.
            ConfigError: The method has no critic, or a needed fact is missing.
            ValueError: Shapes do not fit.

        Example:
            >>> from ngrpo import objectives
            >>> facts = RolloutFacts(completion_tokens=[2, 1], values=torch.tensor([[0.2, 0.5], [0.7, 9.9]]))
            >>> objectives.get("ppo").value_targets([1, 0], groups=[0, 0], rollout=facts)
            tensor([[1., 1.],
                    [0., 0.]])
        """
        if self.critic is None:
            raise ConfigError(f"{self.name} has no critic, so there are no values to learn. ppo has one.")
        batch = self.batch(rewards, groups, correct=correct, rollout=rollout)
        return _like_rewards(self.critic.targets(batch).detach(), batch, rewards)

    def keep(self, rewards: Any, groups: Any, *, correct: Any = None, rollout: RolloutFacts | None = None) -> Tensor:
        """Which groups enter the update.

        Args:
            rewards: [N] as in `advantages`.
            groups: [N] integer group ids.
            correct: [N] labels, as in `advantages`.
            rollout: As in `advantages`.

        Returns:
            [N] bool, the same for all completions of a group.

        Raises:
            RewardError: As in `advantages`.
            ConfigError: Labels are needed and unknown.
            ValueError: Shapes do not fit.

        Example:
            >>> from ngrpo import objectives
            >>> objectives.get("ngrpo").keep([0, 0, 0, 1, 1, 1], groups=[1, 1, 2, 2, 3, 3])
            tensor([ True,  True,  True,  True, False, False])
        """
        batch = RewardBatch.of(self.name, rewards, groups, correct, rollout)
        device = rewards.device if isinstance(rewards, Tensor) else None
        return batch.groups.spread(self.group_filter(batch)).to(device)

    def counted(self, advantages: Tensor, rollout: RolloutFacts | None = None) -> Tensor:
        """Which completions of the kept groups enter the loss and its denominators. The others can be left out.

        A completion of weight zero is removed under `drop_zero_weight`, a truncated one under `mask_truncated`; most
        methods count every completion. A trainer takes the rows that are kept and counted, cuts them into microbatches,
        and sums `Counts.of(mask)` over those.

        Args:
            advantages: [N] or [N, T], from `advantages`.
            rollout: The same facts.

        Returns:
            [N] bool.

        Raises:
            ConfigError: `mask_truncated` is on and `is_truncated` was not given.
            ValueError: Shapes do not fit.

        Example:
            >>> from ngrpo import objectives
            >>> psr = objectives.get("psr")
            >>> psr.counted(psr.advantages([0, 0, 0, 1], groups=[1, 1, 1, 1]))
            tensor([False, False, False,  True])
        """
        is_counted = torch.ones(len(advantages), dtype=torch.bool, device=advantages.device)
        if self.drop_zero_weight:
            is_counted &= _has_weight(advantages)
        if self.mask_truncated:
            if rollout is None or rollout.is_truncated is None:
                raise ConfigError(f"{self.name} needs is_truncated. Pass rollout=RolloutFacts(is_truncated=...).")
            is_truncated = fact_tensor(rollout.is_truncated, advantages.device).to(torch.bool)
            same_length(advantages=is_counted, is_truncated=is_truncated)
            is_counted &= ~is_truncated
        return is_counted

    def token_terms(
        self,
        current_logprobs: Tensor,
        old_logprobs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        ref_logprobs: Tensor | None = None,
        entropies: Tensor | None = None,
        *,
        importance_weights: Tensor | None = None,
    ) -> TokenTerms:
        """Loss of each token, regularisers included, not yet divided by anything.

        Args:
            current_logprobs: [N, T] of the policy being trained, nats. Gradients flow here.
            old_logprobs: [N, T] at the start of the rollout step, nats.
            advantages: [N] or [N, T], from `advantages`.
            mask: [N, T] true (or not 0) where a token counts. Masked slots may hold anything, NaN included.
            ref_logprobs: [N, T] of the frozen reference model, nats. Needed where `needs_reference`; elsewhere the
                divergence from it is only reported.
            entropies: [N, T] of the policy's distribution at each token, nats, with gradient. Needed where
                `needs_entropy`.
            importance_weights: [N, T] what each token's policy loss is multiplied with, without gradient; regularisers
                are not. Left out, 1.

        Returns:
            `TokenTerms` of [N, T] tensors, at least float32.

        Raises:
            ConfigError: The reference's log-probabilities or the entropies are missing.
            ValueError: Shapes do not fit.

        Example:
            >>> from ngrpo import objectives
            >>> old, mask = torch.zeros(2, 2), torch.tensor([[1, 1], [1, 0]])
            >>> current = torch.tensor([[1.5, 1.0], [0.5, float("nan")]]).log()
            >>> terms = objectives.get("ngrpo").token_terms(current, old, torch.tensor([1.0, -1.0]), mask)
            >>> terms.loss
            tensor([[-1.2400, -1.0000],
                    [ 0.8400,  0.0000]])
            >>> objectives.get("ngrpo").reduce(terms, mask)
            tensor(-0.4667)
        """
        inputs = TokenInputs.of(
            current_logprobs, old_logprobs, advantages, mask, ref_logprobs=ref_logprobs, entropies=entropies
        )
        if self.drop_zero_weight:
            inputs = replace(inputs, mask=inputs.mask & _has_weight(inputs.advantages).unsqueeze(1))
        terms = self.policy(inputs)
        loss = terms.loss
        if importance_weights is not None:
            same_length(current_logprobs=current_logprobs, importance_weights=importance_weights)
            loss = loss * torch.where(inputs.mask, importance_weights.detach(), 0.0).to(loss.dtype)
        for regulariser in self.regularisers:
            loss = loss + torch.where(inputs.mask, regulariser(inputs), 0.0)
        kl_nats = None
        if inputs.ref_logprobs is not None:
            kl_nats = torch.where(inputs.mask, k3_kl(inputs.current_logprobs.detach(), inputs.ref_logprobs), 0.0)
        return replace(terms, loss=loss, kl_nats=kl_nats)

    def for_step(
        self, current_logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, groups: Any
    ) -> tuple["Objective", Tensor]:
        """The objective and the advantages of one optimiser step, where `needs_step_pass`; elsewhere both unchanged.

        Args:
            current_logprobs: [N, T] of the policy as it is before the step, nats; all rows of the step.
            old_logprobs: [N, T] at the start of the rollout step, nats.
            advantages: [N] or [N, T], from `advantages`.
            mask: [N, T] true where a token counts.
            groups: [N] integer group ids; groups are whole.

        Returns:
            An objective that needs no step pass any more, and advantages of the shape given. The gradient of its loss,
            summed over microbatches of the step, is the gradient of the method's own loss.
        """
        tokens = TokenInputs.of(current_logprobs.detach(), old_logprobs, advantages, mask)
        index = GroupIndex.of(group_ids(groups, statistics_device(advantages.device)))
        step = StepInputs(tokens, advantages, index, self.aggregation)
        if self.step_weight is not None:
            advantages = self.step_weight(step)
        regularisers = tuple(part.for_step(step) if hasattr(part, "for_step") else part for part in self.regularisers)
        return replace(self, step_weight=None, regularisers=regularisers), advantages

    def reduce(self, terms: TokenTerms, mask: Tensor, counts: Counts | None = None) -> Tensor:
        """The loss: per-token terms summed, and divided once.

        Args:
            terms: From `token_terms`.
            mask: [N, T] the same mask.
            counts: Denominators of the whole optimiser step that these rows are part of; left out, these rows are the
                whole step. The losses of the step's microbatches add up to the loss of the uncut step.

        Returns:
            A scalar to be minimised. 0 with a live graph where nothing counts.

        Raises:
            ValueError: `counts` say there is nothing, and there is.
        """
        is_counted = mask.to(torch.bool) & terms.is_counted
        return self.aggregation(terms.loss, is_counted, Counts.of(is_counted) if counts is None else counts)


def _parts_within(part: Any) -> list[Any]:
    """Every part inside a part, at any depth."""
    if isinstance(part, tuple):
        inside = list(part)
    elif is_dataclass(part):
        inside = [getattr(part, each.name) for each in fields(part)]
    else:
        return []
    return inside + [deeper for each in inside for deeper in _parts_within(each)]


def _has_weight(advantages: Tensor) -> Tensor:
    """[N] bool from [N] or [N, T]: some token of the row has an advantage other than 0."""
    has_weight = advantages != 0
    return has_weight if has_weight.ndim == 1 else has_weight.any(dim=1)


def _like_rewards(values: Tensor, batch: RewardBatch, rewards: Any) -> Tensor:
    """In the precision of the given rewards, at least float32, and where those are."""
    device = rewards.device if isinstance(rewards, Tensor) else None
    return values.to(torch.promote_types(batch.dtype, torch.float32)).to(device)


def _part_text(part: Any) -> str:
    """A part as one would write it, defaults left out: `GroupMean()`, `seq_mean_token_sum_norm(budget_tokens=12)`."""
    if isinstance(part, tuple):
        return ", ".join(_part_text(item) for item in part)
    if isinstance(part, bool):
        return "yes" if part else ""
    if part is None or part == RolloutPlan():
        return ""
    if isinstance(part, partial):
        return _call_text(part.func.__name__, part.keywords)
    if is_dataclass(part):
        return _call_text(type(part).__name__, _changed_values(part))
    return getattr(part, "__name__", None) or repr(part)


def _call_text(name: str, values: dict[str, Any]) -> str:
    texts = {key: _part_text(value) if is_dataclass(value) else repr(value) for key, value in values.items()}
    return f"{name}({', '.join(f'{key}={text}' for key, text in texts.items())})"


def _changed_values(part: Any) -> dict[str, Any]:
    """Fields of a dataclass that differ from their defaults."""
    values = {}
    for each in fields(part):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        value = getattr(part, each.name)
        if default is MISSING or value != default:
            values[each.name] = value
    return values
