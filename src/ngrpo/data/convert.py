"""One's own file, looked over and brought into the form that everything here reads: id, problem, answer.

What is wrong is counted and shown, not only the first of it. A finding that `blocks` is one that loading would refuse.
"""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ngrpo.data.content import bare_gold, even_text, loose_key
from ngrpo.data.judge import (
    PROMPT_COLUMNS,
    BadRow,
    CheckGolds,
    Columns,
    Draft,
    describe_bad_row,
    find_columns,
    judge_row,
)
from ngrpo.data.loose import Damage, OnProgress, read_loosely
from ngrpo.data.rows import Rows
from ngrpo.data.sources import read_rows
from ngrpo.errors import ConfigError, DataError

# Examples that a report shows of each finding.
MAX_EXAMPLES = 3
# Golds that are checked between two reports of progress.
_GOLDS_AT_A_TIME = 512

OUTPUT_SUFFIXES = (".parquet", ".jsonl")


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of thing that is wrong with a file, or worth knowing about it.

    Attributes:
        what: In words.
        count: How often.
        blocks: Whether these rows (or lines) cannot be used.
        examples: The first few, by row.
    """

    what: str
    count: int
    blocks: bool
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a file holds.

    Attributes:
        file: Its name.
        prompt_column: Where the problems are.
        gold_column: Where the answers are.
        id_column: Where the ids are; None when rows are numbered.
        num_rows: Rows, and parts that are no rows.
        num_usable: Rows that can be trained on and evaluated with.
        findings: What was found, that which blocks first.
    """

    file: str
    prompt_column: str
    gold_column: str
    id_column: str | None
    num_rows: int
    num_usable: int
    findings: tuple[Finding, ...]

    @property
    def is_clean(self) -> bool:
        """Whether every row can be used."""
        return self.num_usable == self.num_rows

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {**asdict(self), "is_clean": self.is_clean}


def inspect_file(
    path: Path,
    *,
    check_golds: CheckGolds,
    prompt_column: str | None = None,
    gold_column: str | None = None,
    id_column: str | None = None,
    against: Sequence[str] = (),
    on_progress: OnProgress = lambda stage, share: None,
) -> tuple[Report, list[dict[str, Any]]]:
    """Look a file over.

    Args:
        path: See `read_loosely`.
        check_golds: Says of each gold why it can never be matched, or None; `check_golds` of a reward.
        prompt_column: Column of the problem. Default: the first of prompt, problem, question.
        gold_column: Column of the reference answer. Default: the first of gold, answer, solution.
        id_column: Column of a unique id. Default: `id` where it exists, else the row number.
        against: Sources whose problems should not be in the file: benchmarks, for training data.
        on_progress: Is told a stage and the share of it that is done.

    Returns:
        The report, and the usable rows: `id`, `problem`, `answer`, and `level`, `subject`, `solution` where there.

    Raises:
        DataError: The file or a source of `against` cannot be read at all, or a column does not exist.
        ConfigError: The file is of an unknown kind.
    """
    others = [(source, _problems_of(source)) for source in against]
    found, damage = read_loosely(path, on_progress)
    columns = find_columns(
        found, prompt_column=prompt_column, gold_column=gold_column, id_column=id_column, setting="--{}-column"
    )
    judged = [_with_bare_gold(judge_row(row, columns, needs_gold=True), columns) for row in found.rows]
    judged = _refuse_repeated_ids(_refuse_golds(judged, columns, check_golds, on_progress), columns)
    drafts = [part for part in judged if isinstance(part, Draft)]
    bad_rows = [part for part in judged if isinstance(part, BadRow)]
    findings = [
        *_damage_findings(damage),
        *_bad_row_findings(bad_rows, columns),
        *_mixed_types(found, columns),
        *_solution_findings(drafts, columns),
        *_repeated_problems(drafts),
        *(finding for source, keys in others for finding in _overlap(drafts, source, keys)),
    ]
    report = Report(
        file=str(path),
        prompt_column=columns.prompt,
        gold_column=columns.gold,
        id_column=columns.id,
        num_rows=len(found.rows) + len(damage),
        num_usable=len(drafts),
        findings=tuple(findings),
    )
    return report, [_as_record(draft, columns) for draft in drafts]


