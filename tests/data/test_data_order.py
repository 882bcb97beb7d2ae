import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngrpo.data import PromptOrder


@given(st.integers(1, 40), st.integers(0, 2**63), st.integers(0, 200), st.lists(st.integers(0, 50), max_size=6))
def test_any_cutting_draws_the_same(num_prompts, seed, position, counts):
    order = PromptOrder(num_prompts, seed)
    pieces, at = [], position
    for count in counts:
        pieces += order.take(at, count)
        at += count
    assert pieces == PromptOrder(num_prompts, seed).take(position, sum(counts))


@given(st.integers(1, 40), st.integers(0, 1000), st.integers(0, 5))
def test_every_epoch_has_each_prompt_once(num_prompts, seed, epoch):
    drawn = PromptOrder(num_prompts, seed).take(epoch * num_prompts, num_prompts)
    assert sorted(drawn) == list(range(num_prompts))


def test_epochs_and_seeds_differ():
    order = PromptOrder(1000, 0)
    assert order.take(0, 1000) != order.take(1000, 1000)
    assert order.take(0, 1000) != PromptOrder(1000, 1).take(0, 1000)
    # Not shifted by one either: epoch 1 of seed 0 is not epoch 0 of seed 1.
    assert order.take(1000, 1000) != PromptOrder(1000, 1).take(0, 1000)
    assert order.take(0, 1000) != list(range(1000))


def test_the_order_is_the_one_of_philox():
    # Pinned, because a resumed run depends on it: argsort of the raw stream of Philox(SeedSequence([7, 1])).
    keys = np.random.Philox(np.random.SeedSequence([7, 1])).random_raw(6)
    assert PromptOrder(6, 7).take(6, 6) == sorted(range(6), key=lambda index: keys[index])
    # The raw numbers of epoch 0 begin with 86.., 78.., 66.., 43.., 25.., 94.. (times 10^17), those of epoch 1 with
    # 157.., 74.., 140.., 115.., 100.., 144..: ascending, that is 4 3 2 1 0 5 and 1 4 3 2 5 0.
    assert PromptOrder(6, 7).take(0, 8) == [4, 3, 2, 1, 0, 5, 1, 4]


def test_no_global_random_numbers_are_used():
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first = PromptOrder(11, 3).take(0, 5)
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert random.getstate() == before[1]
    np.random.seed(99)  # noqa: NPY002
    assert PromptOrder(11, 3).take(0, 5) == first


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match="num_prompts must be at least 1"):
        PromptOrder(0, 0)
    with pytest.raises(ValueError, match="seed at least 0"):
        PromptOrder(1, -1)
    with pytest.raises(ValueError, match="must not be negative, got -1, 2"):
        PromptOrder(3, 0).take(-1, 2)
