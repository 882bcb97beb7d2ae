"""Pictures of lab results, as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngrpo.lab.results import Row
from ngrpo.record import read_jsonl

COLOURS = {"grpo": "#4477aa", "ngrpo": "#cc3311", "base": "#555555", "sharp": "#aaaaaa"}
SMOOTHING_STEPS = 10
"""Training curves are means over this many steps: one step has a few dozen prompts only."""


def draw_quickstart(path: Path, rows: Sequence[Row], runs: Mapping[str, Sequence[Path]]) -> None:
    """Draws what training did and what it gave.

    Args:
        path: PNG to write.
        rows: Base, sharper base, then one per method, in the order of `runs`.
        runs: Run folders of each method's seeds.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(14, 7.6), layout="constrained")
    panels = (
        (axes[0, 0], "reward/correct_frac", "Sampled completions that are correct"),
        (axes[0, 1], "policy/entropy_nats", "Entropy per token (nats)"),
        (axes[0, 2], "groups/gradient_frac", "Completions that carried a gradient"),
        (axes[1, 0], "groups/all_wrong_frac", "Groups that are all wrong"),
    )
    for axis, metric, title in panels:
        for method, folders in runs.items():
            _curve(axis, [_metric(folder, metric) for folder in folders], method)
        axis.set(title=title, xlabel="rollout step")
        axis.set_ylim(bottom=0)
        axis.legend()
    for method, folders in runs.items():
        points = [_points(folder, "validation/pass_at_1") for folder in folders]
        mean = np.mean([values for _, values in points], axis=0)
        axes[1, 1].plot(points[0][0], mean, "o-", color=COLOURS[method], label=method)
        for steps, values in points:
            axes[1, 1].plot(steps, values, color=COLOURS[method], alpha=0.3, linewidth=0.8)
    axes[1, 1].set(title="Validation pass@1 (thin: single seeds)", xlabel="rollout step")
    axes[1, 1].legend()
    for row, colour in zip(rows, (COLOURS["base"], COLOURS["sharp"], *(COLOURS[m] for m in runs)), strict=True):
        _pass_at_k(axes[1, 2], row, colour)
    axes[1, 2].set(title="Held-out pass@k (95 % bands)", xlabel="k")
    axes[1, 2].set_xscale("log", base=2)
    axes[1, 2].set_xticks(rows[0].ks, [str(k) for k in rows[0].ks])
    axes[1, 2].legend(loc="lower right")
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    seeds, prompts, samples = rows[-1].num_seeds, rows[-1].num_prompts, rows[-1].num_samples
    figure.suptitle(
        f"countdown, {seeds} seed{'s' * (seeds > 1)} per method, {prompts} held-out prompts x {samples} samples; "
        f"training curves: mean over {SMOOTHING_STEPS} steps, band = range over seeds"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _curve(axis: Any, series: Sequence[NDArray[np.float64]], method: str) -> None:
    width = min(SMOOTHING_STEPS, len(series[0]))
    smooth = np.stack([np.convolve(values, np.ones(width) / width, mode="valid") for values in series])
    steps = np.arange(width, width + smooth.shape[1])
    axis.plot(steps, smooth.mean(0), color=COLOURS[method], label=method)
    axis.fill_between(steps, smooth.min(0), smooth.max(0), color=COLOURS[method], alpha=0.18, linewidth=0)


def _pass_at_k(axis: Any, row: Row, colour: str) -> None:
    ks = list(row.pass_at_k)
    values = list(row.pass_at_k.values())
    axis.plot(ks, [value.estimate for value in values], "o-", markersize=3, color=colour, label=row.name)
    axis.fill_between(
        ks, [value.low for value in values], [value.high for value in values], color=colour, alpha=0.15, linewidth=0
    )


def _metric(folder: Path, name: str) -> NDArray[np.float64]:
    return _points(folder, name)[1]


def _points(folder: Path, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows = [row for row in read_jsonl(folder / "metrics.jsonl") if name in row]
    return np.array([row["step"] for row in rows]), np.array([row[name] for row in rows], dtype=float)
