"""From the rows of some copy of a published data set to the set as it is known: same columns, ids and golds for all."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ngrpo.data.content import bare_gold, fingerprint, number_as_text, problem_key
from ngrpo.data.presets import DataPreset
from ngrpo.data.rows import Row, Rows
from ngrpo.errors import DataError

NO_GOLD = "no gold in the published solution"


def as_published(preset: DataPreset, found: Rows, prompt_column: str, gold_column: str) -> Rows:
    """Bring a copy of a published set into its one form, and see that it is that set.

    Args:
        preset: The set.
        found: Rows of the copy.
        prompt_column: Its column of the problem.
        gold_column: Its column of the answer or solution.

    Returns:
        Rows with `problem`, `answer` and an `id` that comes from the problem's text, so that results on two copies
        are paired right; other columns stay, an id of the copy's own as `source_id`. Rows that the set is known to
        have no gold for are left out and counted.

    Raises:
        DataError: The number of rows, the problems or the answers are not those of the set.
    """
    records = [_as_record(preset, row.columns, prompt_column, gold_column) for row in found.rows]
    _check(preset, found.source, records)
    seen: Counter[str] = Counter()
    rows = []
    for row, record in zip(found.rows, records, strict=True):
        key = problem_key(record["problem"])
        seen[key] += 1
        if preset.golds.get(key, "") is None:
            continue
        number = f"-{seen[key]}" if seen[key] > 1 else ""
        rows.append(Row(row.number, {"id": f"{preset.name}-{key}{number}", **record}))
    num_left_out = len(records) - len(rows)
    columns = dict.fromkeys(name for row in rows for name in row.columns)
    return Rows(found.source, preset.name, tuple(rows), tuple(columns), {NO_GOLD: num_left_out} if num_left_out else {})


def _as_record(preset: DataPreset, columns: dict[str, Any], prompt_column: str, gold_column: str) -> dict[str, Any]:
    problem = _as_text(columns.get(prompt_column))
    raw_gold = _as_text(number_as_text(columns.get(gold_column)))
    gold = preset.golds.get(problem_key(problem), bare_gold(raw_gold))
    others = {
        _new_name(preset, name): value for name, value in columns.items() if name not in (prompt_column, gold_column)
    }
    if len(raw_gold) > len(gold or "") + len(r"\boxed{}"):
        others.setdefault("solution", raw_gold)
    if isinstance(others.get("level"), int):
        others["level"] = f"Level {others['level']}"
    return {"problem": problem, "answer": gold or "", **others}


def _new_name(preset: DataPreset, name: str) -> str:
    # The names of the set's own columns are taken, also where the copy has something else under them.
    return f"source_{name}" if name in ("id", "problem", "answer") else preset.renamed.get(name, name)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _check(preset: DataPreset, source: str, records: Sequence[dict[str, Any]]) -> None:
    difference = _difference(preset, records)
    if difference:
        _, _, file = source.partition(":")
        plain = f'data.source = "{file}"' if file else f'data.source = "hub:{preset.hub}" and its split and columns'
        raise DataError(
            f"{source} is not {preset.title} as it is known here: {difference}. "
            f"Get the set again, or use these rows unchecked, under their own name, with {plain}."
        )


def _difference(preset: DataPreset, records: Sequence[dict[str, Any]]) -> str:
    if len(records) != preset.num_problems:
        return f"it has {len(records)} rows and not {preset.num_problems}"
    if preset.fingerprint is None:
        return ""
    got = fingerprint((record["problem"], record["answer"]) for record in records)
    if got == preset.fingerprint:
        return ""
    same_problems = fingerprint((record["problem"],) for record in records) == preset.problems_fingerprint
    what = "the problems are the same, but at least one answer differs" if same_problems else "the problems differ"
    return f"{what} (fingerprint {got[:12]} and not {preset.fingerprint[:12]})"
