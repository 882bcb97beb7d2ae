"""Advantages: what they read besides rewards, types in and out, refusals."""

import numpy as np
import pytest
import torch

from ngrpo import objectives
from ngrpo.errors import ConfigError, RewardError
from ngrpo.objectives import GroupStd, Objective, Reinforce, RolloutFacts, token_mean


def of_group(name, rewards, correct=None, **params):
    """Advantages of one group, in float64."""
    values = torch.tensor(rewards, dtype=torch.float64)
    return objectives.get(name, **params).advantages(values, [3] * len(rewards), correct=correct)


# --- labels, facts, types ---------------------------------------------------------------------------------------------


def test_label_methods_read_labels_and_not_rewards():
    rewards, labels = [0.2, 0.9, 1.0, 0.0], [True, False, False, True]
    assert of_group("w_reinforce", rewards, correct=labels).tolist() == [0.1, -1.0, -1.0, 0.1]


@pytest.mark.parametrize("name", ["psr", "nsr", "w_reinforce"])
def test_label_methods_refuse_rewards_that_are_no_labels_by_name(name):
    with pytest.raises(ConfigError, match=rf"^{name} needs to know which completions are correct.*correct=\["):
        of_group(name, [0.0, 0.5])


def test_overlong_punishment_is_linear_over_the_buffer_and_ends_there():
    # max 100, buffer 20, penalty .5: 0 up to 80 tokens, half of it at 90, all of it at 100 and beyond.
    objective = objectives.get("dapo", overlong_max_tokens=100, overlong_buffer_tokens=20, overlong_penalty=0.5)
    facts = RolloutFacts(completion_tokens=[10, 80, 90, 100, 130])
    batch = objective.batch([1, 1, 1, 1, 0], [0] * 5, rollout=facts)
    assert batch.rewards.tolist() == [1.0, 1.0, 0.75, 0.5, -0.5]
    assert batch.correct.tolist() == [True, True, True, True, False]  # shaping does not touch labels
    plain = objectives.get("grpo").advantages(batch.rewards.float(), [0] * 5)
    assert torch.equal(objective.advantages([1, 1, 1, 1, 0], [0] * 5, rollout=facts), plain)


def test_a_missing_fact_is_named():
    with pytest.raises(
        ConfigError, match=r"dapo needs completion_tokens. Pass rollout=RolloutFacts\(completion_tokens="
    ):
        of_group("dapo", [0.0, 1.0], overlong_max_tokens=8000)
    objective = objectives.get("dapo", overlong_max_tokens=8000)
    with pytest.raises(ValueError, match="completion_tokens has 3 entries for 2 completions"):
        objective.advantages([0, 1], [0, 0], rollout=RolloutFacts(completion_tokens=[1, 2, 3]))


def test_float64_stays_float64_and_all_else_becomes_float32():
    objective = objectives.get("grpo")
    for rewards in ([0, 1], [False, True], [0.0, 1.0], np.array([0, 1]), np.array([0, 1], dtype=np.float32), (0, 1)):
        assert objective.advantages(rewards, [0, 0]).dtype == torch.float32
    assert objective.advantages(torch.tensor([0, 1], dtype=torch.float16), [0, 0]).dtype == torch.float32
    assert objective.advantages(np.array([0.0, 1.0])[::-1], np.array([4, 4])).dtype == torch.float64
    assert objective.advantages(torch.tensor([0.0, 1.0]).double(), torch.tensor([4, 4])).dtype == torch.float64


def test_advantages_are_detached_and_inputs_untouched():
    rewards = torch.tensor([0.0, 1.0, 0.5], requires_grad=True)
    before = rewards.detach().clone()
    advantages = objectives.get("ngrpo").advantages(rewards, [1, 1, 1])
    assert not advantages.requires_grad
    assert torch.equal(rewards.detach(), before)


def test_no_completions_give_no_advantages():
    assert objectives.get("ngrpo").advantages([], []).shape == (0,)


def test_an_estimator_of_ones_own_is_any_function_of_a_batch():
    def surprise(batch):
        return (batch.rewards - batch.groups.spread(batch.statistics().mean)) ** 3

    objective = Objective(advantage=surprise, policy=Reinforce(), aggregation=token_mean)
    assert objective.advantages([0, 1], [0, 0]).tolist() == [-0.125, 0.125]
    assert objective.min_group_size == 1


def test_an_estimator_of_ones_own_must_return_one_advantage_per_completion():
    objective = Objective(
        advantage=lambda batch: batch.rewards[:1], policy=Reinforce(), aggregation=token_mean, name="half"
    )
    with pytest.raises(ConfigError, match=r"advantage function of half returned the shape \[1\] for 2 completions"):
        objective.advantages([0, 1], [0, 0])


