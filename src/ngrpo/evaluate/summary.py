"""From counts to numbers: pass@k, its area, majority votes, lengths; each mean with its intervals over problems.

Axes: P prompts, M quantities, of which each is a mean over prompts.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngrpo.errors import ConfigError, DataError
from ngrpo.evaluate.counts import NO_VOTE, UNKNOWN, Counts
from ngrpo.stats import (
    group_kind_fracs,
    k_grid,
    majority_at_k,
    mean_interval,
    pass_at_k,
    pass_at_k_auc,
    sampling_variances,
)

GROUP_SIZE = 8
"""Groups of this size are drawn from the samples to say how many would be all wrong, mixed or all right."""

PROMPTS_AT_ONCE = 256
"""Prompts whose votes are counted together: sorting takes some hundred bytes per sample."""

MAX_NAMED = 5
"""Prompts named in one message."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A mean over prompts, and how sure it is.

    Attributes:
        estimate: The mean.
        low: Lower end of the 95 % interval over prompts: had other prompts of the kind been asked.
        high: Upper end.
        se: Standard error over prompts; None for a single prompt.
        sampling_se: Standard error with the prompts fixed: had these prompts been sampled again. None where it is not
            known.
    """

    estimate: float
    low: float
    high: float
    se: float | None
    sampling_se: float | None


@dataclass(frozen=True)
class Part:
    """What was found on a set of prompts. Shares are of completions, from 0 to 1; None is what is not known.

    Attributes:
        num_prompts: Prompts.
        min_num_samples: Samples of the prompt that has the fewest.
        max_num_samples: Samples of the prompt that has the most.
        mean: Share of correct completions of a prompt, mean over prompts (mean@n).
        pass_at_k: By k.
        auc: Area under pass@k over log2 k, from the smallest k to the largest, divided by its width; None for one k.
        maj_at_k: By k from 2 on: is the most frequent answer of k correct. Empty where no normal forms are told.
        groups: Expected shares `all_wrong`, `mixed`, `all_right` of groups of `GROUP_SIZE`; empty below that many
            samples.
        num_none_correct: Prompts without a correct sample.
        num_all_correct: Prompts without a wrong one.
        kind_fracs: Share of each outcome kind.
        truncated_frac: Completions cut off.
        not_truncated_correct_frac: Correct ones among those that were not.
        mean_tokens: Mean completion length.
        p50_tokens: Median of it.
        p95_tokens: 95 % are at most this long.
        entropy_nats: Mean entropy per sampled token.
        num_answers: Mean number of distinct answers of a prompt; None as for `maj_at_k`.
        answer_entropy_nats: Mean entropy of a prompt's distribution of answers; None as for `maj_at_k`.
    """

    num_prompts: int
    min_num_samples: int
    max_num_samples: int
    mean: Quantity
    pass_at_k: dict[int, Quantity]
    auc: Quantity | None
    maj_at_k: dict[int, Quantity]
    groups: dict[str, Quantity]
    num_none_correct: int
    num_all_correct: int
    kind_fracs: dict[str, float]
    truncated_frac: float | None
    not_truncated_correct_frac: float | None
    mean_tokens: float | None
    p50_tokens: float | None
    p95_tokens: float | None
    entropy_nats: float | None
    num_answers: float | None
    answer_entropy_nats: float | None


@dataclass(frozen=True)
class Summary:
    """What an evaluation found.

    Attributes:
        ks: The grid of pass@k.
        overall: On all prompts.
        strata: Column (level, subject) to its value to what was found on these prompts.
    """

    ks: tuple[int, ...]
    overall: Part
    strata: dict[str, dict[str, Part]]

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe; what was found on all prompts is at the top, the rest in `strata`."""
        found = asdict(self)
        return {"ks": list(self.ks), **found["overall"], "strata": found["strata"]}


def quantity_names(num_samples: int, ks: Sequence[int]) -> list[str]:
    """Names of the columns of `values_by_prompt`."""
    names = [f"pass@{k}" for k in ks] + (["auc"] if len(ks) > 1 else [])
    return names + (["all_wrong", "mixed", "all_right"] if num_samples >= GROUP_SIZE else [])


