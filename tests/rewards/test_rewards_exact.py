from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngrpo.rewards.exact import as_fraction, is_wording, normalise


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"$5$", "5"),
        (r"\$5", "5"),
        ("5.", "5"),
        (r"336^\circ", "336"),
        (r"336^{\circ}", "336°"),
        (r"\mbox{four}", "four"),
        (r"5\text{ cm}", r"5 \text{cm}"),
        (r"12,\!441", "12,441"),
        ("\u22125", "-5"),
        (r"50\%", "50%"),
        (r"2\, x", "2 x"),
        ("1  2", "1 2"),
    ],
)
def test_spellings_of_the_same_answer(one, other):
    assert normalise(one) == normalise(other)


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
        ("x\u00b2", "x2"),
        ("5", "5.1"),
        ("50%", "50"),
    ],
)
def test_different_answers_stay_different(one, other):
    assert normalise(one) != normalise(other)


def test_what_is_nothing_is_empty():
    assert [normalise(text) for text in ("", "  ", "$$", ".", r"\,", r"\text{}")] == [""] * 6


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", Fraction(7)),
        ("-7", Fraction(-7)),
        ("+7", Fraction(7)),
        ("007", Fraction(7)),
        ("1,234,567", Fraction(1234567)),
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
        (r"\frac 34", None),  # a space between letter and digit stays; math-verify reads it
        (r"\frac{29}4", Fraction(29, 4)),
        ("1,23", None),
        ("1,2", None),
        ("3/0", None),
        (r"\frac{3}{0}", None),
        (r"3\frac{1}{2}", None),  # a mixed number or a product: not for here
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
    ],
)
def test_as_fraction(text, value):
    assert as_fraction(text) == value


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**12))
def test_every_fraction_is_read_back(over, under):
    value = Fraction(over, under)
    assert as_fraction(f"{over}/{under}") == value
    assert as_fraction(normalise(rf"\dfrac{{{over}}}{{{under}}}")) == value
    assert as_fraction(f"{over:,}") == over


@given(st.text(max_size=60))
def test_any_text_can_be_normalised(text):
    as_fraction(normalise(text))
    is_wording(text)


def test_words_are_told_from_products():
    assert all(map(is_wording, [r"\text{no}", r"\mbox{four}", "Saturday", r"\text{two lines}", r" \text{ east.} "]))
    assert not any(map(is_wording, ["xy", "ab", "2x", r"\text{A}", r"5 \text{ cm}", r"\sin", "a+b", "", "5"]))
