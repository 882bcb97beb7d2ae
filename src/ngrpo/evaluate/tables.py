"""A summary as people read and publish it: rows with labels, Markdown, CSV."""

import csv
import io
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ngrpo.evaluate.summary import GROUP_SIZE, Part, Quantity, Summary

MARKDOWN, CSV = "summary.md", "summary.csv"


def describe(settings: Mapping[str, Any], part: Part) -> str:
    """What a table is of, in one line.

    Args:
        settings: Of the evaluation, as in `eval.json`.
        part: What was found on all its prompts.
    """
    made = [
        f"temperature {settings['temperature']:g}" if settings["temperature"] is not None else "",
        f"top-p {settings['top_p']:g}" if settings["top_p"] is not None else "",
        f"seed {settings['seed']}" if settings["seed"] is not None else "",
        f"graded from {settings['graded_from']}" if settings["graded_from"] else "",
    ]
    head = f"{settings['model'] or 'samples'} on {settings['data']}: {part.num_prompts} prompts x {_num_samples(part)}"
    return ", ".join([f"{head} samples", *filter(None, made)])


def quantity_rows(summary: Summary, part: Part) -> list[tuple[str, Quantity]]:
    """Every mean over prompts, with its label."""
    ks = summary.ks
    rows = [(f"mean@{_num_samples(part)}", part.mean)]
    rows += [(f"pass@{k}", value) for k, value in part.pass_at_k.items()]
    if part.auc is not None:
        rows.append((f"Pass@k AUC, k = {ks[0]}..{ks[-1]}", part.auc))
    rows += [(f"maj@{k}", value) for k, value in part.maj_at_k.items()]
    return rows + [(f"groups of {GROUP_SIZE} {name.replace('_', ' ')}", value) for name, value in part.groups.items()]


def fact_rows(part: Part) -> list[tuple[str, str]]:
    """Everything else, as text with its unit; what is not known is left out."""
    rows = [
        ("prompts without a correct sample", f"{part.num_none_correct} of {part.num_prompts}"),
        ("prompts without a wrong sample", f"{part.num_all_correct} of {part.num_prompts}"),
        ("outcomes", ", ".join(f"{kind} {share:.2%}" for kind, share in part.kind_fracs.items())),
    ]
    if part.truncated_frac is not None:
        rows.append(("truncated", f"{part.truncated_frac:.2%}"))
    if part.not_truncated_correct_frac is not None:
        rows.append(("correct among those not truncated", f"{part.not_truncated_correct_frac:.2%}"))
    if part.mean_tokens is not None:
        lengths = f"{part.mean_tokens:.1f} mean, {part.p50_tokens:g} median, {part.p95_tokens:g} 95th percentile"
        rows.append(("tokens per completion", lengths))
    if part.entropy_nats is not None:
        rows.append(("entropy per token", f"{part.entropy_nats:.3f} nats"))
    if part.num_answers is not None:
        rows.append(
            ("answers per prompt", f"{part.num_answers:.1f} distinct, entropy {part.answer_entropy_nats:.2f} nats")
        )
    return rows


def strata_rows(summary: Summary) -> list[tuple[str, list[tuple[str, Part]]]]:
    """Column by column, the values it has and what was found on the prompts of each."""
    return [(column, list(parts.items())) for column, parts in summary.strata.items()]


def percent(value: Quantity) -> tuple[str, str, str, str]:
    """Estimate, interval and the two standard errors, in percent and points."""
    errors = ("-" if error is None else f"{100 * error:.2f}" for error in (value.se, value.sampling_se))
    return f"{100 * value.estimate:.1f}", f"{100 * value.low:.1f} to {100 * value.high:.1f}", *errors


def short_row(summary: Summary, part: Part) -> list[str]:
    """One line about a stratum: prompts, mean and pass@k of the largest k, with intervals. The CSV has the rest."""
    cells = [
        f"{estimate} ({interval})"
        for estimate, interval, *_ in map(percent, (part.mean, part.pass_at_k[summary.ks[-1]]))
    ]
    return [str(part.num_prompts), *cells]


def short_head(summary: Summary) -> list[str]:
    """Labels of `short_row`."""
    return ["prompts", f"mean@{_num_samples(summary.overall)}", f"pass@{summary.ks[-1]}"]


def as_markdown(settings: Mapping[str, Any], summary: Summary) -> str:
    """The whole summary as Markdown tables, with the settings that a reader needs."""
    part = summary.overall
    lines = [f"**{describe(settings, part)}**", ""]
    lines += _table(
        ["", "%", "95 % interval over prompts", "SE over prompts", "SE of sampling"],
        [[label, *percent(value)] for label, value in quantity_rows(summary, part)],
    )
    lines += _table(["", ""], [list(row) for row in fact_rows(part)])
    for column, parts in strata_rows(summary):
        lines += _table([column, *short_head(summary)], [[value, *short_row(summary, part)] for value, part in parts])
    shown = {key: value for key, value in settings.items() if value not in (None, "", {}, [])}
    lines += [f"- {key}: {value}" for key, value in shown.items()]
    return "\n".join(lines) + "\n"


def as_csv(summary: Summary) -> str:
    """Every number as a row: column and value of the stratum (empty for all prompts), quantity, estimate, errors."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    errors = [field.name for field in fields(Quantity)]
    writer.writerow(["column", "value", "num_prompts", "min_num_samples", "max_num_samples", "quantity", *errors])
    parts = [("", "", summary.overall)]
    parts += [(column, value, part) for column, found in strata_rows(summary) for value, part in found]
    for column, value, part in parts:
        place = [column, value, part.num_prompts, part.min_num_samples, part.max_num_samples]
        for label, quantity in quantity_rows(summary, part):
            writer.writerow([*place, label, *(getattr(quantity, name) for name in errors)])
        for name in _PLAIN:
            if (number := getattr(part, name)) is not None:
                writer.writerow([*place, name, number, *[""] * (len(errors) - 1)])
        writer.writerows([*place, f"{kind}_frac", share, *[""] * (len(errors) - 1)]
                         for kind, share in part.kind_fracs.items())  # fmt: skip
    return text.getvalue()


_PLAIN = (
    "num_none_correct", "num_all_correct", "truncated_frac", "not_truncated_correct_frac", "mean_tokens", "p50_tokens",
    "p95_tokens", "entropy_nats", "num_answers", "answer_entropy_nats",
)  # fmt: skip


def write_tables(folder: Path, settings: Mapping[str, Any], summary: Summary) -> None:
    """Writes `summary.md` and `summary.csv` beside `summary.json`."""
    (folder / MARKDOWN).write_text(as_markdown(settings, summary), encoding="utf-8", errors="backslashreplace")
    (folder / CSV).write_text(as_csv(summary), encoding="utf-8", errors="backslashreplace")


def _num_samples(part: Part) -> str:
    least, most = part.min_num_samples, part.max_num_samples
    return str(least) if least == most else f"{least}..{most}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines] + [""]
