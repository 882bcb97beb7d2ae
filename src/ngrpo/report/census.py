"""The census of groups over time, as stacked areas: all wrong, mixed, all right."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import altair as alt
import numpy as np

from ngrpo.report.arms import Arm, MeanCurve, mean_curves, seeds_text, thinned
from ngrpo.report.charts import MAX_ROWS, data, number_text, rounded, specification, spread, step_axis
from ngrpo.report.model import Figure
from ngrpo.report.records import Notices

KINDS = ("all_wrong", "mixed", "all_right")
KIND_COLOURS = ("#cc6677", "#88ccee", "#117733")
"""Of Tol's muted palette; they differ in lightness, too."""

LANE = 1.2
"""Height that each arm has on the y axis: its shares from 0 to 1, and a gap."""

LANE_PIXELS = 84


def census_figure(prefix: str, arms: Sequence[Arm], max_points: int, notices: Notices) -> Figure | None:
    """Shares of groups over the rollout steps, one lane per arm; None where no arm has any.

    Args:
        prefix: Of the figure's id.
        arms: Of one comparison.
        max_points: Points of a curve.
        notices: Told of seeds that are left out.
    """
    by_kind, window = {}, 1
    for kind in KINDS:
        curves, window = mean_curves(arms, f"groups/{kind}_frac", notices)
        by_kind[kind] = {curve.arm.name: curve for curve in curves}
    drawn = [arm for arm in arms if all(arm.name in by_kind[kind] for kind in KINDS)]
    if not drawn:
        return None
    curves = {arm.name: _aligned([by_kind[kind][arm.name] for kind in KINDS]) for arm in drawn}
    curves = {name: found for name, found in curves.items() if len(found[0].steps)}
    if not curves:
        return None
    rows = [row for lane, name in enumerate(reversed(curves)) for row in _rows(name, lane, curves[name], max_points)]
    return Figure(
        id=f"{prefix}-census",
        title="What became of the groups: all wrong, mixed, all right",
        caption=_caption(curves, window),
        description=_description(curves),
        spec=specification(_chart(list(reversed(curves))), rows),
        columns=("arm", "step", "all wrong", "mixed", "all right"),
        rows=_table(curves),
    )


def _aligned(curves: Sequence[MeanCurve]) -> list[MeanCurve]:
    """The same curves at the steps that all three have."""
    steps = curves[0].steps
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.steps)
    places = [np.searchsorted(curve.steps, steps) for curve in curves]
    return [
        replace(curve, steps=steps, mean=curve.mean[at], low=curve.low[at], high=curve.high[at])
        for curve, at in zip(curves, places, strict=True)
    ]


def _rows(name: str, lane: int, curves: Sequence[MeanCurve], max_points: int) -> list[dict[str, Any]]:
    """Lower and upper edge of each kind's area, in the arm's lane: all wrong at the bottom."""
    kept = thinned([curve.mean for curve in curves], max_points)
    edges = np.cumsum([np.zeros(len(kept)), *(curve.mean[kept] for curve in curves)], axis=0)
    return [
        {
            "arm": name,
            "kind": kind.replace("_", " "),
            "step": int(step),
            "share": rounded(curve.mean[at]),
            "low": rounded(LANE * lane + edges[place, index], 6),
            "high": rounded(LANE * lane + edges[place + 1, index], 6),
        }
        for place, (kind, curve) in enumerate(zip(KINDS, curves, strict=True))
        for index, (at, step) in enumerate(zip(kept, curves[0].steps[kept], strict=True))
    ]


def _chart(lanes: Sequence[str]) -> Any:
    centres = [rounded(LANE * lane + 0.5, 6) for lane in range(len(lanes))]
    # Names of arms stand where numbers would: an expression looks them up by the lane.
    names = "[" + ", ".join(_quoted(name) for name in lanes) + "]"
    axis = alt.Axis(
        values=centres,
        labelExpr=f"{names}[round((datum.value - 0.5) / {LANE})]",
        title="share of groups, 0 to 100 % in each lane",
        grid=False,
        ticks=False,
        domain=False,
        labelLimit=110,
    )
    scale = alt.Scale(domain=[0, LANE * len(lanes) - (LANE - 1)], nice=False, zero=True)
    colour = alt.Color(
        "kind:N",
        title="groups",
        scale=alt.Scale(domain=[kind.replace("_", " ") for kind in KINDS], range=list(KIND_COLOURS)),
        legend=alt.Legend(orient="bottom", symbolType="square"),
    )
    base = alt.Chart(data()).encode(
        x=step_axis(),
        color=colour,
        detail="arm:N",
    )
    tips = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("kind:N"),
        alt.Tooltip("step:Q"),
        alt.Tooltip("share:Q", format=".1%"),
    ]
    area = base.mark_area(opacity=0.9, line=False).encode(y=alt.Y("low:Q", axis=axis, scale=scale), y2="high:Q")
    edge = base.mark_point(filled=True, size=50, opacity=0).encode(y=alt.Y("high:Q", axis=axis), tooltip=tips)
    return alt.layer(area, edge).properties(height=max(160, LANE_PIXELS * len(lanes)))


def _caption(curves: dict[str, list[MeanCurve]], window: int) -> str:
    counts = {name: found[0].num_seeds for name, found in curves.items()}
    thrown = {name: float((found[0].mean + found[2].mean).mean()) for name, found in curves.items()}
    shown = list(thrown.items())[:6]
    told = ", ".join(f"{number_text(share, 'share')} of the groups of {name}" for name, share in shown)
    smooth = f" Each point is the mean over the last {window} recorded steps." if window > 1 else ""
    return (
        "Shares of sampled groups without, with some, and with only correct completions; "
        f"{seeds_text(counts)}, mean over seeds.{smooth} GRPO's advantages are zero on all-wrong and all-right groups: "
        f"it would have thrown away {told} on average. NGRPO learns from the all-wrong ones."
    )


def _description(curves: dict[str, list[MeanCurve]]) -> str:
    told = []
    for name, found in curves.items():
        parts = [
            f"{kind.replace('_', ' ')} {number_text(curve.mean[0], 'share')} to {number_text(curve.mean[-1], 'share')}"
            for kind, curve in zip(KINDS, found, strict=True)
        ]
        told.append(f"{name}, from step {found[0].steps[0]} to {found[0].steps[-1]}: {', '.join(parts)}")
    return f"Shares of groups by kind, one lane of stacked areas per arm. {'; '.join(told)}."


def _table(curves: dict[str, list[MeanCurve]]) -> tuple[tuple[Any, ...], ...]:
    per_arm = min(11, max(2, MAX_ROWS // len(curves)))
    return tuple(
        (name, int(found[0].steps[place]), *(rounded(curve.mean[place]) for curve in found))
        for name, found in list(curves.items())[: MAX_ROWS // 2]
        for place in spread(len(found[0].steps), per_arm)
    )


def _quoted(text: str) -> str:
    """A string of Vega's expression language."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", " ") + "'"
