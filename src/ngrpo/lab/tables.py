"""Tables of an experiment: numbers with intervals, and under what they were measured. Printed, and kept as JSON.

`results.json` holds `{"tables": [...]}`; a table is `{"title", "caption", "columns", "rows": [{"name", "cells": {NAME:
CELL}}], "num_seeds", "footer", "num_prompts", "num_samples", "max_k", "temperature"}`, CELL `{"estimate", "low",
"high", "established", "unit"}`. Percent and points are numbers such as 27.3, not shares. What does not apply is null: a
table of training has no held-out prompts. `results.md` is the same as text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ngrpo.lab.jobs import failed_runs
from ngrpo.lab.results import Row, compare
from ngrpo.record import write_json
from ngrpo.stats import Interval

if TYPE_CHECKING:
    import rich.table

Unit = Literal["percent", "points", "nats", "tokens", "updates", "steps", "completions", "rate"]

RESULTS, RESULTS_TEXT = "results.json", "results.md"
NOT_ESTABLISHED = "not established"
ENOUGH_SEEDS = 5
"""Seeds from which on a spread of seeds is worth the name."""

WEIGHTING = (
    "Entropy (nats) and length (tokens): of each prompt the mean over its sampled tokens and completions, then over "
    "prompts."
)
"""For captions."""

OWN_UNITS: Mapping[str, Unit] = {"entropy": "nats", "length": "tokens"}
"""Of quantities that are no shares."""

_DIGITS: Mapping[str, int] = {
    "percent": 1,
    "points": 1,
    "nats": 3,
    "tokens": 1,
    "updates": 0,
    "steps": 0,
    "completions": 0,
}


@dataclass(frozen=True)
class Cell:
    """One number.

    Attributes:
        estimate: The number, in its unit.
        low: Lower end of its interval.
        high: Upper end.
        unit: What it counts in.
        established: Whether the interval of a difference excludes zero and is one over seeds; None for what is no
            difference.
    """

    estimate: float
    low: float
    high: float
    unit: Unit
    established: bool | None = None


@dataclass(frozen=True)
class Table:
    """Rows of numbers that were measured alike.

    Attributes:
        title: What is shown.
        caption: How to read it.
        columns: In order.
        rows: Name to its cells by column; a row without cells is of an arm that failed.
        num_seeds: Runs of each method.
        footer: Under what everything in the table was measured, and what its intervals cannot say.
        num_prompts: Prompts of each evaluation; None, as all that follow, where nothing is of an evaluation.
        num_samples: Samples of each prompt.
        max_k: Largest k: an area under pass@k belongs to its grid.
        temperature: That methods were sampled at.
    """

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Cell]]
    num_seeds: int
    footer: str
    num_prompts: int | None = None
    num_samples: int | None = None
    max_k: int | None = None
    temperature: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe, as `results.json` has it."""
        rows = [
            {"name": name, "cells": {column: asdict(cell) for column, cell in cells.items()}}
            for name, cells in self.rows.items()
        ]
        return {**{key: getattr(self, key) for key in self.__dataclass_fields__}, "rows": rows}


def seeds_caveat(num_seeds: int) -> str:
    """What so few seeds cannot show; nothing where they are enough."""
    if num_seeds == 1:
        return (
            "One seed: intervals are over prompts only. They do not say what another seed would give, so no difference "
            "is established."
        )
    if num_seeds < ENOUGH_SEEDS:
        return f"With fewer than {ENOUGH_SEEDS} seeds the intervals are wide and little can be established."
    return ""


def value_table(title: str, rows: Sequence[Row], *, quantities: Sequence[str], caption: str = "") -> Table:
    """Quantities of rows as they are.

    Args:
        title: Of the table.
        rows: All of the same prompts.
        quantities: Names in `Row.values`.
        caption: How to read it.
    """
    cells = {
        row.name: {name: scaled(row.values[name], OWN_UNITS.get(name, "percent")) for name in quantities}
        for row in rows
    }
    return _table(title, caption, quantities, cells, rows)


