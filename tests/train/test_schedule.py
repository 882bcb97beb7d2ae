"""The learning rate by hand, and what the optimiser decays."""

import math
from itertools import pairwise

import pytest
import torch

from helpers import small_policy
from ngrpo.config import load_config
from ngrpo.train.assemble import make_optimizer
from ngrpo.train.schedule import learning_rate


def rates(schedule, *, num_steps=10, warmup_steps=0, min_lr_frac=0.0, peak=2.0):
    options = {"peak": peak, "num_steps": num_steps, "warmup_steps": warmup_steps}
    return [learning_rate(step, schedule=schedule, min_lr_frac=min_lr_frac, **options) for step in range(num_steps)]


def test_warm_up_rises_to_the_peak_in_its_last_step():
    # Steps 1 to 4 of 4: a quarter, a half, three quarters, all of the peak 2.
    assert rates("constant", num_steps=6, warmup_steps=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_without_warm_up_the_first_step_has_the_peak():
    assert rates("constant", num_steps=3) == [2.0, 2.0, 2.0]


def test_linear_by_hand():
    # 4 steps after 1 of warm-up: (4, 3, 2, 1)/5 of the way down are left, so that no step has rate 0.
    assert rates("linear", num_steps=5, warmup_steps=1) == pytest.approx([2.0, 1.6, 1.2, 0.8, 0.4])


def test_linear_to_a_share_of_the_peak():
    # Down from 2 towards a quarter of it, 0.5: 0.5 + 1.5 x (2, 1)/3.
    assert rates("linear", num_steps=2, min_lr_frac=0.25) == pytest.approx([1.5, 1.0])


def test_cosine_by_hand():
    # 3 steps, a quarter of pi apart: (1 + cos)/2 of the peak 2.
    expected = [1 + math.cos(math.pi * share) for share in (0.25, 0.5, 0.75)]
    assert rates("cosine", num_steps=3) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("min_lr_frac", [0.0, 0.1])
def test_after_the_warm_up_rates_fall_from_the_peak_and_stay_above_the_floor(schedule, min_lr_frac):
    values = rates(schedule, num_steps=50, warmup_steps=5, min_lr_frac=min_lr_frac)
    assert values[4] == 2.0
    assert all(one > other > 2.0 * min_lr_frac for one, other in pairwise(values[4:]))


def test_min_lr_frac_1_is_constant():
    assert rates("cosine", min_lr_frac=1.0) == pytest.approx([2.0] * 10)


def test_weight_decay_is_on_matrices_only():
    policy = small_policy()
    config = load_config("tiny", ["optim.weight_decay=0.5", "optim.lr=0.1", "optim.betas=[0.8, 0.9]", "optim.eps=1e-3"])
    optimizer = make_optimizer(policy, config)
    before = [parameter.detach().clone() for parameter in policy.trainable_parameters()]
    for parameter in policy.trainable_parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kinds = set()
    for then, now in zip(before, policy.trainable_parameters(), strict=True):
        kinds.add(then.ndim)
        factor = 1 - 0.1 * 0.5 if then.ndim >= 2 else 1.0
        torch.testing.assert_close(now.detach(), then * factor)
    assert kinds == {1, 2}
    assert [(group["betas"], group["eps"]) for group in optimizer.param_groups] == [((0.8, 0.9), 1e-3)] * 2
