"""`--plugin FILE.py`: run a file that registers objectives before the configuration is checked."""

import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ngrpo.errors import ConfigError

Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE.py", help="A file that registers objectives of your own.")
]


def load_plugins(paths: Sequence[Path] | None) -> None:
    """Runs each file once.

    Args:
        paths: Files that call `ngrpo.objectives.register`.

    Raises:
        ConfigError: A file is missing or raises.
    """
    for path in paths or ():
        if not path.is_file():
            raise ConfigError(f"--plugin {str(path)!r} is not a file.")
        try:
            runpy.run_path(str(path), run_name=f"ngrpo_plugin_{path.stem}")
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:  # the user's own code: whatever it raises is said, by name
            raise ConfigError(f"--plugin {str(path)!r} raised {type(error).__name__}: {error}") from error
