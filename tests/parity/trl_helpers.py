"""Trainers of ours on TRL, around a tiny random model, for tests in TRL's environment."""

import warnings

import pytest
import torch

from helpers import PROMPT_TEXTS, small_model, small_tokenizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("trl", reason="TRL is not installed here; `make parity` builds an environment that has it")
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from ngrpo.integrations.trl import NGRPOConfig, NGRPOTrainer, ObjectiveConfig, ObjectiveTrainer

GROUP = 4

SETTINGS = {
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "lr_scheduler_type": "constant",
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "num_generations": GROUP,
    "max_completion_length": 12,
    "max_steps": 3,
}

CONFIGS = {GRPOTrainer: GRPOConfig, NGRPOTrainer: NGRPOConfig, ObjectiveTrainer: ObjectiveConfig}


def third(prompts, completions, **_):
    """1 where a completion's length is a multiple of three: of a random model's, about a third."""
    return [float(len(text) % 3 == 0) for text in completions]


def config_of(trainer_class, folder, **settings):
    return CONFIGS[trainer_class](output_dir=str(folder), **{**SETTINGS, **settings})


def trainer_of(
    trainer_class,
    folder,
    *,
    reward_funcs=third,
    dataset=None,
    options=None,
    model=None,
    dtype=torch.float32,
    **settings,
):
    """A trainer; equal arguments give the same one."""
    dataset = Dataset.from_list([{"prompt": text} for text in PROMPT_TEXTS]) if dataset is None else dataset
    return trainer_class(
        model=model or small_model(dtype),
        reward_funcs=reward_funcs,
        args=config_of(trainer_class, folder, **settings),
        train_dataset=dataset,
        processing_class=small_tokenizer(),
        **(options or {}),
    )


def fixed_rewards(trainer, rewards):
    """Makes the only reward function return these numbers, whatever it is asked about."""
    trainer.reward_funcs = [lambda prompts, **_: list(rewards)]


def generation(trainer, num_prompts):
    """What TRL gets from one generation for the first prompts, and shuffles and cuts afterwards."""
    inputs = [{"prompt": PROMPT_TEXTS[row // GROUP], "id": f"p{row // GROUP}"} for row in range(num_prompts * GROUP)]
    return trainer._generate_and_score_completions(inputs)


def weights_of(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
