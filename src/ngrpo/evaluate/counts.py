"""From `samples.jsonl` to arrays of counts: read in blocks, a few bytes kept of each sample.

Axes: P prompts, N samples of each.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from ngrpo.errors import DataError, RunFolderError
from ngrpo.evaluate.folder import PROBLEMS, SAMPLES, SETTINGS, STRATA, read_described
from ngrpo.record import read_jsonl
from ngrpo.record.jsonl import BLOCK_BYTES, parsed_line

MAX_SAMPLES = 1 << 20
"""Numbers of samples from which on a file is broken rather than large."""

NO_VOTE = UNKNOWN = -1


class Sample(msgspec.Struct, gc=False):
    """What counts of one line of `samples.jsonl`; its other fields are passed over unread."""

    prompt: str
    sample: Annotated[int, msgspec.Meta(ge=0, lt=MAX_SAMPLES)]
    correct: bool
    kind: str
    finish_reason: str | None = None
    tokens: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] | None = None
    entropy_nats: float | None = None
    normal_form: str | None = None


@dataclass(frozen=True, eq=False)
class Counts:
    """What an evaluation folder holds, without the texts.

    Attributes:
        settings: Of `eval.json`.
        prompt_ids: Every prompt of the evaluation, in the order of the data, sampled or not.
        strata: Name of a column (level, subject) to its value for each prompt; empty text where a prompt has none.
        num_samples: [P].
        num_correct: [P].
        is_there: [P, N] which samples there are.
        is_correct: [P, N].
        votes: [P, N] the answers of a prompt, numbered from 0; equal normal forms have equal numbers. `NO_VOTE` where
            the verifier found no answer.
        has_votes: Whether the verifier tells normal forms at all.
        kinds: Outcome kind to [P] how many.
        num_truncated: [P] completions cut off.
        num_truncated_correct: [P] correct ones among these.
        num_unknown_end: [P] completions of which it is not known.
        lengths_tokens: [P, N] tokens of each completion; `UNKNOWN` where that is not known or there is none.
        entropy_sums_nats: [P] entropy, summed over tokens.
        num_entropy_tokens: [P] tokens over which it was summed.
    """

    settings: Mapping[str, Any]
    prompt_ids: list[str]
    strata: dict[str, list[str]]
    num_samples: NDArray[np.int64]
    num_correct: NDArray[np.int64]
    is_there: NDArray[np.bool_]
    is_correct: NDArray[np.bool_]
    votes: NDArray[np.int32]
    has_votes: bool
    kinds: dict[str, NDArray[np.int64]]
    num_truncated: NDArray[np.int64]
    num_truncated_correct: NDArray[np.int64]
    num_unknown_end: NDArray[np.int64]
    lengths_tokens: NDArray[np.int32]
    entropy_sums_nats: NDArray[np.float64]
    num_entropy_tokens: NDArray[np.int64]


def read_counts(folder: Path) -> Counts:
    """Counts what an evaluation folder holds.

    Memory grows with the number of prompts, and by some 30 bytes per sample; texts are never held.

    Args:
        folder: An evaluation folder; it may be incomplete.

    Raises:
        RunFolderError: The folder holds no evaluation, or a line cannot be read; it is named.
        DataError: A sample is there twice, or is of a prompt that the evaluation has not; it is named.
    """
    settings = read_described(folder)["settings"]
    num_samples = _num_samples(folder, settings)
    problems = read_problems(folder)
    counter = _Counter(folder / SAMPLES, [problem["prompt"] for problem in problems], num_samples)
    for first_number, rows in decoded_blocks(folder / SAMPLES, Sample):
        counter.add(first_number, rows)
    names = [name for name in STRATA if any(name in problem for problem in problems)]
    return counter.counts(settings, {name: [str(problem.get(name, "")) for problem in problems] for name in names})


def _num_samples(folder: Path, settings: Mapping[str, Any]) -> int | None:
    found = settings.get("num_samples")
    if found is None or (type(found) is int and 0 < found <= MAX_SAMPLES):
        return found
    raise RunFolderError(
        f"{folder / SETTINGS}: num_samples is {found!r}, expected a whole number from 1 to {MAX_SAMPLES}, or null. "
        "Mend that file, or give another folder."
    )


def read_problems(folder: Path) -> list[dict[str, Any]]:
    """The lines of `problems.jsonl`.

    Raises:
        RunFolderError: The file is missing, or a line is none.
        DataError: A prompt is there twice.
    """
    path = folder / PROBLEMS
    if not path.exists():
        raise RunFolderError(
            f"{folder} has no {PROBLEMS}, which says over which prompts a mean is taken. Run ngrpo eval with it as "
            "--out again: it writes what is missing."
        )
    problems = read_jsonl(path)
    seen: set[str] = set()
    for problem in problems:
        name = problem.get("prompt")
        if not isinstance(name, str) or name in seen:
            raise DataError(f"{path}: prompt {name!r} is there twice, or is no text. Remove that line.")
        seen.add(name)
    return problems


def decoded_blocks(path: Path, kind: type) -> Iterator[tuple[int, list[Any]]]:
    """Decodes a file of JSON lines, block by block, into structs of the wanted fields.

    Args:
        path: The file; missing is empty.
        kind: A msgspec struct.

    Yields:
        Number of a block's first line, and its rows: one per line, which in our files are never empty. What follows
        the last newline is left out: a line that is still being written, or was cut off.

    Raises:
        RunFolderError: A line is not JSON or lacks a field; it is named.
    """
    decoder = msgspec.json.Decoder(kind)
    for first_number, block in _blocks(path):
        num_lines = block.count(b"\n")
        try:
            rows = decoder.decode_lines(block)
        except msgspec.MsgspecError:
            rows = []
        if len(rows) != num_lines:  # something is wrong, or unusual: line by line, slower
            lines = enumerate(block[:-1].split(b"\n"), start=first_number)
            rows = [_decoded(line, path, number, kind) for number, line in lines]
        yield first_number, rows


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Whole lines of a file, some megabytes at a time, each block with the number of its first line."""
    if not path.exists():
        return
    number, parts = 1, []
    with path.open("rb") as file:
        while data := file.read(BLOCK_BYTES):
            head, newline, tail = data.rpartition(b"\n")
            if newline:
                block = b"".join([*parts, head, newline])
                yield number, block
                number += block.count(b"\n")
                parts = [tail]
            else:
                parts.append(data)


