"""From arms to run files: what every run of an experiment has in common, and what an arm changes."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ngrpo import objectives, worlds
from ngrpo.config import Data, RunConfig, load_config
from ngrpo.config.literals import to_literal
from ngrpo.errors import ConfigError
from ngrpo.lab.jobs import Evaluation
from ngrpo.lab.plan import Arm, Plan
from ngrpo.lab.setups import Setup
from ngrpo.lab.updates import MAX_STRETCH
from ngrpo.train.needs import make_objective

WARMUP_STEPS = 5
AGGREGATION = "token_mean"

DECIDED = (
    "run.",
    "model.path",
    "objective.",
    "train.",
    "data.source",
    "validation.",
    "reward.",
    "refill.",
    "rollout.max_completion_tokens",
    "rollout.temperature",
    "rollout.engine",
)
"""Beginnings of settings that an experiment sets itself."""


def held_equal(setup: Setup, arms: Sequence[Arm]) -> tuple[str, ...]:
    """What every experiment holds equal among its arms, one line each.

    Args:
        setup: World and sizes.
        arms: Of which some may have a regulariser.

    Raises:
        ConfigError: A method is unknown, or has not such a parameter.
    """
    config = run_settings(setup)
    optim, rollout = config.optim, config.rollout
    regularised = [arm.name for arm in arms if objectives.get(arm.objective, **_params(arm)).regularisers]
    return (
        "same base, prompts, prompt order and random numbers per seed",
        f"{config.train.num_steps} rollout steps of {rollout.num_prompts_per_step} prompts x "
        f"{rollout.num_samples_per_prompt} samples at T = {rollout.temperature:g}, no refill, no stop when every group "
        "is dropped",
        f"AdamW at {optim.lr:g} with {optim.warmup_steps} rollout steps of warm-up and then a {optim.schedule} "
        f"schedule, {config.update.num_updates_per_step} updates per step, taken on zero gradients too",
        f"{AGGREGATION.replace('_', '-')} aggregation, no KL, no entropy bonus"
        + (f" but for: {', '.join(regularised)}" if regularised else ""),
    )


def _params(arm: Arm) -> dict[str, Any]:
    return {"aggregation": AGGREGATION, **arm.params}


def shared_overrides(setup: Setup) -> list[str]:
    """What is laid over the preset `tiny` for every run in a world, before the setup's own overrides."""
    return [
        f"data.source=world:{setup.world}",
        f"validation.data.source=world:{setup.world}",
        f"rollout.max_completion_tokens={worlds.get(setup.world).max_completion_tokens}",
        f"train.num_steps={setup.num_steps}",
        f"optim.warmup_steps={min(WARMUP_STEPS, setup.num_steps - 1)}",
        "refill.max_batches=1",
        f"refill.max_empty_steps={MAX_STRETCH * setup.num_steps + 1}",  # lengthened runs are not stopped either
        "record.tensorboard=false",
    ]


def resized(
    setup: Setup,
    *,
    num_steps: int | None = None,
    num_test_prompts: int | None = None,
    num_samples: int | None = None,
) -> Setup:
    """A world's setup with what the user asked for; None keeps what it says.

    Args:
        setup: Of the world.
        num_steps: Rollout steps.
        num_test_prompts: Held-out prompts.
        num_samples: Samples of each; pass@k goes no further.
    """
    samples = num_samples or setup.num_samples
    return replace(
        setup,
        num_steps=num_steps or setup.num_steps,
        num_test_prompts=num_test_prompts or setup.num_test_prompts,
        num_samples=samples,
        max_k=min(setup.max_k, samples),
    )


def with_settings(setup: Setup, overrides: Sequence[str]) -> Setup:
    """A setup whose runs have further settings.

    Args:
        setup: Of the world.
        overrides: `key=value`, laid over what the setup says.

    Raises:
        ConfigError: A key is unknown or its value wrong, or the experiment itself decides it.
    """
    for override in overrides:
        key = override.partition("=")[0].strip()
        if f"{key}.".startswith(DECIDED) or any(each.startswith(f"{key}.") for each in DECIDED):
            raise ConfigError(
                f"{key} is decided by the experiment: the world with its checker and its completion limit, the model, "
                "the methods, --seeds and --steps say it."
            )
    changed = replace(setup, run_overrides=(*setup.run_overrides, *overrides))
    run_settings(changed)  # a mistake is found before anything runs
    return changed


def run_settings(setup: Setup) -> RunConfig:
    """The settings of a run in a world, before any arm changes them."""
    return load_config("tiny", [*shared_overrides(setup), *setup.run_overrides])


def run_config(plan: Plan, arm: Arm, seed: int, *, base: str, folder: Path) -> RunConfig:
    """The run file of one arm and seed.

    Args:
        plan: The experiment.
        arm: One of its arms.
        seed: Of prompt order and samples.
        base: Folder of the base model.
        folder: The run folder.

    Raises:
        ConfigError: A setting or a parameter of the method cannot be.
    """
    config = load_config(
        "tiny",
        [
            *shared_overrides(plan.setup),
            *plan.setup.run_overrides,
            *(override.replace("{seed}", str(seed)) for override in arm.overrides),
            f"run.name={folder.name}",
            f"run.dir={folder.parent}",
            f"run.seed={seed}",
            f"model.path={base}",
            f"objective.name={arm.objective}",
            f"objective.params={to_literal(_params(arm))}",
        ],
    )
    make_objective(config)  # a mistake in a method's parameters is found before anything runs
    return config


def evaluation_of(plan: Plan) -> Evaluation:
    """How every model of an experiment is evaluated."""
    setup = plan.setup
    config = run_settings(setup)
    return Evaluation(
        data=_held_out(config, plan.split, setup.num_test_prompts),
        num_samples=setup.num_samples,
        max_k=setup.max_k,
        max_completion_tokens=config.rollout.max_completion_tokens,
        is_exact=plan.is_exact,
    )


def splits_of(setup: Setup) -> tuple[Data, Data, Data]:
    """The prompts of training, validation and test."""
    config = run_settings(setup)
    size = setup.num_test_prompts
    return config.data, _held_out(config, "validation", size), _held_out(config, "test", size)


def _held_out(config: RunConfig, split: str, size: int) -> Data:
    return config.data.model_copy(update={"split": split, "size": size, "limit": None})


def run_name(arm: Arm, seed: int) -> str:
    """Name of the run folder.

    Example:
        >>> run_name(Arm("clip 0.16 / 0.24", "ngrpo"), 2)
        'clip_0.16_0.24_seed2'
    """
    return f"{re.sub(r'[^A-Za-z0-9.+-]+', '_', arm.name).strip('_')}_seed{seed}"


def check_names(arms: Sequence[Arm]) -> None:
    """Refuses arms whose folders would be the same.

    Raises:
        ConfigError: Two names are alike.
    """
    seen: dict[str, str] = {}
    for arm in arms:
        name = run_name(arm, 0)
        if name in seen:
            raise ConfigError(f"two arms are called {seen[name]!r} and {arm.name!r}, which is the same folder {name}.")
        seen[name] = arm.name
