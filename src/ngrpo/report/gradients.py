"""The gradient panel: norms, cosines, layers, and what one update does. The numbers are from `ngrpo lab gradients`.

`lab/gradients.py` documents the file that is drawn here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import altair as alt

from ngrpo.report.arms import Arm, styled
from ngrpo.report.charts import MAX_ROWS, arm_colour, arm_dash, data, number_text, rounded, specification
from ngrpo.report.model import Figure, Table
from ngrpo.report.records import Notices
from ngrpo.report.shapes import forest, heat_map

MAX_LABELS = 28
"""Most gradients (method and batch) of the heat map of cosines."""

STEPS = {"adam": "one Adam step", "sgd": "one plain gradient step of fixed length"}


DASHES = ((1, 0), (6, 6), (2, 5))
"""Of methods in turn: several have the same gradient, and lines that coincide must show through each other."""

BATCHES_TEXT = (
    "Every method gets the same batches of sampled groups: all wrong, mixed, all right; and natural, the first groups "
    "that were sampled, whatever they are.",
)


def gradient_figures(prefix: str, found: Mapping[str, Any], notices: Notices) -> tuple[list[Figure], list[Table]]:
    """Every figure and table that `gradients.json` has the numbers of.

    Args:
        prefix: Of the figures' ids.
        found: `gradients.json`.
        notices: Told of kinds of groups of which there are none.

    Raises:
        KeyError, TypeError, ValueError: It is not as `lab/gradients.py` documents it.
    """
    arms = [
        replace(arm, dash=DASHES[place % len(DASHES)])
        for place, arm in enumerate(styled({str(each["label"]): [] for each in found["methods"]}))
    ]
    absent = [_words(each["name"]) for each in found["batches"] if not each["num_groups"]]
    if absent:
        notices.add(f"gradients.json: no group that was sampled is {' or '.join(absent)}: that batch is not drawn.")
    about = _about(found)
    figures = [_norms(prefix, arms, found, about)]
    figures += [figure for figure in (_cosines(prefix, found, about),) if figure]
    figures += [*_layers(prefix, arms, found, about), *_effects(prefix, arms, found, about)]
    return [figure for figure in figures if figure.rows], _virtual(found, about)


def _about(found: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{_words(each['name'])} {each['num_groups']}" for each in found["batches"])
    return (
        f"{found['model']} on {found['data']}, groups of {found['group_size']} sampled at temperature "
        f"{found['temperature']:g}, one batch for all methods (groups: {sizes}), {found['num_parts']} parts, seed "
        f"{found['seed']}."
    )


def _norms(prefix: str, arms: Sequence[Arm], found: Mapping[str, Any], about: str) -> Figure:
    rows = [_spread_row(each, batch=_words(each["batch"]), arm=each["method"]) for each in found["norms"]]
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    base = alt.Chart(data()).encode(
        x=alt.X("batch:N", sort=batches, title="groups in the batch", axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("arm:N", sort=[arm.name for arm in arms]),
        color=arm_colour(arms, "method"),
        tooltip=["arm:N", "batch:N", *(alt.Tooltip(f"{name}:Q", format=".4~g") for name in _SPREAD)],
    )
    bars = base.mark_bar(opacity=0.45).encode(y=alt.Y("whole:Q", title="L2 norm of the gradient"))
    ends = base.mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q")
    points = base.mark_point(filled=True, size=30).encode(y="estimate:Q")
    told = "; ".join(f"{row['arm']} on {row['batch']} {number_text(row['whole'] or 0.0)}" for row in rows)
    return Figure(
        id=f"{prefix}-gradient-norms",
        title="Gradient norms on all-wrong, mixed and all-right groups",
        caption=f"Bars: the whole batch. Points and lines: mean over parts of the batch and its 95 % interval; a part "
        f"has fewer groups and hence a longer, noisier gradient. {about}",
        description=f"Norm of the gradient of the whole batch: {told}.",
        spec=specification(alt.layer(bars, ends, points).properties(height=300), rows),
        columns=("method", "batch", *_SPREAD),
        rows=tuple((row["arm"], row["batch"], *(row[name] for name in _SPREAD)) for row in rows)[:MAX_ROWS],
    )


def _cosines(prefix: str, found: Mapping[str, Any], about: str) -> Figure | None:
    """Every gradient against every other, on the whole batches."""
    names = {(each["method"], each["batch"]): f"{each['method']}, {_words(each['batch'])}" for each in found["norms"]}
    labels = list(names.values())[:MAX_LABELS]
    pairs = {}
    for each in found["cosines"]:
        a, b = (names.get((each[side]["method"], each[side]["batch"])) for side in ("a", "b"))
        pairs[a, b] = pairs[b, a] = _spread_row(each)
    here = [label for label in labels if any((label, other) in pairs and pairs[label, other]["whole"] is not None
                                             for other in labels)]  # fmt: skip
    rows = [
        {"x": x, "y": y, "value": pairs[x, y]["whole"], "text": f"{pairs[x, y]['whole']:.2f}",
         "tip": f"parts: {pairs[x, y]['low']} to {pairs[x, y]['high']}"}
        for y in here for x in here
        if (x, y) in pairs and pairs[x, y]["whole"] is not None
    ]  # fmt: skip
    if not rows:
        return None
    rows += [{"x": label, "y": label, "value": 1.0, "text": "1", "tip": "with itself"} for label in here]
    once = [(a, b, row) for (a, b), row in pairs.items() if row["whole"] is not None]
    once = [each for place, each in enumerate(once) if place % 2 == 0]  # each pair is there both ways
    told = "; ".join(f"{a} and {b} {row['whole']:+.2f}" for a, b, row in once[:30])
    return Figure(
        id=f"{prefix}-gradient-cosines",
        title="Do the methods pull the same way? Cosines between their gradients",
        caption=f"1: the same direction, 0: unrelated, -1: opposite; of whole batches. A gradient that is zero has no "
        f"cosine and is left out. {about}",
        description=f"Cosines between gradients: {told}.",
        spec=heat_map(
            rows,
            xs=here,
            ys=here,
            x_title="method, batch",
            y_title="method, batch",
            value_title="cosine",
            is_signed=True,
        ),
        columns=("one", "other", *_SPREAD),
        rows=tuple((a, b, *(row[name] for name in _SPREAD)) for a, b, row in once)[:MAX_ROWS],
    )


def _layers(prefix: str, arms: Sequence[Arm], found: Mapping[str, Any], about: str) -> Iterator[Figure]:
    """Norms by layer, one figure for each kind of batch."""
    layers = [str(layer["name"]) for layer in found["layers"]]
    for batch in dict.fromkeys(each["batch"] for each in found["norms"]):
        rows = [
            {"layer": layer, "arm": each["method"], "whole": rounded(spread["whole"])}
            for each in found["norms"] if each["batch"] == batch
            for layer, spread in zip(layers, each["by_layer"], strict=True)
        ]  # fmt: skip
        drawn = [arm for arm in arms if any(row["arm"] == arm.name and row["whole"] for row in rows)]
        if not drawn:
            continue
        zero = [arm.name for arm in arms if arm not in drawn]
        rows = [row for row in rows if row["arm"] not in zero]
        none = f" Zero in every layer, and not drawn: {', '.join(zero)}." if zero else ""
        chart = (
            alt.Chart(data())
            .mark_line(point=True, strokeWidth=2)
            .encode(
                x=alt.X("layer:N", sort=layers, title="layer, from the input up", axis=alt.Axis(labelAngle=-40)),
                y=alt.Y("whole:Q", title="L2 norm of the gradient"),
                color=arm_colour(drawn, "method"),
                strokeDash=arm_dash(drawn, "method"),
                tooltip=["arm:N", "layer:N", alt.Tooltip("whole:Q", format=".4~g")],
            )
            .properties(height=280)
        )
        tops = []
        for arm in drawn:
            mine = [row for row in rows if row["arm"] == arm.name and row["whole"]]
            if mine:
                top = max(mine, key=lambda row: row["whole"])
                tops.append(f"{arm.name} is largest in {top['layer']} ({number_text(top['whole'])})")
        yield Figure(
            id=f"{prefix}-gradient-layers-{batch.replace('_', '-')}",
            title=f"Where in the model the gradient is: {_words(batch)} groups",
            caption=f"Norm of the gradient of the whole batch, by layer; where lines coincide, dashes show both."
            f"{none} {about}",
            description=f"Gradient norm by layer: {'; '.join(tops)}.{none}",
            spec=specification(chart, rows),
            columns=("layer", "method", "norm"),
            rows=tuple((row["layer"], row["arm"], row["whole"]) for row in rows)[:MAX_ROWS],
        )


def _effects(prefix: str, arms: Sequence[Arm], found: Mapping[str, Any], about: str) -> Iterator[Figure]:
    """What one update does: a figure for each kind of step and each batch that it was made from."""
    key = _step_and_batch
    for (step, batch), group in groupby(sorted(found["effects"], key=key), key=key):
        effects = list(group)
        rows = [
            {**_cell_row(change), "arm": each["method"], "label": f"{change['quantity']} of {_words(change['of'])}"
             f"{' per completion' if change['per'] == 'completion' else ''}", "is_drawn": change["per"] == "token"}
            for each in effects for change in each["changes"]
        ]  # fmt: skip
        drawn_rows = [row for row in rows if row.pop("is_drawn")]  # per completion is another scale: in the table
        if not drawn_rows:
            continue
        still = [each["method"] for each in effects if each["is_zero"]]
        none = f" No update at all, because the gradient is zero: {', '.join(still)}." if still else ""
        told = "; ".join(f"{row['arm']}, {row['label']}: {_signed(row)}" for row in drawn_rows[:40])
        drawn = [arm for arm in arms if any(row["arm"] == arm.name for row in drawn_rows)]
        yield Figure(
            id=f"{prefix}-gradient-effect-{step}-{batch.replace('_', '-')}",
            title=f"What {STEPS.get(step, step)} on {_words(batch)} groups changes",
            caption="Change by a single update, in nats per token (per completion: in the table); lines: 95 % "
            f"intervals over groups; full points: the interval excludes zero.{none} {about}",
            description=f"Changes by one update: {told}.{none}",
            spec=forest(drawn_rows, x_title="change by one update (nats per token)", arms=drawn),
            columns=("method", "change of", "estimate", "low", "high", "excludes zero"),
            rows=tuple(tuple(row[name] for name in ("arm", "label", *_CELL)) for row in rows)[:MAX_ROWS],
        )


def _virtual(found: Mapping[str, Any], about: str) -> list[Table]:
    """The virtual sample's share of advantages and gradients."""
    rows = []
    for each in found["virtual"]:
        cells = [
            _cell_text((each.get(part) or {}).get(kind))
            for part in ("with", "without")
            for kind in ("wrong", "correct")
        ]
        frac = each["gradient_frac"]
        rows.append((f"{each['method']}, {_words(each['batch'])}", *cells, _cell_text(each["rms_ratio"]),
                     "" if frac is None else f"{frac:.3f}"))  # fmt: skip
    if not rows:
        return []
    caption = (
        "Mean advantages with the virtual sample and without it; root mean square with over without; share of the "
        f"gradient that is due to it (|g - g0| / |g|). In brackets 95 % intervals over groups. {about}"
    )
    columns = (
        "method, batch",
        "wrong, with",
        "correct, with",
        "wrong, without",
        "correct, without",
        "RMS ratio",
        "share",
    )
    return [Table("The virtual sample's share", caption, columns, tuple(rows))]


_CELL = ("estimate", "low", "high", "established")
_SPREAD = ("whole", "estimate", "low", "high")


def _spread_row(each: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return more | {name: rounded(each.get(name)) for name in _SPREAD}


def _cell_row(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {name: rounded(cell[name]) for name in ("estimate", "low", "high")} | {"established": cell["established"]}


def _cell_text(cell: Mapping[str, Any] | None) -> str:
    return "" if cell is None else f"{cell['estimate']:+.3f} ({cell['low']:+.3f} to {cell['high']:+.3f})"


def _words(name: Any) -> str:
    return str(name).replace("_", " ")


def _signed(row: Mapping[str, Any]) -> str:
    star = "" if row["established"] else ", contains zero"
    return f"{row['estimate']:+.3g} ({row['low']:+.3g} to {row['high']:+.3g}{star})"


def _step_and_batch(effect: Mapping[str, Any]) -> tuple[str, str]:
    return str(effect["step"]), str(effect["batch"])
