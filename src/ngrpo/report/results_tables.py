"""Tables of results.json and of the runs themselves, as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from ngrpo.report.arms import Arm
from ngrpo.report.effects import conditions_of
from ngrpo.report.fields import list_in, number_in, readable, table_in, text_in
from ngrpo.report.model import Table
from ngrpo.report.records import Notices, Run

MAX_RUN_ROWS = 120
"""Most runs in the table of runs."""

NOT_ESTABLISHED = "n.e."
"""Behind a difference whose interval contains zero; captions explain it."""

_DIGITS = {"percent": 1, "points": 1, "tokens": 1, "nats": 3, "updates": 0, "steps": 0}


def results_tables(results: Mapping[str, Any], notices: Notices) -> list[Table]:
    """The tables of results.json, whose cells become text.

    Args:
        results: `results.json`; `lab/tables.py` documents it.
        notices: Told of tables and rows that are not as documented: these are left out.

    Raises:
        DataError: There is no list of tables in it.
    """
    if not results:
        return []
    return readable(list_in(results, "tables"), lambda table: _table(table, notices), "results.json, tables", notices)


def _table(table: Mapping[str, Any], notices: Notices) -> Table:
    title, columns = text_in(table, "title"), [str(column) for column in list_in(table, "columns")]
    has_one_seed = table.get("num_seeds") == 1

    def row_of(row: Mapping[str, Any]) -> tuple[str, ...]:
        cells = table_in(row, "cells")
        texts = (cell_text(cells.get(column), has_one_seed=has_one_seed) for column in columns)
        return (text_in(row, "name"), *texts)

    rows = tuple(readable(list_in(table, "rows"), row_of, f"results.json, table {title!r}", notices))
    about = " ".join(filter(None, (str(table.get("caption") or ""), conditions_of(table))))
    return Table(title, f"{about} {_marks(rows, about)}".strip(), ("", *columns), rows)


def _marks(rows: Sequence[Sequence[str]], about: str) -> str:
    """What brackets and marks mean, of those that stand in the table."""
    cells = [cell for row in rows for cell in row[1:]]
    told = []
    if any("(" in cell for cell in cells) and "95 %" not in about and "range" not in about:
        told.append("In brackets: 95 % intervals.")
    if any("*" in cell for cell in cells):
        told.append("* The difference is established: its interval excludes zero.")
    if any(NOT_ESTABLISHED in cell for cell in cells):
        told.append(f"{NOT_ESTABLISHED}: not established, the interval contains zero.")
    return " ".join(told)


def cell_text(cell: Mapping[str, Any] | None, *, has_one_seed: bool = False) -> str:
    """A cell: number and interval; a difference has a sign, and a star or `n.e.`, which one seed does not earn.

    Raises:
        DataError: A number is none.

    Example:
        >>> cell_text({"estimate": 3.14, "low": 1, "high": 5.2, "established": True, "unit": "points"})
        '+3.1* (+1.0 to +5.2)'
        >>> cell_text({"estimate": 1, "low": -1, "high": 3, "established": False, "unit": "points"})
        '+1.0 n.e. (-1.0 to +3.0)'
        >>> cell_text({"estimate": 27.26, "low": 25, "high": 29.5, "established": None, "unit": "percent"})
        '27.3 (25.0 to 29.5)'
    """
    if cell is None or (isinstance(cell, Mapping) and cell.get("estimate") is None):
        return "no result"
    numbers = [number_in(cell, name) for name in ("estimate", "low", "high")]
    established = cell.get("established")
    digits, sign = _DIGITS.get(str(cell.get("unit"))), "" if established is None else "+"
    form = f"{sign}.3g" if digits is None else f"{sign}.{digits}f"
    estimate, low, high = (f"{number:{form}}" for number in numbers)
    interval = f" ({low} to {high})" if (low, high) != (estimate, estimate) else ""
    mark = {True: "*", False: f" {NOT_ESTABLISHED}"}.get(established, "") if isinstance(established, bool) else ""
    return f"{estimate}{'' if has_one_seed else mark}{interval}"


def runs_table(arms: Sequence[Arm]) -> Table:
    """What was run: steps, updates, completions, time."""
    runs = [(arm, run) for arm in arms for run in arm.runs]
    rows = [_run_row(arm, run) for arm, run in runs[:MAX_RUN_ROWS]]
    more = f" {len(runs) - MAX_RUN_ROWS} more runs are not listed." if len(runs) > MAX_RUN_ROWS else ""
    return Table(
        "Runs",
        "What is recorded of each run. Methods that made other numbers of updates or completions were not given the "
        f"same budget.{more}",
        ("run", "arm", "role", "seed", "steps", "updates", "completions", "seconds in steps"),
        tuple(rows),
    )


def _run_row(arm: Arm, run: Run) -> tuple[str, ...]:
    planned = f" of {run.num_steps}" if run.num_steps and run.num_steps != run.last_step else ""
    steps = f"{run.last_step}{planned}" if run.series else "not trained" if run.role == "base" else "none recorded"
    seconds = run.series.get("time/step_s")
    return (
        run.name,
        arm.name,
        run.role,
        "" if run.seed is None else str(run.seed),
        steps,
        _last(run, "optim/num_updates"),
        _last(run, "data/num_completions"),
        f"{seconds.values.sum():.0f}" if seconds else "",
    )


def _last(run: Run, metric: str) -> str:
    return f"{run.series[metric].values[-1]:.0f}" if metric in run.series else ""
