"""What virtual rewards do to advantages: closed forms, and where correct answers are punished."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngrpo import objectives
from ngrpo.lab.virtual_advantages import advantage_table


def cells(group_size=8, **options):
    return {(each["num_virtual"], each["virtual_reward"]): each for each in advantage_table(group_size, **options)}


def test_failing_wholly_weighs_the_same_whatever_a_virtual_completion_is_worth():
    found = cells(below_maximum=True)
    # All wrong, k virtual ones among n = G + k: A = -sqrt(k (n - 1) / (n (n - k))), whatever they are worth.
    for (number, reward), each in found.items():
        expected = -((number * (7 + number) / ((8 + number) * 8)) ** 0.5) if number else 0.0
        assert each["wrong"][0] == pytest.approx(expected, abs=1e-5), (number, reward)
        assert each["kept"][0]
    assert {number for number, _ in found} == {0, 1, 2, 4}
    assert {reward for _, reward in found} == {None, 0.25, 0.5, 1.0, 2.0, 4.0}


def test_mixed_groups_do_depend_on_it():
    found = cells()
    right = [found[1, reward]["correct"][1] for reward in (1.0, 2.0, 4.0)]
    assert right == pytest.approx([1.763834, 0.942808, 0.333333], abs=1e-5)  # 2: (1 - 1/3) / sqrt(1/2)


def test_below_the_maximum_only_where_it_is_asked_for():
    assert {reward for _, reward in cells()} == {None, 1.0, 2.0, 4.0}


def test_correct_answers_are_punished_from_the_count_of_the_closed_form_on():
    """Where c > G - k (v - 1), in kept groups: c < G."""
    for (number, reward), each in cells(below_maximum=True).items():
        counts = [c for c in range(1, 8) if reward is not None and c > 8 - number * (reward - 1)]
        assert each["punished_from"] == min(counts, default=None), (number, reward)
    assert cells()[1, 4.0]["punished_from"] == 6
    assert cells()[4, 4.0]["punished_from"] == 1
    assert cells()[1, 1.0]["punished_from"] is None


@given(group_size=st.integers(2, 20), number=st.integers(1, 4), quarter=st.integers(1, 16), data=st.data())
def test_the_sign_of_a_correct_answer_is_that_of_the_closed_form(group_size, number, quarter, data):
    count, reward = data.draw(st.integers(1, group_size - 1)), quarter / 4  # sums are exact
    objective = objectives.get("ngrpo", num_virtual=number, virtual_reward=reward, virtual_below_best=True)
    advantages = objective.advantages([1.0] * count + [0.0] * (group_size - count), [0] * group_size)
    margin = group_size - number * (reward - 1) - count
    assert (advantages[0] > 0) == (margin > 0)
    assert (advantages[0] < 0) == (margin < 0)
    assert advantages[-1] < 0
