"""`ngrpo grade` of one pair: everything that is known of one verdict."""

import json
import sys
from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ngrpo.cli.grade_show import GoldForms, as_row, boxed, cut, verdict
from ngrpo.errors import ConfigError
from ngrpo.rewards import MathReward
from ngrpo.rewards.math import final_answer

WIDTH = 100
"""Characters of one cell."""


def grade_pair(
    rewards: Mapping[str, MathReward], gold: str | None, answer: str | None, completion: str | None, *, as_json: bool
) -> None:
    """Judges one pair under each profile and prints what was found.

    Args:
        rewards: By profile.
        gold: The reference answer.
        answer: What stands in the box, or None.
        completion: A whole completion, or None; `-` reads standard input.
        as_json: Print one JSON object per profile.

    Raises:
        ConfigError: Gold, or answer and completion, are missing; or both of the latter are given.
        DataError: No answer can match the gold.
    """
    if gold is None or (answer is None) == (completion is None):
        raise ConfigError(
            "nothing to grade. Give a FILE of completions and golds, or one pair: --gold with either --answer (what "
            r"stands in the \boxed{}) or --completion (all that the model wrote)."
        )
    text = boxed(answer) if completion is None else sys.stdin.read() if completion == "-" else completion
    rows = {name: _judge(reward, text, gold) for name, reward in rewards.items()}
    if as_json:
        for name, row in rows.items():
            typer.echo(json.dumps({"profile": name, "gold": gold, **row}))
        return
    Console(highlight=False, emoji=False).print(_table(rows, text, gold))


def _judge(reward: MathReward, text: str, gold: str) -> dict[str, Any]:
    (gold_form,) = GoldForms(reward).of([gold])
    return as_row(reward.grade(text, gold), gold_form)


def _table(rows: Mapping[str, Mapping[str, Any]], text: str, gold: str) -> Table:
    table = Table(box=None, pad_edge=False, show_header=len(rows) > 1)
    table.add_column("", style="dim", no_wrap=True)
    for name in rows:
        table.add_column(name, overflow="fold")

    def add(label: str, *cells: str | Text) -> None:
        table.add_row(label, *(cell if isinstance(cell, Text) else Text(cell) for cell in cells))

    def add_each(label: str, key: str) -> None:
        add(label, *(cut(row[key] or None, WIDTH) for row in rows.values()))

    add("verdict", *(verdict(row) for row in rows.values()))
    add_each("why", "detail")
    add_each("answer", "extracted")
    add_each("found by rule", "rule")
    add("gold", *(cut(final_answer(gold), WIDTH) for _ in rows))
    add_each("answer, normal form", "normal_form")
    add_each("gold, normal form", "gold_normal_form")
    add("completion", *(cut(text, WIDTH, keep_end=True) for _ in rows))
    add("worker's time", *(f"{row['time_ms']:.1f} ms" if row["time_ms"] else "none needed" for row in rows.values()))
    return table
