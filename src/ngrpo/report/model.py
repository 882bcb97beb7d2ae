"""What a report is made of, before it is a page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A chart with its words and its numbers.

    Attributes:
        id: Unique in the report; file name of exports, anchor in the page.
        title: What it shows, as a sentence a reader could quote.
        caption: How to read it: n seeds, n prompts, n samples, k range, temperature, what bands are.
        description: Text alternative: what a reader who does not see the chart must know, numbers included.
        spec: Vega-Lite specification with its data inline.
        columns: Heads of the table behind the chart, for readers without a chart.
        rows: Its cells, numbers already rounded; at most a few hundred.
    """

    id: str
    title: str
    caption: str
    description: str
    spec: Mapping[str, Any]
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()


@dataclass(frozen=True)
class Table:
    """A table of results; cells are text already, `*` marks an established difference."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class SampledGroup:
    """A group that was sampled in training, for the browser of groups.

    Attributes:
        run: Name of its run.
        step: Rollout step.
        prompt: Text.
        gold: Reference answer.
        kind: `all_wrong`, `mixed`, `all_right`.
        completions: Text of each, or None where it was not kept.
        rewards: Of each.
        correct: Of each.
        advantages: By method name, of each completion.
    """

    run: str
    step: int
    prompt: str
    gold: str
    kind: str
    completions: tuple[str | None, ...]
    rewards: tuple[float, ...]
    correct: tuple[bool, ...]
    advantages: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        id: Anchor.
        title: Head.
        text: Paragraphs of plain text.
        figures: In order.
        tables: In order.
    """

    id: str
    title: str
    text: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        title: Of the page.
        subtitle: What was reported, when, by which version.
        notices: What is missing, damaged or not comparable, one sentence each: shown at the top.
        sections: In order.
        groups: For the browser of sampled groups.
        configurations: Name -> resolved configuration as text, of each run, with the command that made it.
    """

    title: str
    subtitle: str
    notices: tuple[str, ...]
    sections: tuple[Section, ...]
    groups: tuple[SampledGroup, ...]
    configurations: Mapping[str, str]
