"""Experiments of a size that tests can pay for, and evaluations and runs that never took place."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ngrpo.lab import setups
from ngrpo.lab.arms import held_equal
from ngrpo.lab.plan import Arm, Plan
from ngrpo.lab.setups import Setup
from ngrpo.record import write_json, write_lines


def small_setup(**changes) -> Setup:
    """countdown with 2 rollout steps of 4 prompts x 4 samples."""
    sizes = {
        "num_steps": 2,
        "num_test_prompts": 5,
        "num_samples": 8,
        "max_k": 8,
        "run_overrides": (
            "rollout.num_prompts_per_step=4",
            "rollout.num_samples_per_prompt=4",
            "data.size=8",
            "validation=none",
        ),
    }
    return replace(setups.get("countdown"), **{**sizes, **changes})


def small_plan(model: str, *arms: Arm, setup: Setup | None = None, num_seeds: int = 2, **more) -> Plan:
    """A plan of a small experiment."""
    setup = setup or small_setup()
    arms = arms or (Arm("grpo", "grpo"),)
    return Plan("objectives", setup, arms, num_seeds, model=model, held_equal=held_equal(setup, arms), **more)


def run_tasks_here(tasks, *, report, num_processes=1):
    """In place of `parallel.run_tasks`: in this process, one after the other."""
    for task in tasks:
        task.function(report, task.argument)


def run_no_tasks(tasks, *, report):
    """In place of it where there is to be nothing to run."""
    pytest.fail(f"something was run: {[task.name for task in tasks]}")


def write_evaluation(folder: Path, correct: list[list[int]], *, tokens: int = 3, temperature: float = 1.0) -> Path:
    """An evaluation folder with these labels: one row of 0 and 1 per prompt."""
    num_samples = len(correct[0])
    ks = [k for k in (1, 2, 4, 8) if k <= num_samples]
    folder.mkdir(parents=True)
    settings = {"num_prompts": len(correct), "num_samples": num_samples, "ks": ks, "temperature": temperature}
    write_json(folder / "eval.json", {"settings": settings})
    write_lines(folder / "problems.jsonl", ({"prompt": str(place), "gold": "x"} for place in range(len(correct))))
    write_lines(
        folder / "samples.jsonl",
        (
            {"prompt": str(place), "sample": sample, "correct": bool(label), "kind": "scored", "tokens": tokens,
             "entropy_nats": 0.5, "finish_reason": "eos"}
            for place, row in enumerate(correct) for sample, label in enumerate(row)
        ),
    )  # fmt: skip
    return folder


def write_run(
    folder: Path, groups: list[list[list[float] | None]], *, params: dict | None = None, updates: int = 2
) -> Path:
    """A run folder with these advantages: per step, per group; None for a group that the filter dropped."""
    folder.mkdir(parents=True)
    objective = {"name": "grpo", "params": params or {}}
    config = {"objective": objective, "update": {"num_updates_per_step": updates}}
    write_json(folder / "run.json", {"config": config, "data": {}, "dropped_rows": {}, "resumed": []})
    write_lines(
        folder / "groups.jsonl",
        (
            {"step": step, "kept": group is not None, "advantages": group or []}
            for step, of_step in enumerate(groups, 1) for group in of_step
        ),
    )  # fmt: skip
    return folder


def tables_of(folder: Path) -> list[dict]:
    """What `results.json` shows."""
    return json.loads((folder / "results.json").read_text())["tables"]