def difference_table(title: str, rows: Sequence[Row], other: Row, *, caption: str = "") -> Table:
    """Differences `row - other` as `results.compare` has them: paired by prompt and, where both have several, by seed.

    Args:
        title: Of the table.
        rows: What is compared.
        other: With what.
        caption: How to read it.

    Raises:
        DataError: They have other seeds or prompts.
    """
    cells = {f"{row.name} - {other.name}": difference_cells(row, other) for row in rows}
    columns = next(iter(cells.values()), {})
    return _table(title, caption, tuple(columns), cells, rows or [other])


def difference_cells(row: Row, other: Row) -> dict[str, Cell]:
    """Differences `row - other` as cells.

    Args:
        row: What was trained.
        other: What it is compared with.

    Raises:
        DataError: They have other seeds or prompts.
    """
    return {name: difference_cell(name, value, row.num_seeds) for name, value in compare(row, other).items()}


def difference_cell(name: str, value: Interval, num_seeds: int) -> Cell:
    """A difference between trained models, or to one, as a cell: established where the interval excludes zero.

    An interval over the prompts of one seed says nothing of another seed, so that one seed establishes nothing.

    Args:
        name: Label of the quantity, which tells the unit.
        value: The interval.
        num_seeds: Of what was trained.
    """
    cell = scaled(value, OWN_UNITS.get(name, "points"))
    return replace(cell, established=num_seeds > 1 and (cell.low > 0 or cell.high < 0))


def scaled(value: Interval, unit: Unit) -> Cell:
    """An interval as a cell: shares in percent or points, everything else as it is.

    Args:
        value: The interval.
        unit: Of the cell.
    """
    factor = 100.0 if unit in ("percent", "points") else 1.0
    return Cell(*(factor * float(end) for end in (value.estimate, value.low, value.high)), unit)


def exactness(row: Row) -> str:
    """For captions: that pass@k was scored, where it was, and not estimated from samples."""
    return "pass@k is exact, by scoring every right answer. " if row.is_exact else ""


def with_failed(table: Table, failed: Iterable[str]) -> Table:
    """The same table with a line for each arm that is left out of it because a run failed.

    Args:
        table: Of the others.
        failed: Names of arms.
    """
    if not (names := list(failed)):
        return table
    told = f"{table.caption} Left out, because a run failed: {', '.join(names)}.".strip()
    return replace(table, rows={**table.rows, **{name: {} for name in names}}, caption=told)


def _table(
    title: str, caption: str, columns: Sequence[str], cells: Mapping[str, Mapping[str, Cell]], rows: Sequence[Row]
) -> Table:
    largest = max(rows, key=lambda row: row.num_seeds)
    seeds = f"{largest.num_seeds} seed" + "s" * (largest.num_seeds != 1)
    told = (
        f"n: {seeds} x {largest.num_prompts} prompts x {largest.num_samples} samples at T = {largest.temperature:g}; k "
        f"from 1 to {largest.ks[-1]}."
    )
    return Table(
        title=title,
        caption=caption,
        columns=tuple(columns),
        rows=cells,
        num_seeds=largest.num_seeds,
        footer=f"{told} {seeds_caveat(largest.num_seeds)}".strip(),
        num_prompts=largest.num_prompts,
        num_samples=largest.num_samples,
        max_k=largest.ks[-1],
        temperature=largest.temperature,
    )


def write_results(folder: Path, tables: Sequence[Table], more: Mapping[str, Any] | None = None) -> None:
    """Writes `results.json` and `results.md` into an experiment folder; the latter ends with the runs that failed.

    Args:
        folder: The experiment folder.
        tables: In the order of printing.
        more: Further keys of `results.json`, JSON-safe.
    """
    write_json(folder / RESULTS, {"tables": [table.as_dict() for table in tables], **(more or {})})
    text = "\n\n".join([*(as_markdown(table) for table in tables), *failed_runs(folder)])
    (folder / RESULTS_TEXT).write_text(text + "\n", encoding="utf-8")


