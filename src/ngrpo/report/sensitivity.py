"""Sensitivity to settings: heat maps of grids, intervals along single settings, advantages under virtual rewards.

`lab/sensitivity.py` documents the `grid` and the `advantages` of results.json that are drawn here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from ngrpo.report.arms import styled
from ngrpo.report.charts import MAX_ROWS, arm_colour, arm_dash, data, rounded, specification, zero_line
from ngrpo.report.effects import conditions
from ngrpo.report.fields import list_in, number_in, readable, table_in, text_in
from ngrpo.report.model import Figure
from ngrpo.report.records import Notices
from ngrpo.report.shapes import heat_map

SHOWN = ("pass@1", "AUC", "entropy")
"""Quantities that have figures, by how their names begin; the tables have all."""

Entry = Mapping[str, Any]

COLUMNS = ("estimate", "low", "high", "difference", "difference low", "difference high", "established")


def grid_figures(prefix: str, results: Mapping[str, Any], notices: Notices) -> list[Figure]:
    """A figure of each axis and quantity, and of the advantages.

    Args:
        prefix: Of the figures' ids.
        results: `results.json`.
        notices: Told of entries that are not as `lab/sensitivity.py` documents them: these are left out.

    Raises:
        DataError: `grid` is no list.
    """
    by_figure: dict[tuple[str, str, str], list[Entry]] = {}
    listed = list_in(results, "grid") if "grid" in results else []
    for entry in readable(listed, _checked, "results.json, grid", notices):
        if str(entry["quantity"]).startswith(SHOWN):
            key = (str(entry.get("prompts", "all")), str(entry["axis"]), str(entry["quantity"]))
            by_figure.setdefault(key, []).append(entry)
    about = conditions(results)
    figures = [_figure(prefix, *key, entries, about) for key, entries in by_figure.items()]
    return [*figures, *_advantages(prefix, results.get("advantages") or ())]


def _checked(entry: Entry) -> Entry:
    """The same, where every field that is drawn is of its kind; one seed establishes nothing."""
    for name in ("axis", "quantity", "unit", "arm"):
        text_in(entry, name)
    for name in ("x", "estimate", "low", "high"):
        number_in(entry, name)
    entry = {"x_name": "", "y_name": "", "y": None, "difference": None, **entry}
    if entry["difference"] is None:
        return entry
    difference = table_in(entry, "difference")
    for name in ("estimate", "low", "high"):
        number_in(difference, name)
    established = None if entry.get("num_seeds") == 1 else difference.get("established")
    return entry | {"difference": {**difference, "established": established}}


def _figure(prefix: str, prompts: str, axis: str, quantity: str, entries: Sequence[Entry], about: str) -> Figure:
    first = entries[0]
    x_name, y_name = (str(first[name] or "").replace("_", " ") for name in ("x_name", "y_name"))
    is_grid = all(isinstance(entry["y"], int | float) for entry in entries)
    compared = [entry for entry in entries if entry["difference"]]
    where = "" if prompts == "all" else f" on {prompts} prompts"
    unit = compared[0]["difference"].get("unit", "points") if compared else first["unit"]
    title = f"difference in {quantity} ({unit})" if compared else f"{quantity} ({unit})"
    if is_grid:
        spec = _map(entries, x_name, y_name, title)
        how = "Colour: the difference from the published setting, paired by seed and prompt." if compared else ""
    elif compared:
        # What all are compared with is a point of the line; where each has a reference of its own, none is.
        spec = _line([entry for entry in entries if entry["difference"] or not y_name], x_name, title)
        how = f"Differences from {_references(compared)}, paired by seed and prompt, with 95 % intervals."
    else:
        spec = _line(entries, x_name, title)
        how = "With 95 % intervals."
    stars = " * An established difference." if any(entry["difference"]["established"] for entry in compared) else ""
    told = "; ".join(f"{_place(entry)} {_text(entry)}" for entry in entries)
    return Figure(
        id=f"{prefix}-grid-{axis}-{quantity}{'' if prompts == 'all' else f'-{prompts}'}".replace(" ", "-")
        .replace("_", "-").replace("@", "-at-").replace("..", "-").lower(),
        title=f"{quantity}{where} by {x_name}{f' and {y_name}' if y_name else ''}",
        caption=f"{quantity}{where} in {first['unit']}. {how}{stars} Of many cells some leave out the truth by chance, "
        f"and the best one looks better than it is. {about}",
        description=f"{quantity}{where} by setting: {told}.",
        spec=spec,
        columns=(x_name, y_name or "arm", *COLUMNS),
        rows=tuple((entry["x"], entry["y" if y_name else "arm"], *_numbers(entry)) for entry in entries)[:MAX_ROWS],
    )  # fmt: skip


def _references(compared: Sequence[Entry]) -> str:
    names = {str(entry.get("reference") or "the published setting") for entry in compared}
    return names.pop() if len(names) == 1 else "the arm of the same setting that each is paired with"


_NO_DIFFERENCE = {"estimate": 0.0, "low": 0.0, "high": 0.0}
"""Of the published setting from itself."""


def _map(entries: Sequence[Entry], x_name: str, y_name: str, title: str) -> dict[str, Any]:
    """A heat map of differences where there are any, else of estimates."""
    has_differences = any(entry["difference"] for entry in entries)
    rows = [
        {
            "x": f"{entry['x']:g}",
            "y": f"{entry['y']:g}",
            "value": rounded((entry["difference"] or _NO_DIFFERENCE if has_differences else entry)["estimate"]),
            "text": _text(entry),
            "tip": f"{entry['arm']}: {entry['low']:.3g} to {entry['high']:.3g} {entry['unit']}",
        }
        for entry in sorted(entries, key=lambda entry: (-entry["y"], entry["x"]))
    ]  # fmt: skip
    xs, ys = (list(dict.fromkeys(row[axis] for row in rows)) for axis in ("x", "y"))
    xs.sort(key=float)
    return heat_map(rows, xs=xs, ys=ys, x_title=x_name, y_title=y_name, value_title=title, is_signed=has_differences)


def _line(entries: Sequence[Entry], x_name: str, title: str) -> dict[str, Any]:
    """Differences, or where there are none estimates, with intervals along one setting; a line for each method."""
    has_differences = any(entry["difference"] for entry in entries)
    rows = [
        {"x": f"{entry['x']:.3g}", "arm": str(entry["y"] or "ngrpo"), "text": _text(entry)}
        | {name: rounded(shown[name]) for name in ("estimate", "low", "high")}
        | {"star": "*" if shown.get("established") else ""}
        for entry in sorted(entries, key=lambda entry: entry["x"])
        for shown in [entry["difference"] or _NO_DIFFERENCE if has_differences else entry]
    ]
    arms = styled({row["arm"]: [] for row in rows})
    xs = list(dict.fromkeys(row["x"] for row in rows))
    base = alt.Chart(data()).encode(
        x=alt.X("x:O", sort=xs, title=x_name, axis=alt.Axis(labelAngle=0)),
        color=arm_colour(arms, "method"),
    )
    # Beside each other: intervals at the same place would hide each other.
    offset = alt.XOffset("arm:N", sort=[arm.name for arm in arms]) if len(arms) > 1 else alt.Undefined
    line = base.mark_line(opacity=0.5).encode(
        y=alt.Y("estimate:Q", title=title, scale=alt.Scale(zero=False)),
        strokeDash=arm_dash(arms, "method"),
        xOffset=offset,
    )
    ends = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=title), y2="high:Q", xOffset=offset)
    tips = ["arm:N", alt.Tooltip("x:O", title=x_name), alt.Tooltip("text:N", title=title)]
    points = base.mark_point(filled=True, size=50).encode(y="estimate:Q", xOffset=offset, tooltip=tips)
    stars = base.mark_text(dx=9, fontSize=16).encode(y="estimate:Q", text="star:N", xOffset=offset)
    zero = [zero_line().encode(y=alt.Y("zero:Q", title=title))] if has_differences else []
    return specification(alt.layer(*zero, line, ends, points, stars).properties(height=280), rows)


def _advantages(prefix: str, table: Sequence[Entry]) -> list[Figure]:
    """What virtual rewards do to the advantages of correct and of wrong completions."""
    figures = []
    for kind in ("correct", "wrong") if table else ():
        rows = [
            {"x": str(count), "y": _virtual(entry), "value": rounded(value), "text": f"{value:+.2f}"}
            for entry in table for count, value in enumerate(entry[kind]) if value is not None and entry["kept"][count]
        ]  # fmt: skip
        from_on = [(_virtual(entry), entry["punished_from"]) for entry in table if entry["punished_from"] is not None]
        punished = [f"{name} from {count} correct on" for name, count in from_on]
        told = "; ".join(
            f"{_virtual(entry)}: {', '.join(f'{v:+.2f}' for v in entry[kind] if v is not None)}" for entry in table
        )
        figures.append(
            Figure(
                id=f"{prefix}-virtual-advantage-{kind}",
                title=f"What virtual rewards make of a {kind} completion",
                caption=f"Advantage by the number of correct ones among {table[0]['group_size']}; groups that are "
                "dropped are left out. Computed: nothing was trained or sampled. All-wrong groups get the same "
                "whatever a virtual reward is worth; a large one punishes correct completions "
                f"({'; '.join(punished) or 'none here'}).",
                description=f"Advantages of a {kind} completion for rising numbers of correct ones. {told}.",
                spec=heat_map(
                    rows, xs=[str(count) for count in range(table[0]["group_size"] + 1)], 
                    ys=[_virtual(entry) for entry in table],
                    x_title="correct completions in the group", y_title="virtual rewards",
                    value_title="advantage", is_signed=True, value_format="+.1f",
                ),
                columns=("virtual rewards", "correct completions", "advantage"),
                rows=tuple((row["y"], int(row["x"]), row["value"]) for row in rows)[:MAX_ROWS],
            )
        )  # fmt: skip
    return figures


def _virtual(entry: Entry) -> str:
    reward = entry["virtual_reward"]
    return "none (GRPO)" if reward is None else f"{entry['num_virtual']} x {reward:g}"


def _place(entry: Entry) -> str:
    y = "" if entry["y"] is None else f", {entry['y']}"
    return f"at {entry['x']:.3g}{y}"


def _text(entry: Entry) -> str:
    """The number, and its difference from the reference: `27.3 (+0.4*)`, in nats `0.534 (-0.052*)`."""
    digits = 1 if entry["unit"] in ("percent", "points") else 3
    number, difference = f"{entry['estimate']:.{digits}f}", entry["difference"]
    if not difference:
        return number
    return f"{number} ({difference['estimate']:+.{digits}f}{'*' * bool(difference['established'])})"


def _numbers(entry: Entry) -> tuple[Any, ...]:
    difference = entry["difference"] or {}
    own = (rounded(entry[name]) for name in ("estimate", "low", "high"))
    other = (rounded(difference.get(name)) for name in ("estimate", "low", "high"))
    return (*own, *other, difference.get("established"))
