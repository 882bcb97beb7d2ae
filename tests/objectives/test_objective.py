"""The record of parts: rows that leave the update, the short form, what all-right and all-wrong groups give."""

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from ngrpo import objectives
from ngrpo.errors import ConfigError
from ngrpo.objectives import Counts, RolloutFacts

# One group: right (2 tokens), wrong (1 token), right (1 token), wrong (2 tokens).
REWARDS, GROUPS = [1, 0, 1, 0], [0, 0, 0, 0]
MASK = torch.tensor([[1, 1], [1, 0], [1, 0], [1, 1]])


def loss_of(objective, rewards=REWARDS, groups=GROUPS, mask=MASK, **facts):
    """Loss in the short form at ratio 1, and the gradient of the current log-probabilities."""
    advantages = objective.advantages(torch.tensor(rewards).double(), groups, **facts)
    current = torch.full(mask.shape, -1.0, dtype=torch.float64, requires_grad=True)
    terms = objective.token_terms(current, current.detach(), advantages, mask)
    loss = objective.reduce(terms, mask)
    loss.backward()
    return loss.item(), current.grad


def test_the_short_form_by_hand():
    # {1,0,1,0} and a virtual 1: mean .6, sum of squares 1.2, std sqrt(.3); A = .730297 and -1.095445.
    # Token mean at ratio 1: -(3 x .730297 - 3 x 1.095445) / 6 = .182574
    loss, gradient = loss_of(objectives.get("ngrpo", eps=0.0))
    assert loss == pytest.approx(0.182574, abs=1e-6)
    assert gradient[0].tolist() == pytest.approx([-0.730297 / 6] * 2, abs=1e-6)
    assert gradient[1].tolist() == pytest.approx([1.095445 / 6, 0.0], abs=1e-6)


def test_removed_rows_leave_the_denominators():
    # PSR: 3 tokens of right completions, A = 1: the mean over them is -1; over all 6 tokens it is -1/2.
    assert loss_of(objectives.get("psr"))[0] == pytest.approx(-1.0)
    assert loss_of(objectives.get("psr", drop_zero_weight=False))[0] == pytest.approx(-0.5)
    assert loss_of(objectives.get("nsr"))[0] == pytest.approx(1.0)
    assert loss_of(objectives.get("nsr", drop_zero_weight=False))[0] == pytest.approx(0.5)
    assert loss_of(objectives.get("w_reinforce"))[0] == pytest.approx((3 - 0.3) / 6)
    assert loss_of(objectives.get("w_reinforce", positive_weight=0.0))[0] == pytest.approx(1.0)


def test_dropping_rows_beforehand_gives_the_same_as_leaving_them_in():
    objective = objectives.get("psr", entropy_coef=0.1)
    advantages = objective.advantages(REWARDS, GROUPS)
    rows = objective.counted(advantages)
    assert rows.tolist() == [True, False, True, False]
    current, entropies = torch.randn(4, 2), torch.rand(4, 2)
    losses = []
    for keep in (torch.ones(4, dtype=torch.bool), rows):
        terms = objective.token_terms(
            current[keep], current[keep], advantages[keep], MASK[keep], entropies=entropies[keep]
        )
        losses.append(objective.reduce(terms, MASK[keep]))
    assert torch.allclose(*losses)


def test_removed_rows_have_no_divergence_either():
    objective = objectives.get("psr", kl_coef=1.0)
    zeros = torch.zeros(4, 2)
    terms = objective.token_terms(zeros, zeros, objective.advantages(REWARDS, GROUPS), MASK, ref_logprobs=zeros - 1)
    assert (terms.kl_nats > 0).tolist() == [[True, True], [False, False], [True, False], [False, False]]
    assert torch.equal(terms.loss[1], torch.zeros(2))
    assert torch.equal(terms.is_counted, terms.kl_nats > 0)


def test_truncated_completions_leave_the_update():
    objective = objectives.get("dapo", mask_truncated=True)
    facts = RolloutFacts(is_truncated=[False, True, False, False])
    plain = objectives.get("dapo").advantages(REWARDS, GROUPS)
    advantages = objective.advantages(REWARDS, GROUPS, rollout=facts)
    assert advantages.tolist() == [plain[0], 0.0, plain[2], plain[3]]  # statistics still cover the whole group
    assert objective.counted(advantages, facts).tolist() == [True, False, True, True]
    with pytest.raises(ConfigError, match=r"dapo needs is_truncated"):
        objective.advantages(REWARDS, GROUPS)
    with pytest.raises(ConfigError, match=r"dapo needs is_truncated"):
        objective.counted(advantages)


def test_an_advantage_of_zero_counts_where_the_method_does_not_remove_rows():
    # 0, .5, 1: the middle one's advantage is exactly 0, and it stays in the denominators.
    grpo = objectives.get("grpo")
    advantages = grpo.advantages([0.0, 0.5, 1.0], [0, 0, 0])
    assert advantages[1].item() == 0.0
    assert grpo.counted(advantages).all()
    assert objectives.get("dapo", mask_truncated=True).counted(advantages, RolloutFacts(is_truncated=[0, 0, 0])).all()


def test_counted_understands_advantages_per_token():
    advantages = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    assert objectives.get("psr").counted(advantages).tolist() == [True, False]


def test_an_all_right_group_gives_ngrpo_exactly_no_gradient_and_an_all_wrong_one_does():
    loss, gradient = loss_of(objectives.get("ngrpo"), rewards=[1, 1, 1, 1])
    assert loss == 0.0
    assert torch.equal(gradient, torch.zeros(4, 2).double())
    _, gradient = loss_of(objectives.get("ngrpo"), rewards=[0, 0, 0, 0])
    assert (gradient[MASK.bool()] > 0).all()  # minimising lowers every sampled log-probability


