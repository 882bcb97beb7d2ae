"""How far sampling and the update are from what the machine could do at best.

First the machine: the rate of a large matrix product in float32 and bfloat16, the bandwidth of copying and of reading
memory, per second of processor time where one thread does all the work. Then ours, with every completion running to its
limit, so that the work can be counted from the configuration:

- sampling, per token position: the weights and the cache read once at the bandwidth, or the products at the peak rate,
  whichever takes longer; the bound is the sum over positions. The tiny model's weights stay in the processor's cache,
  so memory hardly bounds it.
- the update: 6 operations per weight and real token (each prompt once per group, the head on completion tokens only),
  and 12 per pair of positions and channel in attention, at the peak rate of its precision.

    python benchmarks/roofline.py
    python benchmarks/roofline.py --device cuda --settings 0.5B
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from transformers.utils import logging

import bench
from ngrpo.rollout import NativeEngine
from ngrpo.train import loop
from shapes import SHAPES, Setting, make_run

SETTINGS = {
    "tiny": Setting(SHAPES["tiny"], max_tokens=64, ends_early=False, prompt_tokens=(50, 50)),
    "39M": Setting(SHAPES["39M"], num_prompts=4, max_tokens=32, ends_early=False, prompt_tokens=(50, 50)),
    "0.5B": Setting(SHAPES["0.5B"], num_prompts=32, max_tokens=256, ends_early=False, prompt_tokens=(100, 100)),
}


@dataclass(frozen=True)
class Machine:
    """What the machine can do at best, per second.

    Attributes:
        float32: Floating-point operations in a large matrix product.
        bfloat16: The same.
        copied: Bytes read and written by copying.
        read: Bytes read.
    """

    float32: float
    bfloat16: float
    copied: float
    read: float


def best_rate(amount: float, work: Callable[[], object], *, is_alone: bool, num_laps: int = 7) -> float:
    """The most per second, of processor time where one thread does all the work."""

    def lap() -> float:
        work()
        return amount

    laps = [bench.timed(lap) for _ in range(num_laps)]  # the first only warms up
    return amount / min(lap.cpu_s if is_alone else lap.wall_s for lap in laps)


def measure_machine(device: str, *, is_alone: bool) -> Machine:
    """Rates of products and of memory traffic, far beyond any cache."""
    rate = partial(best_rate, is_alone=is_alone)
    is_gpu = torch.device(device).type == "cuda"
    size, num_bytes = (8192, 2**32) if is_gpu else (1536, 2**28)
    products = {}
    for dtype in (torch.float32, torch.bfloat16):
        one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        products[dtype] = rate(2.0 * size**3, partial(torch.mm, one, other))
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return Machine(
        products[torch.float32],
        products[torch.bfloat16],
        copied=rate(2.0 * num_bytes, partial(target.copy_, source)),
        read=rate(float(num_bytes), source.sum),
    )


def sampling_bound(setting: Setting, machine: Machine, *, is_gpu: bool) -> tuple[float, str]:
    """Seconds that sampling takes at best, and what the machine would be waiting for."""
    shape, prompt = setting.shape, setting.prompt_tokens[1]
    num_rows, num_weights = setting.num_prompts * setting.group_size, shape.num_layer_weights + shape.num_head_weights
    peak, num_bytes = (machine.bfloat16, 2) if is_gpu else (machine.float32, 4)
    reading = 2 * prompt * shape.num_layer_weights + 2 * shape.num_head_weights + 2 * prompt**2 * shape.width
    arithmetic_s, memory_s, bound_s = setting.num_prompts * reading / peak, 0.0, setting.num_prompts * reading / peak
    for context in range(prompt + 1, prompt + setting.max_tokens):  # the first token comes of reading the prompt
        each_arithmetic_s = num_rows * (2 * num_weights + 4 * context * shape.width) / peak
        each_memory_s = num_bytes * (num_weights + num_rows * context * shape.num_kv) / machine.read
        arithmetic_s, memory_s = arithmetic_s + each_arithmetic_s, memory_s + each_memory_s
        bound_s += max(each_arithmetic_s, each_memory_s)
    return bound_s, "memory" if memory_s > arithmetic_s else "arithmetic"


def update_operations(setting: Setting) -> float:
    """Floating-point operations of a step's updates, forward and backward."""
    shape, prompt, completion = setting.shape, setting.prompt_tokens[1], setting.max_tokens
    num_rows = setting.num_prompts * setting.group_size
    num_positions = setting.num_prompts * prompt + num_rows * completion
    pairs = setting.num_prompts * prompt**2 / 2 + num_rows * (completion * prompt + completion**2 / 2)
    products = num_positions * shape.num_layer_weights + num_rows * completion * shape.num_head_weights
    return 6.0 * products + 12.0 * pairs * shape.width


def measure(name: str, machine: Machine, phases: bench.Phases, options: argparse.Namespace) -> dict[str, object]:
    """Sampling and update of one setting against their bounds."""
    setting, is_gpu = SETTINGS[name], torch.device(options.device).type == "cuda"
    taken: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        precision = "bfloat16" if is_gpu else "float32"
        run = make_run(Path(folder), setting, device=options.device, precision=precision)
        for _ in range(1 + options.repeats):  # the first warms up
            loop.train_step(run, lambda: False)
            taken.append(phases.take())
        run.close()
    sampling_s, update_s = (median(each[phase] for each in taken[1:]) for phase in ("sampling", "update"))
    bound_s, waits_for = sampling_bound(setting, machine, is_gpu=is_gpu)
    num_operations = update_operations(setting)
    peak = machine.bfloat16 if is_gpu else machine.float32
    return {
        "setting": name,
        "sampling_s": round(sampling_s, 3),
        "sampling_bound_s": round(bound_s, 3),
        "waits_for": waits_for,
        "sampling_percent": round(100 * bound_s / sampling_s),
        "update_s": round(update_s, 3),
        "update_gflop_per_s": round(num_operations / update_s / 1e9, 1),
        "update_percent": round(100 * num_operations / update_s / peak),
    }


def main() -> None:
    """Prints what the machine can do, and one row per setting."""
    parser = bench.arguments(__doc__, repeats=3)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, metavar="NAME", default=["tiny", "39M"])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    logging.set_verbosity_error()
    rates = {name: f"{name}, GFLOP/s" for name in ("float32", "bfloat16")}
    rates |= {"copied": "copy, GB/s", "read": "read, GB/s"}
    report = bench.Report(options, rates, device=options.device)
    is_alone = options.threads == 1 and options.device == "cpu"
    machine = measure_machine(options.device, is_alone=is_alone)
    report.add({name: round(rate / 1e9, 1) for name, rate in vars(machine).items()})
    phases = bench.Phases(is_alone=is_alone)
    phases.watch(NativeEngine, "sample", "sampling")
    phases.watch(loop, "update_policy", "update")
    columns = {"setting": "setting", "sampling_s": "sampling, s", "sampling_bound_s": "at best"}
    columns |= {"waits_for": "bound by", "sampling_percent": "% of the bound"}
    columns |= {"update_s": "update, s", "update_gflop_per_s": "GFLOP/s", "update_percent": "% of the peak"}
    report.table(columns, (measure(name, machine, phases, options) for name in options.settings))


if __name__ == "__main__":
    main()
