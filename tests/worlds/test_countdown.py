"""The countdown world: an exact checker, rows from a seed, and splits that share nothing."""

from itertools import combinations_with_replacement, permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngrpo import worlds
from ngrpo.errors import DataError
from ngrpo.worlds.countdown import MAX_DISTINCT_ROWS, SPLIT_PERCENT, split_of, value_of

WORLD = worlds.get("countdown")
MULTISETS = [multiset for size in (3, 4, 5) for multiset in combinations_with_replacement(range(1, 10), size)]


def numbers_and_target(prompt):
    numbers, target = prompt.removesuffix(":").split("=")
    return tuple(sorted(int(number) for number in numbers.split(","))), int(target)


@st.composite
def expressions(draw):
    digits = draw(st.lists(st.integers(1, 9), min_size=3, max_size=5))
    operators = draw(st.lists(st.sampled_from("+-*"), min_size=len(digits) - 1, max_size=len(digits) - 1))
    return str(digits[0]) + "".join(f"{op}{digit}" for op, digit in zip(operators, digits[1:], strict=True))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("7", 7),
        ("2+3*4", 14),  # multiplication first
        ("2*3+4", 10),
        ("9-3-2", 4),  # from the left
        ("9-3*2-1", 2),  # 9 - 6 - 1
        ("1-2*3*4", -23),  # the sign belongs to the whole product
        ("7+2*5-3", 14),
    ],
)
def test_value_of_hand_values(expression, value):
    assert value_of(expression) == value


@given(expressions())
def test_value_of_agrees_with_python(expression):
    assert value_of(expression) == eval(expression)


@pytest.mark.parametrize("completion", ["7+2*5-3", "2*5+7-3", "5*2-3+7", "7-3+2*5"])
def test_check_accepts_every_solution(completion):
    outcome = WORLD.check("3,5,7,2=14:", completion)
    assert (outcome.correct, outcome.value, outcome.kind, outcome.extracted) == (True, 1.0, "scored", completion)


@pytest.mark.parametrize(
    ("completion", "detail"),
    [
        ("7*2+5-3", "worth 16, not 14"),
        ("7*2", "uses 2,7, not 2,3,5,7"),  # worth 14, but leaves numbers out
        ("7+2*5-3+7-7", "uses 2,3,5,7,7,7, not 2,3,5,7"),
        ("9+5", "uses 5,9, not 2,3,5,7"),
        ("4+4+4+2", "uses 2,4,4,4, not 2,3,5,7"),  # worth 14, of four numbers, but not the given ones
    ],
)
def test_check_wrong_expression_says_why(completion, detail):
    outcome = WORLD.check("3,5,7,2=14:", completion)
    assert (outcome.correct, outcome.value, outcome.kind, outcome.detail) == (False, 0.0, "scored", detail)


@pytest.mark.parametrize(
    "completion",
    [
        "",
        " 7+2*5-3",
        "7+2*5-3 ",
        "7+2*5-3\n",
        "7+2*5-3=14",
        "=7+2*5-3",
        "(7+2*5)-3",
        "+7+2*5-3",
        "7+2*5-3+",
        "7+2*5--3",
        "7+2*5-03",
        "7+2**5-3",
        "7+25-3",
        "0+7+2*5-3",
        "7+2*5-\N{SUPERSCRIPT THREE}",
        "7+2*5-\N{ARABIC-INDIC DIGIT THREE}",
        "7\N{FULLWIDTH PLUS SIGN}2*5-3",
        "7+2*5-3<|endoftext|>",
        "14",
    ],
)
def test_check_tolerates_nothing_around_or_inside_the_expression(completion):
    outcome = WORLD.check("3,5,7,2=14:", completion)
    assert (outcome.correct, outcome.value, outcome.kind, outcome.extracted) == (False, 0.0, "unparsed", None)


@given(st.text(max_size=30) | st.text(alphabet=WORLD.alphabet, max_size=12))
def test_check_never_raises_for_a_completion(completion):
    assert WORLD.check("3,5,7=15:", completion).value in (0.0, 1.0)


@pytest.mark.parametrize(
    "prompt", ["", "3,5,7=15", "3,5=8:", "3,5,7=015:", "3,5,7=0:", "3,5,7=100:", "1,2,3,4,5,6=21:", "3,5,7=15:\n"]
)
def test_check_refuses_what_is_not_a_prompt(prompt):
    with pytest.raises(DataError, match=r"is not a countdown prompt\. One looks like '3,5,7,2=14:'"):
        WORLD.check(prompt, "3+5+7")


@given(expressions(), st.randoms(use_true_random=False))
def test_check_accepts_exactly_the_value(expression, rng):
    numbers = list(expression[::2])
    rng.shuffle(numbers)
    for target in (1, 50, 99, value_of(expression)):
        if 1 <= target <= 99:
            outcome = WORLD.check(f"{','.join(numbers)}={target}:", expression)
            assert outcome.correct == (value_of(expression) == target)


def test_answers_are_all_that_the_checker_accepts():
    # Every text of the shape digit, operator, digit, operator, digit.
    for prompt in ("1,2,3=6:", "2,2,3=8:", "9,9,9=99:"):
        candidates = map("".join, product("123456789", "+-*", "123456789", "+-*", "123456789"))
        assert sorted(WORLD.answers(prompt)) == sorted(text for text in candidates if WORLD.check(prompt, text).correct)


