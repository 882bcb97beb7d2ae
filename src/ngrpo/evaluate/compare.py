"""Two evaluations of the same problems, problem by problem: what differs, and whether that is established.

Axes: P problems that both have, K values of k. Every difference is the first minus the second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ngrpo.errors import DataError, RunFolderError
from ngrpo.evaluate.counts import Counts, read_counts, read_problems
from ngrpo.evaluate.folder import SETTINGS
from ngrpo.evaluate.summary import MAX_NAMED, check_complete
from ngrpo.stats import Interval, k_grid, majority_at_k, mean_interval, paired_interval, pass_at_k, pass_at_k_auc

CONDITIONS = {
    "data": "data",
    "fingerprint": "fingerprint of the data",
    "template": "prompt template",
    "num_samples": "samples per problem",
    "temperature": "temperature",
    "top_p": "top-p",
    "top_k": "top-k",
    "max_completion_tokens": "largest number of tokens",
    "reward": "reward",
    "judge": "reward settings",
    "precision": "precision",
    "engine": "engine",
    "seed": "seed",
    "graded_from": "file of samples",
}
"""Settings whose difference is told, in words. The model's are not among them: they are what is compared."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One quantity of both models, each in [0, 1].

    Attributes:
        first: The first's mean over problems.
        second: The second's.
        difference: Of the two, paired by problem.
    """

    first: Interval
    second: Interval
    difference: Interval

    @property
    def is_established(self) -> bool:
        """Whether the interval of the difference leaves zero out."""
        return bool(self.difference.low > 0 or self.difference.high < 0)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that one model solved and the other never did.

    Attributes:
        prompt: Its id.
        gold: Its answer.
        num_correct: Correct samples of the first and of the second.
        num_samples: Samples of each.
    """

    prompt: str
    gold: str
    num_correct: tuple[int, int]
    num_samples: tuple[int, int]


