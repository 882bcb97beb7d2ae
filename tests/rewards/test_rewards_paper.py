"""The paper's rules. Expected values are what its own `utils.py` returns for these texts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.rewards.paper import are_equal, as_number, find_answer, readable, settle, strike_out


@pytest.mark.parametrize(
    ("text", "rule", "answer"),
    [
        (r"so \boxed{\frac{1}{2}}.", "boxed", r"\frac{1}{2}"),
        (r"\boxed{3} or \boxed{4", "boxed", "4"),  # closed or not
        (r"$\boxed 5$ it is", "boxed", "5"),
        ("I boxed it: 7", "boxed", "it: 7"),  # the bare word will do
        (r"<think>\boxed{5}</think> 6", "boxed", "5"),
        (r"\boxed{1" "\n" "2}", "boxed", "1"),  # first line only
        (r"The answer is 5. \boxed{}", "boxed", ""),
        ("The answer is: 5.", "answer_is", " 5"),
        ("the answer is 5\nor 6", "answer_is", "5"),
        ("an answer is 5", "last_number", "5"),
        ("3 and 1,234.5 apples", "last_number", "1234.5"),
        ("-.5", "last_number", "-.5"),
        ("none", "last_number", ""),
    ],
)
def test_where_the_answer_is(text, rule, answer):
    assert find_answer(text) == (rule, answer)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\tfrac{1}{2}", r"\frac{1}{2}"),
        ("1/2", r"\frac{1}{2}"),
        ("a/2", "a/2"),
        (r"\sqrt3/2", r"\frac{\sqrt{3}}{2}"),
        (r"x = 5", "5"),
        (r"xyz = 5", "xyz=5"),
        (r"5 \text{ cm}", "5"),
        (r"\text{east}", "{east}"),
        (r"5 \mbox{ cm}", "5"),
        (r"\mbox{four}", ""),
        (r"15\%", "15"),
        (r"\$15", "15"),
        (r"30^\circ", "30"),
        (r"\left(1, 2\right)", "(1,2)"),
        (r"2 \cdot 3", "23"),
        ("3 and 4", "34"),
        (".5", "0.5"),
        ("5.00", "5"),
        ("5.001", "5.001"),
        ("2j", "2i"),
        (r"x \in [1,2]", r"x\in[1,2]"),
        (r"(-inf, 2)", r"(-\infty,2)"),
        ("1,234", "1,234"),
    ],
)
def test_what_is_struck_out(answer, expected):
    assert strike_out(answer) == expected


def test_words_that_the_reference_strikes_out_are_kept():
    assert readable(r"\mbox{four}") == readable("four") == "four"
    assert readable("") == ""


def test_numbers_with_commas_and_percent_signs():
    assert [as_number(text) for text in ("1,2", "50%", r"50\%", "1e3", "-2.5", "x", "")] == [
        12,
        0.5,
        0.5,
        1e3,
        -2.5,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("5", "5", True),
        ("0.7", "70", True),
        ("7000", "70", True),
        ("12346", "12345", True),
        ("12347", "12345", False),
        ("1,2", "12", True),
        ("(-2,7)", "[-2,7]", True),
        ("[1,2]", "[1,3]", None),
        ("(2,1)", "(1,2)", None),
        ("", "5", False),
        ("3R^2", "3r^2", True),
        ("x=5", "5", True),
        ("y", "x", None),
    ],
)
def test_verdicts(answer, gold, verdict):
    assert settle(answer, gold) is verdict


def test_parts_and_equations_are_compared_by_algebra():
    asked = []

    def same(one, other):
        asked.append((one, other))
        return one == other

    assert not are_equal("(1,x)", "(1,y)", same)
    assert are_equal(r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1.0\\2\end{pmatrix}", same)
    assert not are_equal("x+y=1", "x+y=2", same)
    assert ("x+y - (1)", "x+y - (2)") in asked
    assert ("-(x+y - (1))", "x+y - (2)") in asked


@given(st.text(alphabet="\\{}()[]$%.,:=/0123xijand \nboxed", max_size=60))
@settings(deadline=None)
def test_nothing_that_a_model_writes_raises(text):
    answer = strike_out(find_answer(text)[1])
    settle(answer, "5")
    settle("5", answer)
