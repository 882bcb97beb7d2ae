"""pass@k curves with 95 % bands, and the table of differences."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import NDArray

from ngrpo.report.arms import Arm, banded, bands_text, seeds_text
from ngrpo.report.charts import (
    MAX_ROWS,
    arm_colour,
    arm_dash,
    band_opacity,
    data,
    interval_text,
    only_of,
    rounded,
    specification,
)
from ngrpo.report.coverage import Coverage, PromptSet, common_max_k, difference, exact_sets, interval_of, sampled_sets
from ngrpo.report.model import Figure, Table
from ngrpo.report.records import Notices
from ngrpo.stats import Interval

REFERENCES = ("grpo", "base")
"""Arms that the others are compared with, where they are there."""

SHOWN_KS = (1, 8, 64)


def pass_at_k_figures(
    prefix: str, arms: Sequence[Arm], notices: Notices, *, has_tables: bool
) -> tuple[list[Figure], list[Table]]:
    """A figure of each set of prompts, and tables where the experiment has none of its own.

    Args:
        prefix: Of the figures' ids.
        arms: Of one comparison.
        notices: Told of what is not comparable.
        has_tables: Whether the experiment brings tables: then these here would say the same twice.
    """
    sets = sampled_sets(arms, notices)
    figures = [_figure(f"{prefix}-pass-at-k{f'-{number}' * (number > 1)}", each) for number, each in enumerate(sets, 1)]
    figures += [_figure(f"{prefix}-pass-at-k-exact", each) for each in exact_sets(arms, notices)]
    tables = [] if has_tables else [table for each in sets for table in _tables(each)]
    return figures, tables


def _figure(figure_id: str, prompts: PromptSet) -> Figure:
    coverages = prompts.coverages
    exact = ", exact" if prompts.is_exact else ""
    rows = [row for coverage in coverages for row in _rows(coverage)]
    return Figure(
        id=figure_id,
        title=f"pass@k on held-out prompts{exact}",
        caption=_caption(prompts),
        description=_description(prompts),
        spec=specification(_chart([coverage.arm for coverage in coverages], sorted({row["k"] for row in rows})), rows),
        columns=("arm", "k", "pass@k", "low", "high", "seeds"),
        rows=tuple(
            (row["arm"], row["k"], row["estimate"], row["low"], row["high"], len(coverage.values))
            for coverage in coverages
            for row in _rows(coverage)
        )[:MAX_ROWS],
    )


def _rows(coverage: Coverage) -> list[dict[str, Any]]:
    found = coverage.interval
    return [
        {"arm": coverage.arm.name, "k": k, "estimate": rounded(mean), "low": rounded(low), "high": rounded(high)}
        for k, mean, low, high in zip(coverage.ks, found.estimate, found.low, found.high, strict=True)
    ]


def _chart(arms: Sequence[Arm], ks: Sequence[int]) -> Any:
    axis = alt.Axis(values=ks, format="d", title="k (samples per prompt, log scale)")
    share = alt.Axis(format="~%", title="pass@k")
    is_picked = alt.selection_point(name="arms", fields=["arm"], bind="legend")
    # nice would widen a log axis to the next power: an empty half of the figure.
    scale = alt.Scale(type="log", base=2, nice=False, domain=[ks[0], ks[-1] if len(ks) > 1 else 2 * ks[0]])
    base = alt.Chart(data()).encode(x=alt.X("k:Q", scale=scale, axis=axis), color=arm_colour(arms))
    y = alt.Y("estimate:Q", axis=share)
    is_lit = alt.condition(is_picked, alt.value(band_opacity(len(banded(arms)))), alt.value(0.02))
    band = base.transform_filter(only_of(banded(arms))).mark_area()
    band = band.encode(y=alt.Y("low:Q", axis=share), y2="high:Q", opacity=is_lit)
    is_shown = alt.condition(is_picked, alt.value(1), alt.value(0.12))
    line = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=arm_dash(arms), opacity=is_shown)
    tips = [alt.Tooltip("arm:N"), alt.Tooltip("k:Q")] + [
        alt.Tooltip(f"{name}:Q", title=title, format=".1%")
        for name, title in (("estimate", "pass@k"), ("low", "95 % low"), ("high", "95 % high"))
    ]
    points = base.mark_point(filled=True, size=36).encode(y=y, tooltip=tips, opacity=is_shown)
    return alt.layer(band, line.add_params(is_picked), points).properties(height=340)


def _caption(prompts: PromptSet) -> str:
    coverages = prompts.coverages
    counts = {coverage.arm.name: len(coverage.values) for coverage in coverages}
    ks = sorted({(coverage.ks[0], coverage.ks[-1]) for coverage in coverages})
    if prompts.is_exact:
        what, samples = "Exact chance", "computed from the probability of a right answer, nothing was sampled"
        if any(coverage.temperature is not None for coverage in coverages):
            samples += f"; {_temperatures(coverages)}"
    else:
        sizes = sorted({coverage.num_samples for coverage in coverages if coverage.num_samples})
        what = "Unbiased estimate of the chance"
        samples = f"{_range(sizes)} samples of each; {_temperatures(coverages)}"
    of_data = f" of {prompts.name}" if prompts.name else ""
    bands = (
        "over seeds and prompts, over prompts alone (Wilson) where there is one seed"
        if any(count > 1 for count in counts.values())
        else "over prompts (Wilson): with one seed the chance of training is not in them"
    )
    return (
        f"{what} that at least one of k samples is correct. {seeds_text(counts)}; {prompts.num_prompts} "
        f"prompts{of_data}; {samples}; k from {ks[0][0]} to {_range([end for _, end in ks])}. Bands: 95 % "
        f"intervals {bands}.{bands_text([each.arm for each in coverages])} "
        "Bands that overlap may still differ in pairs: see the differences."
    )


def _temperatures(coverages: Sequence[Coverage]) -> str:
    by_value: dict[Any, list[str]] = {}
    for coverage in coverages:
        by_value.setdefault(coverage.temperature, []).append(coverage.arm.name)
    if len(by_value) == 1:
        return f"temperature {_or_unknown(next(iter(by_value)))}"
    most = max(by_value, key=lambda value: len(by_value[value]))
    others = [(name, value) for value, names in by_value.items() if value != most for name in names]
    told = (name if name.endswith(f"T={_or_unknown(value)}") else f"{name} ({_or_unknown(value)})"
            for name, value in others)  # fmt: skip
    return f"temperature {_or_unknown(most)}, except {', '.join(told)}"


def _or_unknown(value: Any) -> str:
    return "unknown" if value is None else f"{value:g}"


def _range(values: Sequence[int]) -> str:
    different = sorted(set(values))
    return str(different[0]) if len(different) == 1 else f"{different[0]} to {different[-1]}"


def _description(prompts: PromptSet) -> str:
    told = []
    for coverage in prompts.coverages:
        found, ks = coverage.interval, coverage.ks
        places = sorted({0, *(ks.index(k) for k in SHOWN_KS if k in ks), len(ks) - 1})
        values = ", ".join(
            f"pass@{ks[at]} {interval_text(found.estimate[at], found.low[at], found.high[at], 'share')}"
            for at in places
        )
        told.append(f"{coverage.arm.name}: {values}")
    return f"pass@k against k on a log scale, with 95 % intervals. {'; '.join(told)}."


def _tables(prompts: PromptSet) -> list[Table]:
    """Every arm's numbers, and differences from GRPO and from the base, paired."""
    max_k = common_max_k(prompts.coverages)
    ks = [k for k in SHOWN_KS if all(k in coverage.ks for coverage in prompts.coverages)]
    names = [*(f"pass@{k}" for k in ks), *([f"AUC 1..{max_k}"] if max_k > 1 else [])]
    about = _caption(prompts).partition(" Bands:")[0].partition("correct. ")[2]
    rows = []
    for coverage in prompts.coverages:
        found = interval_of(_quantities(coverage, ks, max_k))
        rows.append((coverage.arm.name, *_cells(found, "{:.1f} ({:.1f} to {:.1f})"), str(len(coverage.values))))
    tables = [Table("pass@k of each arm, percent", f"{about}", ("arm", *names, "seeds"), tuple(rows))]
    by_name = {coverage.arm.name: coverage for coverage in prompts.coverages}
    compared = []
    for reference in (by_name[name] for name in REFERENCES if name in by_name):
        others = [each for each in prompts.coverages if each is not reference and each.arm.role != "base"]
        compared += [_difference_row(each, reference, ks, max_k) for each in others]
    if found := [row for row in compared if row]:
        several = any(row[-1] != "1" for row in found)
        verdict = (
            "* marks a difference whose interval excludes zero; all others are not established."
            if several
            else "Of one seed: intervals are over prompts only and say nothing of another seed, so none is marked."
        )
        caption = (
            f"{about} Differences in points, paired by prompt{' and by seed' * several}, with 95 % intervals. "
            f"{verdict} An interval without width means that all samples came out alike, not that this is certain."
        )
        tables.append(Table("Differences of pass@k, points", caption, ("difference", *names, "seeds"), tuple(found)))
    return tables


