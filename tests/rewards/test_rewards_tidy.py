"""Spelling (`tidy`), units, and what the parser is given (`leaves`)."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.rewards.leaves import UnreadableError, for_parser, squeezed
from ngrpo.rewards.tidy import brace_arguments, closing, tidy
from ngrpo.rewards.units import known_unit, split_unit


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"\left. x \right|", "x|"),
        (r"$5$", "5"),
        (r"\(5\)", "5"),
        ("5.", "5"),
        ("5\\ ", "5"),
        ("{{5}}", "5"),
        (r"336^\circ", "336^{\\circ}"),
        ("336\N{DEGREE SIGN}", r"336^\circ"),
        (r"\mbox{ four }", r"\text{four}"),
        (r"\textbf{A}", "A"),
        (r"\pi\text{r}", r"\pi r"),  # never \pir
        (r"12,\!441", "12441"),
        (r"\frac{1}{29,\!322,\!216}", r"\frac{1}{29322216}"),
        ("1{,}234{,}567", "1234567"),
        (r"1\,000", "1000"),
        ("\N{MINUS SIGN}5", "-5"),
        ("x\N{SUPERSCRIPT TWO}", "x^{2}"),
        (r"2\, x", "2 x"),
        ("1  2", "1 2"),
        ("5{:}6", "5:6"),
        (r"\begin{pmatrix}1&\phantom -1\end{pmatrix}", r"\begin{pmatrix}1&1\end{pmatrix}"),
    ],
)
def test_spellings_of_the_same_answer(one, other):
    assert tidy(one) == tidy(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1 2", "12"),
        (r"\pi r", r"\pir"),
        (r"\leftarrow", "arrow"),
        ("[1,2]", "(1,2)"),
        ("A", "a"),
        (r"1 \\ 2", "12"),  # a line break in a matrix
        ("x^2", "x2"),
        ("5", "5.1"),
        ("50\\%", "50"),
        ("1,2", "12"),
        (r"5\text{m}", "5m"),
        (r"\$5", "5"),
    ],
)
def test_different_answers_stay_different(one, other):
    assert tidy(one) != tidy(other)


def test_what_is_nothing_is_empty():
    assert [tidy(text) for text in ("", "  ", "$$", ".", r"\,", "{}", "\\")] == [""] * 7


@given(st.text(alphabet="\\{}()[]^_$%.,;:0123x+-*/= fractextboxed\N{DEGREE SIGN}\0", max_size=60))
@settings(deadline=None)
def test_any_text_can_be_tidied_and_split(text):
    plain = tidy(text)
    split_unit(plain)
    brace_arguments(plain)
    squeezed(plain)


@pytest.mark.parametrize("text", ["{" * 500, "\\text{" * 80, "\\frac" * 100, ",000" * 128, "9" * 512, "1 " * 256])
def test_the_longest_answers_are_quick(text):
    began = time.process_time()
    for _ in range(10):
        split_unit(brace_arguments(tidy(text)))
    assert time.process_time() - began < 1.0  # about 10 ms


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        (r"15\mbox{ cm}^2", "15", "cm^2"),
        (r"15\text{ square centimetres}", "15", "cm^2"),
        (r"15\text{ cm}^{2}", "15", "cm^2"),
        (r"45\text{ miles per hour}", "45", "mi/h"),
        ("45 mph", "45", "mi/h"),
        (r"3\text{ m}/\text{s}", "3", "m/s"),
        ("12 inches", "12", "in"),
        (r"\$5", "5", "dollar"),
        (r"-\$5", "-5", "dollar"),
        (r"5\text{ dollars}", "5", "dollar"),
        (r"9\text{ a.m.}", "9", "am"),
        ("30^\\circ", "30", "degree"),
        (r"20^\circ\text{C}", "20", "°?"),
        (r"12\text{ dogs}", "12", "?"),
        ("4t", "4t", ""),
        ("2s", "2s", ""),
        ("5m", "5m", ""),
        (r"\text{cm}", r"\text{cm}", ""),
    ],
)
def test_units_are_taken_off(text, value, unit):
    assert split_unit(tidy(text)) == (value, unit)


def test_units_go_by_one_name():
    assert {known_unit(name) for name in ("cm", "centimeter", "centimetres")} == {"cm"}
    assert {known_unit(name) for name in ("square feet", "sq. ft", "ft^2", "feet squared")} == {"ft^2"}
    assert known_unit("cubic inches") == "in^3"
    assert {known_unit(name) for name in ("dogs", "square units", "", "m/dog")} == {"?"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\frac12", r"\frac{1}{2}"),
        (r"\frac 1{72}", r"\frac{1}{72}"),
        (r"\frac{29}4", r"\frac{29}{4}"),
        (r"\frac\pi 2", r"\frac{\pi}{2}"),
        (r"\frac{\sqrt3}2", r"\frac{\sqrt{3}}{2}"),
        (r"\sqrt\frac12", r"\sqrt{\frac{1}{2}}"),
        (r"\sqrt[3]2", r"\sqrt[3]{2}"),
        (r"\binom52", r"\binom{5}{2}"),
        ("x^10", "x^{10}"),
        ("a_1", "a_{1}"),
    ],
)
def test_braces_that_may_be_left_out(text, expected):
    assert brace_arguments(text) == expected


def test_closing_brace():
    assert closing("{a{b}c}", 0) == 6
    assert closing(r"{\}", 0) == -1


def test_what_the_parser_would_misread_is_rewritten():
    assert for_parser("2.5x") == r"\frac{25}{10}x"
    assert for_parser(r"0.1\overline{6}") == r"\frac{1}{6}"
    assert for_parser(r"x+2\frac{1}{3}") == r"x+\frac{7}{3}"
    assert for_parser(r"2\frac{3}{2}") == r"2\frac{3}{2}"  # a product
    assert for_parser("1,000x") == "1000x"
    assert for_parser("2**3") == "2^3"


@pytest.mark.parametrize(
    "text",
    [
        "3 4", r"\text{ab}x", "x=3", "10^{10^{10}}", "100000000!", "((9!)!)!", "x^{9999999}", "1." + "1" * 400 + "x",
    ],
)  # fmt: skip
def test_what_cannot_be_rewritten_is_not_parsed(text):
    with pytest.raises(UnreadableError):
        for_parser(tidy(text))
