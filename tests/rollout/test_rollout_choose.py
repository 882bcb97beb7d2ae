"""From names to rewards and engines, and the control that must score 1."""

from dataclasses import replace
from typing import get_args

import pytest

from helpers import make_completion, make_prompt, small_policy
from ngrpo import worlds
from ngrpo.config import Data, Reward, ShapingTerm
from ngrpo.errors import ConfigError
from ngrpo.rewards import AbstentionReward, AnswerReward, MathReward, ShapedReward, WorldReward, profiles
from ngrpo.rewards.reasoning_gym import open_task
from ngrpo.rollout import (
    NativeEngine,
    Sampling,
    ScriptedEngine,
    engine_for,
    is_boxed,
    reward_bounds,
    reward_for,
    sample_groups,
)
from ngrpo.rollout.choose import boxed_gold


def find_reward(name, source="world:countdown"):
    return reward_for(Reward(name=name, timeout_s=5.0), Data(source=source, size=4))


@pytest.mark.parametrize(
    ("name", "source", "kind"),
    [
        ("auto", "world:countdown", WorldReward),
        ("auto", "data/math.parquet", MathReward),
        ("auto", "hub:someone/math", MathReward),
        ("math", "world:countdown", MathReward),
        ("world", "world:countdown", WorldReward),
        ("exact", "world:countdown", AnswerReward),
        ("numeric", "rows.jsonl", AnswerReward),
        ("choice", "hub:someone/quiz", AnswerReward),
    ],
)
def test_a_reward_is_found_by_name_and_source(name, source, kind):
    reward = find_reward(name, source)
    assert type(reward) is kind
    assert is_boxed(reward) == (kind is MathReward)
    reward.close()


def test_settings_reach_their_judges():
    data = Data(source="rows.jsonl")
    assert reward_for(Reward(name="numeric", absolute_tolerance=0.5), data).grade("1.5", "1").correct
    assert reward_for(Reward(name="numeric", relative_tolerance=0.5), data).grade("3", "2").correct
    assert not reward_for(Reward(name="numeric"), data).grade("1.5", "1").correct
    assert reward_for(Reward(name="choice", choices="XYZ"), data).grade("answer: Y", "Y").correct
    lenient = reward_for(Reward(name="math", profile="lenient"), data)
    assert profiles.get("lenient") == lenient.profile
    lenient.close()


def test_profiles_of_the_settings_are_those_there_are():
    assert list(get_args(Reward.model_fields["profile"].annotation)) == profiles.names()


def test_every_wrapper_is_there_and_the_judge_within_is_known():
    term = ShapingTerm(name="one_box", weight=0.5)
    reward = reward_for(Reward(name="math", abstain_phrases=["no idea"], shaping=[term]), Data(source="rows.jsonl"))
    assert (type(reward), type(reward.inner)) == (ShapedReward, AbstentionReward)
    assert is_boxed(reward)
    outcomes = reward([make_prompt("1,2=3:", gold="3")] * 2, [make_completion("3"), make_completion("")])
    assert [outcome.parts for outcome in outcomes] == [{"judge": 0.0, "one_box": 0.0}] * 2
    reward.close()


def test_bounds_are_sums_of_judge_and_terms():
    length = ShapingTerm(name="length", weight=0.5, params={"budget_tokens": 4, "span_tokens": 4})
    box = ShapingTerm(name="one_box", weight=0.25)
    assert reward_bounds(Reward()) == (0.0, 1.0)
    assert reward_bounds(Reward(shaping=[length, box])) == (-0.5, 1.25)
    assert reward_bounds(Reward(shaping=[length.model_copy(update={"weight": -0.5})])) == (0.0, 1.5)
    assert reward_bounds(Reward(name="mine.py:score")) is None
    tenth = ShapingTerm(name="one_box", weight=0.1)
    assert 1.0 + 0.1 + 0.1 != 1.2
    assert reward_bounds(Reward(shaping=[tenth, tenth])) == (0.0, 1.2)


def test_gym_scores_may_be_the_reward():
    pytest.importorskip("reasoning_gym")
    entry = open_task("chain_sum", params={}, seed=1, size=1)[0]
    prompt = replace(make_prompt("1,2=3:", gold=entry["answer"]), columns=entry)
    wordy = replace(make_completion("1"), text=f"The answer is {entry['answer']}")  # partial credit
    for settings, expected in (
        ({}, (0.0, False)),
        ({"fractional": True}, (None, False)),
        ({"fractional": True, "correct_at": 0.05}, (None, True)),
    ):
        reward = reward_for(Reward(**settings), Data(source="gym:chain_sum", seed=1, size=1))
        (outcome,) = reward([prompt], [wordy])
        reward.close()
        score = float(outcome.detail.removeprefix("score "))
        assert 0 < score < 1
        value, correct = expected
        assert outcome.value == pytest.approx(score if value is None else value, rel=1e-4)
        assert outcome.correct is correct


def test_gym_sources_are_judged_by_their_scorer():
    pytest.importorskip("reasoning_gym")
    reward = find_reward("auto", "gym:basic_arithmetic")
    assert type(reward).__name__ == "GymReward"
    assert not is_boxed(reward)
    reward.close()


def test_the_users_own_function_is_loaded(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def judge(prompts, completions, **_):\n    return [1.0 for _ in completions]\n")
    reward = find_reward(f"{file}:judge")
    assert not is_boxed(reward)
    reward.close()


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("maths", "data/math.parquet", r"'maths' is none of auto, math, exact, numeric, choice, world, gym, or path"),
        ("world", "data/math.parquet", r"judges prompts of a world: source, but data\.source is 'data/math\.parquet'"),
        ("gym", "world:countdown", r"judges prompts of a gym: source, but data\.source is 'world:countdown'"),
    ],
)
def test_a_reward_that_does_not_fit_is_refused(name, source, message):
    with pytest.raises(ConfigError, match=message):
        find_reward(name, source)


def test_engines_are_found_by_name(policy):
    native = engine_for("native", policy, max_rows=7, cache_gib=0.5, answers_are_boxed=False)
    assert isinstance(native, NativeEngine)
    assert (native.policy, native.max_rows, native.cache_gib) == (policy, 7, 0.5)
    gold = engine_for("gold", policy, max_rows=7, cache_gib=0.5, answers_are_boxed=False)
    assert isinstance(gold, ScriptedEngine)
    assert (gold.policy, gold.max_rows) == (policy, 7)
    with pytest.raises(ConfigError, match=r"no engine 'sglang'\. The engines are: native, vllm, gold"):
        engine_for("sglang", policy, max_rows=7, cache_gib=0.5, answers_are_boxed=False)


def test_the_gold_engine_scores_one_in_a_world():
    world = worlds.get("countdown")
    prompts = [make_prompt(row["prompt"], gold=row["gold"]) for row in world.problems("test", 12, 0)]
    groups = sample_groups(
        engine_for("gold", small_policy(), max_rows=5, cache_gib=0.5, answers_are_boxed=False),
        find_reward("auto"),
        prompts,
        num_samples=2,
        sampling=Sampling(world.max_completion_tokens),
        seed=0,
        stream=0,
        step=0,
    )
    assert [group.num_correct for group in groups] == [2] * 12


@pytest.mark.parametrize("gold", ["42", r"\frac{1}{2}", r"so it is \boxed{7}", "1 + 1 = \\boxed{2}"])
def test_a_boxed_gold_is_judged_correct(gold):
    from ngrpo.rewards.math import grade

    assert grade(boxed_gold(gold), gold).correct
