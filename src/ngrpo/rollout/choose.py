"""From settings to live rewards and engines, for training and evaluation alike."""

import math
from collections.abc import Callable

from ngrpo import worlds
from ngrpo.config import Data
from ngrpo.config import Reward as RewardSettings
from ngrpo.errors import ConfigError
from ngrpo.policy import Policy
from ngrpo.rewards import (
    AbstentionReward,
    GymReward,
    MathReward,
    Reward,
    ShapedReward,
    WeightedTerm,
    WorldReward,
    choice_reward,
    exact_reward,
    load_function,
    make_term,
    numeric_reward,
    part_names,
)
from ngrpo.rewards.math import final_answer
from ngrpo.rollout.engine import Engine, SampleRequest
from ngrpo.rollout.native import NativeEngine
from ngrpo.rollout.scripted import ScriptedEngine
from ngrpo.rollout.vllm import VllmEngine


def reward_for(settings: RewardSettings, data: Data) -> Reward:
    """Makes the reward that the settings name, for these data.

    Args:
        settings: The reward section.
        data: Where the prompts come from: decides what `auto` is, and says what a world or a gym task is made of.

    Raises:
        ConfigError: No such reward or shaping term, or one that does not fit the data.
        RewardError: A function cannot be used, or a scorer is refused.
    """
    terms = shaping_terms(settings)
    reward = _judge(settings, data)
    if settings.abstain_phrases:
        reward = AbstentionReward(reward, settings.abstain_phrases)
    return ShapedReward(reward, terms) if terms else reward


def _judge(settings: RewardSettings, data: Data) -> Reward:
    """The reward before anything is added to it."""
    name, scheme = settings.name, data.source.partition(":")[0]
    if name == "auto":
        name = scheme if scheme in ("world", "gym") else "math"
    if ".py:" in name:
        return load_function(name, correct_at=settings.correct_at)
    if name not in JUDGES:
        raise ConfigError(
            f"reward.name = {name!r} is none of auto, {', '.join(JUDGES)}, or path/to/file.py:function. Choose one."
        )
    if name in ("world", "gym") and scheme != name:
        raise ConfigError(
            f"reward.name = {name!r} judges prompts of a {name}: source, but data.source is {data.source!r}. "
            "Use reward.name = 'auto', or another, or a function of your own."
        )
    return JUDGES[name](settings, data)


def _math(settings: RewardSettings, data: Data) -> Reward:
    return MathReward(settings.profile, timeout_s=settings.timeout_s, num_workers=settings.num_workers)


def _exact(settings: RewardSettings, data: Data) -> Reward:
    return exact_reward()


def _numeric(settings: RewardSettings, data: Data) -> Reward:
    return numeric_reward(
        absolute_tolerance=settings.absolute_tolerance, relative_tolerance=settings.relative_tolerance
    )


def _choice(settings: RewardSettings, data: Data) -> Reward:
    return choice_reward(settings.choices)


def _world(settings: RewardSettings, data: Data) -> Reward:
    return WorldReward(worlds.get(data.source.partition(":")[2]).check)


def _gym(settings: RewardSettings, data: Data) -> Reward:
    return GymReward(
        data.source.partition(":")[2],
        params=data.params,
        seed=data.seed,
        size=data.size,
        correct_at=settings.correct_at,
        is_fractional=settings.fractional,
        timeout_s=settings.timeout_s,
        num_workers=settings.num_workers,
        allow_execution=settings.allow_execution,
    )


JUDGES: dict[str, Callable[[RewardSettings, Data], Reward]] = {
    "math": _math,
    "exact": _exact,
    "numeric": _numeric,
    "choice": _choice,
    "world": _world,
    "gym": _gym,
}
"""The judges that have a name. Each gives values from 0 to 1; only a function of the user's may give others."""


def shaping_terms(settings: RewardSettings) -> list[WeightedTerm]:
    """Makes the terms of `reward.shaping`.

    Raises:
        ConfigError: No such term or parameter, or a value that cannot be.
        RewardError: A function cannot be loaded or used.
    """
    names = part_names([term.name for term in settings.shaping])
    return [
        WeightedTerm(name, term.weight, make_term(term.name, term.params))
        for name, term in zip(names, settings.shaping, strict=True)
    ]


def reward_bounds(settings: RewardSettings) -> tuple[float, float] | None:
    """The least and the most that a completion can earn, shaping included; None where the user's own function judges.

    Raises:
        ConfigError: As `shaping_terms`.
        RewardError: As `shaping_terms`.

    Example:
        >>> from ngrpo.config import ShapingTerm
        >>> brevity = ShapingTerm(name="length", weight=0.5, params={"budget_tokens": 100, "span_tokens": 100})
        >>> form = ShapingTerm(name="one_box", weight=0.1)
        >>> reward_bounds(RewardSettings(shaping=[brevity, form]))
        (-0.5, 1.1)
    """
    bounds = [term.bounds for term in shaping_terms(settings)]
    if ".py:" in settings.name:
        return None
    # Summed as rewards are, so that the largest reward is not above the bound by a rounding.
    return math.fsum([0.0, *(low for low, _ in bounds)]), math.fsum([1.0, *(high for _, high in bounds)])


def engine_for(name: str, policy: Policy, *, max_rows: int, cache_gib: float, answers_are_boxed: bool) -> Engine:
    r"""Finds the engine of a name.

    Args:
        name: `native` and `vllm` sample from the policy; `gold` answers every prompt with its gold, a control that must
            score 1.
        policy: The model.
        max_rows: Completions decoded at the same time at most.
        cache_gib: Memory that bounds them too, in GiB; see `NativeEngine` and `VllmEngine`.
        answers_are_boxed: Whether the reward looks for `\boxed{...}`, which `gold` then writes.

    Raises:
        ConfigError: No such engine.
        MissingExtraError: It is not installed.
        ModelError: It cannot sample from this model.
    """
    if name == "native":
        return NativeEngine(policy, max_rows=max_rows, cache_gib=cache_gib)
    if name == "vllm":
        return VllmEngine(policy, max_rows=max_rows, cache_gib=cache_gib)
    if name != "gold":
        raise ConfigError(f"there is no engine {name!r}. The engines are: native, vllm, gold.")

    def answer(request: SampleRequest) -> str:
        return boxed_gold(request.prompt.gold) if answers_are_boxed else request.prompt.gold

    return ScriptedEngine(policy, answer, max_rows=max_rows)


def logprobs_are_exact(name: str, policy: Policy) -> bool:
    """Whether the log-probabilities of an engine's completions are those that the update's forward pass would give.

    vLLM computes with kernels of its own; in bfloat16 cached decoding and a full forward pass differ visibly.

    Args:
        name: The engine.
        policy: The model.
    """
    return name != "vllm" and policy.autocast_dtype is None


def boxed_gold(gold: str) -> str:
    r"""The gold as a model should give it.

    Example:
        >>> print(boxed_gold("42"))
        \boxed{42}
    """
    return rf"\boxed{{{final_answer(gold)}}}"


def is_boxed(reward: Reward) -> bool:
    r"""Whether a reward looks for its answer in `\boxed{...}`."""
    while hasattr(reward, "inner"):
        reward = reward.inner
    return isinstance(reward, MathReward)
