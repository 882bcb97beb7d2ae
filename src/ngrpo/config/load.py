"""A run file or preset, and overrides, to a checked configuration. START HERE.

Every mistake is told at once, each with the file (or the command line), the dotted key, what was got and what to do.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError, create_model

from ngrpo.config import preset_files
from ngrpo.config.fields import field_table, item_of, required_leaves
from ngrpo.config.models import RunConfig, Section
from ngrpo.config.overrides import Overridden, apply_overrides
from ngrpo.config.problems import (
    COMMAND_LINE,
    Problem,
    missing_key,
    shown,
    unknown_key,
    unusable_values,
    wrong_item,
    wrong_value,
)
from ngrpo.errors import ConfigError

Checked = TypeVar("Checked", bound=Section)


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a run file or a preset, lays overrides over it, and checks the whole.

    Args:
        source: A TOML file, or the name of a preset (`tiny`, `paper/ngrpo`). A file that is called like a preset is
            reached as `./tiny`, or as a `Path`.
        overrides: `key=value` texts, the later ones winning: `optim.lr=1e-6`. See `overrides.apply_overrides`.

    Returns:
        The configuration; nothing in it changes any more.

    Raises:
        ConfigError: The file cannot be read or is not TOML; keys are unknown or missing; values are of the wrong
            type, out of bounds, or do not go together. All of it in one message, but that settings which do not go
            together are looked for only where each alone is fine.

    Example:
        >>> load_config("tiny", ["optim.lr=3e-4", "objective.params.clip_low=0.2"]).optim.lr
        0.0003
    """
    where, tree = read_source(source)
    if not tree and not overrides:
        required = " and ".join(key for section in ("model", "data") for key in required_leaves(section))
        raise ConfigError(f"{where} is empty. A run file sets at least {required}; `ngrpo config show tiny` shows one.")
    laid = apply_overrides(tree, overrides)
    return _checked(RunConfig, laid, where)


def load_sections(
    sections: Mapping[str, tuple[type[Section], Mapping[str, Any]]], overrides: Sequence[str]
) -> dict[str, Any]:
    """Makes a few sections without a run file, for commands that need no more of it.

    Args:
        sections: Name in a run file to the section's type and the values it starts from.
        overrides: `key=value` texts with the keys of a run file, as for `load_config`.

    Returns:
        The checked sections by name.

    Raises:
        ConfigError: As `load_config`, and for settings of other sections.

    Example:
        >>> from ngrpo.config import Data
        >>> load_sections({"data": (Data, {"source": "math.jsonl"})}, ["data.limit=100"])["data"].limit
        100
    """
    fields: dict[str, Any] = {name: (kind, ...) for name, (kind, _) in sections.items()}
    laid = apply_overrides({name: dict(start) for name, (_, start) in sections.items()}, overrides)
    checked = _checked(create_model("Sections", __base__=Section, **fields), laid, COMMAND_LINE)
    return {name: getattr(checked, name) for name in sections}


def _checked(model: type[Checked], laid: Overridden, where: str) -> Checked:
    """The model made of a tree, or every problem there is with it."""
    problems = [*laid.problems, *_unusable(laid, where)]
    result = None
    try:
        result = model.model_validate(laid.tree)
    except ValidationError as error:
        told = {problem.key for problem in problems if problem.key}
        lines = error.errors(include_url=False)
        found = [problem for line in lines for problem in _problems_of(line, laid, where, list(model.model_fields))]
        problems += [problem for problem in found if problem.key not in told]
    if problems or result is None:
        raise ConfigError(_in_one_message(list(dict.fromkeys(problems))))
    return result


def read_source(source: str | Path) -> tuple[str, dict[str, Any]]:
    """Reads a run file or preset as it is, unchecked.

    Args:
        source: As for `load_config`.

    Returns:
        What to call it in messages, and its settings as nested tables.

    Raises:
        ConfigError: It is not there, is a folder, cannot be read, or is not TOML.
    """
    if isinstance(source, str) and source in preset_files.names():
        return f"preset {source}", _parse(preset_files.path_of(source), f"preset {source}")
    return str(source), _parse(Path(source), str(source))


