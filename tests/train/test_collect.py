"""The rollout half of a step: whole groups, a bounded refill, and where the prompt order stands afterwards."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import make_completion, make_prompt
from ngrpo import objectives
from ngrpo.config import load_config
from ngrpo.data import PromptOrder
from ngrpo.errors import Interrupted, RewardError
from ngrpo.rollout import Sampling
from ngrpo.train.checkpoint import TrainerState
from ngrpo.train.prompt_choice import InOrder
from ngrpo.train.rollout import collect
from ngrpo.train.rows import group_rows
from ngrpo.types import Outcome

NUM_PROMPTS, GROUP_SIZE = 7, 3


class Recording:
    """An engine that answers everything alike, and keeps what it was asked."""

    def __init__(self):
        self.calls = []

    def sample(self, requests, sampling, *, on_completions=None, should_stop=None):
        if should_stop is not None and should_stop():
            raise Interrupted("asked to")
        self.calls.append(list(requests))
        completions = [make_completion("1+1") for _ in requests]
        on_completions(list(range(len(requests))), completions)
        return completions


class Kinds:
    """A reward that makes the n-th group sampled right, wrong or mixed, by the n-th letter; then by the last.

    `f` is a mixed group on whose last completion it fails.
    """

    def __init__(self, kinds):
        self.kinds, self.num_groups = kinds, 0

    def __call__(self, prompts, completions):
        outcomes = []
        for _ in range(len(prompts) // GROUP_SIZE):
            kind = self.kinds[min(self.num_groups, len(self.kinds) - 1)]
            self.num_groups += 1
            labels = {"r": [True] * 3, "w": [False] * 3, "m": [False, True, False], "f": [False, True, False]}[kind]
            outcomes += [Outcome(float(label), label) for label in labels]
            if kind == "f":
                outcomes[-1] = Outcome(0.0, False, "timeout")
        return outcomes


def make_run(kinds, *, method="ngrpo", wanted=4, max_batches=3, position=0, step=0, allowed=0.1):
    config = load_config(
        "tiny",
        [
            f"rollout.num_prompts_per_step={wanted}",
            f"rollout.num_samples_per_prompt={GROUP_SIZE}",
            f"refill.max_batches={max_batches}",
            "update.num_updates_per_step=1",
            f"reward.max_failed_frac={allowed}",
        ],
    )
    return SimpleNamespace(
        config=config,
        objective=objectives.get(method),
        prompts=[make_prompt("1,2,3=6:", id=str(place)) for place in range(NUM_PROMPTS)],
        prompt_choice=InOrder(PromptOrder(NUM_PROMPTS, seed=3)),
        engine=Recording(),
        reward=Kinds(kinds),
        companions=(),
        sampling=Sampling(12),
        state=TrainerState(step=step, prompt_position=position),
    )


def never():
    return False


def test_a_group_with_a_failure_stays_out_and_another_takes_its_place():
    run = make_run("wfmfm", method="grpo", allowed=0.5)
    rollout = collect(run, never)
    assert rollout.kept == [True, False, True, False, True, True]
    assert (rollout.num_batches, rollout.is_short) == (2, False)
    assert [group.num_failures for group in rollout.groups] == [0, 1, 0, 1, 0, 0]
    assert all(len(group.outcomes) == GROUP_SIZE for group in rollout.groups)


def test_failures_are_counted_over_the_batches_of_a_step():
    told = []
    run = make_run("fmmmf", method="grpo", allowed=0.1)  # 1 of 12, then 2 of 15
    run.recorder = SimpleNamespace(failures=lambda step, groups: told.append((step, len(groups))))
    with pytest.raises(RewardError, match=r"failed on 2 of 15 completions of step 1 \(2 timeout\)"):
        collect(run, never)
    assert told == [(1, 5)]


def test_a_filter_that_keeps_all_needs_one_batch():
    run = make_run("wrmw", method="grpo")
    rollout = collect(run, never)
    assert (rollout.num_batches, rollout.is_short, rollout.kept) == (1, False, [True] * 4)
    assert [len(call) for call in run.engine.calls] == [4 * GROUP_SIZE]
    assert rollout.kept_groups == rollout.groups


def test_a_refill_asks_for_what_is_missing_and_no_more():
    run = make_run("rrwmrmw")  # ngrpo drops the right: 2 of 4 are left, then 1 of 2, then 1 of 1
    rollout = collect(run, never)
    assert [len(call) // GROUP_SIZE for call in run.engine.calls] == [4, 2, 1]
    assert (rollout.num_batches, rollout.is_short) == (3, False)
    assert rollout.kept == [False, False, True, True, False, True, True]
    assert rollout.num_completions == 7 * GROUP_SIZE
    assert rollout.num_completion_tokens == 7 * GROUP_SIZE * 4  # "1+1" and its end


def test_the_refill_is_bounded_and_then_the_step_is_short():
    run = make_run("r")
    rollout = collect(run, never)
    assert [len(call) // GROUP_SIZE for call in run.engine.calls] == [4, 4, 4]
    assert (rollout.num_batches, rollout.is_short, sum(rollout.kept)) == (3, True, 0)
    assert group_rows(run.objective, rollout.kept_groups) == []


def test_a_full_last_batch_is_not_short():
    rollout = collect(make_run("rrrrwwww", max_batches=2), never)
    assert (rollout.num_batches, rollout.is_short, sum(rollout.kept)) == (2, False, 4)


def test_occurrences_count_on_across_refills_and_samples_within_a_group():
    run = make_run("rrwmrmw", step=5)
    collect(run, never)
    keys = [request.key for call in run.engine.calls for request in call]
    seed = run.config.run.seed
    # (seed, stream of training, step, occurrence of a prompt in the step, sample)
    assert keys == [(seed, 0, 5, occurrence, sample) for occurrence in range(7) for sample in range(GROUP_SIZE)]


def test_prompts_come_in_their_order_and_the_position_advances_by_what_was_drawn():
    run = make_run("rrwmrmw", position=5)  # 7 drawn, over the end of an epoch of 7
    rollout = collect(run, never)
    asked = [int(request.prompt.id) for call in run.engine.calls for request in call][::GROUP_SIZE]
    assert asked == run.prompt_choice.order.take(5, 7)
    assert rollout.prompt_position == 12
    assert [int(group.prompt.id) for group in rollout.groups] == asked
    assert run.state.prompt_position == 5  # the run itself changes only once the step is done


def test_more_prompts_a_step_than_there_are():
    run = make_run("w", wanted=40)
    rollout = collect(run, never)
    asked = [request.prompt.id for request in run.engine.calls[0]][::GROUP_SIZE]
    assert len(rollout.groups) == 40
    assert [asked.count(str(place)) for place in range(NUM_PROMPTS)] == pytest.approx([40 / 7] * 7, abs=1)


def test_asked_to_stop_it_leaves_no_trace():
    run = make_run("w", position=2)
    with pytest.raises(Interrupted):
        collect(run, lambda: True)
    assert run.state == TrainerState(prompt_position=2)


@settings(max_examples=50)
@given(st.text("rwm", min_size=1, max_size=12), st.sampled_from(["ngrpo", "dapo", "grpo", "psr"]))
def test_groups_are_kept_or_dropped_whole(kinds, method):
    run = make_run(kinds, method=method)
    rollout = collect(run, never)
    dropped = {"ngrpo": "r", "dapo": "rw", "grpo": "", "psr": ""}[method]
    told = [kinds[min(place, len(kinds) - 1)] for place in range(len(rollout.groups))]
    assert rollout.kept == [kind not in dropped for kind in told]
    assert all(len(group.completions) == len(group.outcomes) == GROUP_SIZE for group in rollout.groups)
    rows = group_rows(run.objective, rollout.kept_groups)
    assert [len(group) for group in rows] == [GROUP_SIZE] * sum(rollout.kept)
    assert rollout.is_short == (sum(rollout.kept) < 4)
    assert rollout.num_batches <= 3
