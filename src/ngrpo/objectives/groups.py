"""Groups of completions: which rows belong together, their statistics, and what kind each group is.

Axes: N completions (rows, in any order), P groups (in the order of their ids). Nothing here loops over groups.
"""

from dataclasses import dataclass
from enum import IntEnum
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from ngrpo.errors import ConfigError
from ngrpo.objectives._inputs import group_ids, label_tensor, same_length

MAX_ID_SPAN = 4
"""Group ids that span at most so many times the number of rows are indexed by counting, others by sorting."""


class GroupKind(IntEnum):
    """What the verifier's labels say of a group. Decided by counting labels, never by comparing rewards."""

    ALL_WRONG = 0
    MIXED = 1
    ALL_RIGHT = 2


@dataclass(frozen=True, slots=True, eq=False)
class GroupIndex:
    """Which rows form which group.

    Attributes:
        ids: [P] the distinct group ids, ascending.
        row_group: [N] for each row the position of its group in `ids`.
        num_rows: [P] how many rows each group has.
    """

    ids: Tensor
    row_group: Tensor
    num_rows: Tensor

    @classmethod
    def of(cls, ids: Tensor) -> "GroupIndex":
        """Index of [N] integer ids: any values, any order, groups of any sizes."""
        if len(ids):
            lowest, highest = (int(end) for end in ids.aminmax())
            if highest - lowest < MAX_ID_SPAN * len(ids):
                return cls._by_counting(ids - lowest if lowest else ids, lowest)
        distinct, row_group, num_rows = torch.unique(ids, return_inverse=True, return_counts=True)
        return cls(ids=distinct, row_group=row_group, num_rows=num_rows)

    @classmethod
    def _by_counting(cls, places: Tensor, lowest: int) -> "GroupIndex":
        """The same for ids close together, `lowest + places`: counted, not sorted, which is several times faster."""
        num_rows = torch.bincount(places)
        present = num_rows.nonzero().squeeze(1)
        if len(present) < len(num_rows):
            rank = torch.zeros_like(num_rows).index_put((present,), torch.arange(len(present), device=places.device))
            places, num_rows = rank.index_select(0, places), num_rows[present]
        return cls(ids=present + lowest, row_group=places, num_rows=num_rows)

    def sum(self, values: Tensor) -> Tensor:
        """[N] values -> [P] their sum within each group."""
        return torch.zeros(len(self.ids), dtype=values.dtype, device=values.device).scatter_add(
            0, self.row_group, values
        )

    def smallest(self, values: Tensor) -> Tensor:
        """[N] floating values -> [P] the smallest of each group."""
        return self._extreme(values, "amin", inf)

    def largest(self, values: Tensor) -> Tensor:
        """[N] floating values -> [P] the largest of each group."""
        return self._extreme(values, "amax", -inf)

    def spread(self, per_group: Tensor) -> Tensor:
        """[P] one value per group -> [N] that value on each of the group's rows."""
        return per_group.index_select(0, self.row_group)

    def _extreme(self, values: Tensor, reduction: str, start: float) -> Tensor:
        starts = torch.full((len(self.ids),), start, dtype=values.dtype, device=values.device)
        return starts.scatter_reduce(0, self.row_group, values, reduction)


@dataclass(frozen=True, slots=True)
class VirtualRewards:
    """Imagined completions whose reward joins every group's statistics. They have no tokens and no loss.

    Attributes:
        num_virtual: How many join each group. 0 leaves the group as it is.
        reward: What each of them earned, in reward units: the best reward the task can give.
        may_be_below: Whether real rewards may be above it. Then the virtual completions can be the ones below average,
            and a group's advantages sum to a positive number.
    """

    num_virtual: int = 0
    reward: float = 1.0
    may_be_below: bool = False

    def __post_init__(self) -> None:
        if self.num_virtual < 0:
            raise ConfigError(f"num_virtual must be 0 or more, got {self.num_virtual!r}. 0 gives GRPO's statistics.")
        if not isfinite(self.reward):
            raise ConfigError(f"virtual_reward must be finite, got {self.reward!r}.")