def _quantities(coverage: Coverage, ks: Sequence[int], max_k: int) -> NDArray[np.float64]:
    """[S, P, M] pass@k at some k, and the area up to `max_k`."""
    values = [coverage.values[:, :, coverage.ks.index(k)] for k in ks]
    return np.stack([*values, coverage.until(max_k)] if max_k > 1 else values, axis=-1)


def _difference_row(one: Coverage, other: Coverage, ks: Sequence[int], max_k: int) -> tuple[str, ...] | None:
    """Over the seeds that both have; None where they share none."""
    mine, theirs = _quantities(one, ks, max_k), _quantities(other, ks, max_k)
    if other.arm.role != "base":
        shared = [seed for seed in one.seeds if seed is not None and seed in other.seeds]
        if not shared:
            return None
        mine = mine[[one.seeds.index(seed) for seed in shared]]
        theirs = theirs[[other.seeds.index(seed) for seed in shared]]
    elif len(theirs) > 1:
        theirs = theirs.mean(axis=0, keepdims=True)
    star = "{star}" if len(mine) > 1 else ""  # one seed says nothing of another
    cells = _cells(difference(mine, theirs), f"{{:+.1f}}{star} ({{:+.1f}} to {{:+.1f}})")
    return (f"{one.arm.name} - {other.arm.name}", *cells, str(len(mine)))


def _cells(found: Interval, form: str) -> list[str]:
    """Shares in percent, with a star where an interval excludes zero."""
    ends = np.atleast_2d(np.stack([found.estimate, found.low, found.high], axis=-1)) * 100
    return [form.format(*row, star="*" if row[1] > 0 or row[2] < 0 else "") for row in ends]