def check_output(path: Path, source: Path, *, overwrite: bool) -> None:
    """See that a file can be written where the user wants it, before any work is done.

    Args:
        path: The file to write.
        source: The file that is read.
        overwrite: Whether a file there may be replaced.

    Raises:
        ConfigError: It is of an unknown kind, is there already, has no folder, or is the file that is read.
    """
    if path.suffix.lower() not in OUTPUT_SUFFIXES:
        raise ConfigError(f"--to {path} must end in {' or '.join(OUTPUT_SUFFIXES)}.")
    if not path.parent.is_dir():
        raise ConfigError(f"--to {path}: there is no folder {path.parent}. Make it first.")
    if path.exists() and source.exists() and path.samefile(source):
        raise ConfigError(f"--to {path} is the file that is read. Choose another name.")
    if path.exists() and not overwrite:
        raise ConfigError(f"--to {path} is there already. Choose another name, or add --overwrite.")


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write rows as parquet or JSON lines, whole or not at all.

    Args:
        path: By its suffix the kind of file.
        records: As `inspect_file` returns them.
    """
    temporary = path.with_name(path.name + ".tmp")
    names = list(dict.fromkeys(name for record in records for name in record))
    if path.suffix.lower() == ".parquet":
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({name: [record.get(name) for record in records] for name in names})
        pyarrow.parquet.write_table(table, temporary)
    else:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _problems_of(source: str) -> set[str]:
    found = read_rows(source)
    column = next((name for name in PROMPT_COLUMNS if name in found.columns), None)
    if column is None:
        raise DataError(f"--against {source} has none of the columns {', '.join(PROMPT_COLUMNS)}.")
    texts = [row.columns.get(column) for row in found.rows]
    return {loose_key(text) for text in texts if isinstance(text, str)}


def _with_bare_gold(part: Draft | BadRow, columns: Columns) -> Draft | BadRow:
    """A gold that is a whole solution becomes its answer; every other gold stays as it was written."""
    if isinstance(part, BadRow) or not _is_solution(part.gold):
        return part
    answer = bare_gold(part.gold)
    if not answer:
        return BadRow(part.row, columns.gold, "the gold is empty", "a solution with nothing in its box")
    return Draft(part.row, part.id, part.text, answer)


def _is_solution(gold: str) -> bool:
    return ("\\boxed" in gold or "####" in gold) and bare_gold(gold) != gold.strip()


def _refuse_golds(
    judged: Sequence[Draft | BadRow], columns: Columns, check_golds: CheckGolds, on_progress: OnProgress
) -> list[Draft | BadRow]:
    golds = list(dict.fromkeys(part.gold for part in judged if isinstance(part, Draft)))
    reasons: dict[str, str | None] = {}
    for start in range(0, len(golds), _GOLDS_AT_A_TIME):
        on_progress("checking golds", start / len(golds))
        some = golds[start : start + _GOLDS_AT_A_TIME]
        reasons.update(zip(some, check_golds(some), strict=True))
    on_progress("checking golds", 1.0)

    def judge(part: Draft | BadRow) -> Draft | BadRow:
        reason = reasons[part.gold] if isinstance(part, Draft) else None
        return BadRow(part.row, columns.gold, "the gold cannot be matched", reason) if reason else part

    return [judge(part) for part in judged]


def _refuse_repeated_ids(judged: Sequence[Draft | BadRow], columns: Columns) -> list[Draft | BadRow]:
    first_rows: dict[str, int] = {}
    kept: list[Draft | BadRow] = []
    for part in judged:
        first = first_rows.setdefault(part.id, part.row.number) if isinstance(part, Draft) else part.row.number
        is_repeated = first != part.row.number
        detail = f"row {first} has it too"
        kept.append(BadRow(part.row, columns.id or "", "the id is not unique", detail) if is_repeated else part)
    return kept


def _damage_findings(damage: Iterable[Damage]) -> list[Finding]:
    places: dict[str, list[str]] = defaultdict(list)
    for part in damage:
        places[part.kind].append(part.place)
    return [_finding(kind, examples, blocks=True) for kind, examples in places.items()]


def _bad_row_findings(bad_rows: Iterable[BadRow], columns: Columns) -> list[Finding]:
    examples: dict[str, list[str]] = defaultdict(list)
    for bad in bad_rows:
        examples[_kind_of(bad)].append(describe_bad_row(bad, columns.id))
    return [_finding(kind, texts, blocks=True) for kind, texts in examples.items()]


def _kind_of(bad: BadRow) -> str:
    """What rows are counted by: the reason, and for a refused gold what its reward says, without what is the row's."""
    if bad.reason != "the gold cannot be matched":
        return bad.reason
    general = re.sub(r"\d+", "N", re.split(r"[:'\"(]", bad.detail)[0]).strip()
    return f"{bad.reason}: {general}" if general else bad.reason


