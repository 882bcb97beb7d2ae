"""Sampling and judging at the same time: outcomes as if one came after the other, errors raised, no thread left."""

import os
import signal
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import EqualsGold, make_completion, make_prompt
from ngrpo.config import Data
from ngrpo.config import Reward as RewardSettings
from ngrpo.errors import Interrupted, NgrpoError, RewardError
from ngrpo.rewards import MathReward, ShapedReward, WeightedTerm, judges_elsewhere, make_term
from ngrpo.rewards.pool import CALLS_PER_START
from ngrpo.rollout import SampleRequest, Sampling, grading, reward_for, sample_groups
from ngrpo.rollout.grading import LEAST_AT_ONCE, sample_and_judge

PATIENCE_S = 30.0
MANY = 2 * LEAST_AT_ONCE


class Parts:
    """An engine whose completions end in a given order, a part at a time; `between` is called after each part."""

    def __init__(self, parts, between=lambda number: None):
        self.parts, self.between = parts, between

    @torch.inference_mode()
    def sample(self, requests, sampling, *, on_completions=None, should_stop=None):
        completions = [make_completion(f"{request.key[-1]}+{request.key[-2]}") for request in requests]
        for number, indices in enumerate(self.parts):
            if should_stop():
                raise Interrupted("asked to")
            on_completions(indices, [completions[index] for index in indices])
            self.between(number)
        return completions


class Elsewhere(EqualsGold):
    """A reward that may be called from any thread, and keeps from which it was."""

    judges_elsewhere = True

    def __init__(self, before=lambda: None):
        super().__init__()
        self.threads, self.asked, self.before = set(), [], before

    def __call__(self, prompts, completions):
        self.before()
        self.threads.add(threading.current_thread())
        self.asked.append([completion.text for completion in completions])
        return super().__call__(prompts, completions)


class Here(Elsewhere):
    judges_elsewhere = False


def requests_of(count):
    return [SampleRequest(make_prompt("1", gold=f"{place}+0"), (0, 0, 0, 0, place)) for place in range(count)]


def judge(engine, reward, count, *, num_at_once=1000, should_stop=None, on_judged=None):
    """The outcomes by index; nothing is judged twice, and no thread is left."""
    found = {}

    def keep(indices, completions, outcomes):
        assert not found.keys() & set(indices)
        found.update(zip(indices, zip(completions, outcomes, strict=True), strict=True))

    before = threading.enumerate()
    try:
        sample_and_judge(
            engine,
            reward,
            requests_of(count),
            Sampling(4),
            on_judged or keep,
            num_at_once=num_at_once,
            should_stop=should_stop,
        )
    finally:
        assert threading.enumerate() == before
    return found


@st.composite
def orders(draw):
    """1 to 100 requests in the order in which they end, cut into parts; some parts are empty."""
    order = draw(st.permutations(range(draw(st.integers(1, 100)))))
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=8)))
    return [list(order[a:b]) for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]


# --- the same outcomes ---


@settings(deadline=None)
@given(orders(), st.sampled_from([Here, Elsewhere]), st.integers(1, 40))
def test_every_completion_is_judged_once_under_its_own_index(parts, kind, num_at_once):
    count = sum(map(len, parts))
    found = judge(Parts(parts), kind(), count, num_at_once=num_at_once)
    assert sorted(found) == list(range(count))
    for index, (completion, outcome) in found.items():
        assert completion.text == f"{index}+0"
        assert outcome.correct  # by the gold of its own prompt


def test_groups_are_the_same_either_way():
    prompts = [make_prompt(str(place), gold=f"1+{place}") for place in range(1, 8)]
    options = {"num_samples": 9, "sampling": Sampling(4), "seed": 0, "stream": 0, "step": 0}
    parts = [list(range(62, 20, -1)), list(range(21))]
    alongside = sample_groups(Parts(parts), Elsewhere(), prompts, **options)
    assert alongside == sample_groups(Parts(parts), Here(), prompts, **options)
    assert [group.prompt for group in alongside] == prompts
    for place, group in enumerate(alongside):
        assert [completion.text for completion in group.completions] == [f"{sample}+{place}" for sample in range(9)]
        assert [outcome.extracted for outcome in group.outcomes] == [f"{sample}+{place}" for sample in range(9)]


