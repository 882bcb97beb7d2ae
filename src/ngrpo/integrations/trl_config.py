"""Configurations of the trainers for TRL, and what is refused before a model is loaded."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from trl import GRPOConfig

from ngrpo import objectives
from ngrpo.errors import ConfigError
from ngrpo.integrations.trl_parts import Carried
from ngrpo.objectives import Objective, RelativeAdvantage

UPDATES_PER_GENERATION = 4
"""Optimiser steps on each generation unless set otherwise, as in the paper. With one, nothing is ever clipped."""


@dataclass
class ObjectiveConfig(GRPOConfig):
    """TRL's `GRPOConfig`, and what an objective needs besides.

    Where neither `steps_per_generation`, `generation_batch_size` nor `num_iterations` is set, each generation is for
    four optimiser steps, as in NGRPO's paper, and so four times as large as TRL's: `steps_per_generation` is four times
    `gradient_accumulation_steps`. With one step per generation the ratio is 1 throughout, and no clip can bind.

    Args:
        correct_from: Name of the reward function that says which completions are correct. Left out, the only one.
        correct_at: From this value of it upwards a completion is correct.
        record_groups: Whether to write `groups.jsonl` and `samples.jsonl` into `output_dir`, in the columns of a run
            of `ngrpo train`.
    """

    correct_from: str | None = field(
        default=None,
        metadata={
            "help": "Name of the reward function that says which completions are correct: the only one if unset."
        },
    )
    correct_at: float = field(
        default=1.0, metadata={"help": "From this value of that function upwards a completion is correct."}
    )
    record_groups: bool = field(
        default=False, metadata={"help": "Write every group to groups.jsonl in output_dir, as `ngrpo train` does."}
    )

    def __post_init__(self) -> None:
        if self.steps_per_generation is None and self.generation_batch_size is None and self.num_iterations == 1:
            self.steps_per_generation = UPDATES_PER_GENERATION * self.gradient_accumulation_steps
        super().__post_init__()


@dataclass
class NGRPOConfig(ObjectiveConfig):
    """`ObjectiveConfig` with the paper's clips, and NGRPO's own settings. `beta` weighs a plain k3 KL term.

    Args:
        epsilon: The ratio's lower bound is 1 - epsilon.
        epsilon_high: The upper one is 1 + epsilon_high.
        num_virtual: Virtual completions that join each group's statistics. 0 gives GRPO's advantages.
        virtual_reward: What each of them earned: the largest weighted sum of rewards that a completion can get. Has to
            be given where there are several reward functions, or weights; for one function it is 1 unless given.
        advantage_eps: Added to the standard deviation, in reward units. TRL's is 1e-4.
        filter_all_correct: Whether groups without a wrong completion stay out of the update.
    """

    epsilon: float = field(default=0.16, metadata={"help": "The ratio's lower bound is 1 - epsilon."})
    epsilon_high: float | None = field(default=0.24, metadata={"help": "The ratio's upper bound is 1 + epsilon_high."})
    num_virtual: int = field(default=1, metadata={"help": "Virtual completions in each group; 0 gives GRPO."})
    virtual_reward: float | None = field(
        default=None, metadata={"help": "The largest reward a completion can get; 1 for a single reward function."}
    )
    advantage_eps: float = field(default=1e-6, metadata={"help": "Added to the standard deviation of rewards."})
    filter_all_correct: bool = field(
        default=True, metadata={"help": "Whether groups without a wrong completion stay out of the update."}
    )


def ngrpo_of(args: NGRPOConfig, num_functions: int) -> Objective:
    """The objective that an `NGRPOConfig` describes."""
    weights = args.reward_weights or [1.0]
    if args.virtual_reward is None and args.num_virtual > 0 and (num_functions > 1 or weights != [1.0]):
        raise ConfigError(
            f"virtual_reward has to be given for {num_functions} reward function(s) with the weights {weights}: the "
            "largest weighted sum that a completion can get, before any penalty."
        )
    return objectives.get(
        "ngrpo",
        num_virtual=args.num_virtual,
        virtual_reward=1.0 if args.virtual_reward is None else args.virtual_reward,
        clip_low=args.epsilon,
        clip_high=args.epsilon if args.epsilon_high is None else args.epsilon_high,
        eps=args.advantage_eps,
        kl_coef=args.beta,
        entropy_coef=args.entropy_coef,
        group_filter=None if args.filter_all_correct else "keep_all",
    )


def objective_of(objective: str | Objective, args: ObjectiveConfig, num_functions: int) -> Objective:
    """The objective that was asked for, as far as the configuration has a say in it."""
    if isinstance(objective, str):
        name, objective = objective, objectives.get(objective)
        advantage = objective.advantage
        if num_functions > 1 and isinstance(advantage, RelativeAdvantage) and advantage.virtual.num_virtual > 0:
            raise ConfigError(
                f"objective {name!r} has a virtual reward, and there are {num_functions} reward functions: say what "
                f"the largest weighted sum is, objective=objectives.get({name!r}, virtual_reward=...)."
            )
    _refuse_unknown_labels(args, objective, num_functions)
    return replace(objective, mask_truncated=True) if args.mask_truncated_completions else objective


def configured(args: ObjectiveConfig, objective: Objective, found: Carried) -> ObjectiveConfig:
    """A copy of the configuration with what the objective dictates."""
    defaults = {each.name: each.default for each in fields(GRPOConfig)} | {"scale_rewards": "group"}
    for name, wanted in found.settings.items():
        value = getattr(args, name)
        if value not in (defaults[name], wanted):
            raise ConfigError(
                f"{name} = {value!r} is not {objective.name}'s, which is {wanted!r}. Leave {name} out, or change the "
                f"objective: objective=objectives.get({objective.name!r}, ...); `ngrpo objectives {objective.name}` "
                "lists its parameters."
            )
    args = copy.copy(args)
    for name, wanted in found.settings.items():
        setattr(args, name, wanted)
    if args.gradient_accumulation_steps % (args.steps_per_generation * args.num_iterations) == 0:
        _say_what_one_update_means(args, objective, found)
    return args


def _say_what_one_update_means(args: ObjectiveConfig, objective: Objective, found: Carried) -> None:
    """What is missed with one update per generation, for which TRL takes no old log-probabilities."""
    setting = (
        f"steps_per_generation = {args.steps_per_generation} and num_iterations = {args.num_iterations} make no more "
        f"than one optimiser step per generation (gradient_accumulation_steps = {args.gradient_accumulation_steps})"
    )
    cure = f"Set steps_per_generation to {UPDATES_PER_GENERATION * args.gradient_accumulation_steps}, or leave it out."
    takes_them_anyway = args.use_vllm and args.vllm_importance_sampling_correction
    if "old_logprobs" in objective.needs_facts and not takes_them_anyway:
        raise ConfigError(f"{objective.name} reads old log-probabilities, which TRL does not take: {setting}. {cure}")
    if found.has_ratio:
        warnings.warn(f"{objective.name} will never clip: {setting}, so that the ratio is 1. {cure}", stacklevel=5)


def refuse_few_prompts(args: ObjectiveConfig, train_dataset: Any) -> None:
    """TRL's sampler leaves out what does not fill a generation, which may be everything."""
    num_prompts = args.generation_batch_size // args.num_generations
    if hasattr(train_dataset, "__len__") and len(train_dataset) < num_prompts:
        raise ConfigError(
            f"train_dataset has {len(train_dataset)} rows, and one generation takes {num_prompts} prompts: TRL would "
            "train on nothing. Lower steps_per_generation or per_device_train_batch_size, or raise num_generations."
        )


def label_column(args: ObjectiveConfig, objective: Objective, names: Sequence[str]) -> int | None:
    """Which reward function says what is right."""
    if args.correct_from is not None:
        if args.correct_from not in names:
            raise ConfigError(f"correct_from is {args.correct_from!r}; the reward functions are {', '.join(names)}.")
        return list(names).index(args.correct_from)
    _refuse_unknown_labels(args, objective, len(names))
    return 0 if len(names) == 1 else None


def _refuse_unknown_labels(args: ObjectiveConfig, objective: Objective, num_functions: int) -> None:
    if num_functions == 1 or args.correct_from is not None:
        return
    if objective.needs_labels or args.record_groups:
        asker = objective.name if objective.needs_labels else "record_groups"
        raise ConfigError(
            f"{asker} has to know which completions are correct, and there are {num_functions} reward functions. Set "
            "correct_from to the name of the one that says so (its weight may be 0)."
        )
