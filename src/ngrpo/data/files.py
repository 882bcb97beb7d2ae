"""Reading single files: parquet and JSON lines."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ngrpo.data.rows import Row, number_rows
from ngrpo.errors import DataError


def read_parquet(path: Path, source: str, limit: int | None) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Read a parquet file.

    Args:
        path: The file.
        source: What the user called it.
        limit: Read only the first rows.

    Returns:
        Its rows and the names of its columns.

    Raises:
        DataError: The file is missing, empty, unreadable or not parquet.
    """
    import pyarrow
    import pyarrow.parquet

    check_file(path, source)
    try:
        table = pyarrow.parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{source} cannot be read as parquet: {_first_line(error)}.") from error
    return number_rows(table.slice(0, limit).to_pylist()), tuple(table.column_names)


def read_json_lines(path: Path, source: str, limit: int | None) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Read a file of one JSON object per line; empty lines are passed over.

    Args:
        path: The file.
        source: What the user called it.
        limit: Read only the first rows.

    Returns:
        Its rows and the names of all columns that occur.

    Raises:
        DataError: The file is missing, empty or unreadable, or a line is not a JSON object.
    """
    rows: list[Row] = []
    columns: dict[str, None] = {}
    for row in islice(stream_json_lines(path, source), limit):
        rows.append(row)
        columns.update(dict.fromkeys(row.columns))
    return tuple(rows), tuple(columns)


def stream_json_lines(path: Path, source: str) -> Iterator[Row]:
    """Read a file of one JSON object per line, a line at a time; empty lines are passed over.

    Args:
        path: The file.
        source: What the user called it.

    Raises:
        DataError: As `read_json_lines`, for a bad line when it is reached.
    """
    check_file(path, source)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield Row(number, parse_line(line, number, source))
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}.") from error


def stream_parquet(
    path: Path, source: str, *, columns: Sequence[str] | None = None, batch_rows: int = 256
) -> Iterator[Row]:
    """Read a parquet file a few rows at a time.

    Args:
        path: The file.
        source: What the user called it.
        columns: Only these; `doc` takes all fields of a nested column, `doc.query` one. Default: all.
        batch_rows: How many rows are in memory at a time.

    Raises:
        DataError: As `read_parquet`.
    """
    import pyarrow
    import pyarrow.parquet

    check_file(path, source)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_rows, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield Row(number, record)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{source} cannot be read as parquet: {_first_line(error)}.") from error


class BadLine(DataError):
    """A line that is no JSON object.

    Attributes:
        kind: What is wrong with it, in words that can be counted.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def parse_line(line: bytes, number: int, source: str) -> dict[str, Any]:
    """The object of one line.

    Args:
        line: With its end, where it has one.
        number: 1 for the first line of the file.
        source: What the user called the file.

    Raises:
        BadLine: It is not UTF-8, not JSON, cut off, or no object.
    """
    try:
        record = json.loads(line.rstrip(b"\r\n").decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise BadLine(
            "the line is not UTF-8",
            f"{source} line {number} is not UTF-8 (byte {error.start + 1} is {line[error.start]:#04x}). Save the file "
            "as UTF-8.",
        ) from error
    except (ValueError, RecursionError) as error:  # ValueError also for an integer of more than 4,300 digits
        # Only the last line can lack its end.
        if not line.endswith(b"\n"):
            raise BadLine(
                "the last line is cut off",
                f"{source} line {number}, the last one, is cut off: it ends in {_tail(line)!r}. Write the file again, "
                "or delete that line.",
            ) from error
        reason = f"{error.msg}, character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        hint = (
            " A file that is one JSON list has to be rewritten, one object per line: `ngrpo data convert` does it."
            if number == 1
            else ""
        )
        raise BadLine("the line is not JSON", f"{source} line {number} is not JSON: {reason}.{hint}") from error
    if not isinstance(record, dict):
        raise BadLine(
            "the line is not a JSON object",
            f"{source} line {number} is a JSON {_json_type(record)} and not an object: each line has to be one object, "
            'such as {"prompt": "1+1=", "gold": "2"}.',
        )
    return record


def check_file(path: Path, source: str) -> None:
    """See that a file is there and not empty.

    Args:
        path: The file.
        source: What the user called it.

    Raises:
        DataError: It is not.
    """
    if not path.exists():
        raise DataError(f"there is no file {source} (data.source; a relative path starts at the current folder).")
    if not path.is_file():
        raise DataError(f"{source} is not a file. For a folder of data files leave the extension away from its name.")
    if path.stat().st_size == 0:
        raise DataError(f"{source} is empty: 0 bytes.")


def _json_type(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return {str: "string", int: "number", float: "number", list: "list"}[type(value)]


def _tail(line: bytes) -> str:
    return line[-30:].decode("utf-8", "replace")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
