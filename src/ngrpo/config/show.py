"""A configuration to look at: as JSON-safe tables, as a commented run file, as the difference of two."""

from collections.abc import Iterator, Mapping
from typing import Any

from ngrpo.config.fields import field_table, section_of
from ngrpo.config.literals import key_literal, to_literal
from ngrpo.config.models import RunConfig


def resolved(config: RunConfig) -> dict[str, Any]:
    """Every setting with its value, defaults included, as nested tables.

    Args:
        config: A checked configuration.

    Returns:
        Text, numbers, booleans, None, lists and dicts only: what `run.json` keeps. `RunConfig.model_validate` reads
        it back.

    Example:
        >>> from ngrpo.config import load_config
        >>> resolved(load_config("tiny"))["optim"]["betas"]
        [0.9, 0.999]
    """
    return config.model_dump(mode="json")


def to_toml(config: RunConfig) -> str:
    """Writes a configuration as a run file that says all of it, each setting under a comment with its meaning.

    Args:
        config: A checked configuration.

    Returns:
        TOML. Settings that are None are left out; `load_config` reads the same configuration back.
    """
    return "\n".join(_section_lines(resolved(config), "")).lstrip() + "\n"


def diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Tells two configurations apart.

    Args:
        a: Nested tables, as `resolved` gives them or as `run.json` keeps them.
        b: The other one.

    Returns:
        (dotted key, value in a, value in b) for every setting that differs, in the order of a. None stands for what
        is not set.

    Example:
        >>> diff({"optim": {"lr": 1e-6, "eps": 1e-8}}, {"optim": {"lr": 1e-5, "eps": 1e-8}, "model": {"lora": None}})
        [('optim.lr', 1e-06, 1e-05)]
    """
    left, right = dict(_leaves(a, "")), dict(_leaves(b, ""))
    pairs = [(key, left.get(key), right.get(key)) for key in {**left, **right}]
    return [(key, one, other) for key, one, other in pairs if not _same(one, other)]


def _same(one: Any, other: Any) -> bool:
    """Equality in which True is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _section_lines(tree: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Lines of one section: its settings first, then its tables, as TOML wants it."""
    table = field_table()
    for name, value in tree.items():
        if value is not None and not isinstance(value, Mapping):
            yield f"# {table[prefix + name].description}"
            yield f"{name} = {to_literal(value)}"
    for name, value in tree.items():
        if not isinstance(value, Mapping) or not value:
            continue
        key = prefix + name
        yield from ("", f"# {table[key].description}", f"[{key}]")
        if section_of(table[key]) is not None:
            yield from _section_lines(value, f"{key}.")
        else:
            yield from (f"{key_literal(item)} = {to_literal(v)}" for item, v in value.items() if v is not None)