NO_VIRTUAL = VirtualRewards()
"""The group as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class GroupStats:
    """Statistics of each group over its real and virtual rewards together, so that baseline and scale agree.

    In a group whose rewards, virtual ones included, are all equal, `mean` is that very value (found by comparing the
    smallest with the largest), so that every deviation from it is exactly 0. A summed mean of a reward such as 0.9 can
    be off in the last digit, which a division by a small epsilon would turn into a visible advantage.

    Attributes:
        num_values: [P] how many rewards the statistics cover, virtual ones included.
        mean: [P] float64, in reward units.
        sum_squares: [P] float64, sum of squared deviations from `mean`.
    """

    num_values: Tensor
    mean: Tensor
    sum_squares: Tensor

    def std(self, ddof: int) -> Tensor:
        """[P] standard deviation, dividing by `num_values - ddof`; NaN where that is zero."""
        return (self.sum_squares / (self.num_values - ddof)).sqrt()


def group_statistics(rewards: Tensor, groups: GroupIndex, virtual: VirtualRewards = NO_VIRTUAL) -> GroupStats:
    """Mean and squared deviations of each group, over its real and its virtual rewards.

    Args:
        rewards: [N] float64, finite.
        groups: Which rows belong together.
        virtual: What joins every group. Its reward was rounded to the precision of the real rewards, so that equal
            means equal.

    Returns:
        One `GroupStats` for all groups.

    Example:
        >>> index = GroupIndex.of(torch.tensor([5, 5, 5, 5]))
        >>> stats = group_statistics(torch.tensor([1.0, 0, 0, 0]).double(), index, VirtualRewards(1, 1.0))
        >>> stats.mean.tolist(), round(stats.std(ddof=1).item(), 6)
        ([0.4], 0.547723)
    """
    num_values = groups.num_rows + virtual.num_virtual
    mean = (groups.sum(rewards) + virtual.num_virtual * virtual.reward) / num_values
    smallest, largest = groups.smallest(rewards), groups.largest(rewards)
    if virtual.num_virtual > 0:
        smallest, largest = smallest.clamp(max=virtual.reward), largest.clamp(min=virtual.reward)
    mean = torch.where(smallest == largest, largest, mean)
    virtual_squares = virtual.num_virtual * (virtual.reward - mean).square()
    sum_squares = groups.sum((rewards - groups.spread(mean)).square_()) + virtual_squares
    return GroupStats(num_values=num_values, mean=mean, sum_squares=sum_squares)


def kinds_of(correct: Tensor, groups: GroupIndex) -> Tensor:
    """[N] bool labels -> [P] `GroupKind` values, in the order of `groups.ids`."""
    num_correct = groups.sum(correct.long())
    kinds = torch.full_like(num_correct, GroupKind.MIXED)
    kinds[num_correct == 0] = GroupKind.ALL_WRONG
    kinds[num_correct == groups.num_rows] = GroupKind.ALL_RIGHT
    return kinds


def group_kinds(correct: Any, groups: Any) -> Tensor:
    """What kind each group is: all wrong, mixed or all right.

    Args:
        correct: [N] the verifier's labels: booleans, or numbers that are 0 or 1.
        groups: [N] integer group ids, in any order.

    Returns:
        [P] `GroupKind` values (integers), in ascending order of the group ids.

    Raises:
        RewardError: A label is neither 0 nor 1.
        ValueError: The two differ in length, or the ids are not integers.

    Example:
        >>> group_kinds([False, True, False, True, True], [7, 3, 7, 5, 3])   # groups 3, 5 and 7
        tensor([2, 2, 0])
    """
    labels = label_tensor(correct)
    ids = group_ids(groups, labels.device)
    same_length(correct=labels, groups=ids)
    return kinds_of(labels, GroupIndex.of(ids))


@dataclass(frozen=True, slots=True)
class Census:
    """How many groups of each kind a batch has.

    Attributes:
        num_all_wrong: Groups without a correct completion.
        num_mixed: Groups with correct and incorrect ones.
        num_all_right: Groups without an incorrect one.
    """

    num_all_wrong: int
    num_mixed: int
    num_all_right: int

    @property
    def num_groups(self) -> int:
        """All groups counted."""
        return self.num_all_wrong + self.num_mixed + self.num_all_right


def census(correct: Any, groups: Any) -> Census:
    """Count the groups of each kind.

    Args:
        correct: [N] the verifier's labels: booleans, or numbers that are 0 or 1.
        groups: [N] integer group ids, in any order.

    Returns:
        The three counts.

    Raises:
        RewardError: A label is neither 0 nor 1.
        ValueError: The two differ in length, or the ids are not integers.

    Example:
        >>> census([0, 0, 1, 0, 1, 1], [1, 1, 2, 2, 3, 3])
        Census(num_all_wrong=1, num_mixed=1, num_all_right=1)
    """
    counts = torch.bincount(group_kinds(correct, groups), minlength=len(GroupKind)).tolist()
    return Census(
        num_all_wrong=counts[GroupKind.ALL_WRONG],
        num_mixed=counts[GroupKind.MIXED],
        num_all_right=counts[GroupKind.ALL_RIGHT],
    )
