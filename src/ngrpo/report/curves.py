"""Metrics over the rollout steps: means over seeds with the range of the seeds behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from ngrpo.record import METRICS
from ngrpo.report.arms import Arm, MeanCurve, banded, bands_text, mean_curves, seeds_text, thinned
from ngrpo.report.charts import (
    HEIGHT,
    MAX_ROWS,
    arm_colour,
    arm_dash,
    band_opacity,
    data,
    number_text,
    only_of,
    rounded,
    specification,
    spread,
    step_axis,
)
from ngrpo.report.model import Figure
from ngrpo.report.records import Notices

MAX_POINTS = 200
"""Most points of a curve."""

MIN_POINTS = 16
"""Fewest, however many curves share the page."""

POINTS_IN_ALL = 16_000
"""Points of all curves of a page, so that it stays under its size."""


@dataclass(frozen=True)
class CurvePlan:
    """A figure of one metric.

    Attributes:
        metric: As in `record.metrics`.
        title: What it shows.
        axis: Title of the y axis; the unit is added where it is not a share.
        remark: What a reader should know beyond the metric's meaning.
        is_noisy: Whether it is of one step's few prompts, and long curves are smoothed.
    """

    metric: str
    title: str
    axis: str
    remark: str = ""
    is_noisy: bool = True


LEARNING = (
    CurvePlan("validation/pass_at_1", "Validation pass@1 during training", "validation pass@1", is_noisy=False),
    CurvePlan("reward/correct_frac", "Sampled completions that are correct", "correct completions"),
    CurvePlan("reward/mean", "Mean reward of the sampled completions", "mean reward"),
    CurvePlan(
        "optim/num_updates",
        "Optimiser updates made",
        "optimiser updates",
        "Methods that drop groups may make fewer updates from as many rollouts: an advantage at equal steps may be "
        "one of updates.",
        is_noisy=False,
    ),
)
GENERATION = (
    CurvePlan(
        "policy/entropy_nats",
        "Entropy of the policy",
        "entropy per sampled token",
        "Falling entropy is sharpening: pass@1 can rise while pass@k at large k falls.",
    ),
    CurvePlan("completion/mean_tokens", "Length of the completions", "mean completion length"),
    CurvePlan("completion/correct_mean_tokens", "Length of correct completions", "mean length, correct"),
    CurvePlan("completion/wrong_mean_tokens", "Length of wrong completions", "mean length, wrong"),
    CurvePlan("completion/truncated_frac", "Completions cut off by the token limit", "cut off"),
)
UPDATES = (
    CurvePlan(
        "loss/clip_high_frac",
        "Clipped tokens with positive advantage",
        "clipped by the upper bound",
        "Where hardly any token is clipped, asymmetric clipping cannot matter.",
    ),
    CurvePlan(
        "loss/clip_low_frac",
        "Clipped tokens with negative advantage",
        "clipped by the lower bound",
        "Where hardly any token is clipped, asymmetric clipping cannot matter.",
    ),
    CurvePlan("groups/gradient_frac", "Completions that carried a gradient", "completions with a gradient"),
    CurvePlan("loss/grad_norm", "Gradient norm before clipping", "gradient norm"),
)


def points_per_curve(num_curves: int) -> int:
    """How many points each curve may have, where there are this many on the page.

    Example:
        >>> points_per_curve(10), points_per_curve(200), points_per_curve(10_000)
        (200, 80, 16)
    """
    return max(MIN_POINTS, min(MAX_POINTS, POINTS_IN_ALL // max(1, num_curves)))


def curve_figures(
    prefix: str, arms: Sequence[Arm], plans: Sequence[CurvePlan], max_points: int, notices: Notices
) -> list[Figure]:
    """A figure of each metric that any arm has.

    Args:
        prefix: Of the figures' ids.
        arms: Of one comparison.
        plans: Which metrics.
        max_points: Points of a curve.
        notices: Told of seeds that are left out.
    """
    found = ((plan, *mean_curves(arms, plan.metric, notices, is_noisy=plan.is_noisy)) for plan in plans)
    return [_figure(prefix, arms, plan, curves, window, max_points) for plan, curves, window in found if curves]


def _figure(
    prefix: str, arms: Sequence[Arm], plan: CurvePlan, curves: Sequence[MeanCurve], window: int, max_points: int
) -> Figure:
    drawn = [curve.arm for curve in arms_in_order(arms, curves)]
    unit = METRICS[plan.metric].unit
    rows = [row for curve in curves for row in _rows(curve, max_points)]
    return Figure(
        id=f"{prefix}-{plan.metric.replace('/', '-').replace('_', '-')}",
        title=plan.title,
        caption=_caption(plan, curves, window),
        description=_description(plan, curves, unit),
        spec=specification(_chart(plan, drawn, unit, has_band=any(curve.num_seeds > 1 for curve in curves)), rows),
        columns=("arm", "step", "mean", "lowest seed", "highest seed", "seeds"),
        rows=_table(curves),
    )


def arms_in_order(arms: Sequence[Arm], curves: Sequence[MeanCurve]) -> list[MeanCurve]:
    """Curves in the order of the arms, so that legends agree between figures."""
    return sorted(curves, key=lambda curve: arms.index(curve.arm))


def _rows(curve: MeanCurve, max_points: int) -> list[dict[str, Any]]:
    kept = thinned([curve.mean, curve.low, curve.high], max_points)
    columns = (curve.steps[kept], curve.mean[kept], curve.low[kept], curve.high[kept])
    return [
        {"arm": curve.arm.name, "step": int(step), "mean": rounded(mean), "low": rounded(low), "high": rounded(high)}
        for step, mean, low, high in zip(*columns, strict=True)
    ]


def _chart(plan: CurvePlan, arms: Sequence[Arm], unit: str, *, has_band: bool) -> Any:
    is_share = unit == "share"
    title = plan.axis if is_share or unit in plan.axis else f"{plan.axis} ({unit})"
    axis = alt.Axis(title=title, **({"format": "~%"} if is_share else {}))
    is_picked = alt.selection_point(name="arms", fields=["arm"], bind="legend")
    x = step_axis()
    y = alt.Y("mean:Q", axis=axis, scale=alt.Scale(zero=unit not in ("nats", "tokens")))
    colour, dash = arm_colour(arms), arm_dash(arms)
    number_format = ".1%" if is_share else ".4~g"
    tips = [alt.Tooltip("arm:N"), alt.Tooltip("step:Q", title="step")] + [
        alt.Tooltip(f"{name}:Q", title=title, format=number_format)
        for name, title in (("mean", "mean"), ("low", "lowest seed"), ("high", "highest seed"))
    ]
    base = alt.Chart(data()).encode(x=x, color=colour)
    is_lit = alt.condition(is_picked, alt.value(band_opacity(len(banded(arms)))), alt.value(0.02))
    band = base.transform_filter(only_of(banded(arms))).mark_area()
    band = band.encode(y=alt.Y("low:Q", axis=axis), y2="high:Q", opacity=is_lit)
    line = base.mark_line(strokeWidth=2).encode(
        y=y, strokeDash=dash, opacity=alt.condition(is_picked, alt.value(1), alt.value(0.12))
    )
    targets = base.mark_point(filled=True, size=60, opacity=0).encode(y=y, tooltip=tips)
    return alt.layer(*([band] if has_band else []), line.add_params(is_picked), targets).properties(height=HEIGHT)


def _caption(plan: CurvePlan, curves: Sequence[MeanCurve], window: int) -> str:
    meaning = METRICS[plan.metric].meaning
    counts = {curve.arm.name: curve.num_seeds for curve in curves}
    several = any(count > 1 for count in counts.values())
    parts = [
        f"{meaning[0].upper()}{meaning[1:]}; {seeds_text(counts)}.",
        f"Each point is the mean over the last {window} recorded steps." if window > 1 else "Nothing is smoothed.",
        "Line: mean over seeds; band: from the lowest to the highest seed, which is no confidence interval."
        + bands_text([curve.arm for curve in curves])
        if several
        else "With one seed there is no band: what differs may be chance.",
        plan.remark,
    ]
    return " ".join(part for part in parts if part)


def _description(plan: CurvePlan, curves: Sequence[MeanCurve], unit: str) -> str:
    told = []
    for curve in curves:
        first, last = number_text(curve.mean[0], unit), number_text(curve.mean[-1], unit)
        at_end = ""
        if curve.num_seeds > 1:
            at_end = f" (seeds: {number_text(curve.low[-1], unit)} to {number_text(curve.high[-1], unit)})"
        told.append(f"{curve.arm.name}: from {first} at step {curve.steps[0]} to {last}{at_end} at {curve.steps[-1]}")
    return f"{plan.title}, by rollout step. {'; '.join(told)}."


def _table(curves: Sequence[MeanCurve]) -> tuple[tuple[Any, ...], ...]:
    per_arm = max(2, MAX_ROWS // max(1, len(curves)))
    return tuple(
        (curve.arm.name, int(curve.steps[place]), *(rounded(each[place]) for each in _columns(curve)), curve.num_seeds)
        for curve in curves[: MAX_ROWS // 2]
        for place in spread(len(curve.steps), min(per_arm, 11))
    )


def _columns(curve: MeanCurve) -> tuple[Any, Any, Any]:
    return curve.mean, curve.low, curve.high
