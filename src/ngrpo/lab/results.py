"""Evaluations of several seeds as one row of numbers with intervals over seeds and prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ngrpo.errors import DataError
from ngrpo.evaluate import Counts, read_counts
from ngrpo.evaluate.summary import GROUP_SIZE, quantity_names, values_by_prompt
from ngrpo.lab.exact import Exact, exact_pass_at_k, read_exact
from ngrpo.stats import Interval, bootstrap_interval, crossed_interval, pass_at_k_auc

SHOWN_KS = (1, 8, 64)
"""Of pass@k in tables, besides the largest."""

EXACT = "exact.json"


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
        values: What tables show, by label: shares from 0 to 1; `entropy` in nats, `length` in tokens.
        temperature: That it was sampled at.
        by_prompt: [seeds, prompts, quantities]; columns as in `column_names`.
        is_exact: Whether pass@k and the group shares were scored exactly, and not estimated from samples.
        difficulties: Kinds of prompts, where the world has several.
    """

    name: str
    num_seeds: int
    num_prompts: int
    num_samples: int
    ks: tuple[int, ...]
    pass_at_k: dict[int, Interval]
    values: dict[str, Interval]
    temperature: float
    by_prompt: NDArray[np.float64]
    is_exact: bool = False
    difficulties: tuple[str, ...] = ()


def column_names(row: Row) -> list[str]:
    """Names of the columns of `Row.by_prompt`.

    Beside what an evaluation tells of every prompt: `entropy`, the mean over the tokens sampled for the prompt, in
    nats, and `length`, the mean over its completions, in tokens. A mean over prompts weighs every prompt alike.
    """
    return _column_names(row.num_samples, row.ks)


def _column_names(num_samples: int, ks: Sequence[int]) -> list[str]:
    return [*quantity_names(num_samples, ks), "entropy", "length"]


def compared_columns(row: Row) -> dict[str, int]:
    """What rows are compared in: label to the column of `Row.by_prompt`.

    Example:
        >>> list(compared_columns(Row("r", 1, 1, 8, (1, 2, 4), {}, {}, 1.0, np.zeros((1, 1, 9)))))
        ['pass@1', 'pass@4', 'AUC 1..4', 'entropy', 'length']
    """
    names = column_names(row)
    labels = {f"pass@{k}": f"pass@{k}" for k in row.ks if k in SHOWN_KS or k == row.ks[-1]}
    labels |= {f"AUC 1..{row.ks[-1]}": "auc", "entropy": "entropy", "length": "length"}
    return {label: names.index(name) for label, name in labels.items() if name in names}


def read_row(name: str, folders: Sequence[Path], *, difficulty: str | None = None) -> Row:
    """Reads the evaluations of one method's seeds.

    Where `exact.json` is beside an evaluation, pass@k and the group shares are those of the exact probabilities, and
    samples only tell entropies and lengths.

    Args:
        name: For the table.
        folders: One evaluation folder per seed.
        difficulty: Only prompts of this kind; None: all.

    Raises:
        DataError: They are not of the same prompts with the same number of samples, or a file of exact scores is of
            other prompts or other k than its evaluation.
    """
    ids: list[str] | None = None
    by_prompt, are_exact = [], []
    for folder in folders:
        counts = read_counts(folder)
        num_samples, ks = counts.settings["num_samples"], tuple(counts.settings["ks"])
        ids = ids or counts.prompt_ids
        if counts.prompt_ids != ids or not (counts.num_samples == num_samples).all():
            raise DataError(f"{folder} has not {num_samples} samples of each of the other runs' prompts.")
        exact = _exact_beside(folder, counts, ks)
        are_exact.append(exact is not None)
        values = (
            values_by_prompt(num_samples, counts.num_correct, ks) if exact is None else exact_values(exact, num_samples)
        )
        entropies = counts.entropy_sums_nats / counts.num_entropy_tokens
        of_samples = np.stack([entropies, counts.lengths_tokens.mean(axis=1)], axis=1)
        by_prompt.append(np.concatenate([values, of_samples], axis=1)[_places(counts, difficulty)])
    values = np.stack(by_prompt)
    of_shares, others = _intervals(values[..., :-2]), _intervals(values[..., -2:])  # entropy and length come last
    within = [Interval(each.estimate, max(each.low, 0.0), min(each.high, 1.0)) for each in of_shares]
    found = dict(zip(_column_names(num_samples, ks), [*within, *others], strict=True))
    row = Row(
        name=name,
        num_seeds=len(folders),
        num_prompts=values.shape[1],
        num_samples=num_samples,
        ks=ks,
        pass_at_k={k: found[f"pass@{k}"] for k in ks},
        values={},
        temperature=counts.settings["temperature"],
        by_prompt=values,
        is_exact=all(are_exact),
        difficulties=tuple(sorted(set(counts.strata.get("difficulty", ())))),
    )
    names = column_names(row)
    shown = {label: found[names[column]] for label, column in compared_columns(row).items()}
    of_samples = {label: shown.pop(label) for label in ("entropy", "length")}
    groups = {label: found[key] for label, key in _GROUP_LABELS.items() if key in found}
    return replace(row, values={**shown, **groups, **of_samples})


