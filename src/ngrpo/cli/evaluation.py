"""What `ngrpo eval` does: options to live objects, then a table."""

import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import typer
from rich.console import Console
from rich.table import Table

from ngrpo.cli.models import local_model
from ngrpo.config import Data, Model, Reward, Rollout, load_sections
from ngrpo.data import PromptSet, presets
from ngrpo.errors import ConfigError, RunFolderError
from ngrpo.evaluate import EvaluationSettings, Part, Summary
from ngrpo.evaluate.figure import FIGURE, draw_pass_at_k
from ngrpo.evaluate.folder import SETTINGS, SUMMARY, open_folder, read_described
from ngrpo.evaluate.runner import check_grid, check_ks, finish
from ngrpo.evaluate.tables import (
    describe,
    fact_rows,
    percent,
    quantity_rows,
    short_head,
    short_row,
    strata_rows,
    write_tables,
)
from ngrpo.policy import Policy, load_policy, load_tokenizer, sensible_threads, weights_fingerprint
from ngrpo.policy.load import ignored_generation_settings
from ngrpo.rewards import Reward as Judge
from ngrpo.rollout import Engine, engine_for, is_boxed
from ngrpo.rollout.server import ServerEngine, check_server
from ngrpo.rollout.vllm import check_vllm
from ngrpo.stats import k_grid
from ngrpo.train.assemble import load_data, note, prompt_room

if TYPE_CHECKING:
    from ngrpo.integrations.ray import RayWorkers

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"samples": 256, "temperature": 0.6, "top_p": 0.95, "max_completion_tokens": 4096},
}
"""Settings of published evaluations by name. `paper` is NGRPO's (arXiv 2509.18851)."""

DEFAULTS: dict[str, Any] = {
    "samples": 8,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "max_completion_tokens": 1024,
    "seed": 0,
    "engine": "native",
    "max_rows": 512,
    "cache_gib": 4.0,
    "device": "auto",
    "precision": "auto",
    "ray": None,
    "server": None,
    "served_as": None,
}
"""What holds where neither an option nor a preset says otherwise."""


@dataclass(frozen=True)
class EvalOptions:
    """The options of `ngrpo eval`, by their names there; None where an option was left out."""

    model: str | None
    data: tuple[str, ...]
    source: Path | None
    ks: tuple[int, ...] | None
    out: Path | None
    profile: str | None
    preset: str | None
    sampling: Mapping[str, Any]
    settings: tuple[str, ...]

    def value(self, name: str) -> Any:
        """A setting of the sampling: the option, else the preset's, else the default."""
        given = self.sampling[name]
        return given if given is not None else PRESETS.get(self.preset or "", {}).get(name, DEFAULTS[name])


@dataclass(frozen=True)
class _Job:
    """One data set to be evaluated into one folder."""

    folder: Path
    settings: EvaluationSettings
    prompts: PromptSet
    reward: Judge


def run_evaluation(options: EvalOptions, *, as_json: bool) -> None:
    """Evaluates and prints the summaries."""
    check_choice("--preset", options.preset, tuple(PRESETS))
    check_choice("--profile", options.profile, get_args(Reward.model_fields["profile"].annotation))
    if options.ks is not None:
        check_grid(options.ks)
    if options.source is not None:
        from ngrpo.cli.eval_from import grade_given

        done = [grade_given(options, options.source)]
    else:
        done = _sample(options)
    for folder, summary in done:
        settings = read_described(folder)["settings"]
        write_tables(folder, settings, summary)
        draw_pass_at_k(folder / FIGURE, {settings["data"]: summary})
        if not as_json:
            print_summary(summary, settings, folder)
    if len(done) > 1:
        together = options.out if options.out is not None else Path("evals")
        draw_pass_at_k(together / FIGURE, {folder.name: summary for folder, summary in done})
        note(f"figure of all data sets: {together / FIGURE}")
    if as_json:
        texts = [(folder / SUMMARY).read_text(encoding="utf-8").rstrip("\n") for folder, _ in done]
        typer.echo(texts[0] if len(texts) == 1 else "[" + ",\n".join(texts) + "]")


def _sample(options: EvalOptions) -> list[tuple[Path, Summary]]:
    """Samples every data set with one model, which is loaded once, and only where samples are missing."""
    _check_sampling(options)
    folders = _folders(options)
    model = local_model(str(options.model))
    tokenizer = load_tokenizer(model)
    room = prompt_room(model, options.value("max_completion_tokens"), "--max-completion-tokens")
    with ExitStack() as stack:
        jobs = []
        for source, folder in folders.items():
            data, judge = read_settings(source, options)
            prompts, reward = load_data(data, judge, tokenizer, room)
            stack.callback(reward.close)
            jobs.append(_Job(folder, _settings(options, model, data, judge, prompts), prompts, reward))
        engines = _Engines(options, model, tokenizer, stack)
        for job in jobs:  # all of them, before a model is loaded
            stack.enter_context(open_folder(job.folder, job.settings))
        done = []
        for job in jobs:
            summary = finish(
                job.folder,
                job.settings,
                job.prompts,
                partial(engines.make, job.reward),
                job.reward,
                max_rows=options.value("max_rows"),
                num_workers=engines.num_workers,
            )
            done.append((job.folder, summary))
    if not engines.are_used:
        note(f"nothing to do: every sample is in {', '.join(map(str, folders.values()))} already.")
    return done


