"""A comparison as a picture: both pass@k curves, and their difference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ngrpo.evaluate.compare import Comparison
from ngrpo.stats import Interval

COLOURS = ("#4477aa", "#cc3311")


def draw_comparison(path: Path, comparisons: Sequence[Comparison], labels: tuple[str, str]) -> None:
    """Draws one row per data set: pass@k of both models, and the first minus the second, with 95 % bands.

    Args:
        path: PNG to write.
        comparisons: One per data set.
        labels: What the two are called.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.9 * len(comparisons)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(comparisons), 2, squeeze=False)
    plain = [label.replace("$", r"\$") for label in labels]
    for comparison, (curves, difference) in zip(comparisons, rows, strict=True):
        passed = [comparison.quantities[f"pass@{k}"] for k in comparison.ks]
        _band(curves, comparison.ks, [value.first for value in passed], COLOURS[0], f"A: {plain[0]}")
        _band(curves, comparison.ks, [value.second for value in passed], COLOURS[1], f"B: {plain[1]}")
        data = comparison.data.replace("$", r"\$")
        curves.set(title=f"{data}, {comparison.num_problems} problems", ylabel="pass@k, % (band: 95 % over problems)")
        curves.set_ylim(0, 101)
        curves.legend(loc="lower right", fontsize="small")
        _band(difference, comparison.ks, [value.difference for value in passed], "#222222", "")
        difference.axhline(0, color="#888888", linewidth=0.8)
        difference.set(title="A minus B", ylabel="difference, points (band: 95 %, paired)")
        for axis in (curves, difference):
            axis.set_xscale("log", base=2)
            axis.set_xticks(comparison.ks, [str(k) for k in comparison.ks])
            axis.minorticks_off()
            axis.set_xlabel("k")
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _band(axis: Any, ks: Sequence[int], values: Sequence[Interval], colour: str, label: str) -> None:
    axis.plot(ks, [100 * value.estimate for value in values], "o-", markersize=4, color=colour, label=label)
    low, high = ([100 * getattr(value, end) for value in values] for end in ("low", "high"))
    axis.fill_between(ks, low, high, color=colour, alpha=0.18, linewidth=0)
