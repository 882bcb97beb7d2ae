"""A run file in verl's words: every key translated, implied, without meaning there, or refused. Needs no verl."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ngrpo import objectives
from ngrpo.config import RunConfig
from ngrpo.errors import ConfigError
from ngrpo.integrations.verl_data import VERBATIM_TEMPLATE
from ngrpo.integrations.verl_keys import refusals
from ngrpo.integrations.verl_methods import (
    ACTOR,
    VERL_OWN,
    advantage_params,
    aggregation_of,
    estimator_name,
    filter_name,
    loss_of,
)
from ngrpo.objectives import EntropyBonus, Objective, ReferenceKL
from ngrpo.train.rows import importance_cap

ROLLOUT = "actor_rollout_ref.rollout"
SAMPLER = "trainer.v1.sampler"
PRECISIONS = {"auto": "bfloat16", "bfloat16": "bfloat16", "float32": "float32"}


@dataclass(frozen=True, slots=True)
class Machines:
    """Where verl is to run.

    Attributes:
        num_nodes: Machines.
        num_gpus_per_node: GPUs of each.
        ray_address: A running Ray cluster (`auto`, `host:6379`, `ray://host:10001`), or None: verl starts Ray itself.
    """

    num_nodes: int = 1
    num_gpus_per_node: int = 8
    ray_address: str | None = None


@dataclass(frozen=True, slots=True)
class LaunchFiles:
    """What a run in verl has in its folder.

    Attributes:
        folder: The run folder, absolute: workers on other machines have other working folders.
    """

    folder: Path

    @property
    def run(self) -> Path:
        """The run file."""
        return self.folder / "run.toml"

    @property
    def train(self) -> Path:
        """Prompts."""
        return self.folder / "train.parquet"

    @property
    def validation(self) -> Path:
        """Prompts to validate on."""
        return self.folder / "validation.parquet"

    @property
    def reward(self) -> Path:
        """Settings of the judge."""
        return self.folder / "reward.json"

    @property
    def groups(self) -> Path:
        """A line per sampled group, written by the sampler."""
        return self.folder / "groups.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Written by verl itself."""
        return self.folder / "verl_checkpoints"


def translate(config: RunConfig, files: LaunchFiles, machines: Machines) -> dict[str, Any]:
    """Settings of verl for a run.

    Args:
        config: A checked configuration.
        files: Where data and reward are, or will be.
        machines: Where it runs.

    Returns:
        Hydra key (with `+` where verl has no such key) to value, for `python -m verl.trainer.main_ppo`.

    Raises:
        ConfigError: The method, or settings, that verl cannot carry: all of them at once, each by name with what to do.
    """
    if refused := refusals(config):
        head = f"{len(refused)} settings cannot go to verl:" if len(refused) > 1 else "this cannot go to verl:"
        raise ConfigError("\n  ".join([head, *refused]))
    objective = objectives.get(config.objective.name, **config.objective.params)
    return {
        **_model(config),
        **_data(config, files),
        **_sampling(config),
        **_advantage(config),
        **_loss(config, objective),
        **_group_filter(config, objective, files),
        **_update(config),
        **_optimizer(config, f"{ACTOR}.optim", config.optim.lr),
        **_critic(config),
        **_trainer(config, files, machines),
    }


def hydra_arguments(settings: Mapping[str, Any]) -> list[str]:
    """Settings as Hydra takes them on a command line, each in the quotes that Hydra (not the shell) needs.

    Example:
        >>> hydra_arguments({"trainer.nnodes": 1, "data.seed": None, "trainer.logger": ["console"], "a.b": "x y"})
        ['trainer.nnodes=1', 'data.seed=null', 'trainer.logger=[console]', "a.b='x y'"]
    """
    return [f"{key}={_literal(value)}" for key, value in settings.items()]


