"""Two kinds of specification that several figures are: intervals side by side (a forest), and a heat map."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from ngrpo.report.arms import Arm
from ngrpo.report.charts import arm_colour, data, specification, zero_line

ROW_PIXELS = 22
"""Height of a row of a forest plot."""

MIN_CELL_PIXELS = 26
"""Least width of a column of a heat map of many columns: the page lets it scroll where it is narrower."""

DIVERGING = ("#2166ac", "#f7f7f7", "#b2182b")
"""From below to above; the middle is zero. Of ColorBrewer's RdBu, which the colour-blind can read."""


VERDICTS = {
    "excludes zero": "#cc3311",
    "contains zero: not established": "#888888",
    "of one seed: over prompts only": "#888888",
}
"""What an interval of a difference says, and its colour."""


def forest(rows: Sequence[Mapping[str, Any]], *, x_title: str, arms: Sequence[Arm] = ()) -> dict[str, Any]:
    """A specification of estimates with their intervals, one row each, around a line at zero.

    Args:
        rows: `label`, `estimate`, `low`, `high`, `established` (true, false, null); and `arm`, where there are arms.
        x_title: With the unit.
        arms: Drawn side by side in each row, by colour; without any, colour says what is established.
    """
    labels = list(dict.fromkeys(row["label"] for row in rows))
    there = {_verdict(row.get("established")) for row in rows}
    verdicts = {verdict: colour for verdict, colour in VERDICTS.items() if verdict in there}
    ends_of_all = [0.0, *(row[name] for row in rows for name in ("low", "estimate", "high") if row[name] is not None)]
    room = 0.05 * (max(ends_of_all) - min(ends_of_all)) or 1.0
    scale = alt.Scale(domain=[min(ends_of_all) - room, max(ends_of_all) + room], nice=False)
    per_label = max(1, len(arms))
    y = alt.Y("label:N", sort=labels, title=None, axis=alt.Axis(labelLimit=200, grid=True))
    if arms:
        colour = arm_colour(arms, "method")
        offset = {"yOffset": alt.YOffset("arm:N", sort=[arm.name for arm in arms])}
    else:
        colour = alt.Color(
            "verdict:N",
            title="95 % interval",
            scale=alt.Scale(domain=list(verdicts), range=list(verdicts.values())),
            legend=alt.Legend(orient="bottom", labelLimit=260),
        )
        offset = {}
    shown = [{**row, "verdict": _verdict(row.get("established"))} for row in rows]
    base = alt.Chart(data()).encode(y=y, color=colour, **offset)
    tips = [alt.Tooltip("label:N"), *(["arm:N"] if arms else [])]
    tips += [alt.Tooltip(f"{name}:Q", format="+.4~g") for name in ("estimate", "low", "high")] + ["verdict:N"]
    ends = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=x_title, scale=scale), x2="high:Q")
    points = base.mark_point(size=60).encode(
        x=alt.X("estimate:Q", title=x_title, scale=scale),
        # Hollow and full say it to those who do not see the colour.
        fillOpacity=alt.condition("datum.established === true", alt.value(1), alt.value(0)),
        fill=colour,
        tooltip=tips,
    )
    zero = zero_line().encode(x=alt.X("zero:Q", scale=scale, title=x_title))
    height = max(90, len(labels) * max(ROW_PIXELS, 11 * per_label))
    return specification(alt.layer(zero, ends, points).properties(height=height), shown)


def heat_map(
    rows: Sequence[Mapping[str, Any]],
    *,
    xs: Sequence[str],
    ys: Sequence[str],
    x_title: str,
    y_title: str,
    value_title: str,
    is_signed: bool,
    value_format: str = ".2~f",
) -> dict[str, Any]:
    """A specification of cells of `x` and `y`, coloured by `value` and with `text` inside.

    Args:
        rows: `x`, `y`, `value` (null: left empty), `text`, and perhaps `tip`.
        xs: Every `x`, from the left.
        ys: Every `y`, from the top.
        x_title: Of the axis.
        y_title: Of the axis.
        value_title: With the unit.
        is_signed: Whether zero is the middle of the colours.
        value_format: Of the legend.
    """
    values = [row["value"] for row in rows if row["value"] is not None] or [0.0]
    largest = max(abs(value) for value in values) or 1.0
    if is_signed:
        scale = alt.Scale(domain=[-largest, 0, largest], range=list(DIVERGING))
        is_dark = f"abs(datum.value) > {0.6 * largest}"
    else:
        scale = alt.Scale(
            scheme="viridis", domain=[min(values), max(values) if max(values) > min(values) else min(values) + 1]
        )
        is_dark = f"datum.value < {min(values) + 0.6 * (max(values) - min(values))}"
    base = alt.Chart(data()).encode(
        x=alt.X(
            "x:O",
            sort=list(xs),
            title=x_title,
            axis=alt.Axis(labelAngle=0 if all(len(x) < 4 for x in xs) or len(xs) < 7 else -40, labelLimit=140),
        ),
        y=alt.Y("y:O", sort=list(ys), title=y_title, axis=alt.Axis(labelLimit=150)),
    )
    tip = [alt.Tooltip("tip:N", title="tip")] if any("tip" in row for row in rows) else []
    legend = alt.Legend(orient="bottom", format=value_format, gradientLength=180, titleLimit=400)
    cells = base.mark_rect(stroke="#88888844").encode(
        color=alt.Color("value:Q", title=value_title, scale=scale, legend=legend),
        tooltip=[
            alt.Tooltip("x:O", title=x_title),
            alt.Tooltip("y:O", title=y_title),
            alt.Tooltip("text:N", title=value_title),
            *tip,
        ],
    )
    # Black or white by the cell that the text stands on, which is the same in light and in dark pages.
    inside = base.mark_text(fontSize=11).encode(
        text="text:N", color=alt.condition(is_dark, alt.value("#ffffff"), alt.value("#000000"))
    )
    height = max(120, 34 * len(ys))
    chart = alt.layer(cells, inside) if len(xs) <= 14 else cells  # no room for numbers
    spec = specification(chart.properties(height=height), [row for row in rows if row["value"] is not None])
    if len(xs) > 14:  # narrower cells would put the labels of the columns over each other
        spec["usermeta"] = {"min_width": MIN_CELL_PIXELS * len(xs) + 160}
    return spec


def _verdict(is_established: bool | None) -> str:
    excludes, contains, one_seed = VERDICTS
    if is_established is None:
        return one_seed
    return excludes if is_established else contains
