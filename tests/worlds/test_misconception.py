"""The misconception world: two procedures, one right, and rows that are hard exactly where they differ."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngrpo import worlds
from ngrpo.errors import DataError
from ngrpo.worlds.misconception import (
    FORCED_FRAC,
    HARD_PERCENT_BY_TRAIN_SPLIT,
    MAX_DISTINCT_ROWS,
    RIGHT_PRIORS,
    SPLIT_PERCENT,
    is_hard,
    split_of,
    with_carry,
    without_carry,
)

WORLD = worlds.get("misconception")
NUMBERS = st.integers(10, 99)


def pair(prompt):
    one, other = map(int, prompt.removesuffix("=").split("+"))
    return min(one, other), max(one, other)


@pytest.mark.parametrize(
    ("one", "other", "right", "wrong"),
    [
        (47, 85, "231", "22"),  # 132; 7+5 = 12 -> 2, 4+8 = 12 -> 2
        (41, 25, "66", "66"),  # no carry
        (55, 55, "011", "00"),  # 110
        (99, 99, "891", "88"),  # 198; 18 -> 8 twice
        (90, 10, "001", "00"),  # 100: the carry out of the tens is dropped too
        (19, 21, "04", "03"),  # 40; 9+1 = 10 -> 0, 1+2 = 3
    ],
)
def test_both_procedures_hand_values(one, other, right, wrong):
    assert (with_carry(one, other), without_carry(one, other)) == (right, wrong)
    assert is_hard(one, other) == (right != wrong)


@given(NUMBERS, NUMBERS)
def test_hard_exactly_where_a_carry_occurs(one, other):
    assert is_hard(one, other) == (one % 10 + other % 10 >= 10 or one // 10 + other // 10 >= 10)


@pytest.mark.parametrize("completion", ["P231", "L231"])
def test_check_ignores_the_strategy(completion):
    outcome = WORLD.check("47+85=", completion)
    assert (outcome.correct, outcome.value, outcome.kind, outcome.extracted) == (True, 1.0, "scored", "231")


@pytest.mark.parametrize(
    ("completion", "detail"),
    [
        ("L22", "drops the carry: 22, not 231"),
        ("P22", "drops the carry: 22, not 231"),
        ("P132", "another mistake: 132, not 231"),  # the digits in the usual order
        ("P2310", "another mistake: 2310, not 231"),
        ("P23", "another mistake: 23, not 231"),
    ],
)
def test_check_wrong_digits_says_why(completion, detail):
    outcome = WORLD.check("47+85=", completion)
    assert (outcome.correct, outcome.value, outcome.kind, outcome.detail) == (False, 0.0, "scored", detail)


@pytest.mark.parametrize(
    "completion",
    ["", "231", "P", "PP231", "PL231", "p231", "P 231", "P231 ", "P231\n", "231P", "P-231", "P231=", "P231P231",
     "P23100", "P23\N{ARABIC-INDIC DIGIT ONE}", "P23\N{SUPERSCRIPT ONE}", "P231<|endoftext|>"],
)  # fmt: skip
def test_check_tolerates_nothing_around_or_inside(completion):
    outcome = WORLD.check("47+85=", completion)
    assert (outcome.correct, outcome.value, outcome.kind, outcome.extracted) == (False, 0.0, "unparsed", None)


@given(st.text(max_size=20) | st.text(alphabet=WORLD.alphabet, max_size=6))
def test_check_accepts_the_answers_and_nothing_else(completion):
    assert WORLD.check("47+85=", completion).correct == (completion in WORLD.answers("47+85="))


@given(NUMBERS, NUMBERS)
def test_answers_are_accepted_and_the_misconception_is_not(one, other):
    prompt = f"{one}+{other}="
    assert len(set(WORLD.answers(prompt))) == 2
    assert all(WORLD.check(prompt, answer).correct for answer in WORLD.answers(prompt))
    assert WORLD.check(prompt, f"L{without_carry(one, other)}").correct != is_hard(one, other)


@pytest.mark.parametrize("prompt", ["", "47+85", "7+85=", "07+85=", "47+85=\n", "147+85=", "47-85=", "3,5,7,2=14:"])
def test_check_refuses_what_is_not_a_prompt(prompt):
    for call in (lambda: WORLD.check(prompt, "P1"), lambda: WORLD.answers(prompt)):
        with pytest.raises(DataError, match=r"is not a prompt of the misconception world\. One looks like '47\+85='"):
            call()


def test_every_pair_has_one_split_whichever_number_comes_first():
    pairs = [(one, other) for one in range(10, 100) for other in range(one, 100)]
    splits = [split_of(*pair) for pair in pairs]
    assert splits == [split_of(other, one) for one, other in pairs]
    for split, percent in SPLIT_PERCENT.items():
        mean, share = len(pairs) * percent / 100, percent / 100
        assert abs(splits.count(split) - mean) < 5 * (mean * (1 - share)) ** 0.5


def test_split_of_is_stable_for_ever():
    # By `printf misconception:47,85 | sha256sum`: the first 16 hexadecimal digits modulo 100 are 0, 91 and 63.
    # A change here changes every published number and must raise the world's version.
    assert [split_of(85, 47), split_of(10, 10), split_of(99, 99)] == ["warm", "test", "train"]


@pytest.mark.parametrize("split", WORLD.splits)
def test_rows_say_whether_they_are_hard_and_have_the_split_s_share_of_each(split):
    rows = WORLD.problems(split, 100, 3)
    assert all(is_hard(*pair(row["prompt"])) == (row["difficulty"] == "hard") for row in rows)
    num_hard = sum(row["difficulty"] == "hard" for row in rows)
    assert num_hard == HARD_PERCENT_BY_TRAIN_SPLIT.get(split, 50)
    # And so in any stretch: 20 of 100 have a fifth of the hard ones, up to one.
    assert abs(5 * sum(row["difficulty"] == "hard" for row in rows[40:60]) - num_hard) <= 5


def test_training_rows_repeat_no_pair_before_all_have_come():
    rows = [row for row in WORLD.problems("train", 3000, 0) if row["difficulty"] == "easy"]
    num_pairs = len({pair(row["prompt"]) for row in rows})
    assert len({pair(row["prompt"]) for row in rows[:num_pairs]}) == num_pairs < len(rows)


@pytest.mark.parametrize("split", sorted(MAX_DISTINCT_ROWS))
def test_held_out_problems_are_all_different_and_limited(split):
    rows = WORLD.problems(split, MAX_DISTINCT_ROWS[split], 1)
    assert len({pair(row["prompt"]) for row in rows}) == len(rows)
    with pytest.raises(DataError, match=f"split '{split}' of world 'misconception' gives at most 200 rows.*201"):
        WORLD.problems(split, 201, 1)


def test_worlds_of_other_priors_have_the_same_rows():
    for name in RIGHT_PRIORS:
        assert worlds.get(name).problems("test", 20, 0) == WORLD.problems("test", 20, 0)


@pytest.mark.parametrize(("name", "right_prior"), RIGHT_PRIORS.items())
def test_demonstrations_force_a_quarter_and_choose_right_at_the_prior(name, right_prior):
    num_shown = 40_000
    shown = worlds.get(name).demonstrations(num_shown, 0)
    forced = [each for each in shown if each.num_unlearned]
    chosen = [each for each in shown if not each.num_unlearned]
    assert all(each.completion[0] == "P" and each.num_unlearned == 1 for each in forced)
    # Binomial counts within five standard deviations.
    assert abs(len(forced) - FORCED_FRAC * num_shown) < 5 * (FORCED_FRAC * (1 - FORCED_FRAC) * num_shown) ** 0.5
    mean = right_prior * len(chosen)
    assert abs(sum(each.completion[0] == "P" for each in chosen) - mean) < 5 * mean**0.5
    hard = sum(is_hard(*pair(each.prompt)) for each in shown)
    assert abs(hard - num_shown / 2) < 5 * (num_shown / 4) ** 0.5


def test_demonstrations_follow_their_letter_on_warm_pairs_only():
    for each in WORLD.demonstrations(5000, 1):
        one, other = map(int, each.prompt.removesuffix("=").split("+"))
        procedure = with_carry if each.completion[0] == "P" else without_carry
        assert each.completion[1:] == procedure(one, other)
        assert split_of(one, other) == "warm"


def test_demonstrations_continue_and_differ_by_seed():
    assert WORLD.demonstrations(50, 4)[:20] == WORLD.demonstrations(20, 4)
    assert WORLD.demonstrations(50, 4) != WORLD.demonstrations(50, 5)
