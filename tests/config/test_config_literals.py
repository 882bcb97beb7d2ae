import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngrpo.config.literals import key_literal, parse_literal, to_literal

# What a TOML file can hold and a run file may: no dates, no numbers that are not finite, Unicode text.
SCALARS = st.text() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.just("none")
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=8
)


@given(VALUES)
def test_a_value_survives_its_literal(value):
    again = parse_literal(to_literal(value))
    assert again == value
    assert type(again) is type(value)


@given(st.text(), VALUES)
def test_a_literal_stands_on_a_line_of_a_file(key, value):
    line = f"{key_literal(key)} = {to_literal(value)}"
    assert "\n" not in line
    assert tomllib.loads(line) == {key: value}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("8", 8),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('"8"', "8"),
        ("{a = 1}", {"a": 1}),
        (" 7 ", 7),
        ("Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B"),
        ("True", "True"),
        (".5", ".5"),
        ("", ""),
        ("{prompt}", "{prompt}"),
        ("a=b", "a=b"),
        # None of these is one value, whatever a reader of lines would make of it.
        ("1 # comment", "1 # comment"),
        ("1, b = 2", "1, b = 2"),
        ("1 }\ny = { z = 2", "1 }\ny = { z = 2"),
        ("1\n", "1\n"),
        ("9" * 5000, "9" * 5000),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_toml_becomes_its_value_and_all_else_stays_text(text, value):
    parsed = parse_literal(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_nan_is_read_so_that_it_can_be_refused():
    assert math.isnan(parse_literal("nan"))