def _decoded(line: bytes, path: Path, number: int, kind: type) -> Any:
    row = parsed_line(line, path, number)  # the one that takes lone surrogates
    try:
        return msgspec.convert(row, kind)
    except msgspec.ValidationError as error:
        raise RunFolderError(
            f"line {number} of {path} is no sample of an evaluation: {error}. Mend or remove that line."
        ) from error


class _Counter:
    """Gathers counts; what it holds of a sample is its place, its label and its vote."""

    def __init__(self, path: Path, prompt_ids: list[str], num_samples: int | None) -> None:
        self.path, self.prompt_ids, self.num_samples = path, prompt_ids, num_samples or MAX_SAMPLES
        self.place_of = {name: place for place, name in enumerate(prompt_ids)}
        self.columns: list[tuple[NDArray[Any], ...]] = []
        self.sums = {name: np.zeros(len(prompt_ids)) for name in ("entropy", "tokens")}
        self.numbers: dict[str, NDArray[np.int64]] = {}

    def add(self, first_number: int, rows: list[Sample]) -> None:
        """Adds a block of lines."""
        try:
            places = np.array([self.place_of[row.prompt] for row in rows], dtype=np.int32)
        except KeyError:
            self._refuse_strangers(first_number, rows)
        correct = np.array([row.correct for row in rows], dtype=bool)
        # Answers are compared within a prompt only: 64 bits of hash tell its few hundred apart.
        votes = [hash(row.normal_form) if row.normal_form is not None else 0 for row in rows]
        tokens = np.array([UNKNOWN if row.tokens is None else row.tokens for row in rows], dtype=np.int32)
        samples = np.array([row.sample for row in rows], dtype=np.int32)
        if (samples >= self.num_samples).any():
            self._refuse_strangers(first_number, rows)
        self.columns.append((places, samples, correct, np.array(votes, dtype=np.int64), tokens))
        self._count("kind ", [row.kind for row in rows], places)
        ends = [str(row.finish_reason) for row in rows]
        self._count("end ", ends, places)
        right = correct.nonzero()[0].tolist()
        self._count("right end ", [ends[index] for index in right], places[right])
        entropies = np.array([np.nan if row.entropy_nats is None else row.entropy_nats for row in rows])
        known = np.isfinite(entropies) & (tokens != UNKNOWN)
        self._sum("entropy", (entropies * tokens)[known], places[known])
        self._sum("tokens", tokens[known], places[known])

    def _count(self, prefix: str, names: list[str], places: NDArray[np.int32]) -> None:
        for name in set(names):
            chosen = places[[index for index, other in enumerate(names) if other == name]]
            counted = np.bincount(chosen, minlength=len(self.prompt_ids))
            self.numbers[prefix + name] = self.numbers.get(prefix + name, 0) + counted

    def _sum(self, name: str, values: NDArray[Any], places: NDArray[np.int32]) -> None:
        self.sums[name] += np.bincount(places, weights=values, minlength=len(self.prompt_ids))

    def _refuse_strangers(self, first_number: int, rows: list[Sample]) -> NoReturn:
        number, row = next(
            (number, row)
            for number, row in enumerate(rows, first_number)
            if row.prompt not in self.place_of or row.sample >= self.num_samples
        )
        raise DataError(stranger(self.path, number, row.prompt, row.sample))

    def counts(self, settings: Mapping[str, Any], strata: dict[str, list[str]]) -> Counts:
        """What was gathered, as arrays."""
        num_prompts = len(self.prompt_ids)
        empty = tuple(np.zeros(0, kind) for kind in (np.int32, np.int32, bool, np.int64, np.int32))
        places, samples, *columns = (np.concatenate(parts) for parts in zip(empty, *self.columns, strict=True))
        self.columns.clear()
        shape = (num_prompts, int(samples.max(initial=-1)) + 1)
        is_there = _scattered(shape, False, places, samples, np.ones(len(places), dtype=bool))
        if is_there.sum() != len(places):
            self._refuse_twice(places, samples)
        is_correct, hashes, lengths = (
            _scattered(shape, fill, places, samples, column)
            for fill, column in zip((False, 0, UNKNOWN), columns, strict=True)
        )
        none = np.zeros(num_prompts, dtype=np.int64)
        kinds = {name.removeprefix("kind "): count for name, count in self.numbers.items() if name.startswith("kind ")}
        return Counts(
            settings=settings,
            prompt_ids=self.prompt_ids,
            strata=strata,
            num_samples=is_there.sum(axis=1),
            num_correct=is_correct.sum(axis=1),
            is_there=is_there,
            is_correct=is_correct,
            votes=_numbered(hashes),
            has_votes=bool(hashes.any()) or not kinds.get("scored", none).any(),
            kinds=dict(sorted(kinds.items())),
            num_truncated=self.numbers.get("end length", none),
            num_truncated_correct=self.numbers.get("right end length", none),
            num_unknown_end=self.numbers.get("end None", none),
            lengths_tokens=lengths,
            entropy_sums_nats=self.sums["entropy"],
            num_entropy_tokens=self.sums["tokens"].astype(np.int64),
        )

    def _refuse_twice(self, places: NDArray[np.int32], samples: NDArray[np.int32]) -> NoReturn:
        seen: set[tuple[int, int]] = set()
        for number, key in enumerate(zip(places.tolist(), samples.tolist(), strict=True), start=1):
            if key in seen:
                raise DataError(stranger(self.path, number, self.prompt_ids[key[0]], key[1]))
            seen.add(key)
        raise AssertionError("a sample is there twice")


def stranger(path: Path, number: int, prompt: str, sample: int) -> str:
    """What to say of a line that an evaluation cannot have."""
    return (
        f"line {number} of {path}: sample {sample} of prompt {prompt!r} is there twice, or is none of this evaluation. "
        "Remove that line, or give another folder."
    )


def _scattered(
    shape: tuple[int, int],
    fill: Any,
    places: NDArray[np.int32],
    samples: NDArray[np.int32],
    values: NDArray[Any],
) -> NDArray[Any]:
    found = np.full(shape, fill, dtype=values.dtype)
    found[places, samples] = values
    return found


def _numbered(hashes: NDArray[np.int64]) -> NDArray[np.int32]:
    """[P, N] hashes, 0 for none -> numbers that are equal within a row where the hashes are."""
    numbers = np.full(hashes.shape, NO_VOTE, dtype=np.int32)
    for row, found in zip(hashes, numbers, strict=True):
        votes = row != 0
        found[votes] = np.unique(row[votes], return_inverse=True)[1]
    return numbers
