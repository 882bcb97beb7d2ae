"""Numbers (`rational`), the structure of answers, and the exact path."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.rewards import profiles
from ngrpo.rewards.exact import settle
from ngrpo.rewards.matching import rounds_to
from ngrpo.rewards.rational import as_fraction, is_decimal, significant_digits
from ngrpo.rewards.structure import is_name, read
from ngrpo.rewards.tidy import tidy

STRICT, LENIENT = profiles.get("strict"), profiles.get("lenient")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", Fraction(7)),
        ("-7", Fraction(-7)),
        ("+7", Fraction(7)),
        ("007", Fraction(7)),
        ("1,234,567", Fraction(1234567)),
        ("1 234 567", Fraction(1234567)),
        ("1,234.5", Fraction(2469, 2)),
        (".5", Fraction(1, 2)),
        ("5.", Fraction(5)),
        ("0.1", Fraction(1, 10)),  # exactly: not the nearest float
        ("3/4", Fraction(3, 4)),
        ("-3/4", Fraction(-3, 4)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        (r"\frac34", Fraction(3, 4)),
        (r"\frac 34", Fraction(3, 4)),
        (r"\frac{29}4", Fraction(29, 4)),
        (r"3\frac{1}{2}", Fraction(7, 2)),
        (r"-3\frac12", Fraction(-7, 2)),
        ("3 1/2", Fraction(7, 2)),
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        (r"-2.\overline{142857}", Fraction(-15, 7)),
        (r"3\frac{3}{2}", None),  # a product, if anything
        ("1,23", None),
        ("1,2", None),
        ("1 2", None),
        ("3/0", None),
        (r"\frac{3}{0}", None),
        ("1/2/3", None),
        ("", None),
        (".", None),
        ("-", None),
        ("x", None),
        ("1e5", None),
        ("٣", None),  # Arabic three: int() would take it
        ("1_000", None),  # so would it this
        ("inf", None),
        ("nan", None),
        ("9" * 4001, None),
    ],
)
def test_as_fraction(text, value):
    assert as_fraction(text) == value


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**12))
def test_every_fraction_is_read_back(over, under):
    value = Fraction(over, under)
    assert as_fraction(f"{over}/{under}") == value
    assert as_fraction(tidy(rf"\dfrac{{{over}}}{{{under}}}")) == value
    assert as_fraction(f"{over:,}") == over


def test_decimals_and_their_digits():
    assert [is_decimal(text) for text in ("0.5", ".5", "-1.25", "5.", "5", "1/2")] == [True] * 3 + [False] * 3
    assert [significant_digits(text) for text in ("0.333", "-0.0333", "3.14", "10.0")] == [3, 3, 3, 3]


def test_rounding_and_cutting_off():
    assert rounds_to(Fraction(2, 3), "0.667", truncation=False)
    assert not rounds_to(Fraction(2, 3), "0.666", truncation=False)
    assert rounds_to(Fraction(2, 3), "0.666", truncation=True)
    assert not rounds_to(Fraction(2, 3), "0.665", truncation=True)
    assert not rounds_to(Fraction(2, 3), "0.668", truncation=True)
    assert rounds_to(Fraction(-2, 3), "-0.666", truncation=True)


@pytest.mark.parametrize(
    ("text", "kind", "parts"),
    [
        ("5", "value", 0),
        ("1,234", "value", 0),
        (r"\$1,234", "value", 0),
        ("1,2", "list", 2),
        ("(1,234)", "tuple", 2),
        (r"12\text{ and }13", "list", 2),
        (r"7, -2, \text{ and } -5", "list", 3),
        ("3 or 4", "list", 2),
        (r"\{1,2\}", "set", 2),
        (r"\{1\pm\sqrt{5},-2\}", "list", 3),
        (r"1\pm\sqrt{5}", "list", 2),
        ("[1,2)", "tuple", 2),
        (r"(-\infty,1)\cup(2,3)", "union", 2),
        (r"x \in [1,2]", "tuple", 2),
        ("(x+1)(x+5)", "value", 0),
        ("((5))", "value", 0),
        ("x=5", "relation", 2),
        (r"1<x\le 2", "relation", 3),
        (r"\frac{2}{3}\approx 0.67", "value", 0),
        ("3:1", "ratio", 2),
        ("1:03 PM", "time", 0),
        ("10_3", "based", 0),
        (r"\text{A5}_{11}", "based", 0),
        ("x_1", "value", 0),
        (r"25\%", "percent", 1),
        (r"25\text{ percent}", "percent", 1),
        (r"\text{Saturday}", "words", 0),
        ("June 20", "words", 0),
        (r"\text{June }20", "words", 0),
        (r"\text{(C)}", "value", 0),
        (r"\text{A,C,F}", "list", 3),
        ("abc", "value", 0),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "matrix", 2),
        (r"\begin{pmatrix}1&2\\[2pt]3&4\end{pmatrix}", "matrix", 4),
        (r"\{x : x>2\}", "builder", 0),
    ],
)
def test_structure(text, kind, parts):
    form = read(tidy(text))
    assert (form.kind, len(form.parts)) == (kind, parts)


def test_greater_is_turned_into_less():
    assert read("x>3") == read("3<x")
    assert read("5>x>=3").text == "\\le <"


def test_names_of_left_sides():
    assert all(map(is_name, ["x", "a_1", "a_{12}", "f(x)", r"\theta", r"\angle ABC", r"\text{Area}", "AB", "f(2)"]))
    assert not any(map(is_name, ["2x", "x+y", "x^2", "5", ""]))


@given(st.text(alphabet="\\{}()[]^_$%.,;:0123xABC+-*/<>= \N{DEGREE SIGN}", max_size=40))
@settings(deadline=None)
def test_any_text_has_a_structure_and_is_itself(text):
    plain = tidy(text)
    read(plain)
    assert plain == "" or settle(plain, plain, STRICT)


@pytest.mark.parametrize(
    "text", ["(" * 250 + ")" * 250, "1," * 255, "\\{" * 128, "=" * 512, "\\pm1" * 100, "[1,2)" * 100]
)
def test_the_longest_answers_have_a_structure_soon(text):
    began = time.process_time()
    settle(tidy(text), "5", LENIENT)
    assert time.process_time() - began < 2.0


SETTLED = [
    ("5", "5.0", True),
    ("5", "6", False),
    ("12345", "12346", False),
    ("70", "0.7", False),
    ("12", "1,2", False),
    ("(1,2)", "(1,2.0)", True),
    ("(1,2)", "(2,1)", False),
    ("(1,2)", "[1,2]", False),
    ("1,2", "2,1", True),
    ("1,2", "1,3", False),
    ("1,1,2", "1,2,2", False),
    ("10_2", "10_3", False),
    ("5", r"5\text{ cm}", True),
    (r"5\text{ m}", r"5\text{ cm}", False),
    (r"50\%", "50", True),
    (r"\text{seat}", r"\text{east}", False),
    ("x", "x", True),
]


@pytest.mark.parametrize(("gold", "answer", "verdict"), SETTLED)
def test_plain_answers_are_settled(gold, answer, verdict):
    assert settle(tidy(gold), tidy(answer), STRICT) is verdict
    assert settle(tidy(answer), tidy(gold), STRICT) is verdict


@pytest.mark.parametrize(
    ("gold", "answer"), [("x+1", "1+x"), ("5", r"\sqrt{25}"), ("(1,x)", "(1,y)"), ("x+y=2", "y+x=2")]
)
def test_what_needs_algebra_is_left_open(gold, answer):
    assert settle(gold, answer, STRICT) is None


def test_a_certain_difference_decides_beside_what_is_open():
    assert settle("(1,x+1)", "(2,1+x)", STRICT) is False