def test_advantages_per_token_pass_through():
    objective = Objective(
        advantage=lambda batch: batch.rewards[:, None] * torch.tensor([1.0, 2.0]),
        policy=Reinforce(),
        aggregation=token_mean,
    )
    assert objective.advantages([1, 3], [0, 0]).tolist() == [[1.0, 2.0], [3.0, 6.0]]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grpo", "rloo", "dapo"])
def test_a_group_of_one_is_refused_by_name_and_group(name):
    with pytest.raises(ConfigError, match=rf"^{name} needs at least 2 completions in a group, group 42 has 1.*ngrpo"):
        objectives.get(name).advantages([0, 1, 1], [7, 7, 42])


def test_ngrpo_without_virtual_rewards_needs_two_like_grpo():
    assert objectives.get("ngrpo").min_group_size == 1
    assert objectives.get("ngrpo", num_virtual=0).min_group_size == 2
    with pytest.raises(ConfigError, match="ngrpo needs at least 2 completions"):
        of_group("ngrpo", [1.0], num_virtual=0)


def test_methods_without_a_spread_take_a_group_of_one():
    assert of_group("dr_grpo", [1.0], budget_tokens=3).item() == 0.0
    assert of_group("reinforce", [1.0]).item() == 1.0


def test_a_virtual_reward_below_the_best_is_refused_with_both_values():
    with pytest.raises(
        ConfigError, match=r"virtual_reward 1 is below the best reward 2\.5 of group 9.*at least 2\.5 here"
    ):
        objectives.get("ngrpo").advantages([0, 1, 2, 2.5], [4, 4, 9, 9])
    assert of_group("ngrpo", [0.0, 2.0], num_virtual=0).tolist()  # without virtual rewards it is not read


def test_a_virtual_reward_below_the_best_can_be_asked_for():
    """Rewards 1, 1, 0 and a virtual 0.25: mean 9/16; squares .191406 * 2 + .316406 + .097656 = .796875, /3 = .265625.

    A = (1 - .5625) / .515388 = .848875, and -.5625 / .515388 = -1.091411 (eps = 0). They sum to a positive number.
    """
    advantages = of_group("ngrpo", [1.0, 1.0, 0.0], virtual_reward=0.25, virtual_below_best=True, eps=0.0)
    assert advantages.tolist() == pytest.approx([0.848875, 0.848875, -1.091411], abs=1e-6)
    assert advantages.sum() > 0
    # Nobody is wrong here, but the virtual completion: the group is not constant.
    all_right = of_group("ngrpo", [1.0, 1.0, 1.0], virtual_reward=0.25, virtual_below_best=True, eps=0.0)
    assert all_right.tolist() == pytest.approx([0.5] * 3, abs=1e-6)


def test_a_reward_that_is_not_finite_is_named_by_its_index():
    for bad in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(RewardError, match=r"^reward 2 is (nan|inf|-inf)"):
            of_group("ngrpo", [0.0, 1.0, bad])


def test_rewards_must_be_numbers_in_one_axis():
    with pytest.raises(RewardError, match="rewards must be numbers"):
        objectives.get("grpo").advantages(["a", "b"], [0, 0])
    with pytest.raises(ValueError, match=r"one axis \[N\], got shape \[1, 2\]"):
        objectives.get("grpo").advantages([[0, 1]], [0, 0])
    with pytest.raises(ValueError, match=r"'rewards': \[2\], 'groups': \[3\]"):
        objectives.get("grpo").advantages([0, 1], [0, 0, 0])
    with pytest.raises(ValueError, match=r"'rewards': \[2\], 'correct': \[1\]"):
        objectives.get("grpo").advantages([0, 1], [0, 0], correct=[True])


def test_parts_refuse_impossible_parameters():
    with pytest.raises(ConfigError, match=r"ddof must be 1 \(sample\) or 0 \(population\), got 2"):
        GroupStd(ddof=2, eps=0.0)
    with pytest.raises(ConfigError, match=r"eps must be 0 or more, got -1"):
        GroupStd(ddof=1, eps=-1.0)
    with pytest.raises(ConfigError, match=r"positive_weight must be 0 or more, got -0\.1"):
        objectives.get("w_reinforce", positive_weight=-0.1)
    with pytest.raises(
        ConfigError, match=r"overlong_buffer_tokens 4096 must lie between 1 and overlong_max_tokens 100"
    ):
        objectives.get("dapo", overlong_max_tokens=100)
    with pytest.raises(ConfigError, match=r"overlong_penalty must be 0 or more, got -1"):
        objectives.get("dapo", overlong_max_tokens=8000, overlong_penalty=-1.0)
