"""Append-only files of one JSON object per line, that survive a kill at any byte."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ngrpo.errors import RunFolderError

_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}
"""A lone surrogate in sampled text becomes its JSON escape, not an error."""


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Every complete line of a file; a last line that a kill cut off is left out. A missing file is empty.

    Args:
        path: The file.

    Raises:
        RunFolderError: A line before the last is not a JSON object.
    """
    if not path.exists():
        return []
    *complete, tail = path.read_bytes().split(b"\n")
    rows = [_parsed(line, path, number) for number, line in enumerate(complete, start=1) if line.strip()]
    with contextlib.suppress(ValueError):  # cut off, or empty
        rows.append(json.loads(tail))
    return rows


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
    rows = read_jsonl(path)
    kept = [row for row in rows if keep(row)]
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", **_TEXT) as file:
        file.writelines(_line(row) for row in kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return len(rows) - len(kept)


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


def _parsed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise RunFolderError(f"line {number} of {path} is not a JSON object. Mend or remove that line.")
    return row


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
