"""What all figures have in common: how a chart becomes a specification, axes, colours, rounding, words for numbers.

Every specification is one view (layers, never panels side by side), so that its width can follow the page's. Inline
rows name their arm `arm`. No colour of text, grid or background is set: the page's configuration says them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from ngrpo.report.arms import Arm

DIGITS = 4
"""Significant digits of numbers in charts and their tables."""

MAX_ROWS = 200
"""About how many rows the table behind a chart has."""

ROWS = "rows"
"""Name of the data set in every specification."""

HEIGHT = 280
"""Of an ordinary chart, in pixels."""

_UNITLESS = ("norm", "reward", "updates")
"""Units that the name of what is counted says already."""


def specification(chart: alt.TopLevelMixin, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A Vega-Lite specification with its data inline, as wide as its container, on no background of its own.

    Args:
        chart: Drawn from `data()`.
        rows: What `data()` stands for. Put in afterwards: altair would check every number against the schema.
    """
    spec = chart.properties(width="container", background="transparent").to_dict()
    spec.pop("config", None)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec["datasets"] = {**spec.get("datasets", {}), ROWS: [dict(row) for row in rows]}
    return spec


def data() -> Any:
    """The rows of a chart, which `specification` puts in."""
    return alt.NamedData(name=ROWS)


def step_axis() -> Any:
    """Rollout steps: whole numbers only."""
    axis = alt.Axis(tickMinStep=1, format="d")
    return alt.X("step:Q", title="rollout step", scale=alt.Scale(nice=False), axis=axis)


def only_of(arms: Sequence[Arm]) -> Any:
    """Rows of these arms."""
    return alt.FieldOneOfPredicate(field="arm", oneOf=[arm.name for arm in arms])


def band_opacity(num_arms: int) -> float:
    """Of each band, so that many of them do not hide the lines."""
    return 0.18 * min(1.0, 4 / max(1, num_arms))


def zero_line() -> Any:
    """A thin line at zero, to be put on an axis as `zero:Q`."""
    return alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(opacity=0.5, strokeDash=[3, 3])


def arm_colour(arms: Sequence[Arm], title: str = "arm") -> Any:
    """The colour of each arm, with a legend below, so that a narrow page keeps its width for the chart."""
    return alt.Color(
        "arm:N",
        title=title,
        scale=alt.Scale(domain=[arm.name for arm in arms], range=[arm.colour for arm in arms]),
        legend=_legend(),
    )


def arm_dash(arms: Sequence[Arm], title: str = "arm") -> Any:
    """The dashes of each arm, so that colour is not all that tells them apart."""
    return alt.StrokeDash(
        "arm:N",
        title=title,
        scale=alt.Scale(domain=[arm.name for arm in arms], range=[list(arm.dash) for arm in arms]),
        legend=_legend(),
    )


def _legend() -> Any:
    return alt.Legend(orient="bottom", columns=3, symbolType="stroke", symbolSize=200, symbolOpacity=1, labelLimit=260)


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """A number with few significant digits; whole ones stay whole, what is not finite becomes None.

    Example:
        >>> rounded(0.123456), rounded(123456.7), rounded(float("nan")), rounded(7)
        (0.1235, 123500, None, 7)
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    value = float(value)
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) >= 10 ** (digits - 1) else short


def number_text(value: float, unit: str = "") -> str:
    """A number in words: shares in percent.

    Example:
        >>> number_text(0.1234, "share"), number_text(0.5, "nats"), number_text(12.0, "tokens")
        ('12.3 %', '0.5 nats', '12 tokens')
    """
    if unit == "share":
        return f"{100 * value:.1f} %"
    return f"{value:.3g} {'' if unit in _UNITLESS else unit}".strip()


def interval_text(estimate: float, low: float, high: float, unit: str = "") -> str:
    """A number with its interval.

    Example:
        >>> interval_text(0.25, 0.2, 0.3, "share")
        '25.0 % (20.0 to 30.0)'
    """
    if unit == "share":
        return f"{100 * estimate:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    return f"{number_text(estimate, unit)} ({low:.3g} to {high:.3g})"


def spread(length: int, count: int) -> list[int]:
    """Evenly spaced places, the first and the last among them.

    Example:
        >>> spread(100, 4), spread(3, 10)
        ([0, 33, 66, 99], [0, 1, 2])
    """
    if length <= count:
        return list(range(length))
    return sorted({round(place * (length - 1) / (count - 1)) for place in range(count)}) if count > 1 else [length - 1]
