"""Which groups enter the update. A filter answers once per group, so that it cannot tear one apart.

Axes: P groups. A filter is a callable `(batch) -> [P] bool`, in the order of `batch.groups.ids`.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ngrpo.objectives.batch import RewardBatch
from ngrpo.objectives.groups import GroupKind


class GroupFilter(Protocol):
    """Which groups are kept. May carry `needs_labels = True`."""

    def __call__(self, batch: RewardBatch) -> Tensor:
        """[P] bool, true where the group is kept."""
        ...


@dataclass(frozen=True, slots=True)
class KeepKinds:
    """Keep groups by their kind, as the verifier's labels have it.

    Attributes:
        all_wrong: Keep groups without a correct completion.
        mixed: Keep groups with correct and incorrect ones.
        all_right: Keep groups without an incorrect one.
    """

    all_wrong: bool = True
    mixed: bool = True
    all_right: bool = True

    @property
    def needs_labels(self) -> bool:
        """Whether labels decide anything."""
        return not (self.all_wrong and self.mixed and self.all_right)

    def __call__(self, batch: RewardBatch) -> Tensor:
        """[P] bool.

        Raises:
            ConfigError: Labels are needed and unknown.
        """
        if not self.needs_labels:
            return torch.ones_like(batch.groups.num_rows, dtype=torch.bool)
        is_kept = {
            GroupKind.ALL_WRONG: self.all_wrong,
            GroupKind.MIXED: self.mixed,
            GroupKind.ALL_RIGHT: self.all_right,
        }
        return torch.tensor([is_kept[kind] for kind in GroupKind], device=batch.rewards.device)[batch.kinds()]


FILTERS = {
    "keep_all": KeepKinds(),
    "keep_mixed": KeepKinds(all_wrong=False, all_right=False),
    "drop_all_correct": KeepKinds(all_right=False),
    "drop_all_wrong": KeepKinds(all_wrong=False),
}
"""Group filters by the names that `group_filter=` takes."""