def _check_sampling(options: EvalOptions) -> None:
    if options.model is None or "=" in options.model or not options.data:
        raise ConfigError(
            "ngrpo eval needs a MODEL and --data, or --from with a file of samples. See ngrpo eval --help."
        )
    if options.ks is not None:
        check_ks(options.ks, options.value("samples"))
    if options.value("server") is not None:
        _check_served(options)
    elif options.value("served_as") is not None:
        raise ConfigError("--model is the model's name at a server. Give --server too, or leave it out.")
    check_choice("--engine", options.value("engine"), get_args(Rollout.model_fields["engine"].annotation))
    check_choice("--precision", options.value("precision"), get_args(Model.model_fields["precision"].annotation))
    if options.value("engine") == "vllm" and options.value("ray") is None:  # else workers look at their own machines
        named = {name: options.value(name) for name in ("device", "precision")}
        check_vllm(**named, temperatures=[options.value("temperature")])


def _check_served(options: EvalOptions) -> None:
    """Refuses what a server decides itself, and a server that is not there."""
    for name in ("engine", "device", "precision", "cache_gib", "ray"):
        if options.sampling[name] is not None:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} is of no use with --server, which samples as it was started. Remove it.")
    check_server(options.value("server"))


class _Engines:
    """Engines around one model, which is loaded when the first of them is asked for: here, or by workers."""

    def __init__(self, options: EvalOptions, model: str, tokenizer: Any, stack: ExitStack) -> None:
        self.options, self.model, self.tokenizer, self.stack = options, model, tokenizer, stack
        self.are_used = False
        self._policy: Policy | None = None
        self._workers = None if options.value("ray") is None else _ray_workers(options, model, stack)

    @property
    def num_workers(self) -> int:
        """Processes that sample at the same time."""
        return 1 if self._workers is None else self._workers.cluster.num_workers

    def make(self, reward: Judge) -> Engine:
        """An engine for a data set that is judged so."""
        self.are_used = True
        if self._workers is not None:
            from ngrpo.integrations.ray import RayEngine

            return RayEngine(self._workers, answers_are_boxed=is_boxed(reward))
        options = self.options
        if options.value("server") is not None:
            at_once = {"num_at_once": rows} if (rows := options.sampling["max_rows"]) else {}
            return ServerEngine(options.value("server"), _served_name(options), self.tokenizer, **at_once)
        if self._policy is None:
            self._policy = load_policy(
                self.model, self.tokenizer, device=options.value("device"), precision=options.value("precision")
            )
            if ignored := ignored_generation_settings(self._policy.model):
                note(f"the model's own generation_config is ignored ({ignored}); the options decide.")
            self.stack.enter_context(sensible_threads(self._policy))
        return engine_for(
            options.value("engine"),
            self._policy,
            max_rows=options.value("max_rows"),
            cache_gib=options.value("cache_gib"),
            answers_are_boxed=is_boxed(reward),
        )


def _served_name(options: EvalOptions) -> str:
    """What the server calls the model."""
    return options.value("served_as") or str(options.model)


def _ray_workers(options: EvalOptions, model: str, stack: ExitStack) -> "RayWorkers":
    """The workers of a Ray cluster, which is joined now, so that a wrong address is known before anything is done."""
    from ngrpo.integrations.ray import RayWorkers
    from ngrpo.integrations.ray_cluster import connect
    from ngrpo.integrations.ray_worker import WorkerModel

    cluster = connect(options.value("ray"), device=options.value("device"))
    stack.callback(cluster.close)
    folder = Path(model).expanduser()
    names = ("engine", "device", "precision", "max_rows", "cache_gib")
    workers = RayWorkers(
        cluster,
        WorkerModel(
            path=str(folder.absolute()) if folder.is_dir() else model,
            weights=weights_fingerprint(model),
            **{name: options.value(name) for name in names},
        ),
    )
    stack.callback(workers.close)
    note(f"Ray: {cluster.num_workers} workers, one per {'GPU' if cluster.on_gpus else 'CPU'}.")
    return workers


def _folders(options: EvalOptions) -> dict[str, Path]:
    """Each data source and the folder of its results."""
    names = [slug(source) for source in options.data]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two of --data would share the folder {twice[0]}. Evaluate them in two calls.")
    if options.out is None:
        return {
            source: Path("evals") / f"{slug(str(options.model))}--{name}"
            for source, name in zip(options.data, names, strict=True)
        }
    if len(names) == 1:
        return {options.data[0]: options.out}
    if (options.out / SETTINGS).exists():
        raise RunFolderError(
            f"{options.out} is an evaluation of one data set; several go into folders of their own. Give another --out."
        )
    return {source: options.out / name for source, name in zip(options.data, names, strict=True)}


