"""What an experiment is: arms, each trained once per seed from one base, and what they have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ngrpo.lab.setups import Setup

Role = Literal["method", "control"]

SHARP_TEMPERATURE = 0.6
"""Of the base's second evaluation: how much of a gain is only sharper sampling."""


@dataclass(frozen=True)
class Arm:
    """One thing that is compared: a method with its parameters, trained once per seed.

    Attributes:
        name: For tables; folders are named after it.
        objective: Name in the catalog.
        params: Its parameters beyond what the experiment holds equal.
        overrides: Further `key=value` of its run files; `{seed}` in them becomes the run's seed.
        factors: Its place in a factorial design or grid, by factor.
        role: Whether it is under test, or a control.
    """

    name: str
    objective: str
    params: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    factors: Mapping[str, Any] = field(default_factory=dict)
    role: Role = "method"


@dataclass(frozen=True)
class Plan:
    """An experiment, whole: what decides its numbers.

    Attributes:
        kind: `objectives`, `ablation`, `sensitivity`.
        setup: World and sizes, already changed by what the user asked for.
        arms: What is compared.
        num_seeds: Runs of each arm.
        model: Base model: a folder, or `world:NAME`.
        held_equal: What is the same in all arms, one line each, for tables.
        sharp_temperatures: Of the base at lower temperature. Of several, the one with the best pass@1 on validation
            prompts is shown.
        plugins: Files that register methods.
        split: Of the prompts that everything is evaluated on.
        first_seed: Seeds count from here.
        is_exact: Whether pass@k is scored exactly where the world can, and not estimated from samples.
        base_steps: Optimiser steps of a world's base model; None: as many as its setup says.
        notes: What else decided the plan and is kept with it, such as how learning rates were chosen.
    """

    kind: str
    setup: Setup
    arms: tuple[Arm, ...]
    num_seeds: int
    model: str
    held_equal: tuple[str, ...]
    sharp_temperatures: tuple[float, ...] = (SHARP_TEMPERATURE,)
    plugins: tuple[str, ...] = ()
    split: str = "test"
    first_seed: int = 0
    is_exact: bool = True
    base_steps: int | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seeds(self) -> range:
        """The seeds of each arm."""
        return range(self.first_seed, self.first_seed + self.num_seeds)
