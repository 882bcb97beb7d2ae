"""`gradients.json` as tables that people read: on a screen of 100 columns, and as `results.md`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EFFECT_COLUMNS = (
    ("entropy, natural", "entropy", "natural", "token", 1000),
    ("wrong in all wrong", "logprob", "wrong in all_wrong", "completion", 1),
    ("correct in mixed", "logprob", "correct in mixed", "completion", 1),
    ("gold of all wrong", "logprob", "gold of all_wrong", "completion", 1),
    ("KL, natural", "kl", "natural", "token", 1000),
)
"""What is shown of an update: head, quantity, population, per what, scale. Everything is in `gradients.json`."""

NOT_ESTABLISHED = "In brackets: not established, the interval contains zero."


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
        title: What it shows.
        columns: Heads.
        rows: Cells; a line break in one stays.
        caption: How to read it, and of what it is.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


def tables(told: Mapping[str, Any]) -> list[TextTable]:
    """Every table of an experiment.

    Args:
        told: What `gradients.json` holds.
    """
    found = [each["name"] for each in told["batches"] if each["num_groups"]]
    labels = [each["label"] for each in told["methods"]]
    of = _of_what(told)
    return [
        _batches(told, of),
        _norms(told, found, labels, of),
        *(_cosines(told, name, labels, of) for name in found if len(labels) > 1),
        *([_across(told, labels, of)] if {"all_wrong", "mixed"} <= set(found) else []),
        *([_virtual(told, of)] if told["virtual"] else []),
        *(_effects(told, step, of) for step in ("adam", "sgd")),
    ]


def as_rich(table: TextTable) -> Any:
    """A table for the screen, its caption below it over the whole width."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(table.columns):
        shown.add_column(Text(column), justify="right" if place else "left", no_wrap=place == 0)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return Group(Text(table.title, style="bold"), shown, Text(table.caption, style="dim"), "")


def write_markdown(path: Path, told: Mapping[str, Any]) -> None:
    """Writes every table as Markdown.

    Args:
        path: The file.
        told: What `gradients.json` holds.
    """
    lines = [line for table in (*tables(told), *layer_tables(told)) for line in _markdown(table)]
    path.write_text("\n".join(lines), encoding="utf-8")


def layer_tables(told: Mapping[str, Any]) -> list[TextTable]:
    """Gradient norms layer by layer, a table for each batch; as long as the model is deep.

    Args:
        told: What `gradients.json` holds.
    """
    entry = {(each["method"], each["batch"]): each for each in told["norms"]}
    labels = [each["label"] for each in told["methods"]]
    return [
        TextTable(
            f"Gradient norms by layer, {_words(name)} batch",
            ("layer", *labels),
            tuple(
                (layer["name"], *(number(entry[label, name]["by_layer"][place]["whole"]) for label in labels))
                for place, layer in enumerate(told["layers"])
            ),
            f"L2 norms, of the gradient of the whole batch. {_of_what(told)}",
        )
        for name in (each["name"] for each in told["batches"] if each["num_groups"])
    ]


def _markdown(table: TextTable) -> Iterator[str]:
    yield from (f"## {table.title}", "")
    for row in (table.columns, ("---", *("---:" for _ in table.columns[1:])), *table.rows):
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in row) + " |"
    yield from ("", table.caption, "")


def number(value: float | None, *, signed: bool = False) -> str:
    """Three significant digits; a dash for what is not there.

    Example:
        >>> number(0.20817), number(1.5e-5), number(-0.138, signed=True), number(0.0, signed=True), number(None)
        ('0.208', '1.5e-05', '-0.138', '0', '-')
    """
    if value is None:
        return "-"
    return "0" if value == 0 else f"{value:{'+' if signed else ''}.3g}"


def _ends(cell: Mapping[str, Any], *, scale: float = 1, signed: bool = False) -> str:
    """Both ends of an interval, to two digits of the one that is further from zero."""
    if cell["low"] is None:
        return "no interval"
    ends = [scale * cell["low"], scale * cell["high"]]
    largest = max(map(abs, ends))
    digits = max(0, 1 - math.floor(math.log10(largest))) if largest > 0 else 0
    return "..".join(f"{end:{'+' if signed else ''}.{digits}f}" for end in ends)


def _change(cell: Mapping[str, Any] | None, scale: float = 1) -> str:
    """A change over its interval; in brackets where it is not established."""
    if cell is None:
        return "-"
    estimate = number(scale * cell["estimate"], signed=True)
    return f"{estimate if cell['established'] else f'({estimate})'}\n{_ends(cell, scale=scale, signed=True)}"


def _words(batch: str) -> str:
    return batch.replace("_", " ")