def _settings(options: EvalOptions, model: str, data: Data, judge: Reward, prompts: PromptSet) -> EvaluationSettings:
    num_samples = options.value("samples")
    sampler = {name: options.value(name) for name in ("engine", "precision")}
    notes = data_notes(data, prompts)
    if options.value("server") is not None:
        # The name is part of what a folder holds; the address, where the server may not come back at, is not.
        sampler = {"engine": f"server:{_served_name(options)}", "precision": "server"}
        notes = (*notes, f"sampled by {options.value('server')}")
    return EvaluationSettings(
        model=model,
        data=prompts.name,
        fingerprint=prompts.fingerprint,
        num_prompts=len(prompts),
        num_samples=num_samples,
        ks=options.ks or tuple(k_grid(num_samples)),
        **{name: options.value(name) for name in _SAMPLING},
        **sampler,
        reward=judge.name,
        source=data.source,
        weights=weights_fingerprint(model),
        judge=judge_settings(judge),
        template=data.template,
        notes=notes,
    )


_SAMPLING = ("temperature", "top_p", "top_k", "max_completion_tokens", "seed")


def judge_settings(judge: Reward) -> dict[str, Any]:
    """What of the reward section decides a verdict; its name is kept apart."""
    return judge.model_dump(mode="json", exclude={"name", "num_workers", "max_failed_frac"})


def data_notes(data: Data, prompts: PromptSet) -> tuple[str, ...]:
    """What a reader of the numbers should know of the data: rows left out, and where a published set was seen."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in prompts.num_dropped.items())
    dropped = (f"{sum(prompts.num_dropped.values())} rows of the data were left out ({reasons})",) if reasons else ()
    known = presets.about(data.source)
    return dropped if known is None else (*dropped, f"{known.title}. {known.note}", f"licence: {known.licence}")


def check_choice(option: str, value: str | None, choices: tuple[str, ...]) -> None:
    """Refuses a word that is none of the known ones.

    Args:
        option: Its name, for the message.
        value: What was given; None where it was not.
        choices: What there is.

    Raises:
        ConfigError: The value is none of them.
    """
    if value is not None and value not in choices:
        raise ConfigError(f"{option} {value!r} is none of {', '.join(choices)}. Choose one.")


def read_settings(source: str, options: EvalOptions, judged_as: Mapping[str, Any] | None = None) -> tuple[Data, Reward]:
    """The data and reward sections, from options and `key=value` pairs; a world or a hub set is read at `test`.

    Args:
        source: One of --data.
        options: Everything else.
        judged_as: The reward section to start from.
    """
    defaults: dict[str, Any] = {"source": source}
    if source.startswith(("world:", "hub:")):
        defaults["split"] = "test"
    if source.startswith("world:"):
        defaults["size"] = 128
    judge = dict(judged_as or {})
    if options.profile is not None:
        judge["profile"] = options.profile
    sections = load_sections({"data": (Data, defaults), "reward": (Reward, judge)}, options.settings)
    return sections["data"], sections["reward"]


def slug(text: str) -> str:
    """A folder name out of a path or a name: its two last telling parts, or the name of a published data set.

    Example:
        >>> slug("runs/tiny/checkpoints/step_000080"), slug("world:countdown"), slug("../data/math500.parquet")
        ('tiny-step_000080', 'world-countdown', 'data-math500')
        >>> slug("math500:copies/of/it.parquet")
        'math500'
    """
    known = presets.about(text)
    if known is not None:
        return known.name
    parts = re.split(r"[/:\\]+", text.removesuffix(".parquet").removesuffix(".jsonl"))
    return "-".join([part for part in parts if part not in ("", ".", "..", "runs", "checkpoints")][-2:])


def print_summary(summary: Summary, settings: Mapping[str, Any], folder: Path) -> None:
    """Prints the tables: every number with its interval, and what it was measured on."""
    part = summary.overall
    typer.echo(describe(settings, part))
    table = Table("", "%", "95 % interval", "SE over prompts", "SE of sampling", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for label, value in quantity_rows(summary, part):
        table.add_row(label, *percent(value))
    console = Console()
    console.print(table)
    for column, parts in strata_rows(summary):
        console.print(_strata_table(column, parts, summary))
    for label, text in fact_rows(part):
        typer.echo(f"{label}: {text}")
    for text in settings["notes"]:
        typer.echo(f"note: {text}")
    typer.echo(f"samples and summary: {folder}")


def _strata_table(column: str, parts: list[tuple[str, Part]], summary: Summary) -> Table:
    from rich.markup import escape

    table = Table(column, *short_head(summary), box=None, pad_edge=False)
    for other in table.columns[1:]:
        other.justify, other.no_wrap = "right", True
    for value, part in parts:
        table.add_row(escape(value) or "(none)", *short_row(summary, part))
    return table