def quantity_table(num_samples: int, ks: Sequence[int]) -> NDArray[np.float64]:
    """Every quantity of one prompt for every number of correct samples that it can have.

    pass@k of each k, then (for more than one k) the AUC, which is linear in them, then (from `GROUP_SIZE` samples on)
    the three group shares.

    Args:
        num_samples: Samples of the prompt, n.
        ks: Rising.

    Returns:
        [n + 1, M].
    """
    counts = np.arange(num_samples + 1)
    columns = [pass_at_k(num_samples, counts, k) for k in ks]
    if len(ks) > 1:
        columns.append(pass_at_k_auc(ks, np.stack(columns, axis=1)))
    if num_samples >= GROUP_SIZE:
        fracs = group_kind_fracs(num_samples, counts, GROUP_SIZE)
        columns += [fracs.all_wrong_frac, fracs.mixed_frac, fracs.all_right_frac]
    return np.stack(columns, axis=1)


def values_by_prompt(num_samples: int, num_correct: NDArray[np.int64], ks: Sequence[int]) -> NDArray[np.float64]:
    """Every quantity per prompt, so that one resampling of prompts serves them all: [P, M].

    Args:
        num_samples: Samples of each prompt.
        num_correct: [P] correct ones.
        ks: Rising.
    """
    return quantity_table(num_samples, ks)[num_correct]


def summarise(counts: Counts, ks: Sequence[int] = ()) -> Summary:
    """Summarises a complete evaluation.

    Args:
        counts: From `read_counts`.
        ks: For which k, rising; empty for the grid of powers of two up to the smallest number of samples.

    Raises:
        DataError: A prompt lacks samples: without it the mean would be over other prompts. It is named.
        ConfigError: A prompt has fewer samples than k. It is named.
    """
    check_complete(counts)
    least = int(counts.num_samples.min())
    ks = tuple(ks) or tuple(k_grid(least))
    if ks[-1] > least:
        name = counts.prompt_ids[int(counts.num_samples.argmin())]
        raise ConfigError(
            f"pass@{ks[-1]} needs {ks[-1]} samples of every prompt; prompt {name!r} has {least}. Lower --ks: leaving "
            "prompts out would make it another number."
        )
    values = _Values(counts, ks)
    strata = {
        name: {value: values.part(np.flatnonzero(np.array(column) == value)) for value in sorted(set(column))}
        for name, column in counts.strata.items()
    }
    return Summary(ks, values.part(np.arange(len(counts.prompt_ids))), strata)


def check_complete(counts: Counts) -> None:
    """Refuses counts of which a sample is missing.

    Raises:
        DataError: Prompts without all their samples, which are named.
    """
    wanted, num_prompts = (counts.settings.get(name) for name in ("num_samples", "num_prompts"))
    if not counts.prompt_ids or num_prompts not in (None, len(counts.prompt_ids)):
        raise DataError(
            f"the evaluation is of {num_prompts} prompts, but problems.jsonl has {len(counts.prompt_ids)}. Run the "
            "same command again: it writes that file anew."
        )
    width = counts.is_there.shape[1]
    last = np.where(counts.is_there, np.arange(1, width + 1), 1).max(axis=1, initial=1)
    needed = last if wanted is None else np.full(len(last), wanted)
    short = np.flatnonzero(counts.num_samples < needed)
    if not len(short):
        return
    named = ", ".join(
        f"{counts.prompt_ids[place]!r} ({counts.num_samples[place]} of {needed[place]})" for place in short[:MAX_NAMED]
    )
    more = f" and {len(short) - MAX_NAMED} more" if len(short) > MAX_NAMED else ""
    raise DataError(
        f"{len(short)} of {len(last)} prompts lack samples: {named}{more}. Run the same command again: it adds what is "
        "missing."
    )


