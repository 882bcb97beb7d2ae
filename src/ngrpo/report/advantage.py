"""What a completion weighs under each method of the report, by how many of its group are correct."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import altair as alt

from ngrpo.errors import ConfigError
from ngrpo.report.arms import Arm
from ngrpo.report.charts import MAX_ROWS, arm_colour, arm_dash, data, rounded, specification, zero_line
from ngrpo.report.fields import or_tell
from ngrpo.report.model import Figure
from ngrpo.report.records import Notices

MAX_GROUP_SIZE = 128
"""Groups of more completions are drawn as if they had this many: the curve is the same, the computation is not."""


def advantage_figures(prefix: str, arms: Sequence[Arm], notices: Notices) -> list[Figure]:
    """Two figures, for a wrong and for a correct completion, computed by the catalog; none where no method is known.

    Args:
        prefix: Of the figures' ids.
        arms: Of one comparison; each is drawn with its own parameters and group size.
        notices: Told of methods that cannot be drawn.
    """
    curves: dict[str, Mapping[str, Any]] = {}
    for arm in arms:
        what = f"{arm.name}: what its parameters make of advantages"
        if arm.role != "base" and (curve := or_tell(partial(_curve, arm, notices), what, notices)):
            curves[arm.name] = curve
    if not curves:
        return []
    drawn = [arm for arm in arms if arm.name in curves]
    return [_figure(prefix, drawn, curves, kind) for kind in ("wrong", "correct")]


def _curve(arm: Arm, notices: Notices) -> Mapping[str, Any] | None:
    """One entry of `objectives.sweep`; None where method or group size are not known, or it cannot be computed."""
    from ngrpo import objectives

    run = next((run for run in arm.runs if run.objective and run.group_size), None)
    if run is None or run.group_size is None:
        return None
    size = min(run.group_size, MAX_GROUP_SIZE)
    try:
        curve = objectives.sweep({run.objective: run.params}, size)[run.objective]
    except ConfigError as error:
        notices.add(f"{arm.name}: its advantages cannot be computed. {error}")
        return None
    if "problem" in curve:
        notices.add(f"{arm.name}: its advantages cannot be drawn: it {curve['problem']}.")
        return None
    return curve


def _figure(prefix: str, arms: Sequence[Arm], curves: Mapping[str, Mapping[str, Any]], kind: str) -> Figure:
    rows = [row for arm in arms for row in _rows(arm.name, curves[arm.name], kind)]
    sizes = sorted({len(curve["kept"]) - 1 for curve in curves.values()})
    return Figure(
        id=f"{prefix}-advantage-{kind}",
        title=f"What a {kind} completion weighs, by how many of its group are correct",
        caption=_caption(curves, sizes),
        description=_description(curves, kind),
        spec=specification(_chart(arms, sizes), rows),
        columns=("arm", "correct completions", "advantage", "group kept"),
        rows=tuple(
            (row["arm"], row["correct"], row["advantage"], "yes" if row["kept"] else "no") for row in rows[:MAX_ROWS]
        ),
    )


def _rows(name: str, curve: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """Advantages as they reach the update: 0 where the group is dropped."""
    return [
        {
            "arm": name,
            "correct": count,
            "advantage": 0.0 if kept is False else rounded(value),
            "kept": kept is not False,
        }
        for count, (value, kept) in enumerate(zip(curve[kind], curve["kept"], strict=True))
        if value is not None
    ]


def _chart(arms: Sequence[Arm], sizes: Sequence[int]) -> Any:
    is_picked = alt.selection_point(name="arms", fields=["arm"], bind="legend")
    is_shown = alt.condition(is_picked, alt.value(1), alt.value(0.12))
    title = f"correct completions in a group of {' or '.join(map(str, sizes))}"
    # Ticks at whole numbers only: there are no half completions.
    axis = alt.Axis(title=title, format="d", values=_ticks(sizes[-1]))
    base = alt.Chart(data()).encode(
        x=alt.X("correct:Q", axis=axis, scale=alt.Scale(domain=[0, sizes[-1]], nice=False)),
        y=alt.Y("advantage:Q", title="advantage"),
        color=arm_colour(arms),
        opacity=is_shown,
    )
    line = base.mark_line(strokeWidth=2).encode(strokeDash=arm_dash(arms)).add_params(is_picked)
    points = base.mark_point(size=46).encode(
        shape=alt.Shape(
            "kept:N",
            title="group",
            scale=alt.Scale(domain=[True, False], range=["circle", "cross"]),
            legend=alt.Legend(orient="bottom", labelExpr="datum.value ? 'kept' : 'dropped (counts 0)'"),
        ),
        tooltip=[alt.Tooltip("arm:N"), alt.Tooltip("correct:Q"), alt.Tooltip("advantage:Q", format="+.3f"), "kept:N"],
    )
    rule = zero_line().encode(y="zero:Q")
    return alt.layer(rule, line, points).properties(height=300)


def _ticks(size: int) -> list[int]:
    step = max(1, -(-size // 16))
    return list(range(0, size + 1, step))


def _caption(curves: Mapping[str, Mapping[str, Any]], sizes: Sequence[int]) -> str:
    assumed = sorted({fact for curve in curves.values() for fact in curve.get("assumed", {})})
    told = f" Assumed where a method needs it: a stand-in for {', '.join(assumed)}." if assumed else ""
    return (
        "Computed from each arm's objective and parameters, not measured: rewards 0 and 1, groups of "
        f"{' or '.join(map(str, sizes))}; no seeds, no samples. A group that the method drops counts as 0.{told}"
    )


def _description(curves: Mapping[str, Mapping[str, Any]], kind: str) -> str:
    told = []
    for name, curve in curves.items():
        rows = _rows(name, curve, kind)
        ends = {"wrong": ("all wrong", "one wrong"), "correct": ("one correct", "all correct")}[kind]
        told.append(f"{name}: {rows[0]['advantage']:+.3g} ({ends[0]}) to {rows[-1]['advantage']:+.3g} ({ends[1]})")
    return f"Advantage of a {kind} completion by the number of correct ones in its group. {'; '.join(told)}."
