"""A census that anybody can write, one JSON object per group and line, so that runs of TRL or verl can be reported.

| column | type | |
|---|---|---|
| `step` | integer | rollout step, rising |
| `rewards` | list of numbers | of each completion of the group |
| `correct` | list of booleans | the verifier's labels; may be left out where every reward is 0 or 1 |
| `prompt` | text | optional: id of the prompt |
| `kept` | boolean | optional: whether the group entered the update |
| `advantages` | list of numbers | optional: of each completion |
| `tokens` | list of integers | optional: length of each completion |
| `run` | text | optional: a file may hold several runs; left out, the file's name |
| `method` | text | optional: name in the catalog of objectives; left out, the run's name |
| `seed` | integer | optional |
| `prompt_text`, `gold`, `completions` | text, text, list of texts | optional: for the browser of groups |

These are the columns of groups.jsonl of a run folder, and a few more. Other columns are passed over.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ngrpo.report.group_counts import GroupCounts
from ngrpo.report.lines import LineReader
from ngrpo.report.records import Notices, Run

KEPT_ROWS = 60
"""Groups kept of each run and kind for the browser, evenly spaced over the file."""

MAX_RUNS = 100
"""Most runs of one file: more are a sign that `run` is something else."""


class _Census:
    """One run of a file, while it is read."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.method = str(row.get("method") or "")
        seed = row.get("seed")
        self.seed = seed if isinstance(seed, int) else None
        self.group_size = 0
        self.counts = GroupCounts()
        self.kept = {kind: _Spaced() for kind in ("all_wrong", "mixed", "all_right")}

    def add(self, row: Mapping[str, Any]) -> bool:
        if not self.counts.add(row):
            return False
        self.group_size = max(self.group_size, len(row["rewards"]))
        right = sum(row["correct"]) if row.get("correct") else sum(value == 1 for value in row["rewards"])
        kind = "all_wrong" if right == 0 else "all_right" if right == len(row["rewards"]) else "mixed"
        self.kept[kind].add(row)
        return True


class _Spaced:
    """At most `KEPT_ROWS` of a stream, evenly spaced over it, whatever its length."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.stride, self.num_seen = 1, 0

    def add(self, row: Any) -> None:
        if self.num_seen % self.stride == 0:
            self.rows.append(row)
            if len(self.rows) > KEPT_ROWS:
                self.rows = self.rows[::2]
                self.stride *= 2
        self.num_seen += 1


def read_census_file(path: Path, notices: Notices) -> list[Run]:
    """Reads the runs of a census file.

    Args:
        path: JSON lines.
        notices: Told what could not be read.

    Returns:
        One run per value of `run`, in the order of the file; none, with a notice, if it holds no census.
    """
    reader, found, num_other = LineReader(dict), {}, 0
    try:
        for row in reader.rows(path):
            name = str(row.get("run") or path.stem)
            if name not in found and len(found) < MAX_RUNS:
                found[name] = _Census(row)
            num_other += not (name in found and found[name].add(row))
    except OSError as error:
        notices.add(f"{path} cannot be read ({error.strerror}); it was left out.")
        return []
    found = {name: census for name, census in found.items() if census.group_size}
    if not found:
        notices.add(f"{path} holds no census of groups (a row needs `step`, `rewards` and `correct`); it was left out.")
        return []
    if reader.num_bad or num_other:
        num_left_out = reader.num_bad + num_other
        notices.add(f"{path.name}: lines that are no groups with labels and were left out: {num_left_out}.")
    return [
        Run(
            name=name,
            arm=census.method or name,
            role="method",
            folder=path,
            objective=census.method,
            seed=census.seed,
            group_size=census.group_size,
            data=path.stem,
            series=census.counts.series(),
            groups=tuple(row for kept in census.kept.values() for row in kept.rows),
        )
        for name, census in found.items()
    ]
