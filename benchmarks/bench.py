"""What the benchmarks share: interleaved repeats, medians of ratios, the machine, a JSON line or a table row each.

Two ways of doing the same work are run in turn, again and again, and compared repeat by repeat: other load on the
machine slows down both of a pair, and the median of their ratios hardly feels it. Every lap has wall seconds and
seconds of processor time; on a shared machine, with one thread, the latter are the ones to trust.

    parser = bench.arguments(__doc__, repeats=5)
    options = parser.parse_args()
    report = bench.Report(options, {"setting": "setting", "ours_per_s": "ours, tokens/s", "theirs_ratio": "ratio"})
    laps = bench.interleave({"ours": sample_ours, "theirs": sample_theirs}, repeats=options.repeats)
    report.add({"setting": "tiny"} | bench.compare(laps))

A row may hold more than the table has columns for: the JSON line has it all.
"""

import argparse
import contextlib
import datetime
import json
import math
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
import transformers


@dataclass(frozen=True)
class Lap:
    """One timed run.

    Attributes:
        amount: How much it did: tokens, rows, or 1.
        wall_s: Time on the clock.
        cpu_s: Processor time of this process, all its threads together.
    """

    amount: float
    wall_s: float
    cpu_s: float


class Clock:
    """Runs from when it is made. A GPU has finished when it starts and when it is read."""

    def __init__(self) -> None:
        wait_for_device()
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def lap(self, amount: float) -> Lap:
        """What it shows now, for so much work."""
        wait_for_device()
        return Lap(amount, time.perf_counter() - self._wall_s, time.process_time() - self._cpu_s)


def timed(work: Callable[[], float]) -> Lap:
    """Runs something once. It returns how much it did."""
    clock = Clock()
    return clock.lap(work())


def wait_for_device() -> None:
    """Waits for what a GPU still has to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def interleave(ways: Mapping[str, Callable[[int], float]], *, repeats: int, warm_ups: int = 1) -> dict[str, list[Lap]]:
    """Runs every way once, then every way again, and so on.

    Args:
        ways: By name. Each is given the number of the repeat, from 0, warm-ups counted (a seed, say), and returns how
            much it did.
        repeats: Laps that are kept.
        warm_ups: Laps before them that are not.

    Returns:
        The laps of each way, in order: lap i of one belongs to lap i of the other.
    """
    laps: dict[str, list[Lap]] = {name: [] for name in ways}
    for repeat in range(warm_ups + repeats):
        for name, way in ways.items():
            lap = timed(lambda way=way, repeat=repeat: way(repeat))
            if repeat >= warm_ups:
                laps[name].append(lap)
    return laps


def compare(laps: Mapping[str, Sequence[Lap]], *, digits: int = 2) -> dict[str, float]:
    """Rates of every way, and how many times faster the first is than each other.

    Args:
        laps: By name, paired by place; the first way is the one that is compared.
        digits: Of the ratios, after the point.

    Returns:
        Of each way `NAME_per_s` and `NAME_per_cpu_s`, medians of the amount per second; of all but the first
        `NAME_ratio`, the median over pairs of the first's rate over this one's, by the clock, its extremes
        `NAME_ratio_low` and `NAME_ratio_high`, and `NAME_cpu_ratio`, the median by processor time.
    """
    row: dict[str, float] = {}
    first = next(iter(laps))
    for name, each in laps.items():
        row[f"{name}_per_s"] = _three_digits(statistics.median(lap.amount / lap.wall_s for lap in each))
        row[f"{name}_per_cpu_s"] = _three_digits(statistics.median(lap.amount / lap.cpu_s for lap in each))
        if name == first:
            continue
        ratios = [_rate_ratio(ours, theirs, "wall_s") for ours, theirs in zip(laps[first], each, strict=True)]
        cpu_ratios = [_rate_ratio(ours, theirs, "cpu_s") for ours, theirs in zip(laps[first], each, strict=True)]
        row[f"{name}_ratio"] = round(statistics.median(ratios), digits)
        row[f"{name}_ratio_low"] = round(min(ratios), digits)
        row[f"{name}_ratio_high"] = round(max(ratios), digits)
        row[f"{name}_cpu_ratio"] = round(statistics.median(cpu_ratios), digits)
    return row


def _rate_ratio(one: Lap, other: Lap, clock: str) -> float:
    return (one.amount / getattr(one, clock)) / (other.amount / getattr(other, clock))


def _three_digits(value: float) -> float:
    """Rounded to three digits that count, whole numbers where there are more before the point."""
    return round(value, max(0, 2 - math.floor(math.log10(abs(value))))) if value else 0.0


class Phases:
    """Where the time of one step goes; what is inside another phase counts there only.

    Processor time where all work is done by one thread, else time on the clock.
    """

    def __init__(self, *, is_alone: bool) -> None:
        self._clock = time.process_time if is_alone else time.perf_counter
        self._inside_s = 0.0
        self._seconds: Counter[str] = Counter()

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Counts what is inside as that phase."""
        wait_for_device()
        before_s, self._inside_s, started = self._inside_s, 0.0, self._clock()
        try:
            yield
        finally:
            wait_for_device()
            elapsed_s = self._clock() - started
            self._seconds[phase] += elapsed_s - self._inside_s
            self._inside_s = before_s + elapsed_s

    def watch(self, owner: Any, name: str, phase: str, *, only_if: Callable[[], bool] = lambda: True) -> None:
        """Counts every call of a function as that phase, where the condition holds."""
        function = getattr(owner, name)

        @wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.during(phase) if only_if() else contextlib.nullcontext():
                return function(*args, **kwargs)

        setattr(owner, name, watched)

    def take(self) -> Counter[str]:
        """The seconds of each phase since the last time."""
        taken, self._seconds = self._seconds, Counter()
        return taken


