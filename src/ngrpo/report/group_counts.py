"""From groups to a census over time: how many were all wrong, mixed, all right at each step."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ngrpo.report.fields import is_number
from ngrpo.report.lines import is_step
from ngrpo.report.records import Series

_COLUMNS = (
    "groups",
    "all_wrong",
    "all_right",
    "completions",
    "correct",
    "reward",
    "tokens",
    "with_tokens",
    "moved",
    "with_advantage",
)


class GroupCounts:
    """Counts rows of groups by step; memory grows with the steps only.

    Attributes:
        num_unlabelled: Rows passed over because it is not known which completions were correct.
    """

    def __init__(self) -> None:
        self.num_unlabelled = 0
        self._by_step: dict[int, list[float]] = defaultdict(lambda: [0.0] * len(_COLUMNS))

    def add(self, row: Mapping[str, Any]) -> bool:
        """Counts one row of a census; false if it is no group with known labels.

        Args:
            row: As in groups.jsonl: `step`, `rewards`, `correct`, and perhaps `kept`, `advantages`, `tokens`.
        """
        step, rewards = row.get("step"), numbers(row.get("rewards"))
        if not is_step(step) or rewards is None:
            return False
        correct = labels(row, rewards)
        if correct is None:
            self.num_unlabelled += 1
            return False
        sums, size, right = self._by_step[step], len(rewards), sum(correct)
        sums[0] += 1
        sums[1] += right == 0
        sums[2] += right == size
        sums[3] += size
        sums[4] += right
        sums[5] += sum(rewards)
        tokens, advantages = numbers(row.get("tokens")), numbers(row.get("advantages"))
        if tokens:
            sums[6] += sum(tokens)
            sums[7] += len(tokens)
        if advantages is not None or row.get("kept") is False:
            sums[8] += sum(value != 0 for value in advantages or ()) if row.get("kept") is not False else 0
            sums[9] += size
        return True

    def series(self) -> dict[str, Series]:
        """Metrics that groups tell, by the names of `record.metrics`."""
        if not self._by_step:
            return {}
        steps = np.array(sorted(self._by_step), dtype=np.int64)
        table = np.array([self._by_step[step] for step in steps.tolist()])
        sums = dict(zip(_COLUMNS, table.T, strict=True))
        mixed = sums["groups"] - sums["all_wrong"] - sums["all_right"]
        found = {
            "groups/all_wrong_frac": (sums["all_wrong"], sums["groups"]),
            "groups/mixed_frac": (mixed, sums["groups"]),
            "groups/all_right_frac": (sums["all_right"], sums["groups"]),
            "reward/mean": (sums["reward"], sums["completions"]),
            "reward/correct_frac": (sums["correct"], sums["completions"]),
            "completion/mean_tokens": (sums["tokens"], sums["with_tokens"]),
            "groups/gradient_frac": (sums["moved"], sums["with_advantage"]),
        }
        return {
            name: Series(steps[there], part[there] / whole[there])
            for name, (part, whole) in found.items()
            if (there := (whole > 0) & np.isfinite(part)).any()
        }


def labels(row: Mapping[str, Any], rewards: Sequence[float]) -> list[bool] | None:
    """Which completions of a group were correct: as recorded, else by rewards that are all 0 or 1; None if unknown."""
    correct = row.get("correct")
    if isinstance(correct, Sequence) and len(correct) == len(rewards) and all(value in (0, 1) for value in correct):
        return [bool(value) for value in correct]
    if correct is None and all(value in (0.0, 1.0) for value in rewards):
        return [value == 1.0 for value in rewards]
    return None


def numbers(values: Any) -> list[float] | None:
    """A list of finite numbers as floats, not empty; None if it is anything else."""
    if not isinstance(values, list) or not values or not all(map(is_number, values)):
        return None
    return [float(value) for value in values]
