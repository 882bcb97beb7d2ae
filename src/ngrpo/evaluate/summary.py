"""From samples to numbers: pass@k, its area, group kinds, each with n and an interval over prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngrpo.errors import DataError
from ngrpo.stats import Interval, bootstrap_interval, group_kind_fracs, pass_at_k, pass_at_k_auc

GROUP_SIZE = 8
"""Groups of this size are drawn from the samples to say how many would be all wrong, mixed or all right."""


@dataclass(frozen=True)
class Summary:
    """What an evaluation found. Every interval is a 95 % bootstrap interval over prompts.

    Attributes:
        num_prompts: Prompts.
        num_samples: Samples of each.
        pass_at_k: By k.
        auc: Area under pass@k over log2 k up to the largest k, divided by its width; None for a single k.
        groups: Expected shares `all_wrong`, `mixed`, `all_right` of groups of `GROUP_SIZE`; empty below that many
            samples.
        entropy_nats: Mean entropy per sampled token.
        mean_tokens: Mean completion length.
        truncated_frac: Completions cut off.
        kind_fracs: Share of each outcome kind.
    """

    num_prompts: int
    num_samples: int
    pass_at_k: dict[int, Interval]
    auc: Interval | None
    groups: dict[str, Interval]
    entropy_nats: float
    mean_tokens: float
    truncated_frac: float
    kind_fracs: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return asdict(self)


def correct_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Samples and correct samples of each prompt, in order of first appearance.

    Args:
        rows: Lines of samples.jsonl.

    Raises:
        DataError: A sample occurs twice.
    """
    seen: set[tuple[str, int]] = set()
    counts: dict[str, tuple[int, int]] = {}
    for row in rows:
        key = (row["prompt"], row["sample"])
        if key in seen:
            raise DataError(f"sample {key[1]} of prompt {key[0]!r} occurs twice in samples.jsonl. Remove one line.")
        seen.add(key)
        total, correct = counts.get(row["prompt"], (0, 0))
        counts[row["prompt"]] = (total + 1, correct + bool(row["correct"]))
    return counts


def values_by_prompt(num_samples: int, num_correct: NDArray[np.int64], ks: Sequence[int]) -> NDArray[np.float64]:
    """Every reported quantity per prompt, so that one resampling of prompts serves them all.

    All of them are means over prompts: pass@k of each k, then (for more than one k) the AUC, which is linear in them,
    then (from `GROUP_SIZE` samples on) the three group shares.

    Args:
        num_samples: Samples of each prompt.
        num_correct: [P] correct ones.
        ks: Rising.

    Returns:
        [P, quantities].
    """
    columns = [pass_at_k(num_samples, num_correct, k) for k in ks]
    if len(ks) > 1:
        columns.append(pass_at_k_auc(ks, np.stack(columns, axis=1)))
    if num_samples >= GROUP_SIZE:
        fracs = group_kind_fracs(num_samples, num_correct, GROUP_SIZE)
        columns += [fracs.all_wrong_frac, fracs.mixed_frac, fracs.all_right_frac]
    return np.stack(columns, axis=1)


def quantity_names(num_samples: int, ks: Sequence[int]) -> list[str]:
    """Names of the columns of `values_by_prompt`."""
    names = [f"pass@{k}" for k in ks] + (["auc"] if len(ks) > 1 else [])
    return names + (["all_wrong", "mixed", "all_right"] if num_samples >= GROUP_SIZE else [])


def summarise(rows: Sequence[Mapping[str, Any]], ks: Sequence[int], *, num_prompts: int) -> Summary:
    """Summarises a complete evaluation.

    Args:
        rows: Lines of samples.jsonl.
        ks: For which k.
        num_prompts: How many prompts there must be.

    Raises:
        DataError: Prompts are missing or have unequal numbers of samples: the mean would be over other prompts.
    """
    counts = correct_counts(rows)
    sizes = {total for total, _ in counts.values()}
    if len(counts) != num_prompts or len(sizes) != 1:
        raise DataError(
            f"samples.jsonl has {len(counts)} of {num_prompts} prompts, with {sorted(sizes)} samples each. "
            "Run the same command again: it samples what is missing."
        )
    num_samples = sizes.pop()
    correct = np.array([right for _, right in counts.values()])
    interval = bootstrap_interval(values_by_prompt(num_samples, correct, ks))
    found = {
        name: Interval(*map(float, triple))
        for name, *triple in zip(
            quantity_names(num_samples, ks), interval.estimate, interval.low, interval.high, strict=True
        )
    }
    tokens = np.array([row["tokens"] for row in rows])
    kinds = [row["kind"] for row in rows]
    return Summary(
        num_prompts=num_prompts,
        num_samples=num_samples,
        pass_at_k={k: found[f"pass@{k}"] for k in ks},
        auc=found.get("auc"),
        groups={name: found[name] for name in ("all_wrong", "mixed", "all_right") if name in found},
        entropy_nats=float(np.average([row["entropy_nats"] for row in rows], weights=tokens)),
        mean_tokens=float(tokens.mean()),
        truncated_frac=float(np.mean([row["finish_reason"] == "length" for row in rows])),
        kind_fracs={kind: kinds.count(kind) / len(kinds) for kind in sorted(set(kinds))},
    )
