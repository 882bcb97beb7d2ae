"""What happens to the gradient on groups that are all wrong, mixed or all right: `ngrpo lab gradients`.

Groups are sampled once. Every method then gets the same batches: `all_wrong`, `mixed` and `all_right`, so many groups
of each as were asked for and found, and `natural`, the first groups whatever they are. A batch is cut into parts of
whole groups; its gradient is the token-weighted mean of those of its parts. Held equal: the token mean, over all tokens
of the batch whichever rows a method leaves out, and old log-probabilities equal to current ones, as in the first update
of a rollout step, so that no clip binds.

`gradients.json`, beside `experiment.json`, `sampled.jsonl` and `results.md` in the folder:

    kind, model, data        "gradients", and of what
    temperature, group_size, seed, max_completion_tokens, num_parts, num_parameters, precision
    lr, sgd_norm             of the two updates; `sgd_norm` is an L2 norm
    census                   {"all_wrong", "mixed", "all_right", "failed": groups sampled of each kind, "groups": all}
    methods                  [{"label", "name", "params", "parts": slots as text}]; below, a method is its `label`
    batches                  [{"name", "num_groups", "num_wanted", "num_parts", "num_completions", "num_tokens",
                               "truncated_frac", "correct_frac"}]; num_groups 0: nothing below has that batch
    layers                   [{"name", "block": int | null, "part": embedding | attention | feed_forward | norms |
                               head | embedding_and_head | other, "num_parameters"}] in the order of every `by_layer`
    norms                    [{"method", "batch", SPREAD, "by_layer": [SPREAD]}]: L2 norms of gradients
    cosines                  [{"a": {"method", "batch"}, "b": {"method", "batch"}, SPREAD, "by_layer": [number | null]}]
                             of every pair once, `a` before `b` (method by method within batch by batch); null where a
                             gradient is zero; `by_layer` of whole batches, for pairs of one batch (else absent)
    virtual                  [{"method", "batch", "with": {"correct": CELL | null, "wrong": CELL | null},
                               "without": the same, "difference": the same, "rms_ratio": CELL | null,
                               "gradient_frac": number | null, "gradient_without": label | null}] for methods with a
                             virtual sample: mean advantages with and without it; root mean square of advantages, with
                             over without; and |g - g0| / |g| on the whole batch, where g0 is the gradient of the listed
                             method `gradient_without`, whose advantages are those without the virtual sample
    effects                  [{"method", "batch", "step": "adam" | "sgd", "is_zero": the gradient is zero, so that there
                               is no update and `changes` is empty, "step_norm": L2 norm of the update, "changes":
                               [{"quantity": entropy | logprob | kl, "of": population, "per": token | completion,
                               "unit": "nats", CELL, "num_groups"}]}]

    SPREAD = "whole": of the whole batch; "expected": of the expected gradient, without the noise of which groups were
             sampled (unbiased products, `gradient_products.Gradients.expected`): a point estimate without an interval,
             shaky where that gradient is small, null where unknown, as by layer, between `natural` and another batch,
             and where estimates contradict each other; "num_parts": how many parts have such a number; "estimate",
             "low", "high": mean over them and its 95 % Student interval, null with fewer than two; "established": the
             interval excludes zero, null where there is none. A part has fewer groups than the batch, hence a noisier
             and longer gradient and smaller cosines: the interval is about parts. Parts of two batches are paired by
             number.
    CELL   = "estimate", "low", "high": 95 % bootstrap interval over groups; "established": it excludes zero. Of effects
             it is about the groups that this very update is looked at on: other groups would have made another update,
             which may even go the other way. Repeat with other seeds before anything is said of a method.

Populations: `natural`, `all_wrong`, `mixed`, `all_right` (all completions of that batch: entropy and kl), `wrong in
all_wrong`, `wrong in mixed`, `correct in mixed`, `correct in all_right`, `gold of all_wrong`, `gold of mixed`
(teacher-forced; logprob). Those of the batch that an update was made from are the very completions that it learned
from. `kl` is the k3 estimate of KL(before || after), from tokens sampled before.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ngrpo.config import RunConfig
from ngrpo.data import PromptSet
from ngrpo.errors import ConfigError, RunFolderError
from ngrpo.lab.experiment_folder import EXPERIMENT, differences
from ngrpo.lab.gradient_batches import SAMPLED, sample_batches, sort_groups
from ngrpo.lab.gradient_measure import measure
from ngrpo.lab.gradient_methods import Method, make_methods
from ngrpo.lab.gradient_tables import write_markdown
from ngrpo.policy import Policy, load_tokenizer, sensible_threads, weights_fingerprint
from ngrpo.record import hold_folder, progress_bar, provenance, write_json
from ngrpo.rewards import Reward
from ngrpo.rollout import Engine, Sampling, engine_for, is_boxed
from ngrpo.train.assemble import check_engine, load_data, make_policy, prompt_room
from ngrpo.types import Group

GRADIENTS, RESULTS = "gradients.json", "results.md"

HELD_EQUAL = (
    "the same groups, tokens and old log-probabilities for every method",
    "token mean over all tokens of the batch, whichever rows a method leaves out",
    "the first update of a rollout step: every ratio is 1, and no clip binds",
    "one step from the same weights: AdamW from fresh state at one learning rate, SGD of one norm",
)


@dataclass(frozen=True)
class GradientOptions:
    """What is asked for, beside the run that it is asked of.

    Attributes:
        methods: Labels, as `gradient_methods.make_methods` reads them.
        num_groups: Groups wanted in each batch.
        max_prompts: Most prompts that are sampled to find them.
        num_parts: Parts that a batch is cut into, for intervals.
        sgd_norm: L2 norm of the SGD step; None: as far as Adam's first step goes.
        gold_column: Column of the data with a full solution of each prompt. None: in a tiny world the gold, elsewhere
            nothing, as the gold is an answer there and not a completion.
    """

    methods: tuple[str, ...]
    num_groups: int
    max_prompts: int
    num_parts: int
    sgd_norm: float | None = None
    gold_column: str | None = None


def run_gradients(
    folder: Path, config: RunConfig, options: GradientOptions, *, model: str, command: Sequence[str]
) -> dict[str, Any]:
    """Samples what is not on disk yet, measures, and writes the folder.

    A folder may be used again with other methods, learning rates and numbers of groups: what was sampled is kept.

    Args:
        folder: The experiment folder.
        config: Model (a folder or hub name), data, reward, sampling, microbatches, and the optimiser of the update.
        options: What is asked for.
        model: What the user calls the model.
        command: The command line, for the record.

    Returns:
        What `gradients.json` holds.

    Raises:
        ConfigError: A method cannot be shown, or a setting cannot be.
        RunFolderError: The folder holds something else, or groups that were sampled otherwise.
        UserError: Model, data or reward cannot be used.
        NumericsError: A gradient is not finite.
    """
    methods = make_methods(options.methods, config)
    check_engine(config)
    tokenizer = load_tokenizer(config.model.path)
    room = prompt_room(config.model.path, config.rollout.max_completion_tokens, "rollout.max_completion_tokens")
    prompts, reward = load_data(config.data, config.reward, tokenizer, room)
    try:
        _check_golds(options, prompts)
        settings = {"sampled": _sampled_with(config, prompts, model), **_asked_for(config, options)}
        folder.mkdir(parents=True, exist_ok=True)
        lock = hold_folder(folder, advice="give another --folder")
        try:
            _open(folder, config, settings, command)
            told = {"kind": "gradients", "model": model, "data": prompts.name, **_numbers(config, options, methods)}
            told |= _measured(folder, config, options, prompts, reward, tokenizer, methods)
            for batch in told["batches"]:
                batch["num_wanted"] = options.num_groups
            write_json(folder / GRADIENTS, told)
            write_markdown(folder / RESULTS, told)
        finally:
            os.close(lock)
    finally:
        reward.close()
    return told


def _check_golds(options: GradientOptions, prompts: PromptSet) -> None:
    column = options.gold_column
    if column is not None and not any(isinstance(prompt.columns.get(column), str) for prompt in prompts.prompts):
        raise ConfigError(f"--gold-column {column!r}: no row of {prompts.name} has a text there. Name another column.")


def _sampled_with(config: RunConfig, prompts: PromptSet, model: str) -> dict[str, Any]:
    """What decides which groups are sampled; groups on disk are of these settings or of others."""
    return {
        "model": model,
        "weights": weights_fingerprint(config.model.path),
        "precision": config.model.precision,
        "data": prompts.name,
        "fingerprint": prompts.fingerprint,
        "reward": config.reward.model_dump(mode="json", exclude={"num_workers", "max_failed_frac"}),
        "group_size": config.rollout.num_samples_per_prompt,
        "temperature": config.rollout.temperature,
        "max_completion_tokens": config.rollout.max_completion_tokens,
        "seed": config.run.seed,
        **({} if config.rollout.engine == "native" else {"engine": config.rollout.engine}),
    }


def _asked_for(config: RunConfig, options: GradientOptions) -> dict[str, Any]:
    lora = config.model.lora
    return {**asdict(options), "optim": config.optim.model_dump(mode="json"), "lora": lora and lora.model_dump()}


def _open(folder: Path, config: RunConfig, settings: dict[str, Any], command: Sequence[str]) -> None:
    """Writes `experiment.json`, or sees that the groups in the folder were sampled as they would be now.

    Raises:
        RunFolderError: The folder holds something else, or groups that were sampled otherwise.
    """
    path = folder / EXPERIMENT
    settings = json.loads(json.dumps(settings))
    try:
        if path.exists():
            old = json.loads(path.read_text(encoding="utf-8"))
            if old["kind"] != "gradients":
                raise RunFolderError(f"{folder} holds the experiment {old['kind']!r}. Give another --folder.")
            if changed := list(differences(old["settings"]["sampled"], settings["sampled"], "sampled")):
                lines = "\n".join(f"  {line}" for line in changed)
                raise RunFolderError(
                    f"the groups in {folder} were sampled otherwise:\n{lines}\nGive another --folder, or the same "
                    "settings; methods, learning rate and number of groups may change."
                )
        elif any(each.suffix != ".tmp" for each in folder.iterdir()):
            raise RunFolderError(f"{folder} exists and holds no experiment. Give another --folder.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(f"{path} cannot be read ({error!r}). Give another --folder.") from error
    scheme, _, name = config.data.source.partition(":")
    described = {
        "kind": "gradients",
        "world": name if scheme == "world" else "",
        "command": list(command),
        "settings": settings,
        "held_equal": list(HELD_EQUAL),
        "runs": [],
        "versions": provenance(),
    }
    write_json(path, described)


def _numbers(config: RunConfig, options: GradientOptions, methods: Sequence[Method]) -> dict[str, Any]:
    """The settings that a reader of the numbers needs beside them."""
    return {
        "temperature": config.rollout.temperature,
        "group_size": config.rollout.num_samples_per_prompt,
        "seed": config.run.seed,
        "max_completion_tokens": config.rollout.max_completion_tokens,
        "num_parts": options.num_parts,
        "precision": config.model.precision,
        "lr": config.optim.lr,
        "methods": [
            {"label": each.label, "name": each.name, "params": dict(each.params), "parts": each.objective.parts()}
            for each in methods
        ],
    }


def _measured(
    folder: Path,
    config: RunConfig,
    options: GradientOptions,
    prompts: PromptSet,
    reward: Reward,
    tokenizer: Any,
    methods: Sequence[Method],
) -> dict[str, Any]:
    """Samples, sorts and measures, under a bar."""
    policy = make_policy(config, tokenizer, None)
    with sensible_threads(policy), progress_bar() as progress:
        bar = progress.add_task("groups", total=min(options.max_prompts, len(prompts)), unit="prompt", note="")
        groups = sample_batches(
            folder / SAMPLED,
            prompts.prompts,
            partial(_engine, config, policy, reward),
            reward,
            num_groups=options.num_groups,
            max_prompts=options.max_prompts,
            num_samples=config.rollout.num_samples_per_prompt,
            sampling=Sampling(config.rollout.max_completion_tokens, config.rollout.temperature),
            seed=config.run.seed,
            max_rows=config.rollout.max_rows,
            on_groups=lambda count: progress.update(bar, completed=count),
        )
        progress.update(bar, total=len(groups))
        bars = {name: progress.add_task(name, total=None, unit="pass", note="") for name in ("gradients", "updates")}
        return measure(
            policy,
            methods,
            groups,
            sort_groups(groups, options.num_groups),
            config,
            folder=folder,
            num_parts=options.num_parts,
            sgd_norm=options.sgd_norm,
            gold_of=partial(gold_tokens, policy, config, options.gold_column),
            on_progress=lambda name, done, total: progress.update(bars[name], completed=done, total=total),
        )


def _engine(config: RunConfig, policy: Policy, reward: Reward) -> Engine:
    return engine_for(
        config.rollout.engine,
        policy,
        max_rows=config.rollout.max_rows,
        cache_gib=config.rollout.cache_gib,
        answers_are_boxed=is_boxed(reward),
    )


def gold_tokens(policy: Policy, config: RunConfig, column: str | None, group: Group) -> tuple[int, ...] | None:
    """The full solution of a group's prompt and the end of sequence, cut as a sampled completion would be.

    Args:
        policy: For its tokenizer.
        config: Where the data come from, and the longest completion.
        column: Column of solutions; None: the gold, in a tiny world.
        group: The group.

    Returns:
        Token ids; None where no solution is given.
    """
    is_world = config.data.source.startswith("world:")
    text = group.prompt.columns.get(column) if column is not None else group.prompt.gold if is_world else None
    if not isinstance(text, str) or not text:
        return None
    ids = (*policy.tokenizer.encode(text, add_special_tokens=False), policy.eos_token_ids[0])
    return ids[: config.rollout.max_completion_tokens]
