"""An experiment in a process of its own, to be killed: python slow_experiment.py FOLDER BASE."""

import sys
from functools import partial
from pathlib import Path

from experiment_helpers import small_plan, small_setup

from ngrpo.lab.experiment import run_experiment
from ngrpo.lab.parallel import run_tasks
from ngrpo.lab.plan import Arm, Plan

NUM_STEPS = 12


def plan(base: str) -> Plan:
    """One seed of two methods, with a checkpoint after every second step."""
    overrides = (*small_setup().run_overrides, "checkpoint.every_steps=2")
    setup = small_setup(num_steps=NUM_STEPS, run_overrides=overrides)
    return small_plan(base, Arm("grpo", "grpo"), Arm("ngrpo", "ngrpo"), setup=setup, num_seeds=1)


if __name__ == "__main__":
    run_experiment(
        Path(sys.argv[1]), plan(sys.argv[2]), command=sys.argv, run_tasks=partial(run_tasks, num_processes=1)
    )
