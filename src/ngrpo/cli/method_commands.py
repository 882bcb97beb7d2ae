"""`ngrpo objectives` and `ngrpo explain`: the catalog, and what a method does to one group."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ngrpo.cli.plugins import Plugins, load_plugins
from ngrpo.errors import ConfigError, NgrpoError


def objectives(
    name: Annotated[str | None, typer.Argument(help="Show one method with its parameters.")] = None,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the methods: name, one line, paper, parts.

    For example:

    `ngrpo objectives`

    `ngrpo objectives dapo`
    """
    from dataclasses import asdict

    from ngrpo.objectives import describe, names

    load_plugins(plugin)
    described = [describe(each) for each in ([name] if name else names())]
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in described], indent=2))
        return
    console = Console(emoji=False)
    if name:
        (method,) = described
        typer.echo(f"{method.name}  {method.summary}  {method.source}")
        table = Table("parameter", "type", "default", box=None, pad_edge=False)
        for parameter in method.parameters:
            default = "required" if parameter.is_required else repr(parameter.default)
            table.add_row(*map(escape, (parameter.name, parameter.type, default)))
        console.print(table)
        for slot, part in method.parts.items():
            typer.echo(f"  {slot}: {part}")
        return
    table = Table("method", "what it is", "paper", box=None, pad_edge=False)
    for method in described:
        table.add_row(*map(escape, (method.name, method.summary, method.source)))
    console.print(table)


def explain(
    rewards: Annotated[str, typer.Option(help="Rewards of one group, separated by commas: 0,0,0,1.")],
    objective: Annotated[str, typer.Option(help="A method from `ngrpo objectives`.")] = "ngrpo",
    params: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="Parameters of the method: num_virtual=2.")
    ] = None,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a method does to one group, with the group's statistics.

    For example:

    `ngrpo explain --objective ngrpo --rewards 0,0,0,1`

    `ngrpo explain --objective grpo --rewards 0,0,0,0 --json`
    """
    from ngrpo import objectives as catalog
    from ngrpo.config.literals import parse_literal

    load_plugins(plugin)
    pairs = [text.partition("=") for text in params or []]
    if bad := [text for text, sign, _ in pairs if not sign]:
        raise ConfigError(f"{bad[0]!r} is not key=value; write a parameter of the method, such as num_virtual=2.")
    method = catalog.get(objective, **{key: parse_literal(value) for key, _, value in pairs})
    try:
        told = catalog.explain(method, parse_rewards(rewards))
    except NgrpoError:
        raise
    except Exception as error:  # a method of the user's own may raise anything
        raise ConfigError(f"objective {objective!r} raised {type(error).__name__}: {error}") from error
    if as_json:
        typer.echo(json.dumps(told))
        return
    kept = {
        True: "enters the update",
        False: "is dropped by the filter",
        None: "enters the update or not by its labels, which these rewards do not tell",
    }[told["kept"]]
    std = "-" if told["std"] is None else f"{told['std']:.4f}"
    typer.echo(f"{told['objective']}  mean {told['mean']:.4f}  std {std}  the group {kept}")
    if told["clip_low"] is not None:
        typer.echo(f"ratio clipped to [1 - {told['clip_low']:g}, 1 + {told['clip_high']:g}]")
    table = Table("reward", "advantage", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for reward, advantage in zip(told["rewards"], told["advantages"], strict=True):
        table.add_row(f"{reward:g}", f"{advantage:+.4f}")
    Console().print(table)


def parse_rewards(text: str) -> list[float]:
    """Reads rewards separated by commas.

    Raises:
        ConfigError: One of them is no number.

    Example:
        >>> parse_rewards("0, 1,0.5")
        [0.0, 1.0, 0.5]
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--rewards {text!r} must be numbers separated by commas, such as 0,0,0,1.") from None
