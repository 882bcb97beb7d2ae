import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngrpo.rewards.extract import last_boxed, last_tagged, outside_thought


def content(text):
    found = last_boxed(text)
    return None if found is None else found[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{4}", "4"),
        (r"\boxed {4}", "4"),  # TeX skips the space
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"First \boxed{3}, but rechecking gives \boxed{4}.", "4"),
        (r"\boxed{3} and then \boxed{4", "3"),  # the last COMPLETE box
        (r"\boxed{3 \boxed{4}", "4"),  # only the inner one closes
        (r"\boxed{\boxed{4}}", "4"),  # the one that opens last
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),  # escaped braces are no braces
        (r"\boxed{3\}", None),
        (r"\boxed{a \\}", r"a \\"),  # a line break is not an escaped brace
        (r"\\boxed{5}", "5"),  # doubly escaped text
        (r"{ \boxed{3} } } {", "3"),
        (r"} } \boxed{3", None),
        (r"\boxed{}", ""),
        (r"\boxed 5", None),
        (r"\fbox{5}", None),
        (r"\boxedx{5}", None),
        ("the answer is 5", None),
        ("", None),
    ],
)
def test_last_boxed(text, expected):
    assert content(text) == expected


def test_offset_points_at_the_content():
    text = r"a \boxed{12} b"
    assert last_boxed(text) == (text.index("12"), "12")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no thought", "no thought"),
        ("<think>a</think>b", "b"),
        ("a<think>b</think>c", "a\nc"),  # never joined: 1<think>2</think>3 is not 13
        ("a<think>b</think>c<think>d</think>e", "a\nc\ne"),
        ("a<think>b", None),
        ("<think>a</think>b<think>c", None),
        ("a</think>b", "b"),  # the prompt opened it
        ("<think><think>a</think>b</think>c", "c"),
        ("a think> b", "a think> b"),
    ],
)
def test_outside_thought(text, expected):
    assert outside_thought(text) == expected


def test_last_tagged():
    assert last_tagged("<answer>1</answer><answer>2") == (8, "1")
    assert last_tagged("<answer>1<answer>2</answer>") == (17, "2")
    assert last_tagged("</answer>2") is None


@given(st.text(alphabet="\\{}boxed<think>/ans3 \n"))
def test_nothing_that_a_model_writes_raises(text):
    last_boxed(text)
    last_tagged(text)
    outside_thought(text)


@given(st.text(alphabet="abc123 +-", max_size=20), st.text(alphabet="abc{}\\ ", max_size=20))
def test_a_box_at_the_end_is_always_found(answer, before):
    # A backslash right before the box is the doubly escaped form; an unfinished one before that changes nothing.
    assert content(f"{before} \\boxed{{{answer}}}") == answer


@pytest.mark.parametrize("text", ["\\boxed{" * 100_000, "{" * 500_000 + "\\boxed{", "<think>" * 100_000 + "</think>"])
def test_cost_is_linear(text):
    began = time.process_time()
    last_boxed(text)
    outside_thought(text)
    assert time.process_time() - began < 2.0  # quadratic would be minutes
