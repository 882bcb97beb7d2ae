"""Reading a file that may be damaged: what can be read is, and what cannot is told apart and counted."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ngrpo.data.files import BadLine, check_file, parse_line, stream_parquet
from ngrpo.data.rows import Row, Rows
from ngrpo.errors import ConfigError, DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

OnProgress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of a file that is no row.

    Attributes:
        kind: What is wrong, in words that can be counted.
        place: Where, and what stands there.
    """

    kind: str
    place: str


def read_loosely(path: Path, on_progress: OnProgress) -> tuple[Rows, tuple[Damage, ...]]:
    """Read all rows that can be read.

    Args:
        path: A .parquet file, JSON lines or one JSON list (.jsonl, .json), or a table with a header (.csv, .tsv).
        on_progress: Is told `reading` and the share done, from time to time.

    Returns:
        The rows, and the damage between them.

    Raises:
        DataError: The file is missing, empty, not readable at all, or without a row.
        ConfigError: It is of another kind.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"{path} is a file of unknown kind. The kinds are: {', '.join(SUFFIXES)}.")
    check_file(path, str(path))
    if suffix == ".parquet":
        parts = _parquet_rows(path, on_progress)
    elif suffix in (".csv", ".tsv"):
        parts = _table_rows(path, on_progress)
    else:
        parts = _list_rows(path) if _starts_as_list(path) else _line_rows(path, on_progress)
    rows: list[Row] = []
    damage: list[Damage] = []
    columns: dict[str, None] = {}
    for part in parts:
        if isinstance(part, Damage):
            damage.append(part)
        else:
            rows.append(part)
            columns.update(dict.fromkeys(part.columns))
    on_progress("reading", 1.0)
    if not rows:
        first = f" The first of {len(damage)} faults: {damage[0].kind} ({damage[0].place})." if damage else ""
        raise DataError(f"{path} has no row that can be read.{first}")
    return Rows(str(path), path.stem, tuple(rows), tuple(columns)), tuple(damage)


def _parquet_rows(path: Path, on_progress: OnProgress) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    total = 0
    for row in stream_parquet(path, str(path)):
        if total == 0:  # only now it is known to be parquet
            total = pyarrow.parquet.ParquetFile(path).metadata.num_rows
        if row.number % 1000 == 0:
            on_progress("reading", row.number / total)
        yield row


def _line_rows(path: Path, on_progress: OnProgress) -> Iterator[Row | Damage]:
    size, done = path.stat().st_size, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            done += len(line)
            if number % 1000 == 0:
                on_progress("reading", done / size)
            if not line.strip():
                continue
            try:
                yield Row(number, parse_line(line, number, path.name))
            except BadLine as bad:
                yield Damage(bad.kind, f"line {number}: {_start(line.decode('utf-8', 'backslashreplace'))}")


def _starts_as_list(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    return start.startswith(b"[")


def _list_rows(path: Path) -> Iterator[Row | Damage]:
    """The objects of one JSON list, one by one, so that a list that is cut off still gives those before the cut."""
    # Bytes that are no UTF-8 become half surrogates, which mark their row.
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    decoder, number, place = json.JSONDecoder(), 0, text.index("[") + 1
    while True:
        while place < len(text) and text[place] in ", \t\r\n":
            place += 1
        if text[place : place + 1] == "]":
            if text[place + 1 :].strip():
                yield Damage("text after the end of the list", _start(text[place + 1 :].strip()))
            return
        number += 1
        try:
            item, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            yield Damage("the list is cut off or broken", f"item {number}: {_start(text[place:])}")
            return
        yield _checked(number, item, f"item {number}")


def _table_rows(path: Path, on_progress: OnProgress) -> Iterator[Row | Damage]:
    csv.field_size_limit(1 << 30)  # a solution may be longer than the 131,072 characters of the default
    size = path.stat().st_size
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        table = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        header = next(table, [])
        number = 0
        try:
            for number, fields in enumerate(table, 1):
                if number % 1000 == 0:
                    on_progress("reading", min(1.0, file.buffer.tell() / size))
                if fields and len(fields) != len(header):
                    yield Damage(
                        "the row has more or fewer fields than the header",
                        f"row {number}: {len(fields)} fields and not {len(header)}",
                    )
                elif fields:
                    # An empty field is a missing value: a table cannot say which it is.
                    record = {name: field or None for name, field in zip(header, fields, strict=True)}
                    yield _checked(number, record, f"row {number}")
        except csv.Error as error:
            yield Damage("the table is cut off or wrongly quoted", f"after row {number}: {error}")


def _checked(number: int, item: Any, place: str) -> Row | Damage:
    if not isinstance(item, dict):
        return Damage("the item is not a JSON object", f"{place}: {_start(json.dumps(item))}")
    try:
        shown = json.dumps(item, ensure_ascii=False, default=str)
        shown.encode()
    except UnicodeEncodeError:
        return Damage("the row is not UTF-8", f"{place}: {_start(shown)}")
    return Row(number, item)


def _start(text: str) -> str:
    short = text.encode("utf-8", "backslashreplace").decode().strip()
    return repr(short[:60] + ("..." if len(short) > 60 else ""))