def _of_what(told: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{each['num_groups']} {_words(each['name'])}" for each in told["batches"])
    return (
        f"{told['model']} on {told['data']}; groups: {counts}; group size {told['group_size']}, temperature "
        f"{told['temperature']:g}, seed {told['seed']}."
    )


def _batches(told: Mapping[str, Any], of: str) -> TextTable:
    census = told["census"]
    failed = f", {census['failed']} left out as the reward failed on them" if census["failed"] else ""
    rows = tuple(
        (
            _words(each["name"]),
            f"{each['num_groups']} of {each['num_wanted']}",
            number(None if each["name"] == "natural" else census[each["name"]] / max(1, census["groups"])),
            str(each["num_completions"]),
            str(each["num_tokens"]),
            number(each["correct_frac"]),
            number(each["truncated_frac"]),
        )
        for each in told["batches"]
    )
    columns = ("batch", "groups", "share sampled", "completions", "tokens", "correct", "truncated")
    is_short = any(each["num_groups"] < each["num_wanted"] for each in told["batches"])
    short = ". Where a batch has fewer than asked for, no more were found" if is_short else ""
    caption = (
        f"{census['groups']} groups were sampled{failed}{short}. A batch is cut into {told['num_parts']} parts at most."
    )
    return TextTable("The batches", columns, rows, f"{caption} {of}")


def _norms(told: Mapping[str, Any], found: Sequence[str], labels: Sequence[str], of: str) -> TextTable:
    entry = {(each["method"], each["batch"]): each for each in told["norms"]}

    def text(cell: Mapping[str, Any]) -> str:
        if not cell["whole"]:
            return "0"
        return f"{number(cell['whole'])}, {number(cell['expected'])}\n{number(cell['estimate'])}, {_ends(cell)}"

    rows = tuple((label, *(text(entry[label, name]) for name in found)) for label in labels)
    return TextTable(
        "Gradient norms",
        ("method", *map(_words, found)),
        rows,
        "L2 norm of the gradient of the whole batch, and of the expected gradient, which has no noise of which groups "
        "were sampled (0: not told from noise); below, the mean over parts of the batch and its 95 % interval: the "
        f"fewer groups, the more noise and the longer. {of}",
    )


def _cosine_cells(told: Mapping[str, Any]) -> dict[tuple[str, str, str, str], str]:
    cells = {}
    for each in told["cosines"]:
        a, b = each["a"], each["b"]
        text = number(None if each["whole"] is None else round(each["whole"], 3), signed=True)
        if each["whole"] is not None and not each["established"]:
            text = f"({text})"
        cells[a["method"], a["batch"], b["method"], b["batch"]] = text
        cells[b["method"], b["batch"], a["method"], a["batch"]] = text
    return cells


def _cosines(told: Mapping[str, Any], batch: str, labels: Sequence[str], of: str) -> TextTable:
    cells = _cosine_cells(told)
    rows = [(one, *("" if one == other else cells[one, batch, other, batch] for other in labels)) for one in labels]
    return TextTable(
        f"Cosines between methods, {_words(batch)} batch",
        ("method", *labels),
        tuple(rows),
        f"Of whole batches. A dash: one of the two is zero. {NOT_ESTABLISHED[:-1]} over parts. {of}",
    )


def _across(told: Mapping[str, Any], labels: Sequence[str], of: str) -> TextTable:
    cells = _cosine_cells(told)
    return TextTable(
        "Cosines between a method's all-wrong gradient (row) and a method's mixed gradient (column)",
        ("all wrong \\ mixed", *labels),
        tuple((one, *(cells[one, "all_wrong", other, "mixed"] for other in labels)) for one in labels),
        "Of whole batches; noise of which groups were sampled takes them towards 0. A dash: one of the two is zero. "
        f"{NOT_ESTABLISHED[:-1]} over parts. {of}",
    )


def _virtual(told: Mapping[str, Any], of: str) -> TextTable:
    def both(each: Mapping[str, Any], label: str) -> str:
        cells = (each["with"][label], each["without"][label])
        return " / ".join(number(cell and round(cell["estimate"], 3), signed=True) for cell in cells)

    rows = tuple(
        (
            f"{each['method']}\n{_words(each['batch'])}",
            both(each, "correct"),
            _change(each["difference"]["correct"]),
            both(each, "wrong"),
            _change(each["difference"]["wrong"]),
            number(each["rms_ratio"] and each["rms_ratio"]["estimate"]),
            number(each["gradient_frac"]),
        )
        for each in told["virtual"]
    )
    return TextTable(
        "What the virtual sample does to the advantages",
        ("made from", "correct", "change", "wrong", "change", "rms ratio", "gradient"),
        rows,
        "Mean advantage of correct and of wrong completions, with the virtual sample / without, and the change through "
        "it with 95 % bootstrap intervals over groups. rms ratio: root mean square of the advantages, with over "
        "without. gradient: length of the part of the batch's gradient that is there through it, over the whole "
        f"gradient. {NOT_ESTABLISHED} {of}",
    )


def _effects(told: Mapping[str, Any], step: str, of: str) -> TextTable:
    rows = []
    for each in told["effects"]:
        if each["step"] != step:
            continue
        change = {(one["quantity"], one["of"], one["per"]): one for one in each["changes"]}
        cells = (
            "no gradient" if each["is_zero"] else _change(change.get((quantity, name, per)), scale)
            for _, quantity, name, per, scale in EFFECT_COLUMNS
        )
        rows.append((f"{each['method']}\n{_words(each['batch'])}", *cells))
    how = (
        f"one AdamW step from fresh state at learning rate {told['lr']:g}"
        if step == "adam"
        else f"one SGD step of length {told['sgd_norm']:.3g}"
    )
    return TextTable(
        f"What one update does: {how}",
        ("made from", *(head for head, *_ in EFFECT_COLUMNS)),
        tuple(rows),
        "Entropy and KL(before || after): thousandths of a nat per token. Log-probabilities of sampled wrong, sampled "
        "correct and gold completions: nats per completion. 95 % bootstrap intervals over the groups that this very "
        "update is looked at on; other groups would have made another update, so repeat with other seeds. An update "
        f"made from a batch is looked at on that very batch where the column names it. {NOT_ESTABLISHED} {of}",
    )
