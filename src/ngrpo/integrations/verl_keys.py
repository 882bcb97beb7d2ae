"""Every key of a run file and what becomes of it in verl: translated, read by the launch, left behind, or refused."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from ngrpo import objectives
from ngrpo.config import RunConfig
from ngrpo.integrations.verl_methods import ACTOR, advantage_needs_labels, support
from ngrpo.train.needs import make_objective

Fate = Literal["translated", "read by the launch", "not applicable", "refused where set"]


@dataclass(frozen=True, slots=True)
class KeyFate:
    """What becomes of a key.

    Attributes:
        fate: In a word.
        keys: verl's keys that it becomes; some only where it is set.
        why: What there is to say: a difference, or why it has no meaning there.
    """

    fate: Fate
    keys: tuple[str, ...] = ()
    why: str = ""


def _to(*keys: str, why: str = "") -> KeyFate:
    return KeyFate("translated", keys, why)


def _read(why: str) -> KeyFate:
    return KeyFate("read by the launch", (), why)


def _none(why: str) -> KeyFate:
    return KeyFate("not applicable", (), why)


def _refused(why: str) -> KeyFate:
    return KeyFate("refused where set", (), why)


_MODEL, _ROLLOUT = "actor_rollout_ref.model", "actor_rollout_ref.rollout"
_OPTIM, _SAMPLER = f"{ACTOR}.optim", "+trainer.v1.sampler.sampler_kwargs"
_VALIDATION = f"{_ROLLOUT}.val_kwargs"
_WRITTEN = "used in writing train.parquet"
_WRITTEN_TOO = "used in writing validation.parquet"
_JUDGE = "goes into reward.json, which verl's reward workers read"
_MEMORY = "about this package's own sampler; vLLM's memory is verl's rollout.gpu_memory_utilization (--verl)"

KEYS: dict[str, KeyFate] = {
    "run.name": _to("trainer.experiment_name"),
    "run.dir": _to("trainer.default_local_dir", why="verl_checkpoints in the run folder"),
    "run.seed": _to("data.seed", f"{_ROLLOUT}.seed", f"{ACTOR}.data_loader_seed", why="other random numbers than ours"),
    "model.path": _to(f"{_MODEL}.path"),
    "model.device": _refused("verl trains on GPUs: auto and cuda alone"),
    "model.precision": _to(f"{ACTOR}.fsdp_config.dtype", f"{_ROLLOUT}.dtype", why="float64 is refused; auto: bfloat16"),
    "model.gradient_checkpointing": _to(f"{_MODEL}.enable_gradient_checkpointing"),
    "model.lora.rank": _to(f"{_MODEL}.lora_rank"),
    "model.lora.alpha": _to(f"{_MODEL}.lora_alpha", why="whole numbers alone"),
    "model.lora.target_modules": _to(f"{_MODEL}.target_modules"),
    "data.source": _read(_WRITTEN),
    "data.split": _read(_WRITTEN),
    "data.subset": _read(_WRITTEN),
    "data.prompt_column": _read(_WRITTEN),
    "data.gold_column": _read(_WRITTEN),
    "data.id_column": _read(_WRITTEN),
    "data.template": _read(_WRITTEN + ": verl gets whole prompts, and a chat template that changes nothing"),
    "data.system_prompt": _read(_WRITTEN),
    "data.on_bad_row": _read(_WRITTEN),
    "data.max_prompt_tokens": _to("data.max_prompt_length", why="must be set"),
    "data.limit": _read(_WRITTEN),
    "data.size": _read(_WRITTEN),
    "data.seed": _read(_WRITTEN),
    "data.params": _read(_WRITTEN),
    "data.anchor_column": _refused("given solutions cannot join verl's groups"),
    "data.anchor_logprobs_column": _refused("given solutions cannot join verl's groups"),
    "reward.name": _read(_JUDGE),
    "reward.profile": _read(_JUDGE),
    "reward.absolute_tolerance": _read(_JUDGE),
    "reward.relative_tolerance": _read(_JUDGE),
    "reward.choices": _read(_JUDGE),
    "reward.fractional": _read(_JUDGE),
    "reward.correct_at": _read(_JUDGE),
    "reward.timeout_s": _read(_JUDGE),
    "reward.num_workers": _to("reward.num_workers", why="verl's reward workers, one judging process each; default 8"),
    "reward.max_failed_frac": _none("a failed verdict counts as wrong there, reward 0; `failed` tells its share"),
    "reward.allow_execution": _read(_JUDGE),
    "reward.abstain_phrases": _read(_JUDGE),
    "reward.shaping": _read(_JUDGE + "; the term `length` is refused: verl tells a judge no number of tokens"),
    "rollout.engine": _to(f"{_ROLLOUT}.name", why="native becomes vllm, which stays; gold is refused"),
    "rollout.num_prompts_per_step": _to(
        "data.train_batch_size", f"{_SAMPLER}.num_prompts_per_step", f"{ACTOR}.ppo_mini_batch_size"
    ),
    "rollout.num_samples_per_prompt": _to(f"{_ROLLOUT}.n"),
    "rollout.max_completion_tokens": _to("data.max_response_length"),
    "rollout.temperature": _to(f"{_ROLLOUT}.temperature"),
    "rollout.top_p": _to(f"{_ROLLOUT}.top_p"),
    "rollout.top_k": _to(f"{_ROLLOUT}.top_k", why="0 becomes -1"),
    "rollout.max_rows": _to(f"{_ROLLOUT}.max_num_seqs"),
    "rollout.cache_gib": _none(_MEMORY),
    "refill.max_batches": _to(f"{_SAMPLER}.max_batches", why="then groups of any kind fill the step"),
    "refill.max_empty_steps": _none("verl fills every step"),
    "objective.name": _to("algorithm.adv_estimator", f"{ACTOR}.policy_loss.loss_mode", f"{ACTOR}.loss_agg_mode"),
    "objective.params": _to(
        f"{ACTOR}.clip_ratio_low", f"{ACTOR}.clip_ratio_high", f"{ACTOR}.clip_ratio_c", f"{ACTOR}.loss_scale_factor",
        f"{ACTOR}.entropy_coeff", f"{ACTOR}.kl_loss_coef", "algorithm.use_kl_in_reward", f"{_SAMPLER}.group_filter",
        why="those of the advantage: +algorithm.ngrpo.NAME",
    ),
    "update.num_updates_per_step": _to(f"{ACTOR}.ppo_mini_batch_size", why="must divide rollout.num_prompts_per_step"),
    "update.max_microbatch_tokens": _to(f"{ACTOR}.ppo_max_token_len_per_gpu", why="on each GPU"),
    "update.max_grad_norm": _to(f"{_OPTIM}.clip_grad"),
    "update.packing_window": _refused("verl packs by itself (use_remove_padding)"),
    "update.max_importance_weight": _to(
        "algorithm.rollout_correction.rollout_is", why="unset it is 2 where rollout.engine is vllm, and off elsewhere"
    ),
    "optim.lr": _to(f"{_OPTIM}.lr"),
    "optim.betas": _to(f"{_OPTIM}.betas"),
    "optim.eps": _to(f"{_OPTIM}.override_optimizer_config"),
    "optim.weight_decay": _to(f"{_OPTIM}.weight_decay", why="on every weight there, on matrices only here"),
    "optim.warmup_steps": _to(f"{_OPTIM}.lr_warmup_steps", why="verl's first step has rate 0: a step behind ours"),
    "optim.schedule": _to(f"{_OPTIM}.lr_scheduler_type", why="linear is refused"),
    "optim.min_lr_frac": _to(f"{_OPTIM}.min_lr_ratio"),
    "critic.lr": _to("critic.optim.lr"),
    "critic.path": _to("critic.model.path"),
    "train.num_steps": _to("trainer.total_training_steps"),
    "validation.every_steps": _to("trainer.test_freq"),
    "validation.num_samples": _to(f"{_VALIDATION}.n"),
    "validation.temperature": _to(f"{_VALIDATION}.temperature", f"{_VALIDATION}.do_sample"),
    "validation.top_p": _to(f"{_VALIDATION}.top_p"),
    "validation.top_k": _to(f"{_VALIDATION}.top_k", why="0 becomes -1"),
    "checkpoint.every_steps": _to("trainer.save_freq"),
    "checkpoint.keep_last": _to("trainer.max_actor_ckpt_to_keep", why="the best is not kept besides"),
    "record.tensorboard": _to("trainer.logger"),
    "record.wandb": _to("trainer.logger", why="offline: WANDB_MODE in Ray's runtime environment"),
    "record.wandb_project": _to("trainer.project_name"),
    "record.num_groups_per_step": _none("verl writes whole rollouts with trainer.rollout_data_dir=FOLDER (--verl)"),
}  # fmt: skip
"""Every key; those of `validation.data` as those of `data`."""

KEYS |= {
    f"validation.{key}": fate if fate.fate == "refused where set" else _read(_WRITTEN_TOO)
    for key, fate in KEYS.items()
    if key.startswith("data.")
}  # fmt: skip


def refusals(config: RunConfig) -> list[str]:
    """What of a run verl cannot carry.

    Args:
        config: A checked configuration.

    Returns:
        A line each, with the key, the value and what to do; empty where all can go.

    Raises:
        ConfigError: The method itself cannot train like this, here or there.
    """
    found = [f"{key} = {value!r}: {why}" for rule in RULES for key, value, why in rule(config)]
    if not any(line.startswith("objective.") for line in found):
        make_objective(config)
    return found


Refusal = tuple[str, object, str]


def _method(config: RunConfig) -> Iterator[Refusal]:
    name, params = config.objective.name, config.objective.params
    if obstacles := support(name, params).obstacles:
        others = [other for other in objectives.names() if not support(other).obstacles]
        yield "objective.name", name, f"{'; '.join(obstacles)}. verl carries: {', '.join(others)}; `ngrpo train` all."
    objective = objectives.get(name, **params)
    shaped = config.reward.shaping or config.reward.fractional or ".py:" in config.reward.name
    if advantage_needs_labels(objective) and (shaped or params.get("reward_kl_coef")):
        yield (
            "objective.name", name,
            "it reads the verifier's labels, and verl gives an estimator rewards alone, which are labels only "
            "where all are 0 or 1. Leave out reward.shaping, reward.fractional, reward_kl_coef and functions of "
            "your own.",
        )  # fmt: skip


def _model(config: RunConfig) -> Iterator[Refusal]:
    model = config.model
    if model.path.startswith("world:"):
        yield "model.path", model.path, "a tiny world's model is for this package's own sampler. Use `ngrpo train`."
    if model.device not in ("auto", "cuda"):
        yield "model.device", model.device, "verl trains on all GPUs it is given. Set it to auto; see --gpus."
    if model.precision == "float64":
        yield "model.precision", model.precision, "verl and vLLM have none. Set it to auto, bfloat16 or float32."
    if model.lora is not None and model.lora.alpha != int(model.lora.alpha):
        yield "model.lora.alpha", model.lora.alpha, "verl takes a whole number."


def _data(config: RunConfig) -> Iterator[Refusal]:
    if config.data.max_prompt_tokens is None:
        yield "data.max_prompt_tokens", None, "verl sizes its batches by it. Set it, for example to 1024."
    for key in ("anchor_column", "anchor_logprobs_column"):
        if (value := getattr(config.data, key)) is not None:
            yield f"data.{key}", value, "given solutions cannot join verl's groups. Leave it out."
    for term in config.reward.shaping:
        if term.name == "length":
            yield "reward.shaping", term.name, "verl tells a judge no number of tokens. Leave the term out."


def _rollout(config: RunConfig) -> Iterator[Refusal]:
    rollout, update = config.rollout, config.update
    if rollout.engine == "gold":
        yield "rollout.engine", rollout.engine, "verl samples with vLLM. Set it to vllm."
    if rollout.num_prompts_per_step % update.num_updates_per_step:
        yield (
            "update.num_updates_per_step", update.num_updates_per_step,
            f"verl's mini-batches are equal, and rollout.num_prompts_per_step = {rollout.num_prompts_per_step} is no "
            "multiple of it. Choose one that divides.",
        )  # fmt: skip
    longest = (config.data.max_prompt_tokens or 0) + rollout.max_completion_tokens
    if update.max_microbatch_tokens < longest:
        yield (
            "update.max_microbatch_tokens", update.max_microbatch_tokens,
            f"verl wants room for the longest prompt and completion in one. Set it to {longest} or more.",
        )  # fmt: skip
    if update.packing_window is not None:
        yield "update.packing_window", update.packing_window, "verl packs by itself. Leave it out."
    if config.optim.schedule == "linear":
        yield "optim.schedule", config.optim.schedule, "verl has constant and cosine. Choose one."


RULES: tuple[Callable[[RunConfig], Iterator[Refusal]], ...] = (_method, _model, _data, _rollout)
