"""The learning rate, as a function of the rollout step."""

import math
from typing import Literal


def learning_rate(
    step: int,
    *,
    peak: float,
    num_steps: int,
    warmup_steps: int,
    schedule: Literal["constant", "linear", "cosine"],
    min_lr_frac: float,
) -> float:
    """The rate of rollout step `step`, counted from 0.

    Warm-up counts rollout steps, not optimiser updates: counted in updates it starves methods that make few of them.

    Args:
        step: Rollout steps done before this one.
        peak: Rate after the warm-up.
        num_steps: Length of the run, in rollout steps.
        warmup_steps: The first `warmup_steps` steps rise linearly; the last of them has the peak rate.
        schedule: Shape after the warm-up.
        min_lr_frac: Share of the peak that a linear or cosine schedule would reach one step after the last.

    Example:
        >>> options = dict(peak=1.0, num_steps=11, warmup_steps=2, schedule="linear", min_lr_frac=0.0)
        >>> [round(learning_rate(step, **options), 3) for step in (0, 1, 2, 10)]
        [0.5, 1.0, 0.9, 0.1]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    gone = (step + 1 - warmup_steps) / max(1, num_steps - warmup_steps + 1)
    shape = 1.0 - gone if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * gone))
    return peak * (min_lr_frac + (1.0 - min_lr_frac) * shape)
