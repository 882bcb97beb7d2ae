"""maj@k by hand, against a loop over blocks, and unbiased by enumeration."""

from collections import Counter
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.errors import ConfigError, DataError
from ngrpo.stats import majority_at_k


def one_vote(votes, right):
    """Whether the lead among some votes is the right answer, ties shared; below 0 is no vote."""
    counts = Counter(vote for vote in votes if vote >= 0)
    if not counts:
        return 0.0
    leaders = [vote for vote, count in counts.items() if count == max(counts.values())]
    return (right in leaders) / len(leaders)


def by_blocks(votes, right, k):
    blocks = [votes[start : start + k] for start in range(0, len(votes) - k + 1, k)]
    return sum(one_vote(block, right) for block in blocks) / len(blocks)


def test_by_hand():
    votes = [[7, 7, 2, 7, 2, 2, 2, 5]]
    is_correct = [[True, True, False, True, False, False, False, False]]
    # k = 1: 3 of 8. k = 2: 77 right, 27 tie, 22 wrong, 25 wrong. k = 4: 7727 right, 2225 wrong. k = 8: four 2s lead.
    assert majority_at_k(votes, is_correct, [1, 2, 4, 8]).tolist() == [[3 / 8, 1.5 / 4, 0.5, 0.0]]
    # k = 3: 772 right, 722 wrong, and 25 is left over.
    assert majority_at_k(votes, is_correct, [3]).tolist() == [[0.5]]


def test_ties_are_shared_by_all_that_lead():
    assert majority_at_k([[0, 1, 2]], [[True, False, False]], [3]).tolist() == [[pytest.approx(1 / 3)]]
    assert majority_at_k([[0, 0, 1, 1, 2]], [[True, True, False, False, False]], [5]).tolist() == [[0.5]]


def test_samples_without_an_answer_do_not_vote():
    assert majority_at_k([[-1, -1, -1, 4]], [[False] * 3 + [True]], [4]).tolist() == [[1.0]]
    assert majority_at_k([[-1, -1, -1, -1]], [[False] * 4], [1, 4]).tolist() == [[0.0, 0.0]]


def test_every_small_vote_equals_the_loop():
    every = np.array(list(product([-1, 0, 1], repeat=4)))
    found = majority_at_k(every, every == 0, [1, 2, 3, 4])
    expected = [[by_blocks(votes.tolist(), 0, k) for k in (1, 2, 3, 4)] for votes in every]
    np.testing.assert_allclose(found, expected, atol=1e-15)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_uneven_problems_equal_the_loop(data):
    rows = data.draw(st.lists(st.lists(st.integers(-1, 4), min_size=3, max_size=12), min_size=1, max_size=5))
    rights = [data.draw(st.integers(0, 4)) for _ in rows]
    width = max(map(len, rows)) + 2
    votes, is_there = np.full((len(rows), width), 3), np.zeros((len(rows), width), dtype=bool)
    for place, row in enumerate(rows):  # samples in order, with holes between them
        chosen = np.sort(np.random.default_rng(len(row)).choice(width, len(row), replace=False))
        votes[place, chosen], is_there[place, chosen] = row, True
    found = majority_at_k(votes, votes == np.array(rights)[:, None], [1, 2, 3], is_there=is_there)
    expected = [[by_blocks(row, right, k) for k in (1, 2, 3)] for row, right in zip(rows, rights, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-15)


@pytest.mark.parametrize(("votes", "k"), [([0, 0, 1, 1, 2, -1], 3), ([0, 1, 1, 1, 0, 2], 2), ([0, 0, 1, 2, 2], 2)])
def test_the_mean_over_orders_is_the_mean_over_draws_of_k(votes, k):
    draws = [one_vote(draw, 0) for draw in permutations(votes, k)]
    orders = np.array(list(permutations(votes)))
    assert majority_at_k(orders, orders == 0, [k]).mean() == pytest.approx(np.mean(draws))


def test_a_vote_of_one_or_two_is_pass_at_1():
    votes = np.random.default_rng(0).integers(0, 3, (50, 64))
    found = majority_at_k(votes, votes == 0, [1, 2])
    np.testing.assert_allclose(found, (votes == 0).mean(axis=1, keepdims=True).repeat(2, axis=1))


def test_equal_answers_judged_differently_count_by_their_share():
    assert majority_at_k([[0, 0, 1]], [[True, False, False]], [3]).tolist() == [[0.5]]


def test_no_problems_and_no_ks_are_empty():
    assert majority_at_k(np.zeros((0, 4), int), np.zeros((0, 4), bool), [1, 2]).shape == (0, 2)
    assert majority_at_k([[0]], [[True]], []).shape == (1, 0)


def test_refusals_name_the_problem():
    is_there = [[True, True], [True, False]]
    with pytest.raises(ConfigError, match=r"maj@2 needs at least 2 samples of every problem, problem 1 has 1"):
        majority_at_k([[0, 0], [0, 0]], [[True, True], [True, True]], [2], is_there=is_there)
    with pytest.raises(ConfigError, match=r"k must be 1 or more, got 0"):
        majority_at_k([[0]], [[True]], [0])
    with pytest.raises(DataError, match=r"must all be \[problems, samples\], got \[1, 2\], \[1, 1\] and \[1, 2\]"):
        majority_at_k([[0, 1]], [[True]], [1])
