"""Rows as they come out of a source, before anything is asked of them."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source.

    Attributes:
        number: 1 for the first. In a JSON lines file this is the line, empty ones counted.
        columns: Column names and values.
    """

    number: int
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """What a source holds.

    Attributes:
        source: The source as the user wrote it, for messages.
        name: A short name: `math_train` for `data/math_train.parquet`, `chain_sum` for `gym:chain_sum`.
        rows: Its rows, in order.
        columns: Names of all columns, in order of appearance.
        num_dropped: Rows left out already, by reason.
        needs_gold: False for sources that are judged without a gold.
    """

    source: str
    name: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    num_dropped: dict[str, int] = field(default_factory=dict)
    needs_gold: bool = True


def number_rows(records: list[dict[str, Any]]) -> tuple[Row, ...]:
    """Number records from 1."""
    return tuple(Row(number, record) for number, record in enumerate(records, 1))
