"""Effects of two-level factorials: values by hand, and what must hold of any table."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.errors import DataError
from ngrpo.lab.effects import at_level, contrast, factorial_effects

FACTORS = ("a", "b", "c")
CELLS = list(product((False, True), repeat=3))
SUBSETS = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
tables = st.lists(st.integers(-50, 50), min_size=8, max_size=8)


def cells_of(numbers):
    """One seed, one prompt, one quantity; cells in the order of counting, `c` fastest."""
    return {levels: np.full((1, 1, 1), float(number)) for levels, number in zip(CELLS, numbers, strict=True)}


def effects_of(numbers):
    cells = cells_of(numbers)
    return {chosen: contrast(cells, chosen).item() for chosen in SUBSETS}


def test_effects_by_hand():
    """Cells by (a, b, c): 000 is 1, 001 is 2, 010 is 4, 011 is 8, 100 is 16, 101 is 32, 110 is 64, 111 is 128.

    a: (16 + 32 + 64 + 128) / 4 - (1 + 2 + 4 + 8) / 4 = 60 - 3.75. b: (4 + 8 + 64 + 128 - 1 - 2 - 16 - 32) / 4 = 38.25.
    c: (2 + 8 + 32 + 128 - 1 - 4 - 16 - 64) / 4 = 21.25.
    a x b: the effect of a is ((64 + 128) - (4 + 8)) / 2 = 90 at b high, ((16 + 32) - (1 + 2)) / 2 = 22.5 at b low; half
    the difference is 33.75. a x c: ((32 + 128) - (2 + 8)) / 2 = 75 and ((16 + 64) - (1 + 4)) / 2 = 37.5: 18.75.
    b x c: ((8 + 128) - (2 + 32)) / 2 = 51 and ((4 + 64) - (1 + 16)) / 2 = 25.5: 12.75.
    a x b x c: the interaction a x b is ((128 - 8) - (32 - 2)) / 2 = 45 at c high and ((64 - 4) - (16 - 1)) / 2 = 22.5
    at c low: 11.25.
    """
    assert effects_of([1, 2, 4, 8, 16, 32, 64, 128]) == {
        (0,): 56.25, (1,): 38.25, (2,): 21.25, (0, 1): 33.75, (0, 2): 18.75, (1, 2): 12.75, (0, 1, 2): 11.25,
    }  # fmt: skip


@given(numbers=tables, place=st.integers(0, 2))
def test_relabelling_the_levels_of_a_factor_turns_the_sign_of_its_effects(numbers, place):
    relabelled = dict(zip(CELLS, numbers, strict=True))
    relabelled = [relabelled[(*each[:place], not each[place], *each[place + 1 :])] for each in CELLS]
    before, after = effects_of(numbers), effects_of(relabelled)
    assert after == {chosen: -value if place in chosen else value for chosen, value in before.items()}


@given(numbers=tables, added=st.integers(-9, 9))
def test_a_constant_on_all_cells_changes_nothing(numbers, added):
    assert effects_of([number + added for number in numbers]) == effects_of(numbers)


@given(raised=st.tuples(*[st.integers(-20, 20)] * 3), start=st.integers(-9, 9))
def test_an_additive_table_has_its_summands_as_main_effects_and_no_interactions(raised, start):
    numbers = [start + sum(value for value, is_high in zip(raised, levels, strict=True) if is_high) for levels in CELLS]
    effects = effects_of(numbers)
    assert [effects[(place,)] for place in range(3)] == list(raised)
    assert all(effects[chosen] == 0 for chosen in SUBSETS if len(chosen) > 1)


@given(numbers=tables)
def test_the_effects_and_the_mean_give_the_table_back(numbers):
    effects, mean = effects_of(numbers), np.mean(numbers)
    for levels, number in zip(CELLS, numbers, strict=True):
        signed = [(-1) ** sum(not levels[place] for place in chosen) * value for chosen, value in effects.items()]
        assert mean + sum(signed) / 2 == pytest.approx(number)


@given(numbers=tables)
def test_an_effect_is_the_mean_of_what_it_is_at_each_level_of_another_factor(numbers):
    cells, effects = cells_of(numbers), effects_of(numbers)
    low, high = (contrast(at_level(cells, 0, is_high=level), [1]).item() for level in (False, True))  # of c
    assert effects[(2,)] == (low + high) / 2
    assert effects[(0, 2)] == (high - low) / 2


def test_the_interval_is_of_the_paired_contrast():
    """What seeds and prompts share cancels: cells that differ by a constant have a point for an interval."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(4, 30, 2)) * 100
    cells = {levels: shared + (3.0 if levels[0] else 0.0) for levels in CELLS}
    found = factorial_effects(cells, FACTORS)
    assert list(found) == [("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")]
    assert found[("a",)].estimate == pytest.approx([3.0, 3.0])
    assert found[("a",)].low == pytest.approx([3.0, 3.0])
    assert found[("a",)].high == pytest.approx([3.0, 3.0])
    for names in list(found)[1:]:
        assert found[names].low == pytest.approx([0.0, 0.0], abs=1e-9)


def test_cells_that_are_equal_cancel_exactly():
    """Numbers that a sum would round: the effect of what changed nothing is zero, not a rounding."""
    rng = np.random.default_rng(1)
    half = {levels: rng.random((2, 5, 1)) for levels in product((False, True), repeat=2)}
    cells = {(*levels, is_high): values for levels, values in half.items() for is_high in (False, True)}
    assert not contrast(cells, [2]).any()
    assert not contrast(cells, [0, 2]).any()


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_intervals_of_one_seed_are_over_prompts(seed):
    rng = np.random.default_rng(seed)
    cells = {(level,): rng.random((1, 12, 1)) for level in (False, True)}
    interval = factorial_effects(cells, ["a"])[("a",)]
    assert interval.low <= interval.estimate <= interval.high
    assert interval.estimate == pytest.approx((cells[(True,)] - cells[(False,)]).mean())


def test_a_missing_cell_is_named():
    cells = cells_of(range(8))
    del cells[(True, False, True)]
    with pytest.raises(DataError, match=r"has 8 cells, got 7\. Missing: a high, b low, c high\. Run these"):
        factorial_effects(cells, FACTORS)


def test_cells_of_other_prompts_are_refused():
    cells = cells_of(range(8)) | {(True, True, True): np.zeros((1, 2, 1))}
    with pytest.raises(DataError, match=r"of the same sizes, got \[\[1, 1, 1\], \[1, 2, 1\]\]"):
        factorial_effects(cells, FACTORS)