def test_an_all_wrong_group_gives_grpo_exactly_no_gradient_but_a_live_graph():
    loss, gradient = loss_of(objectives.get("grpo"), rewards=[0, 0, 0, 0])
    assert loss == 0.0
    assert torch.equal(gradient, torch.zeros(4, 2).double())


def test_groups_that_are_filtered_contribute_nothing_under_ngrpo():
    rewards, groups = [1, 1, 0, 1], [0, 0, 1, 1]
    mask = torch.ones(4, 2)
    ngrpo = objectives.get("ngrpo")
    kept = ngrpo.keep(rewards, groups)
    _, with_all = loss_of(ngrpo, rewards, groups, mask)
    _, with_kept = loss_of(ngrpo, rewards[2:], groups[2:], mask[2:])
    assert kept.tolist() == [False, False, True, True]
    assert torch.allclose(with_all[kept] * 2, with_kept)  # only the denominator differs
    assert not with_all[~kept].any()


def test_counts_make_a_microbatch_part_of_a_larger_step():
    objective = objectives.get("ngrpo")
    current = torch.zeros(4, 2)
    terms = objective.token_terms(current, current, objective.advantages(REWARDS, GROUPS), MASK)
    whole = objective.reduce(terms, MASK)
    assert torch.allclose(objective.reduce(terms, MASK, counts=Counts(12, 8)), whole / 2)


def test_nothing_counted_is_zero_with_a_live_graph():
    current = torch.full((2, 3), float("nan"), requires_grad=True)
    for name in ("ngrpo", "psr", "rloo"):
        objective = objectives.get(name)
        terms = objective.token_terms(current, current, torch.ones(2), torch.zeros(2, 3))
        loss = objective.reduce(terms, torch.zeros(2, 3))
        assert loss.item() == 0.0
        current.grad = None
        loss.backward()
        assert torch.equal(current.grad, torch.zeros(2, 3))


def test_an_objective_is_frozen_comparable_and_picklable():
    objective = objectives.get("ngrpo", kl_coef=0.1)
    with pytest.raises(FrozenInstanceError):
        objective.name = "other"
    assert objective == objectives.get("ngrpo", kl_coef=0.1)
    assert objective != objectives.get("ngrpo", kl_coef=0.2)
    assert pickle.loads(pickle.dumps(objective)) == objective
    assert replace(objective, name="other").name == "other"


def test_parts_are_told_as_text_without_defaults():
    assert objectives.get("ngrpo", kl_coef=0.1).parts() == {
        "advantage": "RelativeAdvantage(baseline=GroupMean(), scale=GroupStd(ddof=1, eps=1e-06), "
        "virtual=VirtualRewards(num_virtual=1))",
        "policy": "ClippedSurrogate(clip_low=0.16, clip_high=0.24)",
        "aggregation": "token_mean",
        "group_filter": "KeepKinds(all_right=False)",
        "regularisers": "ReferenceKL(coef=0.1)",
    }
    parts = objectives.get("dr_grpo", budget_tokens=12).parts()
    assert parts["aggregation"] == "seq_mean_token_sum_norm(budget_tokens=12)"
    assert objectives.get("psr").parts()["drop_zero_weight"] == "yes"


@pytest.mark.parametrize("name", ["psr", "ngrpo"])
def test_no_completions_at_all_are_an_empty_update(name):
    objective = objectives.get(name)
    advantages = objective.advantages(torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert advantages.shape == objective.counted(advantages).shape == (0,)
    current = torch.zeros(0, 3, requires_grad=True)
    terms = objective.token_terms(current, torch.zeros(0, 3), advantages, torch.zeros(0, 3))
    loss = objective.reduce(terms, torch.zeros(0, 3))
    loss.backward()
    assert loss.item() == 0.0


# --- importance weights ---


def test_importance_weights_multiply_the_policys_loss_and_no_regulariser():
    objective = objectives.get("rloo", kl_coef=1.0)
    current = torch.zeros(2, 2, requires_grad=True)
    mask, weights = torch.tensor([[1, 1], [1, 0]]), torch.tensor([[0.5, 2.0], [3.0, float("nan")]], requires_grad=True)
    inputs = (current, torch.zeros(2, 2), torch.tensor([2.0, -1.0]), mask)
    reference = torch.full((2, 2), -1.0)
    terms = objective.token_terms(*inputs, ref_logprobs=reference, importance_weights=weights)
    # -A log p has the gradient -A; that of k3 at current - reference = 1 is 1 - exp(-1).
    gradient, of_weights = torch.autograd.grad(terms.loss.sum(), (current, weights), allow_unused=True)
    by_kl = 1 - torch.tensor(-1.0).exp()
    expected = torch.tensor([[-2.0 * 0.5, -2.0 * 2.0], [3.0, 0.0]]) + by_kl * mask
    assert gradient.tolist() == [pytest.approx(line) for line in expected.tolist()]
    assert of_weights is None
    ones = objective.token_terms(*inputs, ref_logprobs=reference, importance_weights=torch.ones(2, 2))
    assert torch.equal(ones.loss, objective.token_terms(*inputs, ref_logprobs=reference).loss)


def test_importance_weights_of_another_shape_are_refused():
    zeros = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="importance_weights"):
        objectives.get("grpo").token_terms(
            zeros, zeros, torch.ones(2), torch.ones(2, 2), importance_weights=torch.ones(2, 1)
        )
