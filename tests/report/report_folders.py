"""Writers of small folders as training, evaluation and experiments leave them, with numbers that are chosen."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ngrpo.record import write_json, write_lines

FINGERPRINT = "f" * 64

Metrics = Callable[[int], Mapping[str, float | None]]


def metrics_of(step: int) -> dict[str, float]:
    """Numbers of one step that tests can compute by hand."""
    return {
        "reward/mean": step / 100,
        "reward/correct_frac": step / 100,
        "groups/all_wrong_frac": 0.5,
        "groups/mixed_frac": 0.3,
        "groups/all_right_frac": 0.2,
        "policy/entropy_nats": 1.0 / (1 + step),
        "completion/mean_tokens": 10.0 + step,
        "loss/clip_high_frac": 0.01,
        "loss/clip_low_frac": 0.02,
        "optim/num_updates": 4 * step,
        "data/num_completions": 256 * step,
        "time/step_s": 0.5,
    }


def group_row(
    step: int, correct: Sequence[bool], *, prompt: str = "p", kept: bool = True, **more: Any
) -> dict[str, Any]:
    """A line of groups.jsonl with rewards 0 and 1."""
    size = len(correct)
    rewards = [float(each) for each in correct]
    row = {"step": step, "prompt": prompt, "kept": kept, "rewards": rewards, "correct": list(correct)}
    return row | {"kinds": ["scored"] * size, "parts": {}, "tokens": [3] * size, "advantages": [0.25] * size} | more


def sample_row(step: int, text: str, *, prompt: str = "p", reward: float = 0.0, **more: Any) -> dict[str, Any]:
    """A line of samples.jsonl."""
    row = {"step": step, "prompt": prompt, "prompt_text": f"{prompt}=?", "completion": text, "gold": "7"}
    return row | {"reward": reward, "correct": reward == 1.0, "kind": "scored"} | more


def write_run(
    folder: Path,
    *,
    objective: str = "grpo",
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    num_steps: int = 4,
    planned: int | None = None,
    metrics: Metrics = metrics_of,
    fingerprint: str = FINGERPRINT,
    group_size: int = 4,
    lr: float = 1e-4,
    groups: Sequence[Mapping[str, Any]] | None = None,
    samples: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """A run folder; returns it."""
    folder.mkdir(parents=True)
    config = {
        "run": {"name": folder.name, "seed": seed},
        "objective": {"name": objective, "params": dict(params or {})},
        "rollout": {"num_samples_per_prompt": group_size},
        "train": {"num_steps": planned or num_steps},
        "optim": {"lr": lr},
    }
    data = {"name": "sums", "num_prompts": 9, "fingerprint": fingerprint}
    write_json(folder / "run.json", {"config": config, "data": data, "command": ["/bin/ngrpo", "train", "a b.toml"]})
    steps = range(1, num_steps + 1)
    write_lines(folder / "metrics.jsonl", ({"step": step, **metrics(step)} for step in steps))
    kinds = ((False,) * group_size, (True, *(False,) * (group_size - 1)), (True,) * group_size)
    if groups is None:
        groups = [group_row(step, kind, prompt=f"p{place}") for step in steps for place, kind in enumerate(kinds)]
    if samples is None:
        samples = [sample_row(step, f"text {step}", prompt="p1", reward=1.0, group=1, place=0) for step in steps]
    write_lines(folder / "groups.jsonl", groups)
    write_lines(folder / "samples.jsonl", samples)
    return folder


def write_evaluation(
    folder: Path,
    correct: Sequence[Sequence[bool]],
    *,
    prompts: Sequence[str] | None = None,
    temperature: float = 1.0,
    num_samples: int | None = None,
    ks: Sequence[int] | None = None,
) -> Path:
    """An evaluation folder: `correct` has one row of labels per prompt."""
    folder.mkdir(parents=True)
    ids = prompts or [f"q{place}" for place in range(len(correct))]
    size = num_samples or len(correct[0])
    powers = [1 << place for place in range(size.bit_length())]
    settings = {
        "model": "m", "data": "sums-test", "fingerprint": "e" * 64, "num_prompts": len(ids), "num_samples": size,
        "ks": list(ks or powers), "temperature": temperature, "seed": 0,
    }  # fmt: skip
    write_json(folder / "eval.json", {"settings": settings, "command": ["ngrpo", "eval"]})
    write_lines(folder / "problems.jsonl", ({"prompt": name, "gold": "7", "problem": name} for name in ids))
    rows = (
        {"prompt": name, "sample": place, "correct": label, "kind": "scored", "finish_reason": "eos", "tokens": 2,
         "entropy_nats": 0.5, "normal_form": None}
        for name, labels in zip(ids, correct, strict=True) for place, label in enumerate(labels)
    )  # fmt: skip
    write_lines(folder / "samples.jsonl", rows)
    return folder


def cell(estimate: float, low: float, high: float, *, established: bool | None, unit: str = "points") -> dict[str, Any]:
    """A cell of results.json."""
    return {"estimate": estimate, "low": low, "high": high, "established": established, "unit": unit}


def write_experiment(
    folder: Path,
    *,
    kind: str = "objectives",
    methods: Sequence[str] = ("grpo", "ngrpo"),
    seeds: int = 2,
    results: Mapping[str, Any] | None = None,
) -> Path:
    """An experiment folder with evaluated runs and a base."""
    runs = [{"name": "base", "arm": "base", "role": "base", "seed": None, "folder": "runs/base"}]
    write_evaluation(folder / "runs" / "base" / "eval", [[False, True], [False, False]])
    for method in methods:
        for seed in range(seeds):
            name = f"{method}_seed{seed}"
            write_run(folder / "runs" / name, objective=method, seed=seed)
            write_evaluation(folder / "runs" / name / "eval", [[True, True], [False, seed == 0]])
            runs.append({"name": name, "arm": method, "role": "method", "seed": seed, "folder": f"runs/{name}"})
    write_json(folder / "experiment.json", {"kind": kind, "world": "countdown", "command": ["ngrpo", "lab", kind],
                                            "held_equal": ["the base"], "runs": runs})  # fmt: skip
    table = {"title": "pass@k", "caption": "Held out.", "columns": ["pass@1"],
             "rows": [{"name": "ngrpo - grpo", "cells": {"pass@1": cell(1.0, -1.0, 3.0, established=False)}}],
             "num_seeds": seeds, "num_prompts": 2, "num_samples": 2, "max_k": 2, "temperature": 1.0}  # fmt: skip
    write_json(folder / "results.json", {"tables": [table], **(results or {})})
    return folder


def tear(path: Path) -> None:
    """Cuts the last line of a file in half, as a kill does."""
    content = path.read_bytes().rstrip(b"\n")
    start = content.rfind(b"\n") + 1
    path.write_bytes(content[: start + (len(content) - start) // 2])


def add_text(path: Path, text: str) -> None:
    """Appends to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def row_with_nan(step: int) -> str:
    """A line with numbers that JSON has not, as other tools write them."""
    return json.dumps({"step": step, "reward/mean": float("nan"), "policy/entropy_nats": None}) + "\n"