def test_a_function_sees_all_groups_at_once_in_order_on_the_callers_thread():
    reward = Here()
    prompts = [make_prompt("1"), make_prompt("2")]
    engine = Parts([[3, 0], [], [2, 1]])
    sample_groups(engine, reward, prompts, num_samples=2, sampling=Sampling(4), seed=0, stream=0, step=0)
    assert reward.asked == [["0+0", "1+0", "0+1", "1+1"]]
    assert reward.threads == {threading.current_thread()}


def test_a_function_gets_as_many_as_it_is_to_get_and_the_rest_at_the_end():
    reward = Here()
    judge(Parts([[8, 1], [0, 5, 4, 2, 3], [7], [6]]), reward, 9, num_at_once=2)
    assert reward.asked == [["1+0", "8+0"], ["0+0", "5+0"], ["2+0", "4+0"], ["3+0", "7+0"], ["6+0"]]


def test_a_function_is_not_called_in_the_mode_that_engines_sample_in():
    modes = []
    judge(Parts([[0], [1]]), Here(lambda: modes.append(torch.is_inference_mode_enabled())), 2, num_at_once=1)
    assert modes == [False, False]


# --- at the same time ---


def test_completions_are_judged_while_others_are_sampled():
    has_judged = threading.Event()

    def wait_for_it(number):
        assert number > 0 or has_judged.wait(PATIENCE_S)

    reward = Elsewhere(has_judged.set)
    judge(Parts([list(range(LEAST_AT_ONCE)), [LEAST_AT_ONCE]], wait_for_it), reward, LEAST_AT_ONCE + 1)
    assert [len(asked) for asked in reward.asked] == [LEAST_AT_ONCE, 1]
    assert threading.current_thread() not in reward.threads


def test_what_has_ended_in_the_meantime_is_judged_together_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(grading, "available_cores", lambda: 1)
    has_begun, goes_on = threading.Event(), threading.Event()

    def begin():
        has_begun.set()
        assert goes_on.wait(PATIENCE_S)

    def between(number):
        assert has_begun.wait(PATIENCE_S)
        if number == len(parts) - 1:
            goes_on.set()

    first, most = LEAST_AT_ONCE, CALLS_PER_START
    parts = [list(range(first)), *([place] for place in range(first, first + most + 5))]
    reward = Elsewhere(begin)
    judge(Parts(parts, between), reward, first + most + 5)
    assert [len(asked) for asked in reward.asked] == [first, most, 5]


# --- what goes wrong ---


def fail():
    raise RewardError("no verdict")


def join_judging():
    """Until the thread has ended: between the error and that there is a moment."""
    for thread in threading.enumerate():
        if thread.name == "judging":
            thread.join(PATIENCE_S)


@pytest.mark.parametrize("polls", [True, False])
def test_an_error_of_the_reward_ends_the_sampling_and_is_raised(polls):
    told = []

    def wait_for_it(number):
        told.append(number)
        join_judging()

    engine = Parts([list(range(LEAST_AT_ONCE)), [LEAST_AT_ONCE]], wait_for_it)
    if not polls:
        sample = engine.sample
        engine.sample = lambda *args, should_stop, **options: sample(*args, should_stop=lambda: False, **options)
    with pytest.raises(RewardError, match="no verdict"):
        judge(engine, Elsewhere(fail), LEAST_AT_ONCE + 1)
    assert told == ([0] if polls else [0, 1])


@pytest.mark.parametrize("kind", [Here, Elsewhere])
def test_an_error_over_the_rest_is_raised(kind):
    with pytest.raises(RewardError, match="no verdict"):
        judge(Parts([[0]]), kind(fail), 1)


@pytest.mark.parametrize("kind", [Here, Elsewhere])
def test_an_error_where_outcomes_go_is_raised(kind):
    def refuse(indices, completions, outcomes):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        judge(Parts([list(range(MANY))]), kind(), MANY, on_judged=refuse, num_at_once=10)


@pytest.mark.parametrize("kind", [Here, Elsewhere])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_of_the_engine_loses_what_waits(kind, error):
    def break_off(number):
        raise error

    reward = kind()
    with pytest.raises(error):
        judge(Parts([list(range(LEAST_AT_ONCE - 1))], break_off), reward, LEAST_AT_ONCE)
    assert reward.asked == []


@pytest.mark.parametrize("kind", [Here, Elsewhere])
def test_what_an_engine_gave_before_it_gave_up_is_judged(kind):
    """A server that is down: what it sampled is not sampled again."""

    def give_up(number):
        raise NgrpoError("no answer in 6 tries")

    reward, told, count = kind(), [], LEAST_AT_ONCE - 1
    with pytest.raises(NgrpoError, match="no answer"):
        judge(Parts([list(range(count))], give_up), reward, MANY, on_judged=lambda indices, *_: told.extend(indices))
    assert sorted(told) == list(range(count))


