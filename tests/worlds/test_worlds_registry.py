"""The registry of tiny worlds and what every world promises."""

import os
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from itertools import combinations

import pytest

from ngrpo import worlds
from ngrpo.errors import DataError


def test_get_unknown_world_lists_the_worlds():
    with pytest.raises(DataError, match=r"there is no world 'cuntdown'\. The worlds are: .*countdown"):
        worlds.get("cuntdown")


def test_get_returns_a_frozen_world():
    world = worlds.get("countdown")
    with pytest.raises(FrozenInstanceError):
        world.version = 2


# What makes two prompts the same problem, written down apart from the worlds' own code: every number with the sign in
# front of it, in sorted order, and for countdown without the target.
def problem(prompt):
    numbers = re.findall(r"[+-]?[0-9]+", prompt.partition("=")[0])
    return tuple(sorted(int(number) for number in numbers))


def of_one_split(one, other):
    """Training splits of one world may share problems: they are the same problems in other proportions."""
    return one == other or (one.startswith("train") and other.startswith("train"))


@pytest.mark.parametrize("name", worlds.names())
def test_every_world_keeps_its_own_limits(name):
    world = worlds.get(name)
    assert world.name == name
    assert len(set(world.alphabet)) == len(world.alphabet)
    for split in world.splits:
        for row in world.problems(split, 50, 3):
            assert set(row["prompt"] + row["gold"]) <= set(world.alphabet)
            assert len(row["prompt"]) <= world.max_prompt_chars
            assert len(row["gold"]) + 1 <= world.max_completion_tokens  # one more for the end-of-sequence token
            assert world.check(row["prompt"], row["gold"]).correct


@pytest.mark.parametrize("name", worlds.names())
def test_every_answer_is_accepted_fits_and_comes_once(name):
    world = worlds.get(name)
    for row in world.problems("test", 30, 1):
        answers = world.answers(row["prompt"])
        assert row["gold"] in answers
        assert len(set(answers)) == len(answers)
        assert all(world.check(row["prompt"], answer).correct for answer in answers)
        assert all(len(answer) + 1 <= world.max_completion_tokens for answer in answers)
        assert all(not world.check(row["prompt"], answer + end).correct for answer in answers for end in world.alphabet)


@pytest.mark.parametrize("name", worlds.names())
def test_every_world_shows_what_it_can_write_on_warm_problems(name):
    world = worlds.get(name)
    shown = world.demonstrations(200, 0)
    assert len(shown) == 200
    for each in shown:
        assert set(each.prompt + each.completion) <= set(world.alphabet)
        assert 0 <= each.num_unlearned < len(each.completion) < world.max_completion_tokens
    held_out = {problem(row["prompt"]) for split in ("train", "test") for row in world.problems(split, 128, 0)}
    assert not {problem(each.prompt) for each in shown} & held_out


@pytest.mark.parametrize("name", worlds.names())
def test_splits_share_no_problem_whatever_the_seeds(name):
    world = worlds.get(name)
    found = {
        split: {problem(row["prompt"]) for seed in (0, 1) for row in world.problems(split, 128, seed)}
        for split in world.splits
    }
    # And what is trained on much longer than what is held out.
    found["warm"] |= {problem(each.prompt) for each in world.demonstrations(4000, 0)}
    for one, other in combinations(world.splits, 2):
        assert of_one_split(one, other) or not found[one] & found[other], (one, other)


@pytest.mark.parametrize("name", worlds.names())
def test_rows_are_a_pure_function_and_a_larger_size_continues_them(name):
    world = worlds.get(name)
    for split in world.splits:
        rows = world.problems(split, 60, 5)
        assert rows[:20] == world.problems(split, 20, 5)
        assert [row["prompt"] for row in rows] != [row["prompt"] for row in world.problems(split, 60, 6)]
        assert len({row["id"] for row in rows}) == len(rows)


def test_rows_do_not_depend_on_the_process():
    """Of what reasoning-gym draws too: nothing hashes by Python's own, seeded anew in each process."""
    code = "from ngrpo import worlds; print([worlds.get(name).problems('train', 5, 0) for name in worlds.names()])"
    environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2")]
    printed = {
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        for environment in environments
    }
    assert len(printed) == 1


@pytest.mark.parametrize(("size", "seed", "message"), [(0, 0, "asked for 0 rows"), (3, -1, "seed -1")])
@pytest.mark.parametrize("name", ["countdown", "misconception"])
def test_demonstrations_out_of_range_says_what_was_got(name, size, seed, message):
    with pytest.raises(DataError, match=message):
        worlds.get(name).demonstrations(size, seed)


def test_problems_unknown_split_lists_the_splits():
    with pytest.raises(DataError, match=r"no split 'dev'\. Its splits are warm, train, validation, test"):
        worlds.get("countdown").problems("dev", 3, 0)


@pytest.mark.parametrize(("size", "seed", "message"), [(0, 0, "asked for 0 rows"), (3, -1, "seed -1")])
def test_problems_out_of_range_says_what_was_got(size, seed, message):
    with pytest.raises(DataError, match=message):
        worlds.get("countdown").problems("test", size, seed)


def test_worlds_import_nothing_heavy():
    heavy = "{'torch', 'numpy', 'transformers', 'pydantic'}"
    code = f"import sys, ngrpo.worlds, ngrpo.lab; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
