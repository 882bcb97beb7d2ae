from ngrpo.config import load_config
from ngrpo.lab.controls import ENTROPY_COEF, control_arms
from ngrpo.rollout import reward_for
from ngrpo.types import Completion, Prompt
from ngrpo.worlds import get


def random_config(seed):
    (random_arm,) = [arm for arm in control_arms() if "random" in arm.name]
    return load_config("tiny", [each.replace("{seed}", str(seed)) for each in random_arm.overrides])


def test_no_path_is_in_the_arms():
    assert not any("/" in override for arm in control_arms() for override in arm.overrides)


def test_a_random_reward_does_not_know_the_answer_and_the_label_does():
    config = random_config(seed=0)
    reward = reward_for(config.reward, config.data)
    rows = get("countdown").problems("train", 300, 0)
    prompts = [Prompt(row["id"], row["prompt"], (), row["gold"]) for row in rows]
    right = reward(prompts, [Completion((), (), row["gold"], "eos") for row in rows])
    wrong = reward(prompts, [Completion((), (), "1", "eos") for row in rows])
    assert all(outcome.correct for outcome in right)
    assert not any(outcome.correct for outcome in wrong)
    for outcomes in (right, wrong):
        values = [outcome.value for outcome in outcomes]
        assert set(values) == {0.0, 1.0}
        assert 0.4 < sum(values) / len(values) < 0.6  # 300 throws: 3.5 standard errors


def coins(seed, completions):
    """The rewards of completions of one prompt."""
    config = random_config(seed)
    prompts = [Prompt("0", "1,1,1=3:", (), "1+1+1")] * len(completions)
    return [outcome.value for outcome in reward_for(config.reward, config.data)(prompts, completions)]


def test_every_sampled_completion_has_a_coin_of_its_own():
    """Equal completions of one group have different rewards, so that a confident prompt has a gradient too."""
    equal = [Completion((5,), (-0.25,), "1", "eos")] * 200
    thrown = coins(0, equal)
    assert set(thrown) == {0.0, 1.0}
    assert 75 < sum(thrown) < 125  # 3.5 standard errors
    assert coins(0, equal) == thrown  # a run that is gone on with
    assert coins(0, equal[:50]) == thrown[:50]
    assert coins(1, equal) != thrown
    # The same text at a later step, where the policy has moved, is thrown for anew.
    assert coins(0, [Completion((5,), (-0.26,), "1", "eos")] * 200) != thrown


def test_controls_are_variants_of_grpo_and_marked():
    entropy, random = control_arms("optim.lr=0.5")
    assert {arm.role for arm in (entropy, random)} == {"control"}
    assert {arm.objective for arm in (entropy, random)} == {"grpo"}
    assert entropy.params == {"entropy_coef": ENTROPY_COEF}
    assert entropy.overrides[0] == random.overrides[0] == "optim.lr=0.5"