def cell_text(cell: Cell | None) -> tuple[str, str]:
    """A cell on two lines: the number, or that there is none; and the interval.

    Example:
        >>> cell_text(Cell(3.14, 1.0, 5.2, "points", True)), cell_text(Cell(1.0, -1.0, 3.0, "points", False))
        (('+3.1', '+1.0..+5.2'), ('not established', '+1.0, -1.0..+3.0'))
        >>> cell_text(Cell(27.26, 25.0, 29.5, "percent"))
        ('27.3', '25.0..29.5')
    """
    if cell is None:
        return "-", ""
    sign = "" if cell.established is None else "+"
    form = f"{sign}.{_DIGITS[cell.unit]}f" if cell.unit in _DIGITS else f"{sign}.3g"
    estimate, low, high = (f"{number:{form}}" for number in (cell.estimate, cell.low, cell.high))
    interval = f"{low}..{high}" if (low, high) != (estimate, estimate) else ""
    if cell.established is False:
        return NOT_ESTABLISHED, f"{estimate}, {interval or estimate}"
    return estimate, interval


def as_markdown(table: Table) -> str:
    """A table as text that is readable as it is."""
    lines = [
        f"## {table.title}",
        "",
        "| | " + " | ".join(table.columns) + " |",
        "|---|" + "---|" * len(table.columns),
    ]
    for name, cells in table.rows.items():
        texts = [f"{first} ({second})" if second else first for first, second in _texts(table, cells)]
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", *_notes(table)])


def print_tables(tables: Iterable[Table], *, width: int = 100) -> None:
    """Prints tables to standard output, narrow enough for a terminal.

    Args:
        tables: In order.
        width: Characters of a line.
    """
    from rich.console import Console
    from rich.markup import escape

    out = Console(highlight=False, width=width)
    for table in tables:
        for band, columns in enumerate(side_by_side(table, width)):
            out.print(as_rich(replace(table, columns=columns, title="" if band else table.title)))
        for note in _notes(table):
            out.print(f"[dim]{escape(note)}[/]")
        out.print()


MAX_NAME_CHARS = 28
"""Wider names of rows are folded."""


def side_by_side(table: Table, width: int) -> list[tuple[str, ...]]:
    """Columns that fit beside each other; the others are shown below them.

    Args:
        table: Of them.
        width: Characters of a line.
    """
    room = width - min(MAX_NAME_CHARS, max(map(len, table.rows), default=0))
    bands: list[list[str]] = [[]]
    left = room
    for column in table.columns:
        texts = (cell_text(cells.get(column)) for cells in table.rows.values())
        need = 2 + max(len(column), *(len(text) for pair in texts for text in pair), 0)
        if bands[-1] and need > left:
            bands.append([])
            left = room
        bands[-1].append(column)
        left -= need
    return [tuple(band) for band in bands]


def as_rich(table: Table) -> "rich.table.Table":
    """A table for a terminal: two lines per row."""
    import rich.table
    from rich.markup import escape

    drawn = rich.table.Table(
        box=None, pad_edge=False, title=table.title or None, title_justify="left", title_style="bold"
    )
    drawn.add_column("", overflow="fold")
    for column in table.columns:
        drawn.add_column(column, justify="right", no_wrap=True)
    for name, cells in table.rows.items():
        texts = _texts(table, cells)
        drawn.add_row(escape(name), *(f"{first}\n[dim]{second}[/]" if second else first for first, second in texts))
    return drawn


def _texts(table: Table, cells: Mapping[str, Cell]) -> list[tuple[str, str]]:
    """A row, cell by cell; one without cells is of an arm that failed."""
    if not cells:
        return [("failed", ""), *[("-", "")] * (len(table.columns) - 1)]
    return [cell_text(cells.get(column)) for column in table.columns]


def _notes(table: Table) -> list[str]:
    return [note for note in (table.caption, table.footer) if note]