def effect(factors: Sequence[str], estimate: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    """A row of the effects of an ablation."""
    row = {"factors": factors, "at": {}, "quantity": "pass@1", "unit": "points", "estimate": estimate, "low": low,
           "high": high, "established": low > 0 or high < 0}  # fmt: skip
    return row | more


def cell_of_grid(x: Any, y: Any, estimate: float, difference: float | None, **more: Any) -> dict[str, Any]:
    """A row of the grid of a sensitivity experiment."""
    told = {"estimate": difference, "low": difference - 1, "high": difference + 1, "unit": "points",
            "established": abs(difference) > 1} if difference is not None else None  # fmt: skip
    row = {"prompts": "all", "axis": "clip", "x_name": "clip_low", "x": x, "y_name": "clip_high", "y": y,
           "arm": "ngrpo",
           "quantity": "pass@1", "unit": "percent", "estimate": estimate, "low": estimate - 1, "high": estimate + 1,
           "num_seeds": 3, "reference": "ngrpo", "difference": told}  # fmt: skip
    return row | more


SPREAD = {"whole": 0.5, "estimate": 0.6, "low": 0.4, "high": 0.8, "established": True, "num_parts": 2}
NONE = {"whole": 0.0, "estimate": None, "low": None, "high": None, "established": None, "num_parts": 1}


def gradients() -> dict[str, Any]:
    """As lab/gradients.py documents it: two methods, of which GRPO has no gradient on all-wrong groups."""
    cell = {"estimate": -0.1, "low": -0.2, "high": -0.05, "established": True}
    change = {"quantity": "entropy", "of": "natural", "per": "token", "unit": "nats", "num_groups": 2, **cell}
    sides = {"correct": None, "wrong": cell}
    batches = ("all_wrong", "mixed")
    return {
        "kind": "gradients", "model": "m", "data": "d", "temperature": 1.0, "group_size": 8, "seed": 0, "num_parts": 2,
        "methods": [{"label": name, "name": name, "params": {}, "parts": {}} for name in ("grpo", "ngrpo")],
        "batches": [{"name": name, "num_groups": 4} for name in batches],
        "layers": [{"name": "embedding"}, {"name": "block 0"}],
        "norms": [
            {"method": method, "batch": batch, **spread, "by_layer": [spread, spread]}
            for batch in batches for method in ("grpo", "ngrpo")
            for spread in [NONE if (method, batch) == ("grpo", "all_wrong") else SPREAD]
        ],
        "cosines": [
            {"a": {"method": "ngrpo", "batch": "all_wrong"}, "b": {"method": "grpo", "batch": "mixed"}, **SPREAD,
             "whole": 0.374},
            {"a": {"method": "grpo", "batch": "all_wrong"}, "b": {"method": "ngrpo", "batch": "all_wrong"}, **NONE,
             "whole": None},
        ],
        "virtual": [{"method": "ngrpo", "batch": "all_wrong", "with": sides, "without": sides, "difference": sides,
                     "rms_ratio": None, "gradient_frac": 1.0, "gradient_without": "grpo"}],
        "effects": [
            {"method": "ngrpo", "batch": "all_wrong", "step": "adam", "is_zero": False, "step_norm": 1.0,
             "changes": [change, change | {"per": "completion", "quantity": "logprob"}]},
            {"method": "grpo", "batch": "all_wrong", "step": "adam", "is_zero": True, "step_norm": 0.0, "changes": []},
        ],
    }  # fmt: skip
