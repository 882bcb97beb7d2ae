"""Reading JSON lines of any quality: streamed, a few megabytes at a time, what cannot be read counted and passed over.

`record.iterate_jsonl` refuses a bad line, because a run must not go on from it; a report goes on without it.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ngrpo.record.jsonl import BLOCK_BYTES

MAX_LINE_BYTES = 1 << 26
"""A line longer than this is not one of ours: it is passed over, whatever is in it."""


MAX_STEP = 1 << 53
"""Steps up to here are whole in a float, too; a larger one is no step."""


def is_step(value: Any) -> bool:
    """Whether a value is a rollout step.

    Example:
        >>> is_step(3), is_step(-1), is_step(True), is_step(10**30)
        (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_STEP


class LineReader:
    """Reads files of rows, and remembers how many lines it could not read.

    Args:
        kind: Type of a row: a msgspec struct, or `dict`.

    Attributes:
        num_bad: Complete lines that are no such row, so far.
    """

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.num_bad = 0
        self._decoder = msgspec.json.Decoder(kind)

    def rows(self, path: Path) -> Iterator[Any]:
        """Every row of a file that can be read. A last line that a kill cut off is left out; a missing file is empty.

        Args:
            path: The file.

        Raises:
            OSError: The file is there, and cannot be read.
        """
        for block in _blocks(path):
            try:
                yield from self._decoder.decode_lines(block)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                yield from (row for line in block.split(b"\n") if (row := self.row(line)) is not None)

    def row(self, line: bytes) -> Any | None:
        """One line; None if it is none, or empty."""
        if not line.strip():
            return None
        try:
            return self._decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        try:  # the standard library takes NaN and lone surrogates
            return msgspec.convert(json.loads(line), self.kind)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self.num_bad += 1
            return None


def rows_of_steps(path: Path, steps: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Rows of some steps of a file that is sorted by step, found by halving: a file of any size is read in no time.

    Args:
        path: groups.jsonl or samples.jsonl of a run folder.
        steps: Which; of a step without rows the next one that has any is read.

    Returns:
        By step.

    Raises:
        OSError: The file cannot be read.
    """
    found: dict[int, list[dict[str, Any]]] = {}
    if not path.is_file():
        return found
    reader = LineReader(dict)
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        for step in sorted(set(steps)):
            _seek_first(file, size, lambda row, step=step: row["step"] >= step, reader)
            rows: list[dict[str, Any]] = []
            for line in file:
                row = _stepped(line, reader)
                if row is not None and rows and row["step"] != rows[0]["step"]:
                    break
                if row is not None:
                    rows.append(row)
            if rows:
                found[rows[0]["step"]] = rows
    return found


def step_range(path: Path) -> tuple[int, int] | None:
    """First and last step of a file that is sorted by step; None if it has no row.

    Args:
        path: As in `rows_of_steps`.

    Raises:
        OSError: The file cannot be read.
    """
    if not path.is_file():
        return None
    reader = LineReader(dict)
    with path.open("rb") as file:
        first = next((row["step"] for line in file if (row := _stepped(line, reader))), None)
        size = file.seek(0, os.SEEK_END)
        length = 1 << 16
        while first is not None:
            start = max(0, size - length)
            file.seek(start)
            lines = file.read(size - start).split(b"\n")
            lines = lines if start == 0 else lines[1:]  # the first may have been cut
            last = next((row["step"] for line in reversed(lines) if (row := _stepped(line, reader))), None)
            if last is not None:
                return first, last
            if start == 0:
                break
            length *= 8
    return None


def _stepped(line: bytes, reader: LineReader) -> dict[str, Any] | None:
    row = reader.row(line)
    return row if row is not None and is_step(row.get("step")) else None


def _seek_first(file: Any, size: int, is_after: Callable[[dict[str, Any]], bool], reader: LineReader) -> None:
    """Puts the file at the first line of which `is_after` holds, as it does of all later ones."""
    low, high = 0, size  # the line wanted begins in [low, high]
    while low < high:
        middle = (low + high) // 2
        file.seek(middle)
        if middle:
            file.seek(middle - 1)
            file.readline()  # to the first line that begins at `middle` or later
        row, start = None, file.tell()
        while row is None and start < high:
            row = _stepped(file.readline(), reader)
            if row is None:
                start = file.tell()
        if row is None or is_after(row):
            high = middle
        else:
            low = file.tell()
    file.seek(low)


def _blocks(path: Path) -> Iterator[bytes]:
    """Whole lines of a file, some megabytes at a time; of a last one without an end, only what is a row by itself."""
    if not path.exists():
        return
    rest = b""
    with path.open("rb") as file:
        while data := file.read(BLOCK_BYTES):
            head, newline, tail = data.rpartition(b"\n")
            if newline:
                yield rest + head + newline
                rest = tail
            else:
                rest += data
                if len(rest) > MAX_LINE_BYTES:
                    rest = b"!"  # remembered as unreadable, without its length
    if rest.strip() and rest.rstrip().endswith(b"}"):
        yield rest + b"\n"
