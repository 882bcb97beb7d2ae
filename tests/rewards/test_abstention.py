"""The third verdict: which completions declined to answer, and that nothing else of a judgement changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngrpo.config import Data, Reward
from ngrpo.rewards import AbstentionReward
from ngrpo.rollout import is_boxed, reward_for
from ngrpo.types import Completion, Outcome, Prompt

PROMPT = Prompt("0", "1,2=3:", (), "1+2")


class Says:
    """A judge that gives what it was told to, and keeps what it was asked."""

    def __init__(self, *outcomes):
        self.outcomes, self.asked, self.is_closed = outcomes, None, False

    def __call__(self, prompts, completions):
        self.asked = (list(prompts), list(completions))
        return list(self.outcomes)

    def check_golds(self, golds):
        return [f"{gold} is odd" for gold in golds]

    def close(self):
        self.is_closed = True


def completion(text):
    return Completion((5,), (-1.0,), text, "eos")


def judged(text, outcome, phrases=("I don't know", "Weiß nicht")):
    return AbstentionReward(Says(outcome), list(phrases))([PROMPT], [completion(text)])[0]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("I don't know", "abstained"),
        ("So in the end: I DON'T KNOW.", "abstained"),
        ("weiss NICHT", "abstained"),  # as Unicode folds cases
        ("I do not know", "unparsed"),
        ("I don't", "unparsed"),
        ("", "unparsed"),
    ],
)
def test_a_wrong_completion_that_says_a_phrase_abstained(text, kind):
    outcome = Outcome(-0.5, False, "unparsed", extracted="7", detail="why")
    assert judged(text, outcome) == Outcome(-0.5, False, kind, extracted="7", detail="why")


@pytest.mark.parametrize("kind", ["timeout", "error"])
def test_where_the_judge_failed_nobody_declined(kind):
    assert judged("I don't know", Outcome(0.0, False, kind)).kind == kind


@pytest.mark.parametrize("kind", ["scored", "unparsed", "timeout", "error"])
def test_a_right_answer_is_right_whatever_else_it_says(kind):
    assert judged("I don't know, perhaps 1+2", Outcome(1.0, True, kind)) == Outcome(1.0, True, kind)


@given(st.lists(st.tuples(st.text(max_size=8), st.booleans(), st.floats(-2, 2)), max_size=8), st.text(min_size=1))
def test_values_and_labels_stay_and_only_kinds_change(rows, phrase):
    outcomes = [Outcome(value, correct, "scored") for _, correct, value in rows]
    judge = Says(*outcomes)
    completions = [completion(text) for text, _, _ in rows]
    found = AbstentionReward(judge, [phrase])([PROMPT] * len(rows), completions)
    assert [(each.value, each.correct) for each in found] == [(each.value, each.correct) for each in outcomes]
    assert all(each.kind == "scored" or not each.correct for each in found)
    assert judge.asked == ([PROMPT] * len(rows), completions)


def test_the_rest_is_the_judges():
    judge = Says()
    reward = AbstentionReward(judge, ["no"])
    assert reward.check_golds(["3"]) == ["3 is odd"]
    reward.close()
    assert judge.is_closed


def reward_of(source="world:countdown", **settings):
    return reward_for(Reward(timeout_s=5.0, **settings), Data(source=source, size=4))


def test_phrases_make_any_reward_one_of_three_verdicts():
    reward = reward_of(abstain_phrases=["="])
    assert isinstance(reward, AbstentionReward)
    prompt = Prompt("0", "1,2,3=6:", (), "1+2+3", columns={})
    found = reward([prompt] * 3, [completion(text) for text in ("1+2+3", "==", "3-2-1")])
    assert (found[0].correct, found[0].kind) == (True, "scored")
    assert found[1].kind == "abstained"
    assert not found[2].correct
    assert found[2].kind != "abstained"
    assert not isinstance(reward_of(), AbstentionReward)


def test_what_the_judge_reads_is_still_known():
    reward = reward_of("rows.jsonl", abstain_phrases=["no idea"])
    try:
        assert is_boxed(reward)
    finally:
        reward.close()
