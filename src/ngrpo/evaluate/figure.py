"""pass@k over k as a picture."""

from collections.abc import Mapping
from pathlib import Path

from ngrpo.evaluate.summary import Summary

FIGURE = "pass_at_k.png"


def draw_pass_at_k(path: Path, summaries: Mapping[str, Summary]) -> None:
    """Draws pass@k with its 95 % intervals over prompts as bands, k on a log2 axis.

    Args:
        path: PNG to write.
        summaries: Label to summary: one curve each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for label, summary in summaries.items():
        values = [summary.overall.pass_at_k[k] for k in summary.ks]
        (line,) = axis.plot(summary.ks, [100 * value.estimate for value in values], "o-", markersize=4)
        # Set afterwards: a label that starts with an underscore would be left out of the legend.
        line.set_label(label.replace("$", r"\$").lstrip("_") or "samples")
        low, high = ([100 * getattr(value, end) for value in values] for end in ("low", "high"))
        axis.fill_between(summary.ks, low, high, alpha=0.18, linewidth=0, color=line.get_color())
    ks = sorted({k for summary in summaries.values() for k in summary.ks})
    axis.set_xscale("log", base=2)
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.minorticks_off()
    axis.set(xlabel="k", ylabel="pass@k, % (band: 95 % interval over prompts)")
    axis.set_ylim(0, 101)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=130)