def _parse(path: Path, where: str) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"there is no run file {where}. Check the path, or name {_presets()}.") from None
    except IsADirectoryError:
        raise ConfigError(f"{where} is a folder, not a run file. Give a .toml file or {_presets()}.") from None
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}. Give a readable .toml file.") from None
    except UnicodeDecodeError as error:
        bad_byte = error.object[error.start]
        message = f"{where} is not a text file: byte 0x{bad_byte:02x} at offset {error.start} is not UTF-8."
        raise ConfigError(f"{message} A run file is TOML.") from None
    if "\0" in text:
        raise ConfigError(f"{where} is not a text file: it has a zero byte. A run file is TOML.")
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(_not_toml(where, text, str(error))) from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply for a run file. It has sections and settings.") from None


def _presets() -> str:
    return f"a preset: {', '.join(preset_files.names())}"


def _not_toml(where: str, text: str, complaint: str) -> str:
    """Says where the TOML reader stopped and shows the line."""
    found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", complaint, re.DOTALL)
    if found is None:  # at the end of the document, or an integer of thousands of digits
        return f"{where} is not TOML: {complaint}. Mend it; text needs quotes."
    line = text.split("\n")[int(found[2]) - 1].strip()
    return f"{where}, line {found[2]} is not TOML: {found[1]} at column {found[3]} of `{line[:80]}`. Text needs quotes."


def _problems_of(line: Any, laid: Overridden, where: str, sections: list[str]) -> Iterator[Problem]:
    """Turns one complaint of pydantic into ours; `sections` are those there are."""
    table = field_table()
    parts = [str(part) for part in line["loc"]]
    key = ".".join(parts)
    lists = [end for end in range(1, len(parts)) if (name := ".".join(parts[:end])) in table and item_of(table[name])]
    if lists:  # something in one table of a list of tables
        key, index, name = ".".join(parts[: lists[0]]), int(parts[lists[0]]), "".join(parts[lists[0] + 1 :][:1])
        yield wrong_item(_who_set(key, laid, where), key, index, name, _at(laid.tree, key)[index])
    elif line["type"] == "extra_forbidden":
        typed = [other for other in laid.keys if other == key or other.startswith(f"{key}.")]
        for name in typed or [key]:
            if name in table:
                message = f"{name} is of no use here. What can be set is in {' and '.join(sections)}."
                yield Problem(COMMAND_LINE, name, message)
            else:
                yield unknown_key(COMMAND_LINE if typed else where, name, _at(laid.tree, name))
    elif line["type"] == "missing" and key in table:  # a list that is too short misses its items, too
        for leaf in required_leaves(key):
            yield missing_key(_who_set(leaf, laid, where), leaf)
    elif not parts:
        for complaint in str(line["ctx"]["error"]).splitlines():
            typed = [other for other in laid.keys if f"{other} = " in complaint]
            yield Problem(COMMAND_LINE if typed else where, "", complaint)
    else:
        # Below a setting pydantic names list items and members of unions: the setting as a whole is what is wrong.
        key = next(name for end in range(len(parts), 0, -1) if (name := ".".join(parts[:end])) in table)
        yield wrong_value(_who_set(key, laid, where), key, _at(laid.tree, key))


def _unusable(laid: Overridden, where: str) -> Iterator[Problem]:
    for key, value, wrong, advice in unusable_values(laid.tree):
        yield Problem(_who_set(key, laid, where), key, f"{key} {wrong}, got {shown(value)}. {advice}")


def _who_set(key: str, laid: Overridden, where: str) -> str:
    """The command line if it set the key, something above or below it, or made its optional section; else the file."""
    table = field_table()
    set_there = any(f"{key}.".startswith(f"{other}.") or other.startswith(f"{key}.") for other in laid.keys)
    made_there = any(
        key.startswith(f"{made}.") for made in laid.new_tables if made in table and not table[made].is_required()
    )
    return COMMAND_LINE if set_there or made_there else where


def _at(tree: dict[str, Any], key: str) -> Any:
    node: Any = tree
    for part in key.split("."):
        node = node[part]
    return node


def _in_one_message(problems: list[Problem]) -> str:
    if len(problems) == 1:
        return str(problems[0])
    lines = [f"{len(problems)} problems in the configuration:", *(f"  {problem}" for problem in problems)]
    return "\n".join(lines)