def power(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The exponent b of the curve a * size**b that fits best: least squares over logarithms.

    Args:
        sizes: At least two different ones, above 0.
        costs: One for each, above 0.

    Example:
        >>> round(power([1, 2, 4], [3, 12, 48]), 6)
        2.0
    """
    slope, _ = statistics.linear_regression([math.log(size) for size in sizes], [math.log(cost) for cost in costs])
    return slope


def machine(device: str = "cpu") -> dict[str, object]:
    """What figures depend on: processor, cores, versions, threads, date."""
    facts: dict[str, object] = {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if torch.device(device).type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _cpu_name() -> str:
    """As the kernel calls it, where it says."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def arguments(description: str, *, repeats: int, threads: int = 1) -> argparse.ArgumentParser:
    """A parser with the options that all have: `--repeats`, `--threads`, `--json`.

    Args:
        description: The module's docstring; shown by `--help` as it is.
        repeats: Laps of each way unless asked otherwise.
        threads: Of torch, unless asked otherwise.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help="laps that count (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=threads, help="threads of torch (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="a JSON line per row instead of a table")
    return parser


class Report:
    """Prints rows as they come: all they hold as JSON lines, or some columns of them as a Markdown table.

    Sets the number of threads, and says first on what machine the figures were taken.
    """

    def __init__(self, options: argparse.Namespace, columns: Mapping[str, str], *, device: str = "cpu") -> None:
        """Begins the report.

        Args:
            options: From a parser of `arguments`.
            columns: Head of each column of the table, by its key in the rows.
            device: Where the work is done.
        """
        torch.set_num_threads(options.threads)
        self._as_json = options.json
        self._columns = dict(columns)
        self._machine = machine(device)
        if not self._as_json:
            print(", ".join(f"{name} {value}" for name, value in self._machine.items()), end="\n\n")
            self._head(columns)

    def _head(self, columns: Mapping[str, str]) -> None:
        print(as_line(columns.values()))
        print(as_line("---" for _ in columns), flush=True)

    def add(self, row: Mapping[str, object]) -> None:
        """Prints one row; what the table has no column for is in the JSON line only."""
        if self._as_json:
            print(json.dumps({**row, "machine": self._machine}), flush=True)
        else:
            print(as_line(row.get(key, "") for key in self._columns), flush=True)

    def table(self, columns: Mapping[str, str], rows: Iterable[Mapping[str, object]]) -> None:
        """Prints rows of another kind: a table of its own below the first, or JSON lines."""
        self._columns = dict(columns)
        if not self._as_json:
            print()
            self._head(columns)
        for row in rows:
            self.add(row)

    def note(self, text: str) -> None:
        """A line beside the table; not among JSON lines."""
        if not self._as_json:
            print(f"\n{text}", flush=True)


def as_line(cells: Iterable[object]) -> str:
    """A line of a Markdown table.

    Example:
        >>> as_line(["tiny", 6.5])
        '| tiny | 6.5 |'
    """
    return f"| {' | '.join(str(cell) for cell in cells)} |"
