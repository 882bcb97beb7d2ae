"""Evaluations of several seeds as one row of numbers with intervals over seeds and prompts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngrpo.errors import DataError
from ngrpo.evaluate import read_counts
from ngrpo.evaluate.summary import quantity_names, values_by_prompt
from ngrpo.stats import Interval, bootstrap_interval, hierarchical_bootstrap_interval

SHOWN_KS = (1, 8, 64)


@dataclass(frozen=True, eq=False)
class Row:
    """One model, or one method over its seeds.

    Attributes:
        name: What it is.
        num_seeds: Runs.
        num_prompts: Prompts, the same for every run.
        num_samples: Samples of each.
        ks: The grid of pass@k.
        pass_at_k: By k.
        values: What the table shows, by name.
        entropy_nats: Mean entropy per sampled token.
        by_prompt: [seeds, prompts, quantities]; columns as in `evaluate.summary.quantity_names`.
    """

    name: str
    num_seeds: int
    num_prompts: int
    num_samples: int
    ks: tuple[int, ...]
    pass_at_k: dict[int, Interval]
    values: dict[str, Interval]
    entropy_nats: Interval
    by_prompt: NDArray[np.float64]

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe, without the numbers of each prompt."""
        shared = {name: getattr(self, name) for name in ("name", "num_seeds", "num_prompts", "num_samples")}
        return shared | {
            "pass_at_k": {k: asdict(value) for k, value in self.pass_at_k.items()},
            "values": {name: asdict(value) for name, value in self.values.items()},
            "entropy_nats": asdict(self.entropy_nats),
        }


def read_row(name: str, folders: Sequence[Path]) -> Row:
    """Reads the evaluations of one method's seeds.

    Args:
        name: For the table.
        folders: One evaluation folder per seed.

    Raises:
        DataError: They are not of the same prompts with the same number of samples.
    """
    ids: list[str] | None = None
    by_prompt, entropies = [], []
    for folder in folders:
        counts = read_counts(folder)
        num_samples, ks = counts.settings["num_samples"], tuple(counts.settings["ks"])
        ids = ids or counts.prompt_ids
        if counts.prompt_ids != ids or not (counts.num_samples == num_samples).all():
            raise DataError(f"{folder} has not {num_samples} samples of each of the other runs' prompts.")
        by_prompt.append(values_by_prompt(num_samples, counts.num_correct, ks))
        entropies.append(counts.entropy_sums_nats / counts.num_entropy_tokens)
    values = np.stack(by_prompt)
    names = quantity_names(num_samples, ks)
    found = dict(zip(names, _intervals(values), strict=True))
    shown = {f"pass@{k}": found[f"pass@{k}"] for k in SHOWN_KS if k in ks}
    if "auc" in found:
        shown[f"AUC 1..{ks[-1]}"] = found["auc"]
    shown |= {label: found[key] for label, key in _GROUP_LABELS.items() if key in found}
    (entropy,) = _intervals(np.stack(entropies)[..., None])
    return Row(
        name=name,
        num_seeds=len(folders),
        num_prompts=len(ids or ()),
        num_samples=num_samples,
        ks=ks,
        pass_at_k={k: found[f"pass@{k}"] for k in ks},
        values=shown,
        entropy_nats=entropy,
        by_prompt=values,
    )


def compare(row: Row, other: Row) -> dict[str, Interval]:
    """Differences `row - other` of pass@k and its area, paired by prompt, and by seed where both have several.

    Args:
        row: A method over its seeds.
        other: Another over the same seeds, or a single model.

    Raises:
        DataError: They have other seeds or prompts.
    """
    if row.by_prompt.shape[1:] != other.by_prompt.shape[1:] or other.num_seeds not in (1, row.num_seeds):
        raise DataError(f"{row.name} and {other.name} have not the same seeds and prompts.")
    names = quantity_names(row.num_samples, row.ks)
    found = dict(zip(names, _intervals(row.by_prompt - other.by_prompt), strict=True))
    labels = {f"pass@{k}": f"pass@{k}" for k in SHOWN_KS} | {f"AUC 1..{row.ks[-1]}": "auc"}
    return {label: found[key] for label, key in labels.items() if key in found}


_GROUP_LABELS = {"all wrong": "all_wrong", "mixed": "mixed", "all right": "all_right"}


def _intervals(values: NDArray[np.float64]) -> list[Interval]:
    """[seeds, prompts, quantities] -> one interval each: over prompts for one seed, over both for several."""
    interval = bootstrap_interval(values[0]) if len(values) == 1 else hierarchical_bootstrap_interval(values)
    triples = zip(
        np.atleast_1d(interval.estimate), np.atleast_1d(interval.low), np.atleast_1d(interval.high), strict=True
    )
    return [Interval(*map(float, triple)) for triple in triples]
