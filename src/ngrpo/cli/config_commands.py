"""`ngrpo config`: what a run file resolves to, what is wrong with it, and how two runs differ."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ngrpo.cli.plugins import Plugins, load_plugins
from ngrpo.errors import ConfigError, RunFolderError

if TYPE_CHECKING:
    from ngrpo.config import RunConfig

app = typer.Typer(
    name="config",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="The settings of a run: resolved (show), checked (check), compared (diff).",
)

Source = Annotated[str, typer.Argument(metavar="RUN.toml|PRESET", help="A run file, or a preset such as tiny.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="key=value",
        help="Settings laid over the file: optim.lr=1e-6. Values are TOML; key=none removes a key.",
    ),
]


@app.command()
def show(
    source: Source,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, unset settings included.")] = False,
) -> None:
    """Print every setting with its value and meaning: a complete run file.

    For example:

    `ngrpo config show tiny`

    `ngrpo config show paper/ngrpo model.path=my/model optim.lr=2e-6 > run.toml`
    """
    from ngrpo.config import load_config, resolved, to_toml

    config = load_config(source, overrides or [])
    typer.echo(json.dumps(resolved(config), indent=2) if as_json else to_toml(config), nl=as_json)


@app.command()
def check(
    source: Source,
    overrides: Overrides = None,
    plugin: Plugins = None,
) -> None:
    """Look for mistakes without loading a model; say what the run would do.

    Prints `ok` and a summary, or every mistake at once, with exit code 2.

    For example:

    `ngrpo config check run.toml`

    `ngrpo config check gpu_1x rollout.num_prompts_per_step=64`
    """
    from ngrpo.config import load_config
    from ngrpo.train.assemble import make_objective

    load_plugins(plugin)
    config = load_config(source, overrides or [])
    try:
        make_objective(config)
    except ConfigError as error:
        raise ConfigError(f"{source}: objective: {error}") from None
    typer.echo("ok")
    for topic, sentence in _summary(config):
        typer.echo(f"  {topic:<11} {sentence}")


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A run file, a preset, or a run folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The one to compare it with.")],
) -> None:
    """List the settings in which two runs differ.

    For example:

    `ngrpo config diff paper/grpo paper/ngrpo`

    `ngrpo config diff runs/first runs/second`
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ngrpo.config import diff as differences

    rows = differences(_settings_of(a), _settings_of(b))
    if not rows:
        typer.echo(f"{a} and {b} have the same settings.")
        return
    table = Table("setting", escape(a), escape(b))
    for key, one, other in rows:
        table.add_row(escape(key), _cell(one), _cell(other))
    Console(emoji=False).print(table)


def _summary(config: "RunConfig") -> list[tuple[str, str]]:
    """What a run will do, in a few lines: (topic, sentence)."""
    from ngrpo.config.literals import to_literal

    rollout, num_updates, num_steps = config.rollout, config.update.num_updates_per_step, config.train.num_steps
    num_prompts, num_samples = rollout.num_prompts_per_step, rollout.num_samples_per_prompt
    params = ", ".join(f"{key} = {to_literal(value)}" for key, value in config.objective.params.items())
    fewest, leftover = divmod(num_prompts, num_updates)
    share = f"{fewest} to {fewest + 1}" if leftover else f"{fewest}"
    lines = [
        ("objective", config.objective.name + (f" ({params})" if params else "")),
        ("model", config.model.path + (f", LoRA of rank {config.model.lora.rank}" if config.model.lora else "")),
        ("data", f"{config.data.source}, split {config.data.split}"),
        ("each step", f"{num_prompts:,} prompts x {num_samples} = {num_prompts * num_samples:,} completions"),
        ("", f"of at most {rollout.max_completion_tokens:,} tokens; {num_updates} updates of {share} groups"),
        ("in all", f"{num_steps:,} steps, {num_steps * num_updates:,} updates"),
        ("", f"{num_steps * num_prompts * num_samples:,} completions, more where a group filter asks for refills"),
    ]
    if config.validation is None:
        lines.append(("validation", "none"))
    else:
        every, data = config.validation.every_steps, config.validation.data
        sentence = f"every {every} steps, {config.validation.num_samples} completions per prompt of {data.source}"
        lines.append(("validation", f"{sentence}, split {data.split}"))
    return [*lines, ("writes to", str(Path(config.run.dir) / config.run.name))]


def _settings_of(source: str) -> dict[str, Any]:
    """The resolved settings of a run file, a preset, or a run folder as it was run.

    Raises:
        RunFolderError: A folder without a readable run.json.
        ConfigError: What `load_config` complains of.
    """
    from ngrpo.config import load_config, preset_names, resolved

    if source in preset_names() or not Path(source).is_dir():
        return resolved(load_config(source))
    file = Path(source) / "run.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))["config"]
    except FileNotFoundError:
        message = f"{source} is not a run folder: it has no run.json. Give a run folder, a run file or a preset."
        raise RunFolderError(message) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{file} cannot be read as the record of a run: {error!r}. Give another run.") from None
    if not isinstance(settings, dict):
        raise RunFolderError(f'{file} has no settings under "config", got {settings!r}. Give another run.')
    return settings


def _cell(value: Any) -> str:
    """A value for a table cell; what is not set is said in words."""
    from rich.markup import escape

    from ngrpo.config.literals import to_literal

    return "not set" if value is None else escape(to_literal(value))
