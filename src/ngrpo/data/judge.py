"""Whether a row can be used: the one judgement that loading and converting share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ngrpo.data.content import number_as_text
from ngrpo.data.rows import Row, Rows
from ngrpo.errors import DataError

PROMPT_COLUMNS = ("prompt", "problem", "question")
GOLD_COLUMNS = ("gold", "answer", "solution")

CheckGolds = Callable[[Sequence[str]], Sequence[str | None]]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column is what; no id column means the row number."""

    prompt: str
    gold: str
    id: str | None


@dataclass(frozen=True, slots=True)
class Draft:
    """A row that looks usable so far."""

    row: Row
    id: str
    text: str
    gold: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """Why a row cannot be used: `reason` is counted, `detail` is for the message."""

    row: Row
    column: str
    reason: str
    detail: str = ""


def find_columns(
    found: Rows,
    *,
    prompt_column: str | None = None,
    gold_column: str | None = None,
    id_column: str | None = None,
    setting: str = "data.{}_column",
) -> Columns:
    """The columns that were named, or else the first of the usual names that exist.

    Args:
        found: The rows.
        prompt_column: Column of the problem. Default: the first of prompt, problem, question.
        gold_column: Column of the reference answer. Default: the first of gold, answer, solution.
        id_column: Column of a unique id. Default: `id` where it exists.
        setting: How the user names a column, for messages.

    Raises:
        DataError: One of them does not exist.
    """
    if id_column is None:
        id_column = "id" if "id" in found.columns else None
    else:
        id_column = _find_column(found, id_column, (), setting.format("id"), "a unique id")
    return Columns(
        prompt=_find_column(found, prompt_column, PROMPT_COLUMNS, setting.format("prompt"), "the problem text"),
        gold=_find_column(found, gold_column, GOLD_COLUMNS, setting.format("gold"), "the reference answer"),
        id=id_column,
    )


def judge_row(row: Row, columns: Columns, needs_gold: bool) -> Draft | BadRow:
    """Say whether a row can be used, as far as one row can tell.

    Args:
        row: The row.
        columns: Which column is what.
        needs_gold: Whether it has to have a gold.
    """
    text = row.columns.get(columns.prompt)
    reason, detail = _fault_of_text(text, "prompt")
    if reason:
        return BadRow(row, columns.prompt, reason, detail)
    raw_gold = row.columns.get(columns.gold)
    gold = "" if raw_gold is None and not needs_gold else number_as_text(raw_gold)
    if needs_gold or gold:
        reason, detail = _fault_of_text(gold, "gold")
    if reason:
        return BadRow(row, columns.gold, reason, detail)
    row_id = row.number if columns.id is None else number_as_text(row.columns.get(columns.id))
    if row_id is None or str(row_id).strip() == "":
        return BadRow(row, columns.id or "", "no id")
    return Draft(row, str(row_id), text, gold)


def refuse_golds(
    judged: Sequence[Draft | BadRow], columns: Columns, check_golds: CheckGolds | None
) -> list[Draft | BadRow]:
    """The same rows; those whose gold is refused have become bad. Golds are checked together: it may take long.

    Args:
        judged: What `judge_row` said.
        columns: Which column is what.
        check_golds: Says of each gold why it can never be matched, or None; `check_golds` of a reward.
    """
    if check_golds is None:
        return list(judged)
    with_gold = [draft for draft in judged if isinstance(draft, Draft) and draft.gold]
    reasons = check_golds([draft.gold for draft in with_gold])
    refused = {
        draft.row.number: BadRow(draft.row, columns.gold, "the gold cannot be matched", reason)
        for draft, reason in zip(with_gold, reasons, strict=True)
        if reason
    }
    return [refused.get(part.row.number, part) for part in judged]


def describe_bad_row(bad: BadRow, id_column: str | None) -> str:
    """Name a bad row, its field and what is wrong with it."""
    row_id = bad.row.columns.get(id_column) if id_column is not None else None
    identity = f" (id {row_id})" if row_id is not None else ""
    detail = f" ({bad.detail})" if bad.detail else ""
    return f"row {bad.row.number}{identity}, field {bad.column!r}: {bad.reason}{detail}"


def _find_column(found: Rows, wanted: str | None, defaults: Sequence[str], setting: str, what: str) -> str:
    listed = ", ".join(found.columns) or "none at all"
    if wanted is not None:
        if wanted not in found.columns:
            raise DataError(f"{found.source} has no column {wanted!r} ({setting}). Its columns are: {listed}.")
        return wanted
    for name in defaults:
        if name in found.columns:
            return name
    raise DataError(
        f"{found.source} has none of the columns {', '.join(defaults)} for {what}. Its columns are: {listed}. "
        f"Name the right one in {setting}."
    )


def _fault_of_text(value: Any, what: str) -> tuple[str, str]:
    """Say what is wrong with a prompt or gold: a reason to count and a detail, both empty when it is fine."""
    if value is None:
        return f"no {what}", ""
    if not isinstance(value, str):
        kinds = "text" if what == "prompt" else "text or a number"
        return f"the {what} is not {kinds}", f"it is {_kind_of(value)}"
    if not value.strip():
        return f"the {what} is empty", ""
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"the {what} is not valid Unicode", "it has half of a surrogate pair"
    return "", ""


def _kind_of(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"the number {value}"
    return {bool: "true or false", dict: "an object", list: "a list"}.get(type(value), f"a {type(value).__name__}")
