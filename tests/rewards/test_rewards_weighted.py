"""Sums of a judge and terms: the value is the sum of its parts, the label stays, failures are nobody's zero."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.rewards import ShapedReward, WeightedTerm, part_names
from ngrpo.rewards.function import RowFailure
from ngrpo.types import Completion, Outcome, Prompt

FINITE = st.floats(-10, 10)


class Says:
    """A judge or a term that gives what it was told to, and keeps what it was asked."""

    low, high = -1.0, 3.0

    def __init__(self, *results):
        self.results, self.asked, self.is_closed = list(results), None, False

    def __call__(self, *asked):
        self.asked = [list(each) for each in asked]
        return list(self.results)

    def check_golds(self, golds):
        return [f"{gold} is odd" for gold in golds]

    def close(self):
        self.is_closed = True


def batch(count):
    prompts = [Prompt(f"p{place}", "?", (), "1") for place in range(count)]
    return prompts, [Completion((place,), (), str(place), "eos") for place in range(count)]


def shaped(outcomes, **terms):
    """`terms`: weight and results of each."""
    weighted = [WeightedTerm(name, weight, Says(*results)) for name, (weight, results) in terms.items()]
    return ShapedReward(Says(*outcomes), weighted)(*batch(len(outcomes)))


def test_the_value_is_judge_plus_weighted_terms():
    right = Outcome(1.0, True, extracted="5", rule="boxed", normal_form="5", detail="why")
    (found,) = shaped([right], form=(0.25, [1.0]), length=(0.5, [-0.5]))
    assert found == Outcome(
        1.0, True, extracted="5", rule="boxed", normal_form="5", detail="why",
        parts={"judge": 1.0, "form": 0.25, "length": -0.25},
    )  # fmt: skip


@given(st.lists(st.tuples(FINITE, st.booleans(), FINITE, FINITE), min_size=1, max_size=6), FINITE, FINITE)
@settings(deadline=None)
def test_parts_add_up_and_labels_and_kinds_stay(rows, first, second):
    outcomes = [Outcome(value, correct, "scored" if correct else "unparsed") for value, correct, _, _ in rows]
    found = shaped(outcomes, a=(first, [row[2] for row in rows]), b=(second, [row[3] for row in rows]))
    for outcome, before, (value, correct, one, other) in zip(found, outcomes, rows, strict=True):
        assert outcome.value == math.fsum(outcome.parts.values()) == math.fsum([value, first * one, second * other])
        assert list(outcome.parts) == ["judge", "a", "b"]
        assert (outcome.correct, outcome.kind) == (correct, before.kind)


def test_sums_are_rounded_once():
    (found,) = shaped([Outcome(1.0, True)], a=(0.1, [1.0]), b=(0.2, [1.0]))
    assert (1.0 + 0.1 + 0.2, found.value) == (1.3, 1.3)
    (found,) = shaped([Outcome(0.0, False)], a=(0.1, [1.0]), b=(0.2, [1.0]))
    assert 0.1 + 0.2 != 0.3
    assert found.value == math.fsum([0.1, 0.2])


@pytest.mark.parametrize("kind", ["timeout", "error"])
def test_what_the_judge_failed_on_is_not_shaped(kind):
    failed = Outcome(0.0, False, kind, detail="killed")
    term = Says(1.0, -1.0)
    reward = ShapedReward(Says(Outcome(1.0, True), failed, Outcome(0.0, False)), [WeightedTerm("a", 0.5, term)])
    prompts, completions = batch(3)
    found = reward(prompts, completions)
    assert found[1] == failed
    assert [outcome.value for outcome in found] == [1.5, 0.0, -0.5]
    assert term.asked[0] == [prompts[0], prompts[2]]
    assert term.asked[1] == [completions[0], completions[2]]
    assert [outcome.correct for outcome in term.asked[2]] == [True, False]


def test_where_a_term_fails_the_value_is_unknown_and_the_label_known():
    outcomes = [Outcome(1.0, True), Outcome(1.0, True)]
    found = shaped(outcomes, form=(1.0, [1.0, 1.0]), mine=(1.0, [RowFailure("ValueError: no"), 0.5]))
    assert found[0] == Outcome(1.0, True, "error", detail="shaping mine: ValueError: no")
    assert found[0].is_failure
    assert found[1].value == 2.5


def test_bounds_follow_the_sign_of_the_weight():
    assert WeightedTerm("a", 0.5, Says()).bounds == (-0.5, 1.5)
    assert WeightedTerm("a", -2.0, Says()).bounds == (-6.0, 2.0)
    assert WeightedTerm("a", 0.0, Says()).bounds == (0.0, 0.0)


def test_the_rest_is_the_judges():
    judge = Says()
    reward = ShapedReward(judge, [])
    assert reward.check_golds(["3"]) == ["3 is odd"]
    reward.close()
    assert judge.is_closed


@given(
    st.lists(
        st.sampled_from(["length", "regex", "a.py:length", "b.py:regex", "c.py:judge", "d.py:regex_2"]), max_size=8
    )
)
@settings(deadline=None)
def test_no_two_parts_have_one_name(names):
    found = part_names(names)
    assert len(found) == len(names)
    assert len({*found, "judge"}) == len(names) + 1
    assert not any("/" in name or ":" in name for name in found)
