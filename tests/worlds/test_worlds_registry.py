"""The registry of tiny worlds and what every world promises."""

import subprocess
import sys
from dataclasses import FrozenInstanceError

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
