"""What a tiny world is: rows of prompts from a seed, an exact checker, and splits that share nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypedDict

from ngrpo.errors import DataError
from ngrpo.types import Outcome


class Row(TypedDict):
    """One prompt of a world, as a data set row.

    Attributes:
        id: Unique within one (split, size, seed), and the same row for every size: `countdown/test/0/17`.
        prompt: What the model reads.
        gold: One completion that the checker accepts.
    """

    id: str
    prompt: str
    gold: str


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
    """

    name: str
    version: int
    alphabet: str
    max_prompt_chars: int
    max_completion_tokens: int
    splits: tuple[str, ...]
    generate: Callable[[str, int, int], list[Row]] = field(repr=False)
    check: Callable[[str, str], Outcome] = field(repr=False)

    def problems(self, split: str, size: int, seed: int) -> list[Row]:
        """Make the first `size` rows of a split: a pure function of its arguments.

        A larger `size` continues the same list, so evaluations of different sizes share their first rows.

        Args:
            split: One of `splits`.
            size: Number of rows, at least 1.
            seed: Which list of rows, at least 0.

        Returns:
            Rows with id, prompt and gold.

        Raises:
            DataError: The split is unknown, size or seed out of range, or the split has not that many distinct rows.
        """
        if split not in self.splits:
            raise DataError(f"world {self.name!r} has no split {split!r}. Its splits are {', '.join(self.splits)}.")
        if size < 1:
            raise DataError(f"world {self.name!r} was asked for {size} rows of split {split!r}. Ask for at least 1.")
        if seed < 0:
            raise DataError(f"world {self.name!r} was asked for rows with seed {seed}. Use a seed of 0 or more.")
        return self.generate(split, size, seed)
