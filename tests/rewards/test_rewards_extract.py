import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngrpo.rewards import profiles
from ngrpo.rewards.extract import find_answer, last_boxed, last_number, last_phrase, last_tagged, outside_thought


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
        (r"\boxed 5", " 5"),
        (r"\boxed5.", "5"),
        (r"\boxed -3.5.", " -3.5"),
        (r"\boxed x,", " x"),
        (r"\boxed{3} or \boxed 5", " 5"),
        (r"\boxed 5 or \boxed{3}", "3"),
        (r"\boxed 5x", None),
        (r"\boxed it", None),
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 5.", "5"),
        ("The answer is 5. Or is it 6?", "5"),
        ("the final answer is: $x = 5$, says he", "x = 5"),
        (r"Answer: \(\frac12\).", r"\frac12"),
        ("**Answer:** 3.5", "3.5"),
        ("The answer is 3. No, the answer is 4!", "4"),
        ("The answer is\n42", "42"),
        ("The answer is", ""),
        ("the answers vary", None),
        ("5", None),
    ],
)
def test_last_phrase(text, expected):
    found = last_phrase(text)
    assert (None if found is None else found[1]) == expected


def test_last_number():
    assert last_number("3 and 4.5.") == (6, "4.5")
    assert last_number("it costs 1,234") == (9, "1,234")
    assert last_number("from 1,2 to -3") == (12, "-3")
    assert last_number("none") is None


FIVE = "5"
EXTRACTION = [
    (r"\boxed{5}", "boxed", "boxed", "boxed"),
    ("<answer>5</answer>", None, "answer_tag", "last_number"),
    ("The answer is 5.", None, "answer_is", "answer_is"),
    ("It makes 5", None, "last_number", "last_number"),
    (r"<think>\boxed{5}</think> done", None, "boxed", "boxed"),
    (r"<think>\boxed{5}", None, "boxed", "boxed"),
    (r"\fbox{5}", None, "boxed", "last_number"),
    (r"It is \boxed{5", None, None, "boxed"),
    (r"\boxed{4} \boxed{5}", "boxed", "boxed", "boxed"),
    (r"<answer>4</answer> \boxed{5}", "boxed", "boxed", "boxed"),
    ("", None, None, None),
]


@pytest.mark.parametrize(("text", "strict", "lenient", "paper"), EXTRACTION)
def test_each_profile_has_its_rules(text, strict, lenient, paper):
    for name, rule in (("strict", strict), ("lenient", lenient), ("paper", paper)):
        found = find_answer(text, profiles.get(name))
        if rule is None:
            assert found.answer is None
            assert found.complaint
        else:
            assert (found.rule, found.answer, found.complaint) == (rule, FIVE, "")


@pytest.mark.parametrize("name", profiles.names())
def test_an_empty_box_and_a_long_one_are_no_answer_whatever_else_stands_there(name):
    profile = profiles.get(name)
    found = find_answer(r"The answer is 5. \boxed{}", profile)
    assert (found.rule, found.answer, found.complaint) == ("boxed", None, "the box is empty")
    long = find_answer(r"The answer is 5. \boxed{" + "1" * 513 + "}", profile)
    assert (long.answer, long.complaint) == (None, "the box holds 513 characters, more than 512")


@given(st.text(alphabet="\\{}boxed<think>/ans3 is:.$\n"), st.sampled_from(profiles.names()))
def test_nothing_that_a_model_writes_raises(text, name):
    found = find_answer(text, profiles.get(name))
    assert (found.answer is None) == bool(found.complaint)


@given(st.text(alphabet="abc123 +-", max_size=20), st.text(alphabet="abc{}\\ ", max_size=20))
def test_a_box_at_the_end_is_always_found(answer, before):
    # A backslash right before the box is the doubly escaped form; an unfinished one before that changes nothing.
    assert content(f"{before} \\boxed{{{answer}}}") == answer


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 100_000,
        "{" * 500_000 + "\\boxed{",
        "<think>" * 100_000 + "</think>",
        "\\boxed " * 100_000,
        "answer is " * 100_000,
        "9" * 1_000_000,
        "1,000" * 200_000,
    ],
)
def test_cost_is_linear(text):
    began = time.process_time()
    for name in profiles.names():
        find_answer(text, profiles.get(name))
    assert time.process_time() - began < 2.0  # quadratic would be minutes
