"""How the time of a step grows with its size: seconds of processor time of ours, and the exponents that fit them.

One number grows, the others stay: a tiny model, 8 prompts of 50 tokens, 8 completions of 64 tokens each, none ending
early. The exponent is the slope of the logarithm of the time over that of the size: 1 is linear, below 1 means that a
larger step costs less for each token. Of the model it is the number of its weights that counts, head included.

    python benchmarks/growth.py
    python benchmarks/growth.py --repeats 3 --json
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from transformers.utils import logging

import bench
from ngrpo.rollout import NativeEngine
from ngrpo.train import loop
from shapes import SHAPES, Setting, Shape, make_run

BASE = Setting(SHAPES["tiny"], num_prompts=8, max_tokens=64, ends_early=False, prompt_tokens=(50, 50))

MODELS = {
    shape.num_layer_weights + shape.num_head_weights: shape
    for shape in (
        Shape(64, 2, 2, 1, 256, 2048, 48),
        Shape(128, 4, 4, 2, 512, 2048, 48),
        Shape(256, 6, 4, 2, 768, 2048, 48),
        Shape(512, 8, 8, 2, 1408, 2048, 48),
    )
}

GROWTH: dict[str, tuple[tuple[int, ...], Callable[[int], Setting]]] = {
    "prompts": ((4, 8, 16, 32), lambda size: replace(BASE, num_prompts=size)),
    "group size": ((4, 8, 16, 32), lambda size: replace(BASE, group_size=size)),
    "completion tokens": ((32, 64, 128, 256), lambda size: replace(BASE, max_tokens=size)),
    "prompt tokens": ((25, 50, 100, 200, 400), lambda size: replace(BASE, prompt_tokens=(size, size))),
    "vocabulary": (
        (2048, 8192, 32_768, 131_072),
        lambda size: replace(BASE, num_prompts=4, shape=replace(BASE.shape, vocabulary=size)),
    ),
    "weights": (tuple(MODELS), lambda size: replace(BASE, num_prompts=4, shape=MODELS[size])),
}
"""Sizes, and the setting of each."""


def seconds_of_step(setting: Setting, phases: bench.Phases, repeats: int) -> dict[str, float]:
    """Median processor seconds of a step and of its two halves."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), setting)

        def step(repeat: int) -> float:
            loop.train_step(run, lambda: False)
            taken.append(phases.take())
            return 1.0

        taken: list[dict[str, float]] = []
        laps = bench.interleave({"step": step}, repeats=repeats)["step"]
        run.close()
    halves = {name: median(each[name] for each in taken[1:]) for name in ("sampling", "update")}
    return {"step": median(lap.cpu_s for lap in laps), **halves}


def main() -> None:
    """Prints a row per size and one per fit."""
    parser = bench.arguments(__doc__, repeats=1)
    parser.add_argument("--what", nargs="+", choices=GROWTH, metavar="NAME", default=list(GROWTH))
    options = parser.parse_args()
    logging.set_verbosity_error()
    phases = bench.Phases(is_alone=True)
    phases.watch(NativeEngine, "sample", "sampling")
    phases.watch(loop, "update_policy", "update")
    columns = {"what": "what grows", "size": "size", "step": "step, CPU s", "sampling": "sampling", "update": "update"}
    report = bench.Report(options, columns)
    fits = [grow(what, report, phases, options) for what in options.what]
    exponents = {"step_power": "exponent of the step", "sampling_power": "of sampling", "update_power": "of the update"}
    report.table({"what": "what grows", **exponents}, fits)


def grow(what: str, report: bench.Report, phases: bench.Phases, options: argparse.Namespace) -> dict[str, str | float]:
    """Reports every size of one thing, and returns the exponents."""
    sizes, setting_of = GROWTH[what]
    costs = [seconds_of_step(setting_of(size), phases, options.repeats) for size in sizes]
    for size, cost in zip(sizes, costs, strict=True):
        report.add({"what": what, "size": size, **{name: round(value, 3) for name, value in cost.items()}})
    exponents = {name: bench.power(sizes, [cost[name] for cost in costs]) for name in costs[0]}
    return {"what": what} | {f"{name}_power": round(value, 2) for name, value in exponents.items()}


if __name__ == "__main__":
    main()
