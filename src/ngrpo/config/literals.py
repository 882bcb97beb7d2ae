"""TOML values as text, both ways. The standard library reads TOML but does not write it."""

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def parse_literal(text: str) -> Any:
    """Reads a value typed by hand: a TOML literal is its value, anything else stays text.

    Args:
        text: What was typed, without the key.

    Returns:
        The number, boolean, list, table or quoted text it denotes, else `text` itself.

    Example:
        >>> parse_literal("1e-6"), parse_literal("[1, 2]"), parse_literal('"7"'), parse_literal("True")
        (1e-06, [1, 2], '7', 'True')
    """
    try:
        # Inside an inline table a trailing comment or a second assignment cannot pass for a part of the value.
        document = tomllib.loads(f"table = {{ value = {text} }}")
    except (ValueError, RecursionError):  # besides TOML errors: integers of thousands of digits, absurd nesting
        return text
    if document.keys() == {"table"} and document["table"].keys() == {"value"}:
        return document["table"]["value"]
    return text


def to_literal(value: Any) -> str:
    r"""Writes a value as a TOML literal on one line; `parse_literal` reads it back.

    Keys whose value is None are left out of tables: TOML has no null.

    Args:
        value: Text, number, boolean, date, or lists and mappings of them.

    Returns:
        The literal.

    Example:
        >>> print(to_literal({"lr": 1e-6, "text": 'a "b"', "flags": [True, False]}))
        {lr = 1e-06, text = "a \"b\"", flags = [true, false]}
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, Mapping):
        items = ", ".join(f"{key_literal(key)} = {to_literal(item)}" for key, item in value.items() if item is not None)
        return f"{{{items}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(to_literal(item) for item in value)}]"
    if isinstance(value, int | float):
        return repr(value)
    return str(value)


def key_literal(key: str) -> str:
    """Writes one segment of a key, quoted where it has to be.

    Example:
        >>> print(key_literal("lr"), key_literal("a b"))
        lr "a b"
    """
    return key if _BARE_KEY.fullmatch(key) else to_literal(key)
