"""How often a group would be all wrong, mixed or all right: what a group-based method would see of a model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ngrpo.stats.pass_at_k import probability_of_none


@dataclass(frozen=True, slots=True)
class GroupKindFracs:
    """Expected fractions of groups, each in [0, 1] and together 1; one entry per prompt, or a float for one prompt.

    Attributes:
        all_wrong_frac: Groups without a correct completion.
        mixed_frac: Groups with correct and incorrect ones.
        all_right_frac: Groups without an incorrect one.
    """

    all_wrong_frac: NDArray[np.float64] | float
    mixed_frac: NDArray[np.float64] | float
    all_right_frac: NDArray[np.float64] | float


def group_kind_fracs(num_samples: ArrayLike, num_correct: ArrayLike, group_size: int) -> GroupKindFracs:
    """Expected fraction of groups of each kind, when a group is drawn without replacement from a prompt's samples.

    Args:
        num_samples: Samples of each prompt; integers, at least `group_size`.
        num_correct: Correct ones among them.
        group_size: Completions in a group.

    Returns:
        Three fractions per prompt; average them over prompts.

    Raises:
        ConfigError: A prompt has fewer samples than a group, or `group_size` is below 1.
        DataError: A count is not an integer, or `num_correct` is negative or above `num_samples`.

    Example:
        >>> fracs = group_kind_fracs(4, 2, 2)       # of the 6 pairs 1 is all wrong, 4 are mixed, 1 is all right
        >>> round(fracs.all_wrong_frac, 4), round(fracs.mixed_frac, 4), round(fracs.all_right_frac, 4)
        (0.1667, 0.6667, 0.1667)
    """
    all_wrong = probability_of_none(num_samples, num_correct, group_size, name="group_size")
    num_wrong = np.asarray(num_samples) - np.asarray(num_correct)
    all_right = probability_of_none(num_samples, num_wrong, group_size, name="group_size")
    mixed = np.maximum(1.0 - (all_wrong + all_right), 0.0)
    if all_wrong.ndim == 0:
        return GroupKindFracs(float(all_wrong), float(mixed), float(all_right))
    return GroupKindFracs(all_wrong, mixed, all_right)
