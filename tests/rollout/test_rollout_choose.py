"""From names to rewards and engines, and the control that must score 1."""

import pytest

from helpers import make_prompt, small_policy
from ngrpo import worlds
from ngrpo.errors import ConfigError
from ngrpo.rewards import MathReward, WorldReward
from ngrpo.rollout import (
    NativeEngine,
    Sampling,
    ScriptedEngine,
    engine_for,
    is_boxed,
    reward_for,
    sample_groups,
)
from ngrpo.rollout.choose import boxed_gold


def find_reward(name, source="world:countdown"):
    return reward_for(name, source=source, params={}, seed=0, size=4, correct_at=1.0, timeout_s=5.0, allow_execution=())


@pytest.mark.parametrize(
    ("name", "source", "kind"),
    [
        ("auto", "world:countdown", WorldReward),
        ("auto", "data/math.parquet", MathReward),
        ("auto", "hub:someone/math", MathReward),
        ("math", "world:countdown", MathReward),
        ("world", "world:countdown", WorldReward),
    ],
)
def test_a_reward_is_found_by_name_and_source(name, source, kind):
    reward = find_reward(name, source)
    assert type(reward) is kind
    assert is_boxed(reward) == (kind is MathReward)
    reward.close()


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
        ("maths", "data/math.parquet", r"reward\.name = 'maths' is none of auto, math, world, gym, or path"),
        ("world", "data/math.parquet", r"judges prompts of a world: source, but data\.source is 'data/math\.parquet'"),
        ("gym", "world:countdown", r"judges prompts of a gym: source, but data\.source is 'world:countdown'"),
    ],
)
def test_a_reward_that_does_not_fit_is_refused(name, source, message):
    with pytest.raises(ConfigError, match=message):
        find_reward(name, source)


def test_engines_are_found_by_name(policy):
    native = engine_for("native", policy, max_rows=7, answers_are_boxed=False)
    assert isinstance(native, NativeEngine)
    assert (native.policy, native.max_rows) == (policy, 7)
    gold = engine_for("gold", policy, max_rows=7, answers_are_boxed=False)
    assert isinstance(gold, ScriptedEngine)
    assert (gold.policy, gold.max_rows) == (policy, 7)
    with pytest.raises(ConfigError, match=r"no engine 'vllm'\. The engines are: native, gold"):
        engine_for("vllm", policy, max_rows=7, answers_are_boxed=False)


def test_the_gold_engine_scores_one_in_a_world():
    world = worlds.get("countdown")
    prompts = [make_prompt(row["prompt"], gold=row["gold"]) for row in world.problems("test", 12, 0)]
    groups = sample_groups(
        engine_for("gold", small_policy(), max_rows=5, answers_are_boxed=False),
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
