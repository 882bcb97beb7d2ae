"""A run folder, whole or damaged, as a `Run`."""

import json
import operator
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from ngrpo.evaluate import read_counts
from ngrpo.report.fields import is_number, or_tell, shown_value
from ngrpo.report.find import evaluations_in
from ngrpo.report.group_counts import GroupCounts
from ngrpo.report.lines import MAX_STEP, LineReader
from ngrpo.report.records import Evaluation, Exact, Notices, Run, Series

METRICS = (
    "reward/mean",
    "reward/correct_frac",
    "validation/pass_at_1",
    "groups/all_wrong_frac",
    "groups/mixed_frac",
    "groups/all_right_frac",
    "groups/gradient_frac",
    "policy/entropy_nats",
    "completion/mean_tokens",
    "completion/correct_mean_tokens",
    "completion/wrong_mean_tokens",
    "completion/truncated_frac",
    "loss/clip_high_frac",
    "loss/clip_low_frac",
    "loss/grad_norm",
    "optim/num_updates",
    "data/num_completions",
    "time/step_s",
)
"""What is read of metrics.jsonl."""

_Row = msgspec.defstruct(
    "_Row",
    [
        ("step", Annotated[int, msgspec.Meta(ge=0, le=MAX_STEP)]),
        *((f"m{place}", float | None, None) for place in range(len(METRICS))),
    ],
    rename={f"m{place}": name for place, name in enumerate(METRICS)},
    gc=False,
)

_numbers = operator.attrgetter("step", *(f"m{place}" for place in range(len(METRICS))))


def read_run(folder: Path, notices: Notices, *, name: str | None = None) -> Run:
    """Reads a run folder. What is damaged or missing is left out, and told.

    Args:
        folder: It exists.
        notices: Told what is wrong.
        name: For the report; left out, the folder's.
    """
    name = name or folder.name
    described = read_json(folder / "run.json", notices) if (folder / "run.json").exists() else None
    if described is None:
        notices.add(f"{name}: run.json is missing or damaged, so its method and settings are not known.")
    described = described or {}
    config = described.get("config")
    config = config if isinstance(config, Mapping) else {}
    objective, data = _table(config, "objective"), _table(described, "data")
    series = read_metrics(folder / "metrics.jsonl", name, notices)
    if not series:
        series = _census_instead(folder, name, notices)
    run = Run(
        name=name,
        arm=str(objective.get("name") or name),
        role="method",
        folder=folder,
        objective=str(objective.get("name") or ""),
        params=_table(objective, "params"),
        seed=_integer(_table(config, "run").get("seed")),
        group_size=_count(_table(config, "rollout").get("num_samples_per_prompt")),
        num_steps=_count(_table(config, "train").get("num_steps")),
        data=str(data.get("name") or ""),
        fingerprint=str(data.get("fingerprint") or ""),
        series=series,
        evaluation=_first_evaluation(folder, name, notices),
        exact=read_exact(folder / "exact.json", notices),
        config=config,
        command=command_text(described.get("command")),
    )
    if series and run.num_steps and run.last_step < run.num_steps:
        notices.add(f"{name} is still running or was stopped: {run.last_step} of {run.num_steps} steps are recorded.")
    return run


def read_metrics(path: Path, name: str, notices: Notices) -> dict[str, Series]:
    """The metrics that are drawn, of a metrics.jsonl; numbers that are null or not finite are left out.

    Args:
        path: May be missing, empty or torn.
        name: Of the run, for notices.
        notices: Told what is wrong.
    """
    reader = LineReader(_Row)
    try:
        rows = [_numbers(row) for row in reader.rows(path)]
    except OSError as error:
        notices.add(f"{name}: metrics.jsonl cannot be read ({error.strerror}).")
        return {}
    if reader.num_bad:
        notices.add(f"{name}: of metrics.jsonl, lines that cannot be read and were left out: {reader.num_bad}.")
    if not rows:
        return {}
    table = np.array(rows, dtype=np.float64)  # None becomes NaN
    found, num_twice = {}, 0
    for column, metric in enumerate(METRICS, start=1):
        there = table[np.isfinite(table[:, column])][::-1]  # a step that was made again counts as it was made last
        if len(there):
            steps, place = np.unique(there[:, 0], return_index=True)
            num_twice = max(num_twice, len(there) - len(steps))
            found[metric] = Series(steps.astype(np.int64), there[place, column])
    if num_twice:
        notices.add(f"{name}: steps that are recorded twice, of which the later line counts: {num_twice}.")
    return found


