"""`key=value` from the command line, laid over what a file says."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ngrpo.config.fields import field_table, is_open_table
from ngrpo.config.literals import parse_literal
from ngrpo.config.problems import COMMAND_LINE, Problem, unknown_key

_UNSET = object()


@dataclass(slots=True)
class Overridden:
    """A tree of settings with the overrides in it.

    Attributes:
        tree: Nested tables; the one given is not changed.
        keys: Dotted keys that came from the command line.
        new_tables: Dotted keys of tables that only the overrides made.
        problems: Overrides that could not be laid over the tree.
    """

    tree: dict[str, Any]
    keys: list[str] = field(default_factory=list)
    new_tables: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> Overridden:
    """Lays `key=value` texts over a tree of settings, the later ones winning.

    The value is a TOML literal (`1e-6`, `true`, `[1, 2]`, `"text"`); anything else stays text. A free text setting
    (`run.name`) takes a bare number or word as it is typed. `key=none` removes a key, so that its default holds,
    or a whole optional section (`validation=none`). Tables that are not there are made.

    Args:
        tree: What the file said.
        overrides: As typed: `optim.lr=1e-6`.

    Returns:
        The result; nothing is checked yet but the keys that `none` removes.

    Example:
        >>> apply_overrides({"optim": {"lr": 1.0}}, ["optim.lr=none", "model.lora.rank=8"]).tree
        {'optim': {}, 'model': {'lora': {'rank': 8}}}
    """
    result = Overridden(copy.deepcopy(tree))
    for text in overrides:
        key, equals, value_text = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            message = f"{text!r} is not an override. Write key=value, such as optim.lr=1e-6."
            result.problems.append(Problem(COMMAND_LINE, "", message))
            continue
        value = _value(key, value_text)
        if value is not _UNSET:
            _put(result, key, value)
        elif _is_known(key):
            _remove(result.tree, key)
            result.keys.append(key)
        else:
            result.problems.append(unknown_key(COMMAND_LINE, key, value_text))
    return result


def _value(key: str, text: str) -> Any:
    """What a typed value means for this key."""
    info = field_table().get(key)
    # A setting that is always text has no use for "unset", and `none` may be one of its words (`data.template`).
    if text.strip() == "none" and (info is None or info.annotation is not str):
        return _UNSET
    value = parse_literal(text)
    takes_any_text = info is not None and info.annotation in (str, str | None)
    return text if takes_any_text and not isinstance(value, str) else value


def _is_known(key: str) -> bool:
    """Whether there is such a key, or it lies in a table that takes any."""
    table = field_table()
    parents = [key.rsplit(".", depth)[0] for depth in range(1, key.count(".") + 1)]
    return key in table or any(parent in table and is_open_table(table[parent]) for parent in parents)


def _put(result: Overridden, key: str, value: Any) -> None:
    *parents, name = key.split(".")
    node, path = result.tree, ""
    for parent in parents:
        path = f"{path}.{parent}" if path else parent
        if not isinstance(node.get(parent), dict):
            node[parent] = {}
            result.new_tables.append(path)
        node = node[parent]
    node[name] = value
    result.keys = [other for other in result.keys if not f"{other}.".startswith(f"{key}.")] + [key]


def _remove(tree: dict[str, Any], key: str) -> None:
    *parents, name = key.split(".")
    node: Any = tree
    for parent in parents:
        node = node.get(parent)
        if not isinstance(node, dict):
            return
    node.pop(name, None)