def test_answers_hand_values():
    assert set(WORLD.answers("2,2,3=8:")) == {"2*3+2", "3*2+2", "2+2*3", "2+3*2"}
    assert WORLD.answers("1,1,1=99:") == ()
    with pytest.raises(DataError, match="is not a countdown prompt"):
        WORLD.answers("1,1=2:")


def test_split_of_ignores_the_order():
    for multiset in MULTISETS[::37]:
        assert {split_of(order) for order in permutations(multiset)} == {split_of(multiset)}


def test_split_of_is_stable_for_ever():
    # By `printf countdown:1,2,3 | sha256sum`: the first 16 hexadecimal digits modulo 100 are 17, 58, 88 and 94.
    # A change here changes every published number and must raise the world's version.
    known = {(2, 3, 5, 7): "warm", (1, 1, 1, 1, 1): "train", (1, 2, 3): "validation", (1, 8, 7, 1): "test"}
    assert {multiset: split_of(multiset) for multiset in known} == known


def test_split_of_gives_each_split_about_its_share():
    # Of n multisets a share s: mean n s, standard deviation sqrt(n s (1 - s)); five of them is never reached by chance.
    assert sum(SPLIT_PERCENT.values()) == 100
    for size in (3, 4, 5):
        splits = [split_of(multiset) for multiset in MULTISETS if len(multiset) == size]
        for split, percent in SPLIT_PERCENT.items():
            mean, share = len(splits) * percent / 100, percent / 100
            assert abs(splits.count(split) - mean) < 5 * (mean * (1 - share)) ** 0.5
            assert splits.count(split) >= 10


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_share_no_prompt_and_no_multiset(seed):
    rows = {split: WORLD.problems(split, 4000, seed) for split in WORLD.splits}
    texts = {split: {row["prompt"] for row in rows[split]} for split in rows}
    multisets = {split: {numbers_and_target(row["prompt"])[0] for row in rows[split]} for split in rows}
    assert all({len(multiset) for multiset in multisets[split]} == {3, 4, 5} for split in rows)
    for one, other in combinations_with_replacement(WORLD.splits, 2):
        if one != other:
            assert not texts[one] & texts[other]
            assert not multisets[one] & multisets[other]


def test_splits_share_nothing_across_seeds():
    trained_on = {numbers_and_target(row["prompt"])[0] for row in WORLD.problems("train", 4000, 7)}
    tested_on = {numbers_and_target(row["prompt"])[0] for row in WORLD.problems("test", 4000, 0)}
    assert not trained_on & tested_on


@pytest.mark.parametrize("split", sorted(MAX_DISTINCT_ROWS))
def test_problems_of_test_and_validation_are_all_different(split):
    rows = WORLD.problems(split, 3000, 0)
    # Different as problems, not only as texts: the same numbers in another order are the same problem.
    assert len({numbers_and_target(row["prompt"]) for row in rows}) == len(rows)


@pytest.mark.parametrize("split", sorted(MAX_DISTINCT_ROWS))
def test_problems_more_than_there_are_is_refused_at_once(split):
    with pytest.raises(DataError, match=f"split '{split}' of world 'countdown' gives at most 5000 rows.*5001"):
        WORLD.problems(split, 5001, 0)


@pytest.mark.parametrize("split", WORLD.splits)
def test_problems_is_a_pure_function(split):
    rows = WORLD.problems(split, 40, 5)
    assert rows == WORLD.problems(split, 40, 5)
    assert rows[:10] == WORLD.problems(split, 10, 5)  # a larger size continues the same list
    assert [row["prompt"] for row in rows] != [row["prompt"] for row in WORLD.problems(split, 40, 6)]
    assert len({row["id"] for row in rows}) == len(rows)


def test_problems_first_rows_are_stable_for_ever():
    assert WORLD.problems("test", 2, 0) == [
        {"id": "countdown/test/0/0", "prompt": "1,8,7,1=56:", "gold": "8*7*1*1"},
        {"id": "countdown/test/0/1", "prompt": "3,4,9,6=9:", "gold": "3*4+6-9"},
    ]


def test_problems_prompt_order_does_not_give_the_gold_away():
    # Five different numbers in independent orders agree in 1 of 120 cases; 3 of 120 would be far outside chance here.
    rows = [row for row in WORLD.problems("train", 6000, 0) if len(set(row["gold"][::2])) == 5]
    agree = sum(row["prompt"].split("=")[0].replace(",", "") == row["gold"][::2] for row in rows)
    assert len(rows) > 500
    assert agree / len(rows) < 3 / 120


def test_problems_have_many_solutions():
    # Enumerate: every order of the numbers and every choice of operators.
    num_solutions = []
    for row in WORLD.problems("test", 20, 0):
        numbers, target = numbers_and_target(row["prompt"])
        candidates = (
            str(order[0]) + "".join(f"{op}{digit}" for op, digit in zip(operators, order[1:], strict=True))
            for order in set(permutations(numbers))
            for operators in product("+-*", repeat=len(numbers) - 1)
        )
        num_solutions.append(sum(value_of(candidate) == target for candidate in candidates))
    assert min(num_solutions) >= 1
    assert sorted(num_solutions)[len(num_solutions) // 2] >= 4
