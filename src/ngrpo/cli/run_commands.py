"""`ngrpo train`, `eval`, `export` and `doctor`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ngrpo.cli.plugins import Plugins, load_plugins
from ngrpo.errors import ConfigError

if TYPE_CHECKING:
    from ngrpo.config import RunConfig


def train(
    source: Annotated[str, typer.Argument(metavar="RUN.toml|PRESET", help="A run file, or a preset such as tiny.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="Settings laid over the file: optim.lr=1e-6.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    plugin: Plugins = None,
) -> None:
    """Train a model; everything goes to the run folder, `runs/NAME`.

    Ctrl-C (or SIGTERM) saves and leaves; the same command with `--resume` goes on, number for number on a CPU.

    For example:

    `ngrpo train tiny`

    `ngrpo train tiny objective.name=grpo run.name=tiny-grpo run.seed=1`

    `ngrpo train gpu_1x data.source=math.jsonl reward.name=my_reward.py:score`

    `ngrpo train tiny train.num_steps=160 --resume`

    `ngrpo train tiny run.name=stage_2 model.path=runs/stage_1` (from where another run has got to)
    """
    from ngrpo.config import load_config
    from ngrpo.policy import sensible_threads
    from ngrpo.record import read_jsonl
    from ngrpo.train import assemble, check_start, train

    load_plugins(plugin)
    config = load_config(source, overrides or [])
    check_start(config, resume=resume)  # before a base model is built for it
    run = assemble(with_local_model(config, resume=resume), resume=resume)
    try:
        with sensible_threads(run.policy):
            train(run)
    finally:
        run.close()
    typer.echo(f"{run.folder}: {run.state.step} steps, {run.state.num_completions} completions")
    validated = [row for row in read_jsonl(run.folder / "metrics.jsonl") if "validation/pass_at_1" in row]
    for row in validated[:1] + validated[1:][-1:]:
        typer.echo(f"  step {row['step']}: validation pass@1 {row['validation/pass_at_1']:.3f}")
    newest = run.folder / "checkpoints" / f"step_{run.state.step:06d}"
    typer.echo(f"model: {newest} (a Hugging Face folder)\nnext:  ngrpo eval {newest} --data ...")


def with_local_model(config: "RunConfig", *, resume: bool) -> "RunConfig":
    """Puts the folder of the model, and of the critic, in the place of `world:NAME` and of a run folder.

    A run that is taken up again goes on from the checkpoint that it started from, though that run may have newer ones.
    """
    from ngrpo.cli.models import checkpoint_within, local_model
    from ngrpo.train.run_folder import folder_of, read_run_file

    before = read_run_file(folder_of(config))["config"] if resume else {}
    sections = {}
    for name in ("model", "critic"):
        section = getattr(config, name)
        if section is not None and section.path is not None:
            started_from = (before.get(name) or {}).get("path")
            path = checkpoint_within(section.path, started_from) or local_model(section.path)
            sections[name] = section.model_copy(update={"path": path})
    return config.model_copy(update=sections)


def evaluate(
    model: Annotated[
        str | None, typer.Argument(help="A model, checkpoint or run folder, a hub name, or world:countdown.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="key=value", help="data.* and reward.* as in a run file: data.limit=100."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="As data.source of a run file: FILE, math500, hub:org/name, world:..., gym:.... Repeatable."),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Completions per prompt. Default: 8.")] = None,
    ks: Annotated[str | None, typer.Option(help="k of pass@k, by commas. Default: 1,2,4,... up to --samples.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="paper: 256 samples, temperature 0.6, top-p 0.95, 4096 tokens. Options win.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Sampling temperature; 0 is greedy. Default: 1.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(min=1e-6, max=1, help="Nucleus mass. Default: 1, all.")] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Likeliest tokens kept. Default: 0, all.")] = None,
    max_completion_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest completion, in tokens. Default: 1024.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the samples. Default: 0.")] = None,
    profile: Annotated[str | None, typer.Option(help="Of the verifier: strict (default), lenient, paper.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Judge existing samples: of lm-eval, lighteval, or a folder of ours."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results, of several data sets above them. Default: evals/....")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="native (default), vllm, or gold (a control that answers with the gold).")
    ] = None,
    max_rows: Annotated[
        int | None,
        typer.Option(min=1, help="Completions decoded at the same time at most. Default: 512; with --server, 64."),
    ] = None,
    cache_gib: Annotated[
        float | None, typer.Option(help="Memory for keys, values and logits of them, in GiB. Default: 4.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto (default), cpu, cuda, mps.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto (default), float32, float64, bfloat16.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="local|auto|HOST:PORT",
            help="Sample on a Ray cluster, a worker per GPU or CPU: one started here (what --ray alone means), the one "
            "here, that head's.",
        ),
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Sample from an OpenAI-compatible server: http://HOST:8000/v1.")
    ] = None,
    served_as: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="The model's name at the server. Default: MODEL.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON; several as a list.")] = False,
) -> None:
    r"""Sample, grade, and print pass@k, its area, maj@k and more, with intervals over prompts.

    Writes `samples.jsonl` as it goes: killed and started again, it continues. With `--from` it grades samples that were
    made before, here or elsewhere; no model is needed.

    For example:

    `ngrpo eval world:countdown --data world:countdown --samples 64 --max-completion-tokens 12`

    `ngrpo eval my/model --data math500 --data amc23 --data aime2025 --preset paper --out evals/mine`

    `ngrpo eval my/model --data math500.parquet --samples 16 --temperature 0.6 --top-p 0.95 data.template=paper`

    `ngrpo eval my/model --data math500 --samples 64 --ray 10.0.0.1:6379` (`--ray local`: all processors here)

    `ngrpo eval my/model --data math500 --server http://localhost:8000/v1` (MODEL's tokenizer makes the prompts)

    `ngrpo eval --from samples_aime25.jsonl --out evals/theirs --profile lenient`

    `ngrpo eval --from evals/mine/math500 --out evals/mine_as_in_the_paper --profile paper`
    """
    from ngrpo.cli.evaluation import EvalOptions, run_evaluation

    options = EvalOptions(
        model=model,
        data=tuple(data or ()),
        source=source,
        ks=None if ks is None else parse_ks(ks),
        out=out,
        profile=profile,
        preset=preset,
        sampling={
            "samples": samples,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "max_completion_tokens": max_completion_tokens,
            "seed": seed,
            "engine": engine,
            "max_rows": max_rows,
            "cache_gib": cache_gib,
            "device": device,
            "precision": precision,
            "ray": ray,
            "server": server,
            "served_as": served_as,
        },
        settings=tuple(settings or ()),
    )
    run_evaluation(options, as_json=as_json)


def parse_ks(text: str) -> tuple[int, ...]:
    """Reads whole numbers separated by commas.

    Raises:
        ConfigError: One of them is none.

    Example:
        >>> parse_ks("1,2,4")
        (1, 2, 4)
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--ks {text!r} must be whole numbers separated by commas, such as 1,2,4,8.") from None


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    to: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    step: Annotated[str, typer.Option(help="last, best, or a step number.")] = "last",
) -> None:
    """Write a clean Hugging Face folder with a model card; an adapter is merged into its base.

    For example:

    `ngrpo export runs/tiny --to tiny-countdown --step best`
    """
    from ngrpo.train.export import export_model

    chosen = export_model(run, to, step=step)
    typer.echo(f"wrote {to} from {chosen}")


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what this machine can do, and what is missing for what.

    For example:

    `ngrpo doctor`
    """
    from ngrpo.cli.doctor import report

    report(as_json=as_json)