class _Values:
    """Every quantity of every prompt, and its summary over any set of prompts."""

    def __init__(self, counts: Counts, ks: tuple[int, ...]) -> None:
        self.counts, self.ks = counts, ks
        of_counts = ["mean", *quantity_names(int(counts.num_samples.min()), ks)]
        # The vote of one sample is that sample: maj@1 is pass@1.
        self.voting_ks = tuple(k for k in ks if k > 1) if counts.has_votes else ()
        self.names = [*of_counts, *(f"maj@{k}" for k in self.voting_ks)]
        self.values = np.zeros((len(counts.prompt_ids), len(self.names)))
        self.variances = np.full_like(self.values, np.nan)
        for num_samples in np.unique(counts.num_samples).tolist():
            chosen = np.flatnonzero(counts.num_samples == num_samples)
            correct = counts.num_correct[chosen]
            table = np.column_stack([np.arange(num_samples + 1) / num_samples, quantity_table(num_samples, ks)])
            table = table[:, : len(of_counts)]  # prompts with more samples may have quantities that not all have
            self.values[chosen, : len(of_counts)] = table[correct]
            if num_samples > 1:  # one sample says nothing of how far another would be from it
                self.variances[chosen, : len(of_counts)] = sampling_variances(table, correct)
        if self.voting_ks:
            for start in range(0, len(counts.prompt_ids), PROMPTS_AT_ONCE):
                some = slice(start, start + PROMPTS_AT_ONCE)
                self.values[some, len(of_counts) :] = majority_at_k(
                    counts.votes[some], counts.is_correct[some], self.voting_ks, is_there=counts.is_there[some]
                )
        self.answers = _answer_spread(counts)

    def part(self, places: NDArray[np.int64]) -> Part:
        """What was found on these prompts."""
        counts = self.counts
        found = self._quantities(places)
        num_samples, num_correct = counts.num_samples[places], counts.num_correct[places]
        total = int(num_samples.sum())
        lengths = counts.lengths_tokens[places]
        lengths = lengths[lengths != UNKNOWN]
        has_lengths = len(lengths) == total
        num_truncated = counts.num_truncated[places].sum()
        has_ends = not counts.num_unknown_end[places].any()
        num_ended = total - num_truncated
        ended_correct = (num_correct - counts.num_truncated_correct[places]).sum()
        entropy_tokens = counts.num_entropy_tokens[places].sum()
        return Part(
            num_prompts=len(places),
            min_num_samples=int(num_samples.min()),
            max_num_samples=int(num_samples.max()),
            mean=found["mean"],
            pass_at_k={k: found[f"pass@{k}"] for k in self.ks},
            auc=found.get("auc"),
            maj_at_k={k: found[f"maj@{k}"] for k in self.voting_ks},
            groups={name: found[name] for name in ("all_wrong", "mixed", "all_right") if name in found},
            num_none_correct=int((num_correct == 0).sum()),
            num_all_correct=int((num_correct == num_samples).sum()),
            kind_fracs={kind: float(many[places].sum() / total) for kind, many in counts.kinds.items()},
            truncated_frac=float(num_truncated / total) if has_ends else None,
            not_truncated_correct_frac=float(ended_correct / num_ended) if has_ends and num_ended else None,
            mean_tokens=float(lengths.mean()) if has_lengths else None,
            p50_tokens=float(np.quantile(lengths, 0.5)) if has_lengths else None,
            p95_tokens=float(np.quantile(lengths, 0.95)) if has_lengths else None,
            entropy_nats=float(counts.entropy_sums_nats[places].sum() / entropy_tokens) if entropy_tokens else None,
            num_answers=float(self.answers[places, 0].mean()) if counts.has_votes else None,
            answer_entropy_nats=float(self.answers[places, 1].mean()) if counts.has_votes else None,
        )

    def _quantities(self, places: NDArray[np.int64]) -> dict[str, Quantity]:
        values, num_prompts = self.values[places], len(places)
        interval = mean_interval(values)
        spread = values.std(axis=0, ddof=1) if num_prompts > 1 else np.full(len(self.names), np.nan)
        errors = spread / math.sqrt(num_prompts), np.sqrt(self.variances[places].sum(axis=0)) / num_prompts
        columns = zip(self.names, interval.estimate, interval.low, interval.high, *errors, strict=True)
        return {
            name: Quantity(*map(float, ends), *(None if math.isnan(error) else float(error) for error in (se, other)))
            for name, *ends, se, other in columns
        }


def _answer_spread(counts: Counts) -> NDArray[np.float64]:
    """[P, 2] number of distinct answers of each prompt, and the entropy (nats) of their distribution."""
    spread = np.zeros((len(counts.prompt_ids), 2))
    for place, votes in enumerate(counts.votes):
        sizes = np.bincount(votes[votes != NO_VOTE])
        fracs = sizes[sizes > 0] / max(sizes.sum(), 1)
        spread[place] = len(fracs), -(fracs * np.log(fracs)).sum()
    return spread
