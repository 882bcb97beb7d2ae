"""What a tiny world is: rows of prompts from a seed, an exact checker, and splits that share nothing."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NotRequired, TypedDict

from ngrpo.errors import DataError
from ngrpo.types import Outcome


class Row(TypedDict):
    """One prompt of a world, as a data set row.

    Attributes:
        id: Unique within one (split, size, seed), and the same row for every size: `countdown/test/0/17`.
        prompt: What the model reads.
        gold: One completion that the checker accepts.
        difficulty: Where a world has prompts of two kinds, which this is: `hard` or `easy`. Evaluations are then
            divided by it too.
    """

    id: str
    prompt: str
    gold: str
    difficulty: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What a base model is shown during its warm start: not always what the checker accepts.

    Attributes:
        prompt: What the model reads.
        completion: What it learns to write, followed by the end-of-sequence token.
        num_unlearned: So many first characters of the completion carry no loss: the model learns to go on from them,
            not to write them.
    """

    prompt: str
    completion: str
    num_unlearned: int = 0


@dataclass(frozen=True, slots=True)
class World:
    """A task small enough to be learned from scratch on a laptop.

    Attributes:
        name: What `worlds.get` knows it by.
        version: Raised whenever the same (split, size, seed) gives other rows or the checker judges otherwise;
            part of the key under which base models are cached.
        alphabet: Every character that prompts and golds are written in, each once.
        max_prompt_chars: Longest prompt, in characters.
        max_completion_tokens: Completion limit that experiments in this world use; a gold and its
            end-of-sequence token always fit, at one token per character.
        splits: Names of the splits.
        generate: (split, size, seed) -> rows, called by `problems` with checked arguments.
        check: (prompt text, completion text) -> what the checker says: `.correct` and, in `.detail`, why.
            Never raises for the completion's sake; a prompt that is not of this world is a `DataError`.
        answers: Prompt text -> every completion that the checker accepts, each once, where they are few enough to be
            written down. The probability that a model is right is then the sum of theirs, and pass@k is exact.
        demonstrate: (size, seed) -> what a base model is shown, called by `demonstrations` with checked arguments.
            None where it is shown the rows of the split `warm` with their golds.
        canonical: Prompt text -> a form that all ways of writing one problem share. No two splits share one.
    """

    name: str
    version: int
    alphabet: str
    max_prompt_chars: int
    max_completion_tokens: int
    splits: tuple[str, ...]
    generate: Callable[[str, int, int], list[Row]] = field(repr=False)
    check: Callable[[str, str], Outcome] = field(repr=False)
    answers: Callable[[str], tuple[str, ...]] | None = field(default=None, repr=False)
    demonstrate: Callable[[int, int], list[Demonstration]] | None = field(default=None, repr=False)
    canonical: Callable[[str], str] = field(default=str, repr=False)

    def problems(self, split: str, size: int, seed: int) -> list[Row]:
        """Make the first `size` rows of a split: a pure function of its arguments.

        A larger `size` continues the same list, so evaluations of different sizes share their first rows.

        Args:
            split: One of `splits`.
            size: Number of rows, at least 1.
            seed: Which list of rows, at least 0.

        Returns:
            Rows with id, prompt and gold, and their difficulty where the world has two.

        Raises:
            DataError: The split is unknown, size or seed out of range, or the split has not that many distinct rows.
        """
        if split not in self.splits:
            raise DataError(f"world {self.name!r} has no split {split!r}. Its splits are {', '.join(self.splits)}.")
        self._check(split, size, seed)
        return self.generate(split, size, seed)

    def demonstrations(self, size: int, seed: int) -> list[Demonstration]:
        """Make what a base model of this world is shown, of problems of the split `warm` only.

        Args:
            size: How many, at least 1.
            seed: Which list of them, at least 0.

        Raises:
            DataError: Size or seed is out of range.
        """
        self._check("warm", size, seed)
        if self.demonstrate is not None:
            return self.demonstrate(size, seed)
        return [Demonstration(row["prompt"], row["gold"]) for row in self.generate("warm", size, seed)]

    def _check(self, split: str, size: int, seed: int) -> None:
        if size < 1:
            raise DataError(f"world {self.name!r} was asked for {size} rows of split {split!r}. Ask for at least 1.")
        if seed < 0:
            raise DataError(f"world {self.name!r} was asked for rows with seed {seed}. Use a seed of 0 or more.")


def require_distinct(world: str, split: str, size: int, most: int | None) -> None:
    """Refuse more rows of a split than it has different problems.

    Args:
        world: Its name, for the message.
        split: The split.
        size: Rows asked for.
        most: How many there are; None where rows may repeat.

    Raises:
        DataError: They are not that many.
    """
    if most is not None and size > most:
        raise DataError(
            f"split {split!r} of world {world!r} gives at most {most} rows, because they are all different problems, "
            f"but {size} were asked for. Ask for fewer."
        )


def split_by_hash(text: str, percent: Mapping[str, int]) -> str:
    """Tell which split a problem belongs to. Stable for ever: a SHA-256 of the text, not Python's hash.

    Args:
        text: The problem in a form that all its ways of being written share, with the name of the world in front.
        percent: Share of each split; together 100.

    Example:
        >>> split_by_hash("countdown:1,2,3", {"warm": 50, "train": 30, "validation": 10, "test": 10})
        'validation'
    """
    percentile = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    upper = 0
    for split, share in percent.items():
        upper += share
        if percentile < upper:
            return split
    raise AssertionError(f"shares of splits must add up to 100, add up to {upper}")