def test_a_reward_that_failed_is_not_asked_for_the_rest():
    calls = []

    def fail_and_count():
        calls.append(1)
        raise RewardError("no verdict")

    with pytest.raises(RewardError, match="no verdict"):
        judge(Parts([list(range(10))]), Here(fail_and_count), 10, num_at_once=4)
    assert len(calls) == 1


@pytest.mark.parametrize("kind", [Here, Elsewhere])
def test_asked_to_stop_it_stops(kind):
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        judge(Parts([[0], [1]]), kind(), 2, should_stop=lambda: next(asked))


def test_the_users_interrupt_wins_over_an_error_of_the_reward():
    def break_off(number):
        join_judging()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(Parts([list(range(MANY))], break_off), Elsewhere(fail), MANY)


def test_ctrl_c_while_the_rest_is_judged_ends_it_after_the_call_that_has_begun(monkeypatch):
    monkeypatch.setattr(grading, "available_cores", lambda: 1)
    is_sampled, was_told = threading.Event(), threading.Event()

    def press_once():
        if not was_told.is_set():
            assert is_sampled.wait(PATIENCE_S)
            time.sleep(0.2)  # until the caller's thread waits for this one
            os.kill(os.getpid(), signal.SIGINT)
            assert was_told.wait(PATIENCE_S)
            time.sleep(0.2)  # the call goes on for a while

    def on_signal(number, frame):
        was_told.set()
        raise KeyboardInterrupt

    reward, count = Elsewhere(press_once), 10 * CALLS_PER_START
    before = signal.signal(signal.SIGINT, on_signal)
    try:
        with pytest.raises(KeyboardInterrupt):
            judge(Parts([list(range(count)), []], lambda number: number and is_sampled.set()), reward, count)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(reward.asked) < 10


# --- which rewards ---


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"name": "math"}, True),
        ({"name": "math", "abstain_phrases": ["no idea"]}, True),
        ({"name": "math", "shaping": [{"name": "one_box", "weight": 0.1}]}, True),
        ({"name": "exact"}, False),
        ({"name": "exact", "abstain_phrases": ["no idea"]}, False),
        ({"name": "numeric", "shaping": [{"name": "one_box", "weight": 0.1}]}, False),
    ],
)
def test_rewards_with_processes_of_their_own_judge_elsewhere(section, expected):
    reward = reward_for(RewardSettings.model_validate(section), Data(source="problems.jsonl"))
    assert judges_elsewhere(reward) is expected
    reward.close()


def test_terms_of_others_keep_a_reward_on_the_callers_thread():
    def term(prompts, completions, outcomes):
        return [0.0] * len(completions)

    known = make_term("one_box", {})
    assert judges_elsewhere(ShapedReward(Elsewhere(), [WeightedTerm("box", 1.0, known)]))
    assert not judges_elsewhere(
        ShapedReward(Elsewhere(), [WeightedTerm("box", 1.0, known), WeightedTerm("own", 1.0, term)])
    )


def test_mathematics_is_judged_alike_alongside_and_afterwards():
    class Afterwards(MathReward):
        judges_elsewhere = False

    class Boxes(Parts):
        def sample(self, requests, sampling, *, on_completions, should_stop):
            texts = ["\\boxed{x+1}", "\\boxed{1+x}", "\\boxed{x+2}", "7", "\\boxed{x+"]
            completions = [make_completion(texts[request.key[-1] % len(texts)]) for request in requests]
            for start in range(0, len(requests), 20):
                end = min(start + 20, len(requests))
                on_completions(list(range(start, end)), completions[start:end])
            return completions

    prompts = [make_prompt("1", gold="x+1"), make_prompt("2", gold="x+2")]
    verdicts = []
    for kind in (MathReward, Afterwards):
        reward = kind(num_workers=1)
        groups = sample_groups(
            Boxes([]), reward, prompts, num_samples=50, sampling=Sampling(4), seed=0, stream=0, step=0
        )
        reward.close()
        verdicts.append([(each.value, each.kind, each.detail) for group in groups for each in group.outcomes])
    assert verdicts[0] == verdicts[1]
    assert {value for value, _, _ in verdicts[0]} == {0.0, 1.0}
