"""Fields of files that may hold anything: of the right kind, or an error that says what stands there instead.

What a reader makes of one entry, run or figure is guarded: a surprise in it is a notice, and the rest is reported.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from ngrpo.errors import DataError, NgrpoError
from ngrpo.report.records import Notices

MAX_SHOWN = 40
"""Most characters of a wrong value in a notice."""

Read = TypeVar("Read")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that fits a float; `true` is none.

    Example:
        >>> is_number(2), is_number(True), is_number(float("nan")), is_number(10**400)
        (True, False, False, False)
    """
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def number_in(row: Any, name: str) -> float:
    """A field that must be a finite number.

    Args:
        row: A JSON value that should be an object.
        name: Of the field.

    Raises:
        DataError: It is something else; said is what.
    """
    value = _field(row, name)
    if not is_number(value):
        _refuse(name, value, "a number")
    return value  # type: ignore[no-any-return]


def text_in(row: Any, name: str) -> str:
    """A field that must be text; see `number_in`."""
    value = _field(row, name)
    if not isinstance(value, str):
        _refuse(name, value, "text")
    return value


def list_in(row: Any, name: str) -> list[Any]:
    """A field that must be a list; see `number_in`."""
    value = _field(row, name)
    if not isinstance(value, list):
        _refuse(name, value, "a list")
    return value


def table_in(row: Any, name: str) -> Mapping[str, Any]:
    """A field that must be an object; see `number_in`."""
    value = _field(row, name)
    if not isinstance(value, Mapping):
        _refuse(name, value, "an object")
    return value


def readable(entries: Iterable[Any], read: Callable[[Any], Read], where: str, notices: Notices) -> list[Read]:
    """What `read` makes of each entry that is as documented; the others are told and left out.

    Args:
        entries: Of a list in a file.
        read: Raises where an entry is something else.
        where: File and list, for the notices.
        notices: Told of every entry that is left out.
    """
    found = []
    for number, entry in enumerate(entries, start=1):
        name = entry.get("name") if isinstance(entry, Mapping) else None
        what = f"{where}, entry {number}" + (f" ({shown_value(name)})" if name is not None else "")
        if told := or_tell(lambda entry=entry: [read(entry)], what, notices):
            found += told
    return found


def or_tell(read: Callable[[], Read], what: str, notices: Notices) -> Read | None:
    """What `read` returns; None, and a notice, where it fails in whatever way: the rest of a report must stand.

    Args:
        read: Reads or draws one part.
        what: The part, for the notice.
        notices: Told why it was left out.
    """
    try:
        return read()
    except Exception as error:  # noqa: BLE001  files of any quality: whatever it is, it costs one part only
        notices.add(f"{what} {_reason(error)}")
        return None


def _reason(error: Exception) -> str:
    """In words about the file: a reader does not know the code."""
    if isinstance(error, NgrpoError):
        return f"cannot be used and was left out. {error}"
    if isinstance(error, OSError):
        return f"cannot be read and was left out: {error.strerror or error}."
    damaged = "is damaged or of another version and was left out"
    if isinstance(error, KeyError) and error.args:
        return f"{damaged}: a field {error.args[0]!r} is expected there, and is missing."
    return f"{damaged}: a value in it is not of the kind that is expected there."


def shown_value(value: Any) -> str:
    """A JSON value as a notice shows it: short.

    Example:
        >>> shown_value("x" * 50), shown_value(None), shown_value([1])
        ("'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...", 'null', '[1]')
    """
    text = "null" if value is None else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _field(row: Any, name: str) -> Any:
    if not isinstance(row, Mapping):
        raise DataError(f"found {shown_value(row)}, expected an object.")
    return row.get(name)


def _refuse(name: str, value: Any, expected: str) -> NoReturn:
    raise DataError(f"`{name}` is {shown_value(value)}, expected {expected}.")
