"""What an experiment in each world trains and how it is evaluated: base model, sizes, what the base must be like."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ngrpo.errors import DataError
from ngrpo.worlds.misconception import HARD_PERCENT_BY_TRAIN_SPLIT, RIGHT_PRIORS


@dataclass(frozen=True)
class WarmStart:
    """How a base model is made: what it is shown, for how long, and how wide it is.

    Attributes:
        world: Whose demonstrations it learns from.
        num_steps: Optimiser steps.
        rows_per_step: Demonstrations per optimiser step, all different draws.
        lr: Peak learning rate of AdamW: linear warm-up, then cosine down to a tenth of it.
        hidden_size: Width of the model.
    """

    world: str
    num_steps: int = 1000
    rows_per_step: int = 128
    lr: float = 2e-3
    hidden_size: int = 64


@dataclass(frozen=True)
class Setup:
    """Defaults of experiments in one world.

    Attributes:
        world: Name of the world, which the data source `world:NAME` and the model `world:NAME` have too.
        run_overrides: `key=value` on top of the preset `tiny`.
        num_steps: Rollout steps of a run.
        num_test_prompts: Held-out prompts evaluated.
        num_samples: Samples of each.
        max_k: Largest k of pass@k.
        expected: Range of each statistic of the base, by name (`pass@1`, `all_wrong_frac`, ...): from, to. Those of
            hard prompts alone have `hard/` in front. See `lab.base_statistics`.
        warm_start: How the base is made.
        train_splits: Training splits by their percentage of hard prompts, where the world has several.
    """

    world: str
    run_overrides: tuple[str, ...]
    num_steps: int
    num_test_prompts: int
    num_samples: int
    max_k: int
    expected: Mapping[str, tuple[float, float]]
    warm_start: WarmStart
    train_splits: Mapping[int, str] = field(default_factory=dict)


def _run_in(world: str, *, max_completion_tokens: int, lr: float = 1e-4) -> tuple[str, ...]:
    """What makes a run of the preset `tiny` one in another world."""
    return (
        f"model.path=world:{world}",
        f"data.source=world:{world}",
        f"validation.data.source=world:{world}",
        f"rollout.max_completion_tokens={max_completion_tokens}",
        f"optim.lr={lr}",
    )


Range = tuple[float, float]


def _expected(
    *, pass_at_1: Range, pass_at_8: Range, pass_at_64: Range, all_wrong_frac: Range, entropy_nats: Range
) -> dict[str, Range]:
    """Ranges of the statistics under the names they have in `base.json`; those left out follow from these."""
    return {
        "pass@1": pass_at_1,
        "pass@8": pass_at_8,
        "pass@64": pass_at_64,
        "all_wrong_frac": all_wrong_frac,
        "entropy_nats": entropy_nats,
    }


# Wide enough for other seeds and other builds of torch; what the default build has is in docs/worlds.md.
_COUNTDOWN_EXPECTED = _expected(
    pass_at_1=(0.16, 0.24),
    pass_at_8=(0.54, 0.68),
    pass_at_64=(0.88, 0.97),
    all_wrong_frac=(0.32, 0.46),
    entropy_nats=(0.57, 0.77),
)

_MISCONCEPTION_EXPECTED = {
    "misconception_mild": {"hard/pass@1": (0.005, 0.018), "hard/all_wrong_frac": (0.87, 0.965)},
    "misconception": {"hard/pass@1": (0.0015, 0.005), "hard/all_wrong_frac": (0.96, 0.99)},
    "misconception_severe": {"hard/pass@1": (0.00005, 0.0015), "hard/all_wrong_frac": (0.988, 1.0)},
}
"""Of hard prompts. On easy ones all of these bases are right: on all prompts pass@1 is a half."""

_GYM_CHAIN_SUM_EXPECTED = {
    "easy": _expected(
        pass_at_1=(0.42, 0.65),
        pass_at_8=(0.85, 0.98),
        pass_at_64=(0.97, 1.0),
        all_wrong_frac=(0.02, 0.15),
        entropy_nats=(0.28, 0.5),
    ),
    "medium": _expected(
        pass_at_1=(0.05, 0.12),
        pass_at_8=(0.33, 0.62),
        pass_at_64=(0.9, 1.0),
        all_wrong_frac=(0.38, 0.67),
        entropy_nats=(0.7, 1.0),
    ),
    "hard": _expected(
        pass_at_1=(0.002, 0.012),
        pass_at_8=(0.015, 0.09),
        pass_at_64=(0.13, 0.5),
        all_wrong_frac=(0.91, 0.985),
        entropy_nats=(1.05, 1.5),
    ),
}

_COUNTDOWN = WarmStart("countdown")

# One base for the three: it is shown all of them.
_GYM_CHAIN_SUM = WarmStart("gym_chain_sum_easy", lr=4e-3)

_MISCONCEPTION_TRAIN_SPLITS = {50: "train"} | {percent: name for name, percent in HARD_PERCENT_BY_TRAIN_SPLIT.items()}

_SETUPS = {
    setup.world: setup
    for setup in (
        Setup(
            world="countdown",
            run_overrides=(),
            num_steps=80,
            num_test_prompts=128,
            num_samples=128,
            max_k=64,
            expected=_COUNTDOWN_EXPECTED,
            warm_start=_COUNTDOWN,
        ),
        Setup(
            world="overtrained",
            # 128 problems at 32 per step: 20 epochs in 80 steps.
            run_overrides=(*_run_in("overtrained", max_completion_tokens=12), "data.size=128"),
            num_steps=80,
            num_test_prompts=128,
            num_samples=256,
            max_k=256,
            expected=_COUNTDOWN_EXPECTED,
            warm_start=_COUNTDOWN,
        ),
        *(
            Setup(
                world=world,
                run_overrides=_run_in(world, max_completion_tokens=6, lr=3e-4),
                num_steps=80,
                num_test_prompts=128,
                num_samples=128,
                max_k=64,
                expected={"pass@1": (0.48, 0.52), "entropy_nats": (0.002, 0.05), **_MISCONCEPTION_EXPECTED[world]},
                warm_start=WarmStart(world, num_steps=1500, lr=5e-3, hidden_size=32),
                train_splits=_MISCONCEPTION_TRAIN_SPLITS,
            )
            for world in RIGHT_PRIORS
        ),
        *(
            Setup(
                world=f"gym_chain_sum_{difficulty}",
                run_overrides=_run_in(f"gym_chain_sum_{difficulty}", max_completion_tokens=6),
                num_steps=80,
                num_test_prompts=128,
                num_samples=128,
                max_k=64,
                expected=_GYM_CHAIN_SUM_EXPECTED[difficulty],
                warm_start=_GYM_CHAIN_SUM,
            )
            for difficulty in _GYM_CHAIN_SUM_EXPECTED
        ),
    )
}


def get(world: str) -> Setup:
    """Finds the setup of a world.

    Raises:
        DataError: There is none.
    """
    if world not in _SETUPS:
        raise DataError(f"there is no laboratory setup for {world!r}. There is one for: {', '.join(names())}.")
    return _SETUPS[world]


def names() -> list[str]:
    """Worlds that have a setup."""
    return sorted(_SETUPS)
