"""What a run file can say: one strict, frozen model per section. No torch here.

Every field has a type, a default where one is uncontroversial, bounds, and one line with its unit. Nothing derived is
stored: what follows from these values is worked out in `train.assemble`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ngrpo.config.rules import broken_rules

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
NonEmptyText = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are finite, nothing changes after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, strict=True, use_attribute_docstrings=True
    )


class Run(Section):
    """Where a run lives and what its random numbers start from."""

    name: NonEmptyText = "run"
    """Folder of this run below `run.dir`."""
    dir: NonEmptyText = "runs"
    """Folder that holds the runs."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the prompt order and of every sampled token."""


class Lora(Section):
    """A LoRA adapter through `peft`; the base weights stay frozen."""

    rank: PositiveInt = 16
    """Rank of the update matrices."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale of the update; the effective factor is alpha / rank."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get an adapter."""


class Model(Section):
    """The policy that is trained."""

    path: NonEmptyText
    """A Hugging Face model folder, a run folder (its newest checkpoint), a hub name, or `world:countdown`."""
    device: str = "auto"
    """`auto` (a GPU when there is one), `cpu`, `cuda`, `cuda:1`, `mps`."""
    precision: Literal["auto", "float32", "float64", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; weights stay float32 under bfloat16. `auto`: bfloat16 on CUDA, else float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    lora: Lora | None = None
    """Train an adapter instead of the weights."""


class Data(Section):
    """Prompts and gold answers."""

    source: NonEmptyText
    """A .parquet or .jsonl file, a folder, `hub:org/name`, `world:countdown`, `gym:task`, one of `ngrpo data list`."""
    split: str = "train"
    """Split of a hub data set or of a tiny world (warm, train, validation, test)."""
    subset: str | None = None
    """Configuration name of a hub data set."""
    prompt_column: str | None = None
    """Column of the problem text. Default: the first of prompt, problem, question that exists."""
    gold_column: str | None = None
    """Column of the reference answer. Default: the first of gold, answer, solution that exists."""
    id_column: str | None = None
    """Column of a unique id. Default: `id` where it exists, else the row number."""
    template: str = "auto"
    """`auto` (the tokenizer's chat template, else the bare prompt), `none`, `paper`, or a text with `{prompt}` in."""
    system_prompt: str | None = None
    """System message, where a chat template is used."""
    on_bad_row: Literal["error", "drop"] = "error"
    """What to do with a row without gold, without text, or with too long a prompt."""
    max_prompt_tokens: PositiveInt | None = None
    """Longest prompt allowed, in tokens. Default: what the model leaves beside the completion."""
    limit: PositiveInt | None = None
    """Use only the first rows."""
    size: PositiveInt = 1000
    """Rows to generate, for a reasoning-gym task or a tiny world."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of generated rows."""
    params: dict[str, Any] = {}
    """Parameters of a reasoning-gym task."""
    anchor_column: str | None = None
    """Column of a full solution, for methods that train on one where the model never succeeds."""
    anchor_logprobs_column: str | None = None
    """Column of the log-probability (nats) of each token of it under its author. Default: the author was certain."""


class ShapingTerm(Section):
    """One term that is added to what the judge gives."""

    name: NonEmptyText
    """`one_box`, `think_tags`, `regex`, `length`, `coin`, or `path/to/file.py:function`."""
    weight: float
    """What the term is multiplied with before it is added, in reward units; negative takes away."""
    params: dict[str, Any] = {}
    """Parameters of that term; docs/rewards.md lists them."""


class Reward(Section):
    """How a completion is judged."""

    name: str = "auto"
    """`auto` (what fits the data), `math`, `exact`, `numeric`, `choice`, `world`, `gym`, `path/to/file.py:function`."""
    profile: Literal["strict", "lenient", "paper"] = "strict"
    """What counts as an answer, and as the same answer, in mathematics: see docs/verifier.md."""
    absolute_tolerance: Annotated[float, Field(ge=0)] = 0.0
    """How far a number may be from the gold, for `numeric`. 0: only equal numbers are equal."""
    relative_tolerance: Annotated[float, Field(ge=0)] = 0.0
    """The same as a share of the gold; the larger of the two holds."""
    choices: NonEmptyText = "ABCDE"
    """Capital letters that may be chosen, for `choice`."""
    fractional: bool = False
    """Whether the value is the score of a reasoning-gym task itself, partial credit included, and not 0 or 1."""
    correct_at: float = 1.0
    """A score at or above this is labelled correct (scores of reasoning-gym and of the user's function)."""
    timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Deadline for judging one answer, seconds of processor time."""
    num_workers: PositiveInt | None = None
    """Processes that judge, of `math` and `gym`. Default: as many as there are cores."""
    max_failed_frac: Fraction = 0.1
    """Share of a step's completions the judge may fail on (timeout, error) before the run stops; 1 never stops it."""
    allow_execution: list[str] = []
    """reasoning-gym tasks whose scorer may execute model output."""
    abstain_phrases: list[NonEmptyText] = []
    """A wrong completion that contains one of these declined to answer; for methods that tell that apart."""
    shaping: list[ShapingTerm] = []
    """Terms added to what the judge gives; the label `correct` stays the judge's."""


class Rollout(Section):
    """How completions are sampled."""

    engine: Literal["native", "vllm", "gold"] = "native"
    """`native` samples from the model, `vllm` too; `gold` answers with the gold: a control that must score 1.0."""
    num_prompts_per_step: PositiveInt = 32
    """Prompts in one rollout step."""
    num_samples_per_prompt: PositiveInt = 8
    """Completions sampled for each prompt: the group size."""
    max_completion_tokens: PositiveInt = 1024
    """Longest completion, in tokens."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature; the update's log-probabilities are taken at the same one."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus mass. Training refuses less than 1: the update's log-probabilities would not be the sampler's."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Keep only the k likeliest tokens; 0 keeps all. Training refuses anything else, as for top_p."""
    max_rows: PositiveInt = 512
    """Completions decoded at the same time at most."""
    cache_gib: Annotated[float, Field(gt=0)] = 4.0
    """GiB for keys, values and logits of these; where it cannot hold `max_rows` of the longest, fewer are decoded."""


class Refill(Section):
    """What happens when the group filter leaves a step short of groups."""

    max_batches: PositiveInt = 10
    """Rollout batches sampled for one step at most, the first included; then the step goes on with what it has."""
    max_empty_steps: PositiveInt = 5
    """Steps in a row that keep no group before the run stops."""


class Objective(Section):
    """The method, by its name in the catalog."""

    name: str = "ngrpo"
    """A name from `ngrpo objectives`."""
    params: dict[str, Any] = {}
    """Parameters of that method; `ngrpo objectives NAME` lists them."""


class Update(Section):
    """How one rollout batch becomes optimiser steps."""

    num_updates_per_step: PositiveInt = 4
    """Optimiser steps per rollout batch; the groups are divided evenly among them."""
    max_microbatch_tokens: PositiveInt = 16384
    """Most tokens in a pass, padding included. Changes memory, not the gradient; halved when memory runs out."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    packing_window: PositiveInt | None = None
    """For models whose prompts cannot be shared: several completions in a row, looking so many ahead. Default: off."""
    max_importance_weight: Annotated[float, Field(ge=1.0)] | Literal["off"] | None = None
    """Weigh each token by its probability, trainer's over sampler's, at most this. Default: 2 for `vllm`, else off."""


class Optim(Section):
    """AdamW and its schedule. The schedule counts rollout steps, not updates."""

    lr: Annotated[float, Field(gt=0)] = 1e-6
    """Peak learning rate."""
    betas: Annotated[tuple[Decay, Decay], Field(strict=False)] = (0.9, 0.999)  # not strict: TOML has lists only
    """Decay of the first and second moment."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay, on matrices only."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Rollout steps of linear warm-up."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Shape after the warm-up, down to `min_lr_frac` at `train.num_steps`."""
    min_lr_frac: Fraction = 0.0
    """Share of `lr` left at the end of a linear or cosine schedule."""


class Train(Section):
    """How long."""

    num_steps: PositiveInt = 100
    """Rollout steps. Raise it and resume to extend a finished run."""


class Critic(Section):
    """The value model of methods that have one; trained beside the policy, and whole where that is an adapter."""

    lr: Annotated[float, Field(gt=0)]
    """Learning rate of its AdamW; the other settings are the policy's. The published PPO runs: 1e-5."""
    path: NonEmptyText | None = None
    """Model it starts from. Default: `model.path`."""


class Validation(Section):
    """Periodic evaluation on held-out prompts."""

    data: Data
    """The held-out prompts."""
    every_steps: PositiveInt = 20
    """Rollout steps between evaluations; the last step is always evaluated."""
    num_samples: PositiveInt = 8
    """Completions per prompt."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Sampling temperature; 0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus mass."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Keep only the k likeliest tokens; 0 keeps all."""


class Checkpoint(Section):
    """What is kept on disk."""

    every_steps: PositiveInt = 50
    """Rollout steps between checkpoints; the last step is always saved."""
    keep_last: PositiveInt = 2
    """Newest checkpoints kept; the best on validation is kept besides."""


class Record(Section):
    """What is written while training."""

    tensorboard: bool = True
    """Write TensorBoard events."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Log to Weights & Biases."""
    wandb_project: str = "ngrpo"
    """Project name there."""
    num_groups_per_step: Annotated[int, Field(ge=0)] = 1
    """Groups written to samples.jsonl each step, every completion of them."""


class RunConfig(Section):
    """A whole run file."""

    run: Run = Run()
    """Where the run lives."""
    model: Model
    """The policy."""
    data: Data
    """The training prompts."""
    reward: Reward = Reward()
    """The judge."""
    rollout: Rollout = Rollout()
    """Sampling."""
    refill: Refill = Refill()
    """Bounded refill after filtering."""
    objective: Objective = Objective()
    """The method."""
    update: Update = Update()
    """Optimiser steps per rollout."""
    optim: Optim = Optim()
    """The optimiser."""
    critic: Critic | None = None
    """The value model, for methods that have one."""
    train: Train = Train()
    """Length of the run."""
    validation: Validation | None = None
    """Periodic evaluation."""
    checkpoint: Checkpoint = Checkpoint()
    """Checkpoints."""
    record: Record = Record()
    """Records."""

    @model_validator(mode="after")
    def every_rule_holds(self) -> "RunConfig":
        """Settings that are fine alone may not go together: `config.rules` says which, all that are broken at once."""
        if broken := broken_rules(self):
            raise ValueError("\n".join(broken))
        return self
