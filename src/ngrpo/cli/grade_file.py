"""`ngrpo grade` of a file: two passes, a few rows in memory at a time."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ngrpo.cli.grade_show import GoldForms, as_row, boxed, cut, verdict
from ngrpo.data.foreign import UNNUMBERED, ForeignSample, format_of, read_samples
from ngrpo.errors import ConfigError, DataError
from ngrpo.record import append_lines, console, progress_bar
from ngrpo.rewards import MathReward
from ngrpo.rewards.math import final_answer

CHUNK_ROWS = 2048
MIN_ROWS_OF_BAR = 1000
MAX_NAMED_ROWS = 5


@dataclass(frozen=True)
class FileOptions:
    """The options of `ngrpo grade` that are for files.

    Attributes:
        file: What is graded.
        completion_column: Column of completions; None finds it.
        is_bare: That column holds bare answers.
        gold_column: Column of golds; None finds it.
        skip_bad_golds: Leave rows out whose gold no answer can match.
        show: Rows of the table: `wrong`, `correct`, `all`, `none`.
        max_rows: Rows of the table at most.
        to: File of JSON lines to write.
        as_json: Print JSON lines.
    """

    file: Path
    completion_column: str | None
    is_bare: bool
    gold_column: str | None
    skip_bad_golds: bool
    show: str
    max_rows: int
    to: Path | None
    as_json: bool

    def chunks(self) -> Iterator[list[ForeignSample]]:
        """Reads the file from its start."""
        samples = read_samples(self.file, completion_column=self.completion_column, gold_column=self.gold_column)
        while chunk := list(islice(samples, CHUNK_ROWS)):
            yield chunk

    def completion(self, sample: ForeignSample) -> str:
        """The completion of a sample, or its bare answer in a box."""
        if not self.is_bare:
            return sample.completion
        try:
            return boxed(sample.completion)
        except ConfigError as error:
            raise DataError(f"{sample.place}: {error}") from error


@dataclass(frozen=True, slots=True)
class Judged:
    """One row of the file with its verdicts, as JSON has them, by profile."""

    sample: ForeignSample
    verdicts: Mapping[str, Mapping[str, Any]]

    @property
    def differs(self) -> bool:
        """Whether the profiles give it different rewards."""
        return len({row["correct"] for row in self.verdicts.values()}) > 1

    def as_json(self) -> dict[str, Any]:
        """One flat object; where two profiles are compared, one object for each in it."""
        sample = self.sample
        head = {"row": sample.place.row, "id": sample.prompt if sample.prompt != sample.problem else None}
        if sample.sample != UNNUMBERED:
            head["sample"] = sample.sample
        if len(self.verdicts) == 1:
            (only,) = self.verdicts.items()
            return {**head, "profile": only[0], "gold": sample.gold, **only[1]}
        return {**head, "gold": sample.gold, **self.verdicts}


@dataclass(frozen=True)
class Scan:
    """What a first pass over the file found.

    Attributes:
        num_rows: Pairs in it.
        bad_golds: Golds that no answer can match.
        bad_rows: The first rows that have one, in words.
        num_bad_rows: How many have one.
    """

    num_rows: int
    bad_golds: frozenset[str]
    bad_rows: tuple[str, ...]
    num_bad_rows: int

    def told(self) -> str:
        """The bad rows, in words."""
        more = f"; and {self.num_bad_rows - len(self.bad_rows)} more" if self.num_bad_rows > len(self.bad_rows) else ""
        return "; ".join(self.bad_rows) + more


@dataclass
class Shown:
    """The table as it grows, and what is counted beside."""

    table: Table
    num_shown: int = 0
    num_left: int = 0
    verdicts: Counter[tuple[str, ...]] = field(default_factory=Counter)


def grade_file(rewards: Mapping[str, MathReward], options: FileOptions) -> None:
    """Judges every row; prints a table or JSON lines, and a summary on standard error.

    Args:
        rewards: By profile: one, or two to be compared.
        options: See there.

    Raises:
        DataError: The file, a row or a gold cannot be used; nothing has been judged or written then.
        ConfigError: The file to be written exists.
    """
    if options.to is not None and options.to.exists():
        raise ConfigError(f"--to {options.to} exists already. Remove it, or name another file.")
    scan = _scan(rewards, options)
    if scan.num_bad_rows and not options.skip_bad_golds:
        raise DataError(
            f"{options.file}: {scan.num_bad_rows} of {scan.num_rows} rows have a gold that no answer can match: "
            f"{scan.told()}. Mend them, or leave them out with --skip-bad-golds."
        )
    began_s = time.perf_counter()
    shown = Shown(_new_table(len(rewards) > 1))
    with _bar(scan.num_rows, options) as advance:
        for judged in _judge(rewards, options, scan.bad_golds, advance):
            wanted = [row for row in judged if row.differs] if len(rewards) > 1 else judged
            if options.to is not None:
                append_lines(options.to, (row.as_json() for row in wanted))
            if options.as_json:
                sys.stdout.writelines(json.dumps(row.as_json()) + "\n" for row in wanted)
            for row in judged:
                _count(shown, row, options)
    if shown.num_shown and not options.as_json:
        Console(highlight=False, emoji=False).print(shown.table)
    _summarise(options, scan, shown, list(rewards), time.perf_counter() - began_s)


def _scan(rewards: Mapping[str, MathReward], options: FileOptions) -> Scan:
    """Reads everything once: what cannot be used is said before anything is judged, and the bar knows its length."""
    reasons: dict[str, str | None] = {}
    bad_rows: list[str] = []
    num_rows = num_bad_rows = 0
    for samples in options.chunks():
        num_rows += len(samples)
        fresh = list({sample.gold: None for sample in samples if sample.gold not in reasons})
        for reward in rewards.values():
            for gold, reason in zip(fresh, reward.check_golds(fresh), strict=True):
                reasons[gold] = reasons.get(gold) or reason
        for sample in samples:
            options.completion(sample)
            if reasons[sample.gold]:
                num_bad_rows += 1
                if len(bad_rows) < MAX_NAMED_ROWS:
                    bad_rows.append(f"row {sample.place.row}: {reasons[sample.gold]} ({cut(sample.gold)!r})")
    bad_golds = frozenset(gold for gold, reason in reasons.items() if reason)
    return Scan(num_rows, bad_golds, tuple(bad_rows), num_bad_rows)


def _judge(
    rewards: Mapping[str, MathReward],
    options: FileOptions,
    bad_golds: frozenset[str],
    advance: Callable[[int], None],
) -> Iterator[list[Judged]]:
    forms = {name: GoldForms(reward) for name, reward in rewards.items()}
    for chunk in options.chunks():
        samples = [sample for sample in chunk if sample.gold not in bad_golds]
        pairs = [(options.completion(sample), sample.gold) for sample in samples]
        by_profile = {}
        for name, reward in rewards.items():
            gold_forms = forms[name].of([gold for _, gold in pairs])
            outcomes = reward.grade_pairs(pairs)
            by_profile[name] = [as_row(outcome, form) for outcome, form in zip(outcomes, gold_forms, strict=True)]
        yield [
            Judged(sample, {name: rows[place] for name, rows in by_profile.items()})
            for place, sample in enumerate(samples)
        ]
        advance(len(chunk))


@contextmanager
def _bar(num_rows: int, options: FileOptions) -> Iterator[Callable[[int], None]]:
    """A bar for long files, unless it would stand among the JSON lines on the screen."""
    if num_rows < MIN_ROWS_OF_BAR or (options.as_json and sys.stdout.isatty()):
        yield lambda num_done: None
        return
    with progress_bar() as progress:
        bar = progress.add_task("grade", total=num_rows, unit="row", note="")
        yield partial(progress.advance, bar)


def _new_table(is_comparison: bool) -> Table:
    head = ("profile",) if is_comparison else ()
    table = Table("row", "id", "gold", *head, "verdict", "answer", "rule", "why", box=None, pad_edge=False)
    table.columns[0].justify = "right"
    return table


def _count(shown: Shown, row: Judged, options: FileOptions) -> None:
    """Counts a row, and adds it to the table where it belongs there and there is room."""
    verdicts = list(row.verdicts.values())
    shown.verdicts[tuple(f"{verdict(each)} by {each['rule'] or 'no rule'}" for each in verdicts)] += 1
    if len(verdicts) > 1:
        is_wanted = row.differs
    else:
        is_wanted = options.show == "all" or options.show == ("correct" if verdicts[0]["correct"] else "wrong")
    if not is_wanted:
        return
    if shown.num_shown == options.max_rows:
        shown.num_left += 1
        return
    shown.num_shown += 1
    sample = row.sample
    is_named = sample.prompt not in (sample.problem, str(sample.place.row))
    number = "" if sample.sample == UNNUMBERED else f" #{sample.sample}"
    head = [str(sample.place.row), cut(sample.prompt, 24) + number if is_named else "", cut(final_answer(sample.gold))]
    for name, each in row.verdicts.items():
        profile = [name] if len(verdicts) > 1 else []
        # Without an answer the end of the completion says most.
        answer = cut(each["extracted"]) if each["extracted"] else f"({cut(sample.completion, keep_end=True)})"
        cells = [*head, *profile, verdict(each), answer, each["rule"] or "-", cut(each["detail"], 60)]
        shown.table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
        head = ["", "", ""]


def _summarise(options: FileOptions, scan: Scan, shown: Shown, profiles: Sequence[str], seconds: float) -> None:
    """Prints what all rows together came to, on standard error."""
    where = console()

    def say(line: str) -> None:
        where.print(line, markup=False, soft_wrap=True)

    num_judged = scan.num_rows - scan.num_bad_rows
    if shown.num_left and not options.as_json:
        say(f"... and {shown.num_left} more: --max-rows shows more, --json or --to FILE all of them.")
    if scan.num_bad_rows:
        say(f"left out: {scan.num_bad_rows} rows with a gold that no answer can match: {scan.told()}.")
    form = "rows" if options.completion_column or options.gold_column else format_of(options.file)
    say(
        f"{options.file} ({form}): {num_judged} judged in {seconds:.1f} s, "
        f"{1000 * seconds / max(num_judged, 1):.2g} ms each, profile {' against '.join(profiles)}"
    )
    for words, number in shown.verdicts.most_common():
        told = " | ".join(f"{name}: {word}" for name, word in zip(profiles, words, strict=True))
        say(f"{number:>9,} {number / num_judged:>7.1%}  {told if len(profiles) > 1 else words[0]}")
    if options.to is not None:
        say(f"written: {options.to}")
