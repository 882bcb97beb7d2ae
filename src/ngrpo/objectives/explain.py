"""What a method does to one group, as plain numbers."""

from collections.abc import Sequence
from math import isnan
from typing import Any

import torch

from ngrpo.errors import RewardError
from ngrpo.objectives.advantages import RelativeAdvantage
from ngrpo.objectives.batch import RewardBatch, RolloutFacts
from ngrpo.objectives.groups import NO_VIRTUAL
from ngrpo.objectives.objective import Objective


def explain(
    objective: Objective,
    rewards: Sequence[float],
    *,
    correct: Sequence[bool] | None = None,
    rollout: RolloutFacts | None = None,
) -> dict[str, Any]:
    """Advantages and statistics of one group, ready for JSON. Everything in float64.

    Args:
        objective: The method.
        rewards: The group's rewards.
        correct: The verifier's labels. Left out, rewards that are all 0 or 1 are their own labels.
        rollout: What else the method needs to know of the completions.

    Returns:
        `objective` (its name), `rewards`, `advantages`, `kept` (whether the group enters the update; None where the
        filter would need labels that are unknown), `mean` and `std` (of the rewards as the advantage sees them, virtual
        ones included, with the method's own ddof, else 1; None where undefined), `clip_low` and `clip_high` (None where
        the method has none).

    Raises:
        RewardError: There is no reward, or one is not finite.
        ConfigError: The group is too small, the virtual reward too low, or a needed label or fact is missing.

    Example:
        >>> from ngrpo import objectives
        >>> told = explain(objectives.get("ngrpo"), [0, 0, 0, 1])
        >>> told["kept"], round(told["mean"], 4), round(told["std"], 4), told["clip_low"], told["clip_high"]
        (True, 0.4, 0.5477, 0.16, 0.24)
        >>> [round(advantage, 4) for advantage in told["advantages"]]
        [-0.7303, -0.7303, -0.7303, 1.0954]
    """
    if not rewards:
        raise RewardError("there is no reward to explain. Give at least one, as in 0,0,0,1.")
    values, groups = torch.tensor(rewards, dtype=torch.float64), [0] * len(rewards)
    advantages = objective.advantages(values, groups, correct=correct, rollout=rollout)
    batch = objective.batch(values, groups, correct=correct, rollout=rollout)
    mean, std = _statistics(objective, batch)
    return {
        "objective": objective.name,
        "rewards": values.tolist(),
        "advantages": advantages.tolist(),
        "kept": _is_kept(objective, batch),
        "mean": mean,
        "std": std,
        "clip_low": getattr(objective.policy, "clip_low", None),
        "clip_high": getattr(objective.policy, "clip_high", None),
    }


def _statistics(objective: Objective, batch: RewardBatch) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the one group; an estimator outside the built-in family has its plain ones."""
    is_built_in = isinstance(objective.advantage, RelativeAdvantage)
    stats = batch.statistics(objective.advantage.virtual if is_built_in else NO_VIRTUAL)
    ddof = getattr(objective.advantage.scale, "ddof", 1) if is_built_in else 1
    mean, std = stats.mean.item(), stats.std(ddof).item()
    return mean, None if isnan(std) else std


def _is_kept(objective: Objective, batch: RewardBatch) -> bool | None:
    if batch.labels is None and getattr(objective.group_filter, "needs_labels", False):
        return None
    return bool(objective.group_filter(batch).all())
