"""What an objective is told about a rollout batch: rewards, groups, labels, and whatever else a method asks for.

Axes: N completions (rows), P groups, T tokens.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ngrpo.errors import ConfigError
from ngrpo.objectives._inputs import (
    fact_tensor,
    group_ids,
    label_tensor,
    reward_tensor,
    same_length,
    statistics_device,
)
from ngrpo.objectives.groups import NO_VIRTUAL, GroupIndex, GroupStats, VirtualRewards, group_statistics, kinds_of


@dataclass(frozen=True, slots=True, eq=False)
class RolloutFacts:
    """What some methods need to know besides rewards and groups; tensors, arrays or lists, one entry per completion.

    [N, T] facts are padded on the right; what stands beyond a completion's own length is never read. A method says
    which facts it needs (`Objective.needs_facts`), and a missing one is refused by name.

    Attributes:
        completion_tokens: [N] length of each completion, in tokens.
        is_truncated: [N] whether the token limit cut the completion off.
        is_abstained: [N] whether the completion declined to answer (a verifier with three verdicts says so).
        old_logprobs: [N, T] log-probability of each token at the start of the rollout step, nats.
        ref_logprobs: [N, T] the same under the frozen reference model, nats.
        values: [N, T] a critic's estimate, before each token, of the reward still to come.
        greedy_rewards: [N] reward of the greedy completion of the same prompt.
        tracker_values: [N] a tracker's estimate of the prompt's reward, made before this rollout.
        reference_rewards: [N] mean reward of the reference model on the same prompt.
        token_similarity: [N, T] how much each token's gradient resembles those of the group's correct tokens.
        inclusion_weights: [N] what the prompt weighs for having been let in: one over the probability of that, times
            whatever keeps the step's divisor from counting the others.
        uniforms: [N] random numbers, uniform in [0, 1), for methods that draw among completions.
    """

    completion_tokens: Any = None
    is_truncated: Any = None
    is_abstained: Any = None
    old_logprobs: Any = None
    ref_logprobs: Any = None
    values: Any = None
    greedy_rewards: Any = None
    tracker_values: Any = None
    reference_rewards: Any = None
    token_similarity: Any = None
    inclusion_weights: Any = None
    uniforms: Any = None


FACTS = tuple(each.name for each in fields(RolloutFacts))
"""Names of the rollout facts."""


@dataclass(frozen=True, slots=True, eq=False)
class RewardBatch:
    """A rollout batch as the parts of an objective see it. Whole groups; checked; never written to.

    Attributes:
        method: Name of the method that asks, for messages.
        rewards: [N] float64, finite; what the reward transforms left of the given rewards.
        dtype: Precision the rewards were given in.
        groups: Which rows belong together.
        labels: [N] bool, or None where the rewards do not tell and no labels were given. Read it as `correct`.
        facts: What else is known of the completions. Read it with `fact`.
    """

    method: str
    rewards: Tensor
    dtype: torch.dtype
    groups: GroupIndex
    labels: Tensor | None
    facts: RolloutFacts

    @classmethod
    def of(cls, method: str, rewards: Any, groups: Any, correct: Any, facts: RolloutFacts | None) -> "RewardBatch":
        """Check what the caller gave, and find the labels: rewards that are all 0 or 1 are their own labels."""
        values = reward_tensor(rewards)
        device = statistics_device(values.device)
        dtype, values = values.dtype, values.to(device).double()
        ids = group_ids(groups, device)
        same_length(rewards=values, groups=ids)
        if correct is not None:
            labels = label_tensor(correct, device)
            same_length(rewards=values, correct=labels)
        else:
            is_one = values == 1
            labels = is_one if (is_one | (values == 0)).all() else None
        index = GroupIndex.of(ids)
        return cls(method, rewards=values, dtype=dtype, groups=index, labels=labels, facts=facts or RolloutFacts())

    @property
    def correct(self) -> Tensor:
        """[N] bool, the verifier's labels.

        Raises:
            ConfigError: None were given and the rewards are not all 0 or 1.
        """
        if self.labels is None:
            raise ConfigError(
                f"{self.method} needs to know which completions are correct, and rewards other than 0 and 1 do not "
                "say. Pass the verifier's labels: correct=[True, False, ...]."
            )
        return self.labels

    def fact(self, name: str) -> Tensor:
        """[N] or [N, T] one field of the rollout facts.

        Raises:
            ConfigError: It was not given.
        """
        values = getattr(self.facts, name)
        if values is None:
            raise ConfigError(f"{self.method} needs {name}. Pass rollout=RolloutFacts({name}=...), one per completion.")
        values = fact_tensor(values, self.rewards.device)
        if len(values) != len(self.rewards):
            raise ValueError(f"{name} has {len(values)} entries for {len(self.rewards)} completions.")
        return values

    def token_fact(self, name: str) -> Tensor:
        """[N, T] float64, one per-token field of the rollout facts, 0 beyond each completion.

        Raises:
            ConfigError: It, or `completion_tokens`, was not given.
            ValueError: It is not [N, T], or too narrow for the longest completion.
        """
        values = self.fact(name)
        longest = int(self.fact("completion_tokens").max()) if len(values) else 0
        if values.ndim != 2 or values.shape[1] < longest:
            raise ValueError(
                f"{name} must be [N, T] with T at least the longest completion, {longest} tokens, got shape "
                f"{list(values.shape)}."
            )
        return torch.where(self.token_mask(values.shape[1]), values.double(), 0.0)

    def token_mask(self, width: int) -> Tensor:
        """[N, width] bool, true on the tokens of each completion."""
        lengths = self.fact("completion_tokens")
        return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)

    def kinds(self) -> Tensor:
        """[P] `GroupKind` of each group, by its labels."""
        return kinds_of(self.correct, self.groups)

    def accuracy(self) -> Tensor:
        """[P] float64, the share of each group's completions that are labelled correct."""
        return self.groups.sum(self.correct.double()) / self.groups.num_rows

    def statistics(self, virtual: VirtualRewards = NO_VIRTUAL) -> GroupStats:
        """Statistics of each group, virtual rewards included.

        Raises:
            ConfigError: A group's best reward is above the virtual one, which would turn the signs around, and that
                was not asked for.
        """
        # Rounded like the real rewards: 0.3 given in float32 is not 0.3 in float64, and equal must mean equal.
        rounded = torch.tensor(virtual.reward, dtype=self.dtype).item()
        if virtual.num_virtual > 0 and not virtual.may_be_below:
            self._refuse_rewards_above(rounded)
        return group_statistics(self.rewards, self.groups, replace(virtual, reward=rounded))

    def _refuse_rewards_above(self, virtual_reward: float) -> None:
        is_above = self.rewards > virtual_reward
        if is_above.any():
            row = int(is_above.nonzero()[0])
            group = self.groups.ids[self.groups.row_group[row]].item()
            best = self.rewards[self.groups.row_group == self.groups.row_group[row]].max().item()
            raise ConfigError(
                f"virtual_reward {virtual_reward:g} is below the best reward {best:g} of group {group}. Set it to the "
                f"largest reward the task can give, before any penalty (at least {best:g} here)."
            )