def _mixed_types(found: Rows, columns: Columns) -> list[Finding]:
    findings = []
    for name in dict.fromkeys((columns.id, columns.prompt, columns.gold)):
        kinds = Counter(_type_name(row.columns.get(name)) for row in found.rows if row.columns.get(name) is not None)
        if name is not None and len(kinds) > 1:
            told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            rare = kinds.most_common()[-1][0]
            rows = [row for row in found.rows if _type_name(row.columns.get(name)) == rare]
            examples = [f"row {row.number}: {_short(row.columns[name])}" for row in rows]
            findings.append(_finding(f"column {name!r} has mixed types ({told})", examples, blocks=False))
    return findings


def _type_name(value: Any) -> str:
    names = {bool: "true or false", str: "text", int: "number", float: "number", dict: "object", list: "list"}
    return names.get(type(value), type(value).__name__)


def _solution_findings(drafts: Iterable[Draft], columns: Columns) -> list[Finding]:
    examples = [
        f"{_place(draft)}: {_short(draft.gold)} from {_short(str(draft.row.columns[columns.gold]).strip()[-40:])}"
        for draft in drafts
        if _is_solution(str(draft.row.columns[columns.gold]))
    ]
    return [_finding("the gold is a whole solution; its answer was taken", examples, blocks=False)] if examples else []


def _repeated_problems(drafts: Iterable[Draft]) -> list[Finding]:
    groups: dict[str, list[Draft]] = defaultdict(list)
    for draft in drafts:
        groups[loose_key(draft.text)].append(draft)
    same, different = [], []
    for group in groups.values():
        if len(group) > 1:
            golds = {even_text(draft.gold) for draft in group}
            told = ", ".join(_place(draft) for draft in group[:4])
            (different if len(golds) > 1 else same).append(f"{told}: {', '.join(map(_short, sorted(golds)[:4]))}")
    findings = []
    if different:
        findings.append(_finding("a problem is repeated, its golds are written differently", different, blocks=False))
    if same:
        findings.append(_finding("a problem is repeated with the same gold", same, blocks=False))
    return findings


def _overlap(drafts: Iterable[Draft], source: str, keys: set[str]) -> list[Finding]:
    examples = [f"{_place(draft)}: {_short(draft.text)}" for draft in drafts if loose_key(draft.text) in keys]
    return [_finding(f"the problem is in {source} too", examples, blocks=False)] if examples else []


def _finding(what: str, examples: Sequence[str], *, blocks: bool) -> Finding:
    return Finding(what, len(examples), blocks, tuple(examples[:MAX_EXAMPLES]))


def _place(draft: Draft) -> str:
    identity = f" (id {draft.id})" if draft.id != str(draft.row.number) else ""
    return f"row {draft.row.number}{identity}"


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _as_record(draft: Draft, columns: Columns) -> dict[str, Any]:
    record: dict[str, Any] = {"id": draft.id, "problem": draft.text, "answer": draft.gold}
    raw = draft.row.columns
    gold = raw[columns.gold]
    extras = {
        "level": raw.get("level"),
        "subject": raw.get("subject", raw.get("type")),
        "solution": raw.get("solution", gold if isinstance(gold, str) and _is_solution(gold) else None),
    }
    record |= {name: _plain(value) for name, value in extras.items() if value is not None}
    return record


def _plain(value: Any) -> str:
    """As text that any file can hold: a column has one type, and half a surrogate pair is written as its escape."""
    return str(value).encode("utf-8", "backslashreplace").decode()
