"""The worlds of reasoning-gym's chain_sum: its own expressions, an exact checker, splits that share nothing."""

import re
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngrpo import worlds
from ngrpo.errors import DataError
from ngrpo.worlds.gym_chain_sum import MAX_DISTINCT_ROWS, PARAMS_BY_WORLD, split_of, value_of

NAMES = sorted(PARAMS_BY_WORLD)
WORLD = worlds.get("gym_chain_sum_hard")


@st.composite
def expressions(draw):
    numbers = draw(st.lists(st.integers(0, 999), min_size=2, max_size=4))
    signs = draw(st.lists(st.sampled_from("+-"), min_size=len(numbers) - 1, max_size=len(numbers) - 1))
    return str(numbers[0]) + "".join(f"{sign}{number}" for sign, number in zip(signs, numbers[1:], strict=True))


@given(expressions())
def test_value_and_answer_agree_with_python(expression):
    prompt = f"{expression}="
    assert value_of(prompt) == eval(expression)
    assert WORLD.answers(prompt) == (str(eval(expression)),)
    assert WORLD.check(prompt, *WORLD.answers(prompt)).correct


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_reasoning_gym_s_and_its_scorer_agrees(name):
    dataset = pytest.importorskip("reasoning_gym").create_dataset("chain_sum", seed=0, size=1)
    params = PARAMS_BY_WORLD[name]
    for row in worlds.get(name).problems("train", 60, 0):
        terms = re.findall(r"[0-9]+", row["prompt"])
        assert params["min_terms"] <= len(terms) <= params["max_terms"]
        assert {len(term) for term in terms} == {params["max_digits"]}
        assert dataset.score_answer(row["gold"], {"answer": row["gold"]}) == 1.0
        assert dataset.score_answer(f"{row['gold']}1", {"answer": row["gold"]}) < 1.0


@pytest.mark.parametrize(
    ("completion", "kind"),
    [
        ("11", "scored"),
        ("-12", "scored"),
        ("-011", "scored"),
        ("", "unparsed"),
        ("-", "unparsed"),
        ("+-11", "unparsed"),
        (" -11", "unparsed"),
        ("-11\n", "unparsed"),
        ("-11=", "unparsed"),
        ("-11.0", "unparsed"),
        ("-123456", "unparsed"),
        ("12+7-30", "unparsed"),
        ("\N{MINUS SIGN}11", "unparsed"),
        ("-1\N{ARABIC-INDIC DIGIT ONE}", "unparsed"),
        ("-11<|endoftext|>", "unparsed"),
    ],
)
def test_check_tolerates_nothing_but_the_value(completion, kind):
    outcome = WORLD.check("12+7-30=", completion)
    assert (outcome.correct, outcome.value, outcome.kind) == (False, 0.0, kind)
    assert outcome.detail == (f"{completion}, not -11" if kind == "scored" else outcome.detail)


@given(st.text(max_size=20) | st.text(alphabet=WORLD.alphabet, max_size=6))
def test_check_accepts_the_answer_and_nothing_else(completion):
    assert WORLD.check("12+7-30=", completion).correct == (completion == "-11")


@pytest.mark.parametrize("prompt", ["", "12=", "12+7", "12+7=\n", "+12+7=", "12+7-=", "1234+7=", "1+1+1+1+1=", "12*7="])
def test_check_refuses_what_is_not_a_prompt(prompt):
    with pytest.raises(DataError, match=r"is not a prompt of the chain_sum worlds\. One looks like '12\+7-30='"):
        WORLD.check(prompt, "1")


def test_split_of_ignores_the_order_and_nothing_else():
    assert split_of("12-30+7") == split_of("7+12-30") == split_of("12+7-30")
    assert len({split_of(f"{number}-30+7") for number in range(100)}) == 4


def test_split_of_is_stable_for_ever():
    # By `printf gym_chain_sum:-30,7,12 | sha256sum`: the first 16 hexadecimal digits modulo 100 are 33, 57, 83 and 89.
    # A change here changes every published number and must raise the worlds' version.
    assert [split_of(text) for text in ("12+7-30", "3+2", "4+3", "4+1")] == ["warm", "train", "validation", "test"]


@pytest.mark.parametrize("name", NAMES)
def test_held_out_problems_are_all_different_and_limited(name):
    for split, most in MAX_DISTINCT_ROWS.items():
        rows = worlds.get(name).problems(split, most, 2)
        problems = {tuple(sorted(map(int, re.findall(r"[+-]?[0-9]+", row["prompt"])))) for row in rows}
        assert len(problems) == most
        with pytest.raises(DataError, match=f"'{split}' of world '{name}' gives at most 160 rows.*161 were asked for"):
            worlds.get(name).problems(split, most + 1, 2)


def test_demonstrations_are_of_all_three_and_of_warm_problems_only():
    shown = WORLD.demonstrations(90, 0)
    assert shown == worlds.get("gym_chain_sum_easy").demonstrations(120, 0)[:90]
    assert {split_of(each.prompt) for each in shown} == {"warm"}
    assert all(int(each.completion) == value_of(each.prompt) for each in shown)
    digits = [len(re.match(r"[0-9]+", each.prompt)[0]) for each in shown]
    assert [digits.count(number) for number in (1, 2, 3)] == [30, 30, 30]


def test_without_reasoning_gym_the_world_is_there_and_its_rows_say_what_to_install():
    code = """
        import sys
        sys.modules["reasoning_gym"] = None
        from ngrpo import worlds
        from ngrpo.errors import MissingExtraError
        world = worlds.get("gym_chain_sum_easy")
        assert world.check("1+1=", "2").correct
        for call in (lambda: world.problems("train", 1, 0), lambda: world.demonstrations(1, 0)):
            try:
                call()
            except MissingExtraError as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("needs reasoning-gym" in line and 'pip install "ngrpo[gym]"' in line for line in lines)
