"""Configuration into live objects; the only place that does this. User mistakes fail here, before the model loads."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ngrpo.config import Data, RunConfig
from ngrpo.config import Reward as RewardSettings
from ngrpo.data import PromptOrder, PromptSet, load_prompts
from ngrpo.errors import CheckpointError, ConfigError
from ngrpo.objectives import Objective
from ngrpo.policy import (
    Policy,
    check_same_tokens,
    load_policy,
    load_reference,
    load_tokenizer,
    max_positions,
    sensible_threads,
)
from ngrpo.policy.load import ignored_generation_settings
from ngrpo.record import Recorder, console, hold_folder, with_late_bar
from ngrpo.rewards import Reward
from ngrpo.rollout import Engine, Sampling, engine_for, is_boxed, reward_for
from ngrpo.rollout.vllm import check_vllm
from ngrpo.train.anchors import check_anchors
from ngrpo.train.checkpoint import TrainerState, load_companions, load_optimizer, load_state, newest_checkpoint
from ngrpo.train.companion import Companion
from ngrpo.train.drafts import Refiner, refiner_for
from ngrpo.train.memory import keep_freed_memory
from ngrpo.train.needs import companions_for, make_objective, prompt_choice_for, uses_reference_model
from ngrpo.train.optimizer import adamw
from ngrpo.train.packing import check_packing
from ngrpo.train.prompt_choice import PromptChoice
from ngrpo.train.run_folder import (
    check_extras,
    check_same_data,
    check_same_settings,
    folder_of,
    forget_unsaved,
    make_listeners,
    read_run_file,
    start_folder,
    write_run_file,
)
from ngrpo.types import Prompt


@dataclass(frozen=True)
class ValidationSet:
    """What periodic evaluation needs.

    Attributes:
        prompts: The held-out prompts.
        reward: Judges them.
        sampling: How tokens are drawn.
        num_samples: Completions per prompt.
        every_steps: Rollout steps between evaluations.
    """

    prompts: tuple[Prompt, ...]
    reward: Reward
    sampling: Sampling
    num_samples: int
    every_steps: int


@dataclass
class TrainingRun:
    """Everything the loop works with.

    Attributes:
        config: What the user asked for.
        folder: The run folder.
        lock: The file descriptor that keeps other processes out of the folder.
        objective: The method.
        prompts: The training prompts.
        refiner: Puts drafts to them, where the method has any.
        prompt_choice: Draws them.
        reward: Judges completions.
        sampling: How tokens are drawn in training.
        validation: Periodic evaluation, where asked for.
        policy: What is trained.
        reference: The frozen starting model, where the objective needs one.
        optimizer: AdamW over the policy's trainable parameters.
        companions: What the method keeps beside the policy.
        engine: Samples.
        recorder: Writes the run folder.
        state: Where the run is.
        is_sound: Whether weights, state and records are of one step and finite, so that they may be saved.
        last_correct_frac: Of the last step's completions; for progress.
    """

    config: RunConfig
    folder: Path
    lock: int
    objective: Objective
    prompts: tuple[Prompt, ...]
    refiner: Refiner | None
    prompt_choice: PromptChoice
    reward: Reward
    sampling: Sampling
    validation: ValidationSet | None
    policy: Policy
    reference: Policy | None
    optimizer: torch.optim.Optimizer
    companions: tuple[Companion, ...]
    engine: Engine
    recorder: Recorder
    state: TrainerState
    is_sound: bool = True
    last_correct_frac: float | None = None

    def close(self) -> None:
        """Ends worker processes and lets go of the folder. May be called again."""
        self.reward.close()
        if self.validation is not None:
            self.validation.reward.close()
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def assemble(config: RunConfig, *, resume: bool = False) -> TrainingRun:
    """Makes the objects of a run and its folder, or takes up a run where its newest checkpoint left it.

    Args:
        config: A checked configuration.
        resume: Go on with the run in the folder.

    Raises:
        UserError: A setting, a row, the model or the folder cannot be used. Records and checkpoints are as they were.
    """
    objective = check_start(config, resume=resume)
    folder = folder_of(config)
    described = read_run_file(folder) if resume else None
    if described is not None:
        check_same_settings(described, config, folder)
    lock = hold_folder(folder, advice="choose another run.name")
    try:
        return _assemble(config, objective, folder, lock, described)
    except BaseException:
        os.close(lock)
        raise


def _assemble(
    config: RunConfig, objective: Objective, folder: Path, lock: int, described: dict[str, Any] | None
) -> TrainingRun:
    """The rest of `assemble`, in a folder that is held; `described` is the `run.json` of a run to be resumed."""
    tokenizer = load_tokenizer(config.model.path)
    room = training_room(config, tokenizer)
    prompts, reward = load_data(config.data, config.reward, tokenizer, room)
    check_anchors(config.data, prompts.prompts, tokenizer)
    refiner = refiner_for(objective, config.data, prompts.prompts, tokenizer, room)
    validation = load_validation(config, tokenizer, room)
    checkpoint = None
    if described is not None:
        check_same_data(described, prompts, folder)
        checkpoint = newest_checkpoint(folder / "checkpoints")
        if checkpoint is None:
            note(f"{folder} has no checkpoint yet: starting at step 0.")
    state = load_state(checkpoint) if checkpoint else TrainerState()
    if state.step > config.train.num_steps:
        raise CheckpointError(
            f"the run in {folder} has made {state.step} steps already, more than train.num_steps = "
            f"{config.train.num_steps}. Give a larger train.num_steps to go on with it."
        )
    policy = make_policy(config, tokenizer, checkpoint)
    if policy.device.type == "cpu":
        keep_freed_memory()
    if described is None and (ignored := ignored_generation_settings(policy.model)):
        note(f"the model's own generation_config is ignored ({ignored}); rollout.* decides.")
    if config.update.packing_window is not None:
        check_packing(policy)
    optimizer = make_optimizer(policy, config)
    if checkpoint:
        load_optimizer(checkpoint, optimizer, policy.device)
    companions = companions_for(config, objective, policy)
    if checkpoint:
        load_companions(checkpoint, companions, policy.device)
    reference = load_reference(config.model.path, policy) if uses_reference_model(objective) else None
    with sensible_threads(policy):  # as the run itself will have: their number is written down
        write_run_file(folder, config, prompts, state, described)
    (folder / "checkpoints").mkdir(exist_ok=True)
    recorder = Recorder(folder, num_groups_per_step=config.record.num_groups_per_step)
    forget_unsaved(recorder, state)
    recorder.listeners = make_listeners(folder, config, state)
    return TrainingRun(
        config=config,
        folder=folder,
        lock=lock,
        objective=objective,
        prompts=prompts.prompts,
        refiner=refiner,
        prompt_choice=prompt_choice_for(objective, PromptOrder(len(prompts), config.run.seed), companions),
        reward=reward,
        sampling=Sampling(config.rollout.max_completion_tokens, config.rollout.temperature),
        validation=validation,
        policy=policy,
        reference=reference,
        optimizer=optimizer,
        companions=companions,
        engine=engine_for(
            config.rollout.engine,
            policy,
            max_rows=config.rollout.max_rows,
            cache_gib=config.rollout.cache_gib,
            answers_are_boxed=is_boxed(reward),
        ),
        recorder=recorder,
        state=state,
    )


def check_start(config: RunConfig, *, resume: bool) -> Objective:
    """Finds what can be found wrong without data and model, and makes the folder of a new run.

    Returns:
        The method.

    Raises:
        UserError: The method, an extra that is not installed, what the engine cannot do, or the run folder.
    """
    objective = make_objective(config)
    check_extras(config)
    check_engine(config)
    if resume:
        read_run_file(folder_of(config))
    else:
        start_folder(folder_of(config))
    return objective


def check_engine(config: RunConfig) -> None:
    """Finds what keeps the engine from sampling with these settings on this machine, before a model is loaded.

    Raises:
        MissingExtraError: It is not installed, or in another version.
        ConfigError: It cannot use the device, the precision or a temperature.
    """
    if config.rollout.engine == "vllm":
        sections = [config.rollout] if config.validation is None else [config.rollout, config.validation]
        check_vllm(
            device=config.model.device,
            precision=config.model.precision,
            temperatures=[section.temperature for section in sections],
        )


def training_room(config: RunConfig, tokenizer: Any) -> int | None:
    """What the models of a run leave for a prompt beside a completion, in tokens; None where none of them says.

    Args:
        config: A checked configuration.
        tokenizer: The policy's.

    Raises:
        ModelError: A model is not there.
        ConfigError: A model has no room for a prompt, or a critic reads other tokens than the policy.
    """
    models = [config.model.path]
    if config.critic is not None and config.critic.path is not None:
        check_same_tokens(config.critic.path, tokenizer)
        models.append(config.critic.path)
    limit, setting = config.rollout.max_completion_tokens, "rollout.max_completion_tokens"
    rooms = [prompt_room(model, limit, setting) for model in models]
    return min((room for room in rooms if room is not None), default=None)


def prompt_room(model: str, max_completion_tokens: int, setting: str) -> int | None:
    """What a model leaves for a prompt beside a completion, in tokens; None where it does not say.

    Args:
        model: Folder or hub name; its configuration is read, not its weights.
        max_completion_tokens: Longest completion.
        setting: What sets that, for the message.

    Raises:
        ConfigError: The model has no room for a prompt.
    """
    limit = max_positions(model)
    if limit is None:
        return None
    if limit <= max_completion_tokens:
        raise ConfigError(
            f"{setting} = {max_completion_tokens} leaves no room for a prompt: {model!r} was made for {limit} tokens "
            "in all. Lower it."
        )
    return limit - max_completion_tokens


def load_data(
    data: Data, judge: RewardSettings, tokenizer: Any, room: int | None, section: str = "data"
) -> tuple[PromptSet, Reward]:
    """The prompts of one data section and the reward that judges them; drops are counted aloud.

    Args:
        data: The section.
        judge: The reward section.
        tokenizer: The model's.
        room: Tokens that the model has for a prompt, where it says.
        section: Name of the data section, for the message.

    Raises:
        UserError: Rows or reward cannot be used.
    """
    reward = reward_for(judge, data)
    prompts = load_prompts(
        data.source,
        tokenizer,
        max_prompt_tokens=min((bound for bound in (room, data.max_prompt_tokens) if bound is not None), default=None),
        check_golds=with_late_bar(reward.check_golds, "checking golds"),
        **data.model_dump(exclude={"source", "max_prompt_tokens", "anchor_column", "anchor_logprobs_column"}),
    )
    if prompts.num_dropped:
        counts = ", ".join(f"{count} {reason}" for reason, count in prompts.num_dropped.items())
        note(f"{section}.source: dropped {sum(prompts.num_dropped.values())} rows ({counts}).")
    return prompts, reward


def load_validation(config: RunConfig, tokenizer: Any, room: int | None) -> ValidationSet | None:
    """The validation section made live, or None where there is none."""
    section = config.validation
    if section is None:
        return None
    prompts, reward = load_data(section.data, config.reward, tokenizer, room, "validation.data")
    sampling = Sampling(
        config.rollout.max_completion_tokens, section.temperature, top_p=section.top_p, top_k=section.top_k
    )
    return ValidationSet(prompts.prompts, reward, sampling, section.num_samples, section.every_steps)


def make_policy(config: RunConfig, tokenizer: Any, checkpoint: Path | None) -> Policy:
    """The model: the user's, or the one a checkpoint holds. A new adapter's weights belong to the run's seed."""
    lora = config.model.lora
    path = config.model.path if checkpoint is None or lora is not None else str(checkpoint)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(config.run.seed)
        return load_policy(
            path,
            tokenizer,
            device=config.model.device,
            precision=config.model.precision,
            gradient_checkpointing=config.model.gradient_checkpointing,
            lora=lora.model_dump() if lora else None,
            adapter=checkpoint if lora else None,
        )


def make_optimizer(policy: Policy, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW over what of the policy is trained.

    Raises:
        ConfigError: Nothing of the model can be trained.
    """
    parameters = policy.trainable_parameters()
    if not parameters:
        raise ConfigError(
            f"model.path = {config.model.path!r} has no weights to train: it is an adapter whose base is frozen. "
            "Merge it first (ngrpo export), or train a new adapter on its base (model.lora)."
        )
    return adamw(parameters, config, peak=config.optim.lr)


def note(text: str) -> None:
    """Tells the user something on standard error, just as it is."""
    console().print(text, markup=False, soft_wrap=True)