def _exact_beside(folder: Path, counts: Counts, ks: Sequence[int]) -> Exact | None:
    """The exact scores beside an evaluation, where there are any."""
    path = folder.parent / EXACT
    if not path.is_file():
        return None
    exact = read_exact(path)
    if (list(exact.prompt_ids), exact.ks) != (list(counts.prompt_ids), ks):
        raise DataError(
            f"{path} has other prompts or other k than the evaluation in {folder}. Remove it and run the same command "
            "again: it scores them anew."
        )
    return exact


def exact_values(exact: Exact, num_samples: int) -> NDArray[np.float64]:
    """[P, M] the quantities of `evaluate.summary.values_by_prompt`, from probabilities instead of counts.

    Args:
        exact: Scored.
        num_samples: Of the evaluation beside it: decides which quantities there are.
    """
    columns = [exact.pass_at_k]
    if len(exact.ks) > 1:
        columns.append(np.asarray(pass_at_k_auc(exact.ks, exact.pass_at_k))[:, None])
    if num_samples >= GROUP_SIZE:
        some_right = exact_pass_at_k(exact.logprob, [GROUP_SIZE])[:, 0]
        all_right = np.exp(GROUP_SIZE * exact.logprob)
        columns.append(np.stack([1 - some_right, some_right - all_right, all_right], axis=1))
    return np.concatenate(columns, axis=1)


def _places(counts: Counts, difficulty: str | None) -> NDArray[np.bool_]:
    if difficulty is None:
        return np.ones(len(counts.prompt_ids), dtype=bool)
    return np.array(counts.strata["difficulty"]) == difficulty


def compare(row: Row, other: Row) -> dict[str, Interval]:
    """Differences `row - other`, paired by prompt, and by seed where both have several.

    Args:
        row: A method over its seeds.
        other: Another over the same seeds, or a single model.

    Returns:
        By label, of `compared_columns`: shares from -1 to 1, `entropy` in nats, `length` in tokens.

    Raises:
        DataError: They have other seeds or prompts.
    """
    if row.by_prompt.shape[1:] != other.by_prompt.shape[1:] or other.num_seeds not in (1, row.num_seeds):
        raise DataError(f"{row.name} and {other.name} have not the same seeds and prompts.")
    columns = compared_columns(row)
    found = _intervals((row.by_prompt - other.by_prompt)[..., list(columns.values())])
    return dict(zip(columns, found, strict=True))


_GROUP_LABELS = {"all wrong": "all_wrong", "mixed": "mixed", "all right": "all_right"}


def _intervals(values: NDArray[np.float64]) -> list[Interval]:
    """[seeds, prompts, quantities] -> one interval each: over prompts for one seed, over both for several."""
    interval = bootstrap_interval(values[0]) if len(values) == 1 else crossed_interval(values)
    triples = zip(
        np.atleast_1d(interval.estimate), np.atleast_1d(interval.low), np.atleast_1d(interval.high), strict=True
    )
    return [Interval(*map(float, triple)) for triple in triples]