@dataclass(frozen=True)
class Comparison:
    """What two evaluations of one data set say of each other.

    Attributes:
        data: Name of the data.
        folders: The two.
        models: Theirs.
        differing: What else differs, one sentence each.
        num_problems: Problems that both have; everything below is about these.
        num_only: Problems that only the first has, and only the second.
        num_samples: Fewest samples of a problem in the first and in the second.
        ks: Of pass@k: powers of two up to the smaller of these.
        quantities: `pass@K`, `auc` and `maj@K` by name. maj@1 is pass@1, and is left out; there is none where a
            verifier told no normal forms.
        wins: Problems where the first has the larger share of correct samples.
        ties: Where the shares are equal.
        losses: Where the second has the larger one.
        sign_test_p: Exact two-sided sign test: the chance of wins and losses at least as uneven, were both as likely.
        only_first_solved: Problems that the first solved and the second never did.
        only_second_solved: The reverse.
    """

    data: str
    folders: tuple[str, str]
    models: tuple[str, str]
    differing: tuple[str, ...]
    num_problems: int
    num_only: tuple[int, int]
    num_samples: tuple[int, int]
    ks: tuple[int, ...]
    quantities: dict[str, Quantity]
    wins: int
    ties: int
    losses: int
    sign_test_p: float
    only_first_solved: tuple[Problem, ...]
    only_second_solved: tuple[Problem, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        established = {name: {"is_established": value.is_established} for name, value in self.quantities.items()}
        found = asdict(self)
        return {**found, "quantities": {name: value | established[name] for name, value in found["quantities"].items()}}


def compare_folders(first: Path, second: Path, *, only_shared: bool = False) -> list[Comparison]:
    """Compares two evaluation folders, or two folders of evaluation folders, which are paired by name.

    Args:
        first: An evaluation folder, or one that holds one per data set.
        second: The other.
        only_shared: Compare the data sets and problems that both have; otherwise both must have the same.

    Returns:
        One comparison per data set.

    Raises:
        RunFolderError: A folder holds no evaluation.
        DataError: The two have other data sets or other problems, or one is incomplete.
    """
    ours, theirs = evaluation_folders(first), evaluation_folders(second)
    if "" in ours and "" in theirs:
        return [compare(first, second, only_shared=only_shared)]
    if "" in ours or "" in theirs:
        single, several = (first, second) if "" in ours else (second, first)
        names = ", ".join(theirs if "" in ours else ours)
        raise DataError(f"{single} is one evaluation, {several} holds several: {names}. Give one of these.")
    both = [name for name in ours if name in theirs]
    alone = sorted(ours.keys() ^ theirs.keys())
    if not both or (alone and not only_shared):
        told = f"only one of {first} and {second} has an evaluation named {', '.join(alone)}."
        raise DataError(
            f"{told} Give folders with the same ones{', or --shared for those that both have' * bool(both)}."
        )
    return [compare(ours[name], theirs[name], only_shared=only_shared) for name in both]


def evaluation_folders(folder: Path) -> dict[str, Path]:
    """The evaluation folders in a folder by name; the folder itself, named by the empty text, where it is one.

    Raises:
        RunFolderError: There are none.
    """
    if (folder / SETTINGS).is_file():
        return {"": folder}
    found = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{SETTINGS}"))}
    if not found:
        raise RunFolderError(
            f"{folder} holds no evaluation: neither it nor a folder in it has an {SETTINGS}. Give a folder that ngrpo "
            "eval wrote."
        )
    return found


def compare(first: Path, second: Path, *, only_shared: bool = False) -> Comparison:
    """Compares two evaluation folders.

    Args:
        first: An evaluation folder.
        second: The other.
        only_shared: Compare the problems that both have; otherwise both must have the same.

    Raises:
        RunFolderError: A folder holds no evaluation.
        DataError: The problems differ, or an evaluation is incomplete.
    """
    ours, theirs = _Side.read(first), _Side.read(second)
    ids = _shared(ours, theirs, only_shared=only_shared)
    ours, theirs = ours.of(ids), theirs.of(ids)
    num_samples = int(ours.num_samples.min()), int(theirs.num_samples.min())
    ks = tuple(k_grid(min(num_samples)))
    ahead = np.sign(ours.num_correct * theirs.num_samples - theirs.num_correct * ours.num_samples)
    wins, losses = int((ahead > 0).sum()), int((ahead < 0).sum())
    return Comparison(
        data=str(ours.settings.get("data", "")),
        folders=(str(first), str(second)),
        models=(str(ours.settings.get("model", "")), str(theirs.settings.get("model", ""))),
        differing=(*_differing_settings(ours.settings, theirs.settings), *_differing_problems(ours, theirs)),
        num_problems=len(ids),
        num_only=(ours.num_all - len(ids), theirs.num_all - len(ids)),
        num_samples=num_samples,
        ks=ks,
        quantities=_quantities(ours, theirs, ks),
        wins=wins,
        ties=len(ids) - wins - losses,
        losses=losses,
        sign_test_p=sign_test_p(wins, losses),
        only_first_solved=_solved_by_one(ours, theirs, (ours.num_correct > 0) & (theirs.num_correct == 0)),
        only_second_solved=_solved_by_one(ours, theirs, (ours.num_correct == 0) & (theirs.num_correct > 0)),
    )


def sign_test_p(wins: int, losses: int) -> float:
    """Exact two-sided sign test: the chance of a split at least as uneven, were both sides equally likely.

    Example:
        >>> sign_test_p(5, 0), sign_test_p(3, 3), sign_test_p(0, 0)      # 2 / 32
        (0.0625, 1.0, 1.0)
    """
    total, fewer = wins + losses, min(wins, losses)
    ways, tail = 1, 0
    for count in range(fewer + 1):
        tail += ways
        ways = ways * (total - count) // (count + 1)
    return min(1.0, 2 * tail / 2**total)


@dataclass(frozen=True, eq=False)
class _Side:
    """One evaluation, or its part on some problems. Arrays are [P] or [P, samples], as in `Counts`."""

    ARRAYS: ClassVar = ("num_samples", "num_correct", "is_there", "is_correct", "votes")

    folder: Path
    settings: Mapping[str, Any]
    ids: list[str]
    golds: list[str]
    problems: list[str]
    num_all: int
    num_samples: NDArray[np.int64]
    num_correct: NDArray[np.int64]
    is_there: NDArray[np.bool_]
    is_correct: NDArray[np.bool_]
    votes: NDArray[np.int32]
    has_votes: bool

    @classmethod
    def read(cls, folder: Path) -> "_Side":
        counts: Counts = read_counts(folder)
        try:
            check_complete(counts)
        except DataError as error:
            raise DataError(f"{folder}: {error}") from error
        if not counts.prompt_ids:
            raise DataError(f"{folder} has no problem to compare.")
        rows = read_problems(folder)
        return cls(
            folder=folder,
            settings=counts.settings,
            ids=counts.prompt_ids,
            golds=[str(row.get("gold", "")) for row in rows],
            problems=[str(row.get("problem", "")) for row in rows],
            num_all=len(rows),
            has_votes=counts.has_votes,
            **{name: getattr(counts, name) for name in cls.ARRAYS},
        )

    def of(self, ids: Sequence[str]) -> "_Side":
        """The part on these problems, in this order."""
        place_of = {name: place for place, name in enumerate(self.ids)}
        places = [place_of[name] for name in ids]
        taken = {name: [getattr(self, name)[place] for place in places] for name in ("golds", "problems")}
        return replace(self, ids=list(ids), **taken, **{name: getattr(self, name)[places] for name in _Side.ARRAYS})


def _shared(ours: _Side, theirs: _Side, *, only_shared: bool) -> list[str]:
    """Problems that both have: the same id and, where both keep it, the same text."""
    texts = dict(zip(theirs.ids, theirs.problems, strict=True))
    shared = [
        name
        for name, text in zip(ours.ids, ours.problems, strict=True)
        if name in texts and (text == texts[name] or not text or not texts[name])
    ]
    found = set(shared)
    alone = [name for side in (ours, theirs) for name in side.ids if name not in found]
    if shared and (only_shared or not alone):
        return shared
    named = ", ".join(repr(name) for name in dict.fromkeys(alone[:MAX_NAMED]))
    same_id = sum(name in texts for name in ours.ids) - len(shared)
    renamed = f" {same_id} of them have an id in common, but another text." if same_id else ""
    advice = "Give --shared to compare on the shared ones only." if shared else "There is nothing to compare."
    raise DataError(
        f"{ours.folder} and {theirs.folder} are of different problems: {len(shared)} are in both, "
        f"{len(ours.ids) - len(shared)} only in the first, {len(theirs.ids) - len(shared)} only in the second, such as "
        f"{named}.{renamed} {advice}"
    )


def _differing_settings(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [
        f"{words}: {_shown(ours.get(name))} and {_shown(theirs.get(name))}"
        for name, words in CONDITIONS.items()
        if ours.get(name) != theirs.get(name)
    ]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {entry!r}" for key, entry in value.items()) + "}"
    return "not known" if value is None else repr(value) if isinstance(value, str) else str(value)


def _differing_problems(ours: _Side, theirs: _Side) -> list[str]:
    """What is told of problems and of uneven numbers of samples."""
    told = []
    regraded = [name for name, gold, other in zip(ours.ids, ours.golds, theirs.golds, strict=True) if gold != other]
    if regraded:
        named = ", ".join(map(repr, regraded[:MAX_NAMED]))
        told.append(f"gold answers, of {len(regraded)} of {len(ours.ids)} problems, such as {named}")
    for which, side in (("first", ours), ("second", theirs)):
        if (side.num_samples != side.num_samples.max()).any():
            place = int(side.num_samples.argmin())
            told.append(
                f"samples per problem within the {which}: {side.num_samples[place]} ({side.ids[place]!r}) to "
                f"{side.num_samples.max()}, so k ends at {side.num_samples[place]}"
            )
    if ours.has_votes != theirs.has_votes:
        told.append("only one has the normal forms of answers, so there is no maj@k")
    return told


def _quantities(ours: _Side, theirs: _Side, ks: Sequence[int]) -> dict[str, Quantity]:
    """Every quantity of both, all from one number per problem in [0, 1]."""
    with_votes = [k for k in ks if k > 1] if ours.has_votes and theirs.has_votes else []
    names = [f"pass@{k}" for k in ks] + ["auc"] * (len(ks) > 1) + [f"maj@{k}" for k in with_votes]
    values = [_values(side, ks, with_votes) for side in (ours, theirs)]
    intervals = [mean_interval(values[0]), mean_interval(values[1]), paired_interval(*values)]
    parts = [
        [Interval(*map(float, ends)) for ends in zip(found.estimate, found.low, found.high, strict=True)]
        for found in intervals
    ]
    return {name: Quantity(*three) for name, *three in zip(names, *parts, strict=True)}


def _values(side: _Side, ks: Sequence[int], with_votes: Sequence[int]) -> NDArray[np.float64]:
    """[P, quantities]."""
    passed = pass_at_k(side.num_samples[:, None], side.num_correct[:, None], np.array(ks))
    columns = [passed]
    if len(ks) > 1:
        columns.append(pass_at_k_auc(ks, passed)[:, None])
    if with_votes:
        columns.append(majority_at_k(side.votes, side.is_correct, with_votes, is_there=side.is_there))
    return np.concatenate(columns, axis=1)


def _solved_by_one(ours: _Side, theirs: _Side, is_one: NDArray[np.bool_]) -> tuple[Problem, ...]:
    return tuple(
        Problem(
            prompt=ours.ids[place],
            gold=ours.golds[place],
            num_correct=(int(ours.num_correct[place]), int(theirs.num_correct[place])),
            num_samples=(int(ours.num_samples[place]), int(theirs.num_samples[place])),
        )
        for place in np.flatnonzero(is_one)
    )
