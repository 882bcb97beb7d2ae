"""The overtrained world: countdown with few training problems."""

import pytest

from ngrpo import worlds
from ngrpo.errors import DataError
from ngrpo.worlds.countdown import split_of
from ngrpo.worlds.overtrained import NUM_TRAIN_PROBLEMS

WORLD, COUNTDOWN = worlds.get("overtrained"), worlds.get("countdown")


def problem(row):
    numbers, target = row["prompt"].removesuffix(":").split("=")
    return tuple(sorted(map(int, numbers.split(",")))), int(target)


@pytest.mark.parametrize("seed", [0, 7])
def test_training_has_few_problems_all_different(seed):
    rows = WORLD.problems("train", NUM_TRAIN_PROBLEMS, seed)
    assert len({problem(row) for row in rows}) == NUM_TRAIN_PROBLEMS
    assert {split_of(problem(row)[0]) for row in rows} == {"train"}
    with pytest.raises(DataError, match=r"'train' of world 'overtrained' gives at most 128 rows.*129 were asked for"):
        WORLD.problems("train", NUM_TRAIN_PROBLEMS + 1, seed)


@pytest.mark.parametrize("split", ["warm", "validation", "test"])
def test_the_rest_is_countdown_s(split):
    assert WORLD.problems(split, 200, 0) == COUNTDOWN.problems(split, 200, 0)
    assert WORLD.demonstrations(10, 0) == COUNTDOWN.demonstrations(10, 0)
