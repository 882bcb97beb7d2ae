"""Everything of TRL that this integration holds on to, in one table, and the check that it is all there.

TRL has no hook for advantages: two private methods are overridden, and some private names are read. Tested with TRL
1.16. Where another version lacks a name, the trainer says which when it is made, and not by learning something else.
"""

import inspect
from typing import Any

import trl
from trl import GRPOConfig, GRPOTrainer

from ngrpo.errors import ConfigError

TESTED_WITH = "1.16"

METHODS = {
    # Overridden: hears the rewards of all processes, and the tokens that they are of.
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    # Overridden: what it returns is shuffled and cut into updates afterwards.
    "_generate_and_score_completions": ("self", "inputs"),
    # Not touched; has to read what we write.
    "_compute_loss": ("self", "model", "inputs"),
}
"""Methods of `GRPOTrainer` and their parameters."""

LOSS_READS = ("advantages", "completion_mask", "tool_mask", "old_per_token_logps", "num_items_in_batch")
"""Keys of a generation that `_compute_loss` has to read."""

SCORED = ("advantages", "completion_mask", "num_items_in_batch")
"""Keys that `_generate_and_score_completions` always returns."""

ATTRIBUTES = (
    "_logs",
    "_metrics",
    "_tokenizer",
    "eos_token_ids",
    "num_generations",
    "num_generations_eval",
    "reward_func_names",
    "reward_weights",
)
"""What a finished `GRPOTrainer` has."""

LOGS = ("advantages", "completion", "prompt")
"""Columns of `_logs`, the completions table."""

SETTINGS = (
    "beta",
    "delta",
    "entropy_coef",
    "epsilon",
    "epsilon_high",
    "generation_batch_size",
    "importance_sampling_level",
    "loss_type",
    "mask_truncated_completions",
    "multi_objective_aggregation",
    "num_iterations",
    "reward_weights",
    "scale_rewards",
    "steps_per_generation",
    "use_adaptive_entropy",
    "use_bias_correction_kl",
    "use_vllm",
    "vllm_importance_sampling_correction",
)
"""Fields of `GRPOConfig` that are set or read."""


def check_classes(trainer_class: Any = GRPOTrainer, config_class: Any = GRPOConfig) -> None:
    """Says what of TRL's classes is not as this integration knows it.

    Args:
        trainer_class: TRL's trainer.
        config_class: Its configuration.

    Raises:
        ConfigError: Something is missing or has changed; every such thing is named.
    """
    changed = []
    for name, parameters in METHODS.items():
        method = getattr(trainer_class, name, None)
        if method is None:
            changed.append(f"GRPOTrainer.{name} is gone")
        elif tuple(inspect.signature(method).parameters) != parameters:
            changed.append(f"GRPOTrainer.{name} takes {inspect.signature(method)}, not ({', '.join(parameters)})")
    known = {field for each in config_class.__mro__ for field in getattr(each, "__annotations__", ())}
    changed += [f"GRPOConfig.{name} is gone" for name in SETTINGS if name not in known]
    if "_compute_loss" in vars(trainer_class):
        source = inspect.getsource(trainer_class._compute_loss)
        unread = [key for key in LOSS_READS if f'"{key}"' not in source]
        changed += [f"GRPOTrainer._compute_loss does not read {key!r}" for key in unread]
    _refuse(changed)


def check_trainer(trainer: Any) -> None:
    """The same of a finished trainer.

    Raises:
        ConfigError: An attribute or a column of the completions table is missing.
    """
    changed = [f"a trainer has no attribute {name}" for name in ATTRIBUTES if not hasattr(trainer, name)]
    if not changed:
        changed = [f"trainer._logs has no column {name!r}" for name in LOGS if name not in trainer._logs]
    _refuse(changed)


def check_scored(output: dict[str, Any]) -> None:
    """The same of what a generation returned.

    Raises:
        ConfigError: A key is missing.
    """
    _refuse([f"_generate_and_score_completions returns no {key!r}" for key in SCORED if key not in output])


def _refuse(changed: list[str]) -> None:
    if changed:
        raise ConfigError(
            f"TRL {trl.__version__} is not as ngrpo knows it (tested with {TESTED_WITH}): {'; '.join(changed)}. "
            f'Install the tested version: pip install "trl=={TESTED_WITH}.*", or a newer ngrpo.'
        )