def _literal(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "True", False: "False"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(_literal(item) for item in value) + "]"
    if not isinstance(value, str):
        return repr(value)
    is_word = value.lower() in ("null", "true", "false", "nan", "inf")
    is_plain = not is_word and re.fullmatch(r"[A-Za-z/][\w.:/-]*", value)
    # In Hydra's quotes a backslash stands for itself, but before a quote or at the end.
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return value if is_plain else f"'{escaped}'"


def _model(config: RunConfig) -> dict[str, Any]:
    model, name = config.model, "actor_rollout_ref.model"
    settings: dict[str, Any] = {
        f"{name}.path": _located(model.path),
        f"{name}.external_lib": "ngrpo.integrations.verl",
        f"{name}.custom_chat_template": VERBATIM_TEMPLATE,
        f"{name}.enable_gradient_checkpointing": model.gradient_checkpointing,
        f"{name}.use_remove_padding": True,
        f"{ACTOR}.fsdp_config.model_dtype": "fp32",
        f"{ACTOR}.fsdp_config.dtype": PRECISIONS[model.precision],
        f"{ROLLOUT}.dtype": PRECISIONS[model.precision],
    }
    if model.lora is not None:
        settings |= {
            f"{name}.lora_rank": model.lora.rank,
            f"{name}.lora_alpha": int(model.lora.alpha),
            f"{name}.target_modules": model.lora.target_modules,
            f"{ROLLOUT}.load_format": "safetensors",  # the frozen weights are not sent to the sampler
        }
    return settings


def _data(config: RunConfig, files: LaunchFiles) -> dict[str, Any]:
    return {
        "data.train_files": str(files.train),
        "data.val_files": str(files.validation if config.validation else files.train),
        "data.train_batch_size": config.rollout.num_prompts_per_step,
        "data.max_prompt_length": config.data.max_prompt_tokens,
        "data.max_response_length": config.rollout.max_completion_tokens,
        "data.filter_overlong_prompts": False,  # done when they were written
        "data.truncation": "error",
        "data.shuffle": True,
        "data.seed": config.run.seed,
        "reward.custom_reward_function.path": "pkg://ngrpo.integrations.verl_reward",
        "reward.custom_reward_function.name": "compute_score",
        "+reward.custom_reward_function.reward_kwargs.settings": str(files.reward),
        "reward.num_workers": config.reward.num_workers or 8,
    }


def _sampling(config: RunConfig) -> dict[str, Any]:
    rollout, validation = config.rollout, config.validation
    settings = {
        f"{ROLLOUT}.name": "vllm",
        f"{ROLLOUT}.n": rollout.num_samples_per_prompt,
        f"{ROLLOUT}.temperature": rollout.temperature,
        f"{ROLLOUT}.top_p": rollout.top_p,
        f"{ROLLOUT}.top_k": rollout.top_k or -1,
        f"{ROLLOUT}.seed": config.run.seed,
        f"{ROLLOUT}.max_num_seqs": rollout.max_rows,
        f"{ROLLOUT}.tensor_model_parallel_size": 1,
        f"{ROLLOUT}.calculate_log_probs": True,
    }
    if validation is not None:
        name = f"{ROLLOUT}.val_kwargs"
        settings |= {
            f"{name}.n": validation.num_samples,
            f"{name}.temperature": validation.temperature,
            f"{name}.do_sample": validation.temperature > 0,
            f"{name}.top_p": validation.top_p,
            f"{name}.top_k": validation.top_k or -1,
        }
    return settings


def _advantage(config: RunConfig) -> dict[str, Any]:
    method = config.objective.name
    settings: dict[str, Any] = {"algorithm.adv_estimator": estimator_name(method)}
    if method not in VERL_OWN:
        own = advantage_params(config.objective.params)
        settings |= {f"+algorithm.ngrpo.{name}": value for name, value in own.items()}
    for name in ("gamma", "lam"):
        if (value := _param_of(config, name)) is not None:
            settings[f"algorithm.{name}"] = value
    kl_in_reward = _param_of(config, "reward_kl_coef") or 0.0
    settings["algorithm.use_kl_in_reward"] = kl_in_reward != 0.0
    if kl_in_reward != 0.0:
        settings |= {
            "algorithm.kl_penalty": "kl",
            "algorithm.kl_ctrl.type": "fixed",
            "algorithm.kl_ctrl.kl_coef": kl_in_reward,
        }
    max_weight = importance_cap(config)
    settings["algorithm.rollout_correction.rollout_is"] = None if max_weight is None else "token"
    if max_weight is not None:
        settings["algorithm.rollout_correction.rollout_is_threshold"] = max_weight
    return settings


def _loss(config: RunConfig, objective: Objective) -> dict[str, Any]:
    loss = loss_of(objective)
    mode, scale = aggregation_of(objective)
    kl = sum(part.coef for part in objective.regularisers if isinstance(part, ReferenceKL))
    entropy = sum(part.coef for part in objective.regularisers if isinstance(part, EntropyBonus))
    return {
        f"{ACTOR}.policy_loss.loss_mode": loss.loss_mode,
        f"{ACTOR}.clip_ratio_low": loss.clip_ratio_low,
        f"{ACTOR}.clip_ratio_high": loss.clip_ratio_high,
        f"{ACTOR}.clip_ratio_c": loss.clip_ratio_c,
        f"{ACTOR}.loss_agg_mode": mode,
        f"{ACTOR}.loss_scale_factor": scale,
        f"{ACTOR}.entropy_coeff": entropy,
        f"{ACTOR}.use_kl_loss": kl != 0,
        f"{ACTOR}.kl_loss_coef": kl,
        f"{ACTOR}.kl_loss_type": "low_var_kl",
    }


def _group_filter(config: RunConfig, objective: Objective, files: LaunchFiles) -> dict[str, Any]:
    name = filter_name(objective)
    return {
        "algorithm.filter_groups.enable": name != "keep_all",
        "algorithm.filter_groups.metric": "acc",
        f"{SAMPLER}.custom_sampler.path": "pkg://ngrpo.integrations.verl_sampler",
        f"{SAMPLER}.custom_sampler.name": "GroupSampler",
        f"+{SAMPLER}.sampler_kwargs.group_filter": name,
        f"+{SAMPLER}.sampler_kwargs.num_prompts_per_step": config.rollout.num_prompts_per_step,
        f"+{SAMPLER}.sampler_kwargs.max_batches": config.refill.max_batches,
        f"+{SAMPLER}.sampler_kwargs.groups_file": str(files.groups),
    }


def _update(config: RunConfig) -> dict[str, Any]:
    num_tokens = config.update.max_microbatch_tokens
    return {
        f"{ACTOR}.ppo_mini_batch_size": config.rollout.num_prompts_per_step // config.update.num_updates_per_step,
        f"{ACTOR}.ppo_epochs": 1,
        f"{ACTOR}.shuffle": False,
        f"{ACTOR}.data_loader_seed": config.run.seed,
        f"{ACTOR}.use_dynamic_bsz": True,
        f"{ACTOR}.ppo_max_token_len_per_gpu": num_tokens,
    }


def _optimizer(config: RunConfig, name: str, lr: float) -> dict[str, Any]:
    optim = config.optim
    return {
        f"{name}.lr": lr,
        f"{name}.betas": list(optim.betas),
        f"{name}.weight_decay": optim.weight_decay,
        f"{name}.override_optimizer_config": {"eps": optim.eps},
        f"{name}.clip_grad": config.update.max_grad_norm,
        f"{name}.lr_warmup_steps": optim.warmup_steps,
        f"{name}.lr_scheduler_type": optim.schedule,
        f"{name}.min_lr_ratio": optim.min_lr_frac,
    }


def _critic(config: RunConfig) -> dict[str, Any]:
    critic = config.critic
    if critic is None or _param_of(config, "value_clip") is None:
        return {"critic.enable": False}
    return {
        "critic.enable": True,
        "critic.model.path": _located(critic.path or config.model.path),
        "critic.model.enable_gradient_checkpointing": config.model.gradient_checkpointing,
        "critic.fsdp.dtype": PRECISIONS[config.model.precision],
        "critic.cliprange_value": _param_of(config, "value_clip"),
        "critic.ppo_max_token_len_per_gpu": config.update.max_microbatch_tokens,
        "critic.data_loader_seed": config.run.seed,
        **_optimizer(config, "critic.optim", critic.lr),
    }


def _trainer(config: RunConfig, files: LaunchFiles, machines: Machines) -> dict[str, Any]:
    record, validation = config.record, config.validation
    variables = {"TENSORBOARD_DIR": str(files.folder / "tensorboard")}
    if record.wandb != "off":
        variables["WANDB_MODE"] = record.wandb
    settings = {
        "trainer.use_v1": True,
        "trainer.v1.trainer_mode": "sync",
        "trainer.nnodes": machines.num_nodes,
        "trainer.n_gpus_per_node": machines.num_gpus_per_node,
        "trainer.total_training_steps": config.train.num_steps,
        "trainer.total_epochs": config.train.num_steps,  # a step is an epoch at most: never the bound
        "trainer.critic_warmup": 0,
        "trainer.project_name": record.wandb_project,
        "trainer.experiment_name": config.run.name,
        "trainer.logger": list(_loggers(config)),
        "trainer.default_local_dir": str(files.checkpoints),
        "trainer.resume_mode": "auto",
        "trainer.save_freq": config.checkpoint.every_steps,
        "trainer.max_actor_ckpt_to_keep": config.checkpoint.keep_last,
        "trainer.max_critic_ckpt_to_keep": config.checkpoint.keep_last,
        "trainer.val_before_train": False,
        "trainer.test_freq": validation.every_steps if validation else -1,
        "+ray_kwargs.ray_init.runtime_env.env_vars": variables,
    }
    if machines.ray_address is not None:
        settings["+ray_kwargs.ray_init.address"] = machines.ray_address
    return settings


def _loggers(config: RunConfig) -> Iterator[str]:
    yield "console"
    if config.record.tensorboard:
        yield "tensorboard"
    if config.record.wandb != "off":
        yield "wandb"


def _located(model: str) -> str:
    """A model's folder as workers with other working folders find it; a hub name as it is."""
    folder = Path(model).expanduser()
    return str(folder.absolute()) if folder.is_dir() else model


def _param_of(config: RunConfig, name: str) -> Any:
    """A parameter of the run's method, its default where it is not set; None where the method has none of the name."""
    defaults = {each.name: each.default for each in objectives.describe(config.objective.name).parameters}
    return config.objective.params.get(name, defaults.get(name))
