"""Reading single files: parquet and JSON lines."""

import json
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

    _check_file(path, source)
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
    _check_file(path, source)
    rows: list[Row] = []
    columns: dict[str, None] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if limit is not None and len(rows) == limit:
                    break
                if line.strip():
                    record = _parse_line(line, number, source)
                    rows.append(Row(number, record))
                    columns.update(dict.fromkeys(record))
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}.") from error
    return tuple(rows), tuple(columns)


def _parse_line(line: bytes, number: int, source: str) -> dict[str, Any]:
    try:
        record = json.loads(line.rstrip(b"\r\n").decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source} line {number} is not UTF-8 (byte {error.start + 1} is {line[error.start]:#04x}). Save the file "
            "as UTF-8."
        ) from error
    except (ValueError, RecursionError) as error:  # ValueError also for an integer of more than 4,300 digits
        # Only the last line can lack its end.
        if not line.endswith(b"\n"):
            raise DataError(
                f"{source} line {number}, the last one, is cut off: it ends in {_tail(line)!r}. Write the file again, "
                "or delete that line."
            ) from error
        reason = f"{error.msg}, character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        hint = " A file that is one JSON list has to be rewritten, one object per line." if number == 1 else ""
        raise DataError(f"{source} line {number} is not JSON: {reason}.{hint}") from error
    if not isinstance(record, dict):
        raise DataError(
            f"{source} line {number} is a JSON {_json_type(record)} and not an object: each line has to be one object, "
            'such as {"prompt": "1+1=", "gold": "2"}.'
        )
    return record


def _check_file(path: Path, source: str) -> None:
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