def read_evaluation(folder: Path, name: str, notices: Notices) -> Evaluation | None:
    """Counts an evaluation folder; None where no mean can be taken of it.

    Args:
        folder: Has an `eval.json`.
        name: For notices.
        notices: Told what is wrong.
    """
    described = read_json(folder / "eval.json", notices)
    if described is None or not isinstance(described.get("settings"), Mapping):
        notices.add(f"{name}: its evaluation cannot be read and was left out: eval.json holds no settings.")
        return None
    counts = or_tell(lambda: read_counts(folder), f"{name}: its evaluation", notices)
    if counts is None:
        return None
    num_missing = int((counts.num_samples == 0).sum())
    if num_missing or not counts.prompt_ids:
        notices.add(
            f"{name}: {num_missing} of {len(counts.prompt_ids)} prompts of its evaluation have no samples yet, so it "
            "was left out: a mean over the others would be of another set of prompts."
        )
        return None
    wanted = counts.settings.get("num_samples")
    num_short = int((counts.num_samples < (wanted or 0)).sum())
    if num_short:
        notices.add(
            f"{name}: {num_short} of {len(counts.prompt_ids)} prompts of its evaluation have fewer than {wanted} "
            f"samples; its pass@k ends at k = {counts.num_samples.min()}."
        )
    tokens = counts.num_entropy_tokens.sum()
    return Evaluation(
        folder=folder,
        settings=_known_settings(counts.settings, name, notices),
        prompt_ids=tuple(counts.prompt_ids),
        num_samples=counts.num_samples,
        num_correct=counts.num_correct,
        entropy_nats=float(counts.entropy_sums_nats.sum() / tokens) if tokens else None,
    )


def _known_settings(settings: Mapping[str, Any], name: str, notices: Notices) -> dict[str, Any]:
    """The settings of an evaluation that are drawn or computed with are of the right kind, or not there."""
    fits: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "temperature": ("a number from 0 on", lambda value: is_number(value) and value >= 0),
        "ks": ("a list of whole numbers from 1 on", lambda value: isinstance(value, list) and all(map(_count, value))),
        "data": ("text", lambda value: isinstance(value, str)),
    }
    known = dict(settings)
    for field, (expected, is_fit) in fits.items():
        value = settings.get(field)
        if value is not None and not is_fit(value):
            notices.add(f"{name}: eval.json: {field} is {shown_value(value)}, expected {expected}; it was passed over.")
            known[field] = None
    return known


def read_exact(path: Path, notices: Notices) -> Exact | None:
    """The exact pass@k of a run folder; None where there is none that can be read."""
    if not path.exists():
        return None
    read = read_json(path, notices) or {}
    try:
        found = Exact(
            ks=tuple(int(k) for k in read["ks"]),
            prompt_ids=tuple(map(str, read["prompt_ids"])),
            pass_at_k=np.array(read["pass_at_k"], dtype=np.float64),
        )
        is_whole = found.pass_at_k.shape == (len(found.prompt_ids), len(found.ks)) and found.pass_at_k.size
        is_rising = sorted(set(found.ks)) == list(found.ks) and all(map(_count, found.ks))
        if is_whole and is_rising and ((found.pass_at_k >= 0) & (found.pass_at_k <= 1)).all():
            return found
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    notices.add(f"{path} holds no exact pass@k and was left out.")
    return None


def read_json(path: Path, notices: Notices) -> dict[str, Any] | None:
    """A JSON object; None, with a notice, where there is none that can be read."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        notices.add(f"{path} is damaged (it is no JSON object) and was left out.")
        return None
    return read


def command_text(command: Any) -> str:
    """A recorded command line as it would be typed."""
    if isinstance(command, str):
        return command
    if not isinstance(command, Iterable) or not (words := [str(word) for word in command]):
        return ""
    return shlex.join(["ngrpo" if Path(words[0]).name in ("__main__.py", "ngrpo") else words[0], *words[1:]])


def _first_evaluation(folder: Path, name: str, notices: Notices) -> Evaluation | None:
    folders = evaluations_in(folder)
    if len(folders) > 1:
        others = ", ".join(path.name for path in folders[1:])
        notices.add(
            f"{name} has several evaluations; {folders[0].name} is reported, not {others}. Give these folders too to "
            "see them."
        )
    return read_evaluation(folders[0], name, notices) if folders else None


def _census_instead(folder: Path, name: str, notices: Notices) -> dict[str, Series]:
    """Of a run whose metrics are lost or are not ours: what its groups say."""
    counts, reader = GroupCounts(), LineReader(dict)
    try:
        for row in reader.rows(folder / "groups.jsonl"):
            counts.add(row)
    except OSError as error:
        notices.add(f"{name}: groups.jsonl cannot be read ({error.strerror}).")
    found = counts.series()
    source = "what is drawn of it was counted from groups.jsonl" if found else "nothing of its training can be drawn"
    notices.add(f"{name}: metrics.jsonl is missing or empty; {source}.")
    return found


def _table(read: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A nested table; empty where there is none."""
    value = read.get(key)
    return value if isinstance(value, Mapping) else {}


def _count(value: Any) -> int | None:
    number = _integer(value)
    return number if number is not None and 0 < number <= MAX_STEP else None


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
