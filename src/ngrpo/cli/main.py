"""`ngrpo`: the commands, and the one place where errors become messages and exit codes."""

import sys
import traceback
from collections.abc import Sequence

import typer
from rich.console import Console

import ngrpo
from ngrpo.cli import (
    compare_command,
    config_commands,
    data_commands,
    explain_command,
    grade_command,
    lab_commands,
    launch_command,
    method_commands,
    report_command,
    run_commands,
)
from ngrpo.errors import NgrpoError

app = typer.Typer(
    name="ngrpo",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Reinforcement learning with verifiable rewards that learns from failure.\n\n"
    "Start with `ngrpo quickstart`. Every command takes `--debug`, which shows the traceback of an error.",
)
app.command()(lab_commands.quickstart)
app.command()(run_commands.train)
app.command("eval")(run_commands.evaluate)
app.command()(compare_command.compare)
app.command()(report_command.report)
app.command()(run_commands.export)
app.command()(grade_command.grade)
app.command()(explain_command.explain)
app.command()(method_commands.objectives)
app.add_typer(data_commands.app)
app.add_typer(config_commands.app)
app.add_typer(lab_commands.app)
app.add_typer(launch_command.app)
app.command()(run_commands.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ngrpo {ngrpo.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Options of the whole program."""


def main() -> None:
    """Runs the command line. Exit codes: 0, 1 (the run failed), 2 (a mistake to mend), 130 (stopped and saved)."""
    is_debugging = "--debug" in sys.argv
    sys.argv[:] = with_ray_address([argument for argument in sys.argv if argument != "--debug"])
    try:
        app()
    except NgrpoError as error:
        _complain("error", str(error), is_debugging)
        sys.exit(error.exit_code)
    except SystemExit as ending:
        if ending.code == 130:  # what typer makes of Ctrl-C
            _complain(
                "interrupted",
                "the same command goes on where files were written (ngrpo train: with --resume).",
                is_debugging,
            )
        raise
    except OSError as error:  # a full disk, a folder that went away: the machine's state, not a bug
        _complain("error", str(error), is_debugging)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001  (the top level: a bug becomes one line, and a traceback on request)
        told = f"{type(error).__name__}: {error} (run again with --debug for the traceback)"
        _complain("internal error", told, is_debugging)
        sys.exit(1)


def with_ray_address(arguments: Sequence[str]) -> list[str]:
    """A `--ray` without a value means this machine; typer has no option whose value may be left out.

    Example:
        >>> with_ray_address(["eval", "my/model", "--ray", "--data", "math500"])
        ['eval', 'my/model', '--ray', 'local', '--data', 'math500']
    """
    found: list[str] = []
    for argument, following in zip(arguments, [*arguments[1:], "-"], strict=True):
        found += [argument, "local"] if argument == "--ray" and following.startswith("-") else [argument]
    return found


def _complain(what: str, message: str, is_debugging: bool) -> None:
    """Prints a message on standard error, after the traceback where that was asked for."""
    if is_debugging:
        traceback.print_exc()
    console = Console(stderr=True, highlight=False, emoji=False)
    console.print(f"[bold red]{what}:[/] ", end="")
    console.print(message, markup=False, soft_wrap=True)
