"""A generation of TRL as whole groups: what is right, what an objective makes of it, and the records. Needs no TRL.

Axes: N completions of the generation on all processes, in groups of equal size, one after the other; F reward
functions; T tokens.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ngrpo.objectives import Objective, RolloutFacts, census
from ngrpo.types import Completion, Group, Outcome, Prompt


@dataclass(frozen=True, eq=False)
class Judged:
    """What the reward functions said of a generation.

    Attributes:
        rewards: [N] weighted sums, 0 where unscored.
        groups: [N] group ids.
        is_scored: [N] bool, false where no function gave a number, or where the label is not known.
        correct: [N] bool labels, false where unscored; None where no function says what is right.
    """

    rewards: Tensor
    groups: Tensor
    is_scored: Tensor
    correct: Tensor | None

    @property
    def has_failed(self) -> Tensor:
        """[N] bool, true in groups with a completion that is not scored."""
        failures = torch.zeros(int(self.groups[-1]) + 1, dtype=torch.bool, device=self.groups.device)
        failures[self.groups[~self.is_scored]] = True
        return failures[self.groups]


def judged(
    rewards_per_func: Tensor, weights: Tensor, group_size: int, *, label_column: int | None, correct_at: float
) -> Judged:
    """Rewards, labels and groups from the matrix that TRL gathers.

    Args:
        rewards_per_func: [N, F] NaN where a function gave no number.
        weights: [F] of the functions, in the sum.
        group_size: Completions of each group.
        label_column: The function that says what is right; None if none does.
        correct_at: From this value of that function upwards a completion is correct.

    Example:
        >>> found = judged(torch.tensor([[1.0], [0.0], [torch.nan], [0.0]]), torch.ones(1), 2,
        ...                label_column=0, correct_at=1.0)
        >>> found.rewards.tolist(), found.correct.tolist(), found.has_failed.tolist()
        ([1.0, 0.0, 0.0, 0.0], [True, False, False, False], [False, False, True, True])
    """
    is_scored = ~rewards_per_func.isnan().all(dim=1)
    correct = None
    if label_column is not None:
        scores = rewards_per_func[:, label_column]
        is_scored &= ~scores.isnan()
        correct = scores >= correct_at  # NaN compares as false
    return Judged(
        rewards=(rewards_per_func * weights).nansum(dim=1).masked_fill(~is_scored, 0.0),
        groups=torch.arange(len(is_scored), device=is_scored.device) // group_size,
        is_scored=is_scored,
        correct=correct,
    )


@dataclass(frozen=True, eq=False)
class Decided:
    """What an objective makes of a generation.

    Attributes:
        advantages: [N] or [N, T], 0 in groups that are not kept.
        per_completion: [N] the same; the mean over a completion's tokens, where the method tells tokens apart.
        is_kept: [N] bool, whether the group enters the update.
        is_counted: [N] bool, whether the completion enters the loss and its denominators.
    """

    advantages: Tensor
    per_completion: Tensor
    is_kept: Tensor
    is_counted: Tensor


def decide(objective: Objective, batch: Judged, facts: RolloutFacts) -> Decided:
    """Filters whole groups and takes the advantages of those that stay.

    As in our own trainer: a group with a completion that nobody scored stays out, whole, because its mean is not known
    either; and advantages are those of the kept groups alone, also where a method looks at the whole batch.

    Args:
        objective: The method.
        batch: The generation.
        facts: What the method needs to know of its completions, [N] or [N, T].

    Raises:
        RewardError: A reward is not finite.
        ConfigError: A reward is above the virtual reward.
    """
    known = (~batch.has_failed).nonzero().squeeze(1)
    is_kept = torch.zeros_like(batch.is_scored)
    is_kept[known] = objective.keep(*_inputs(batch, known), **_more(batch, facts, known))
    rows = is_kept.nonzero().squeeze(1)
    advantages = torch.zeros_like(batch.rewards)
    is_counted = torch.zeros_like(is_kept)
    if len(rows):
        more = _more(batch, facts, rows)
        values = objective.advantages(*_inputs(batch, rows), **more)
        advantages = values.new_zeros(len(is_kept), *values.shape[1:])
        advantages[rows] = values
        is_counted[rows] = objective.counted(values, more["rollout"])
    per_completion = advantages
    if advantages.ndim > 1:
        per_completion = advantages.sum(dim=1) / facts.completion_tokens.clamp(min=1)
    return Decided(advantages, per_completion, is_kept, is_counted)


def _inputs(batch: Judged, rows: Tensor) -> tuple[Tensor, Tensor]:
    return batch.rewards[rows], batch.groups[rows]


def _more(batch: Judged, facts: RolloutFacts, rows: Tensor) -> dict[str, Any]:
    given = {each.name: getattr(facts, each.name) for each in fields(facts)}
    return {
        "correct": None if batch.correct is None else batch.correct[rows],
        "rollout": RolloutFacts(**{name: value[rows] for name, value in given.items() if value is not None}),
    }


def group_metrics(batch: Judged, decided: Decided) -> dict[str, float]:
    """The census of a generation and what the filter made of it, under the names of our own trainer's metrics."""
    num_groups = int(batch.groups[-1]) + 1
    size = len(batch.groups) // num_groups
    metrics = {
        "groups/num_sampled": float(num_groups),
        "groups/num_kept": int(decided.is_kept.sum()) / size,
        "groups/failed_frac": batch.has_failed.float().mean().item(),
        "groups/gradient_frac": (decided.per_completion != 0).float().mean().item(),
    }
    if batch.correct is not None:
        kinds = census(batch.correct, batch.groups)
        metrics |= {
            "groups/all_wrong_frac": kinds.num_all_wrong / num_groups,
            "groups/mixed_frac": kinds.num_mixed / num_groups,
            "groups/all_right_frac": kinds.num_all_right / num_groups,
        }
    return metrics


def house_groups(
    batch: Judged,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    *,
    ids: Sequence[Any],
    token_ids: Sequence[Sequence[int]],
    is_truncated: Sequence[bool],
) -> list[Group]:
    """A generation as our own records have it.

    Args:
        batch: What the reward functions said; labels have to be known.
        prompts: [N] texts or conversations.
        completions: [N] the same.
        ids: [N] the data set's `id` column; None where it has none: then a digest of the prompt's text.
        token_ids: [N] tokens of each completion.
        is_truncated: [N] whether the token limit cut the completion off.
    """
    assert batch.correct is not None, "the trainer asks for labels where groups are recorded"
    outcomes = [
        Outcome(value, is_correct) if is_scored else Outcome(0.0, False, "error", detail="no reward function scored it")
        for value, is_correct, is_scored in zip(
            batch.rewards.tolist(), batch.correct.tolist(), batch.is_scored.tolist(), strict=True
        )
    ]
    size = len(outcomes) // (int(batch.groups[-1]) + 1)
    return [
        Group(
            _prompt(prompts[first], ids[first]),
            tuple(
                Completion(tuple(token_ids[row]), (), _text(completions[row]), "length" if is_truncated[row] else "eos")
                for row in range(first, first + size)
            ),
            tuple(outcomes[first : first + size]),
        )
        for first in range(0, len(outcomes), size)
    ]


def _prompt(prompt: Any, id: Any) -> Prompt:
    text = _text(prompt)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return Prompt(digest if id is None else str(id), text, (), "")


def _text(said: Any) -> str:
    """A text as it is, a conversation as JSON."""
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False, default=str)
