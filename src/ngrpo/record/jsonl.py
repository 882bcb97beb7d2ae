"""Append-only files of one JSON object per line, that survive a kill at any byte."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ngrpo.errors import RunFolderError

_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}
"""A lone surrogate in sampled text becomes its JSON escape, not an error."""

BLOCK_BYTES = 1 << 22
"""How much of a file is looked at together."""


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Every complete line of a file; a last line that a kill cut off is left out. A missing file is empty.

    Args:
        path: The file.

    Raises:
        RunFolderError: A line before the last is not a JSON object.
    """
    return [row for _, row in iterate_jsonl(path)]


def iterate_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines of a file with their numbers, one after the other, so that a file of any size can be read.

    Args:
        path: The file; one that is missing is empty.

    Yields:
        Line number from 1, and the row. Empty lines are passed over; a last line that a kill cut off is left out.

    Raises:
        RunFolderError: A line before the last is not a JSON object.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                if line.strip():
                    yield number, parsed_line(line, path, number)
            else:
                with contextlib.suppress(RunFolderError):  # cut off
                    yield number, parsed_line(line, path, number)


def mend_tail(path: Path) -> int:
    """Ends a file with a whole line: what a kill left of a last one is cut off, a missing newline is put there.

    Nothing else is read or written, however long the file is.

    Args:
        path: The file; may be missing.

    Returns:
        How many bytes of a torn line were dropped.
    """
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        tail = b""
        while size > len(tail) and b"\n" not in tail:
            length = min(size - len(tail), BLOCK_BYTES)
            file.seek(size - len(tail) - length)
            tail = file.read(length) + tail
        tail = tail.rpartition(b"\n")[2]
        if not tail:
            return 0
        try:
            parsed_line(tail, path, 0)
        except RunFolderError:
            file.truncate(size - len(tail))
            return len(tail)
        file.seek(size)
        file.write(b"\n")
    return 0


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> int:
    """Rewrites a file with the lines that `keep` accepts, atomically; a torn last line goes too.

    Args:
        path: The file; may be missing.
        keep: Says which rows stay.

    Returns:
        How many complete lines were dropped.

    Raises:
        RunFolderError: A line before the last is not a JSON object; the file is as it was.
    """
    if not path.exists():
        return 0
    num_dropped = 0
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", **_TEXT) as file:
        for _, row in iterate_jsonl(path):
            if keep(row):
                file.write(_line(row))
            else:
                num_dropped += 1
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return num_dropped


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a file of rows atomically.

    Args:
        path: The file.
        rows: JSON-safe mappings.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", **_TEXT) as file:
        file.writelines(_line(row) for row in rows)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Appends rows and makes sure they are on disk.

    Args:
        path: The file; made when missing.
        rows: JSON-safe mappings.
    """
    with path.open("a", **_TEXT) as file:
        file.write("".join(_line(row) for row in rows))
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Writes one JSON file atomically.

    Args:
        path: The file.
        value: JSON-safe.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", **_TEXT) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def parsed_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """One line as a row.

    Args:
        line: Its bytes.
        path: Where it is from, for the message.
        number: Which line it is, from 1.

    Raises:
        RunFolderError: It is not a JSON object.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise RunFolderError(f"line {number} of {path} is not a JSON object. Mend or remove that line.")
    return row


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
