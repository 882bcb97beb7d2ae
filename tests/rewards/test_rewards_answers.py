"""Exact text, numbers and letters: what is an answer, what agrees with the gold, and what gets nothing."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.errors import ConfigError, DataError
from ngrpo.rewards import choice_reward, exact_reward, numeric_reward
from ngrpo.rewards.answers import MAX_ANSWER_CHARS, number
from ngrpo.types import Completion, Prompt

EXACT, NUMERIC, CHOICE = exact_reward(), numeric_reward(), choice_reward()
ALL = pytest.mark.parametrize(("reward", "gold"), [(EXACT, "B"), (NUMERIC, "2"), (CHOICE, "B")])


@pytest.mark.parametrize(
    ("text", "gold", "correct", "rule"),
    [
        ("Paris", "Paris", True, "whole"),
        ("  Paris.\n", "Paris", True, "whole"),
        ("New \n York", "New York", True, "whole"),
        (r"It is \boxed{Paris}, surely", "Paris", True, "boxed"),
        ("<answer> Paris </answer>!", "Paris", True, "answer_tag"),
        ("<think>Rome</think>Paris", "Paris", True, "whole"),
        (r"\boxed{Paris} <answer>Rome</answer>", "Paris", False, "answer_tag"),
        (r"<answer>Paris</answer> no, \boxed{Rome}", "Paris", False, "boxed"),
        ("caf\u00e9", "cafe\u0301", True, "whole"),
        ("paris", "Paris", False, "whole"),
        ("It is Paris", "Paris", False, "whole"),
        ("Paris Paris", "Paris", False, "whole"),
        ("x\u00b2", "x2", False, "whole"),
    ],
)
def test_exact(text, gold, correct, rule):
    outcome = EXACT.grade(text, gold)
    assert (outcome.correct, outcome.value, outcome.kind, outcome.rule) == (correct, float(correct), "scored", rule)


def test_equal_answers_have_equal_normal_forms():
    assert {EXACT.grade(text, "a b").normal_form for text in ("a b", " a  b.", r"\boxed{a b}")} == {"a b"}
    assert {NUMERIC.grade(text, "7").normal_form for text in ("0.5", r"\frac{1}{2}", "<answer>1/2</answer>")} == {"1/2"}
    assert {CHOICE.grade(text, "A").normal_form for text in ("(b)", "answer: B", r"\boxed{\text{B}}")} == {"B"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42), ("-0.50", Fraction(-1, 2)), ("1,234", 1234), (r"\frac{3}{4}", Fraction(3, 4)),
        ("3/4", Fraction(3, 4)),
        ("1e3", 1000), ("2.5E-1", Fraction(1, 4)), (r"3 \times 10^{2}", 300), ("3 \u00d7 10^2", 300), ("$5$", 5),
        ("5%", None), (r"5\%", None), ("5 m", None), ("90\u00b0", None), ("1e401", None), ("1e99999999", None),
        ("1/0", None),
        ("nan", None), ("inf", None), ("x", None), ("", None), ("3 and 4", None), ("1" * (MAX_ANSWER_CHARS + 1), None),
    ],
)  # fmt: skip
def test_what_is_a_number(text, value):
    assert number(text) == value


@pytest.mark.parametrize(
    ("absolute", "relative", "answer", "correct"),
    [
        (0.0, 0.0, "10.0", True),
        (0.0, 0.0, "10.000000000000000000001", False),
        (0.3, 0.0, "10.3", True),  # the double nearest to 0.3 is below it
        (0.3, 0.0, "10.30000001", False),
        (0.3, 0.0, "9.7", True),
        (0.0, 0.01, "10.1", True),
        (0.0, 0.01, "10.11", False),
        (0.2, 0.01, "10.15", True),  # the larger of the two
        (0.05, 0.01, "10.1", True),
    ],
)
def test_tolerances_are_as_written(absolute, relative, answer, correct):
    reward = numeric_reward(absolute_tolerance=absolute, relative_tolerance=relative)
    assert reward.grade(answer, "10").correct is correct
    assert reward.grade(f"-{answer}", "-10").correct is correct


@given(st.fractions(), st.fractions(), st.floats(0, 10), st.floats(0, 1))
@settings(deadline=None)
def test_numeric_is_the_inequality(gold, answer, absolute, relative):
    reward = numeric_reward(absolute_tolerance=absolute, relative_tolerance=relative)
    bound = max(Fraction(repr(absolute)), Fraction(repr(relative)) * abs(gold))
    assert reward.grade(str(answer), str(gold)).correct == (abs(gold - answer) <= bound)


@pytest.mark.parametrize("name", ["absolute_tolerance", "relative_tolerance"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_impossible_tolerances_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be 0 or more, and finite"):
        numeric_reward(**{name: value})


@pytest.mark.parametrize(
    ("text", "letter", "rule"),
    [
        ("B", "B", "whole"), (" (b). ", "B", "whole"), (r"So \boxed{B}", "B", "boxed"), (r"\boxed{(b)}", "B", "boxed"),
        (r"\boxed{\text{B}}", "B", "boxed"), (r"\boxed{\textbf{(B)}}", "B", "boxed"),
        ("<answer>B)</answer>", "B", "answer_tag"),
        ("Answer: B", "B", "answer_is"), ("**Answer:** B", "B", "answer_is"),
        ("The answer is (B) as shown", "B", "answer_is"),
        ("the answer is B.", "B", "answer_is"), ("answer is: B\nbecause", "B", "answer_is"),
        ("The answer is A. No, the answer is B.", "B", "answer_is"), ("(A) is wrong. Answer: B", "B", "answer_is"),
        ("I take (B), yes (B)", "B", "parentheses"),
        (r"<think>\boxed{A}</think> answer: B", "B", "answer_is"),
    ],
)  # fmt: skip
def test_letters_are_found(text, letter, rule):
    outcome = CHOICE.grade(text, letter)
    assert (outcome.correct, outcome.rule, outcome.normal_form) == (True, rule, letter)


@pytest.mark.parametrize(
    "text",
    [
        "", "B because", "I think B", "(A) or (B)", "(A) (B) (C) (D) (E)", "the answer is a prime B",
        "The answer is I think B",
        "answer B", "answer: Bob", "BB", r"\boxed{A, B}", r"\boxed{B or C}", r"\boxed{}", r"\boxed{} answer: B", "Z",
        r"\boxed{F}",
        "answer: F", "<think>B", r"\boxed{4} (B)", "answer: b",
    ],
)  # fmt: skip
def test_what_is_no_choice_earns_nothing(text):
    outcome = CHOICE.grade(text, "B")
    assert (outcome.value, outcome.correct, outcome.kind) == (0.0, False, "unparsed")
    assert outcome.detail


def test_letters_to_choose_from():
    assert choice_reward("ABCDEFGHIJ").grade("answer: J", "J").correct
    assert choice_reward("AB").grade("C", "A").kind == "unparsed"
    for bad in ("", "A", "ab", "AA", "A1"):
        with pytest.raises(ConfigError, match="two or more different capital letters"):
            choice_reward(bad)


@pytest.mark.parametrize(
    ("reward", "gold", "fault"),
    [
        (EXACT, "", "the gold is empty"),
        (EXACT, " . ", r"is not a text"),
        (NUMERIC, "twelve", r"the gold 'twelve' is not a number"),
        (NUMERIC, "5 apples", r"is not a number"),
        (CHOICE, "2", r"the gold '2' is not one of the letters A, B, C, D, E"),
        (CHOICE, "F", r"the gold 'F' is not one of the letters"),
    ],
)
def test_bad_golds_are_named(reward, gold, fault):
    assert fault in reward.check_golds(["B" if reward is CHOICE else "1", gold])[1]
    assert reward.check_golds(["B" if reward is CHOICE else "1", gold])[0] is None
    with pytest.raises(DataError, match=f"^d.jsonl row 3: .*{fault}.* Mend or leave out that row"):
        reward([Prompt("p", "?", (), gold, "d.jsonl row 3")], [Completion((), (), "1", "eos")])


def test_golds_may_be_whole_solutions():
    assert NUMERIC.grade("5", "2 + 3 = 5.\n#### 5").correct
    assert EXACT.grade("yes", r"so \boxed{yes}").correct
    assert CHOICE.grade("B", r"hence \boxed{(b)}").correct


@ALL
def test_the_gold_itself_is_right_and_a_batch_keeps_its_order(reward, gold):
    prompts = [Prompt(str(place), "?", (), gold) for place in range(3)]
    texts = (gold, "nothing of the kind at all, really", rf"\boxed{{{gold}}}")
    outcomes = reward(prompts, [Completion((), (), text, "eos") for text in texts])
    assert [outcome.correct for outcome in outcomes] == [True, False, True]
    reward.close()


@ALL
@pytest.mark.parametrize("text", ["", " \n", r"\boxed{}", "<answer></answer>", "<think>2", "<think>B"])
def test_empty_is_never_right(reward, gold, text):
    outcome = reward.grade(text, gold)
    assert (outcome.value, outcome.correct, outcome.kind) == (0.0, False, "unparsed")


@ALL
@given(text=st.text(alphabet=r"AB2\boxed{}()<answer>/: .*e^10" + "\0\u202e", max_size=60))
@settings(deadline=None)
def test_nothing_a_model_writes_raises(reward, gold, text):
    outcome = reward.grade(text, gold)
    assert outcome.value == float(outcome.correct)
    assert outcome.kind in ("scored", "unparsed")
    assert not outcome.is_failure


@ALL
@pytest.mark.parametrize(
    "text",
    [
        "answer:" + " " * 300_000 + "B", "(" * 300_000, "answer is " * 60_000, r"\boxed{" * 50_000, "9" * 300_000,
        "2 " * 200_000,
    ],
    ids=["spaces", "parentheses", "answers", "boxes", "digits", "words"],
)  # fmt: skip
def test_megabytes_are_read_in_linear_time(reward, gold, text):
    assert not reward.grade(text, gold).correct
    assert not reward.grade(rf"\boxed{{{text}}}", gold).correct


def test_long_answers_are_compared_where_the_gold_is_long():
    gold = "word " * 400
    assert EXACT.grade(gold, gold).correct
    assert EXACT.grade(gold, "word").detail == f"the answer has {len(gold) - 1} characters"
