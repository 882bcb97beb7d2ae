"""What one update does: against the definition, finite differences and first order; weights come back bit for bit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gradient_helpers import (
    TEMPERATURE,
    config_of,
    exact_policy,
    make_groups,
    measured,
    naive_gradient,
    naive_logprobs,
    naive_token_logprobs,
)

from helpers import EOS, small_policy
from ngrpo.lab.gradient_batches import sort_groups
from ngrpo.lab.gradient_effects import (
    QUANTITIES,
    TokenStats,
    adam_step,
    effect_of,
    populations_of,
    score,
    sgd_step,
    weights_restored,
)
from ngrpo.lab.gradient_methods import ratio_interval
from ngrpo.stats import bootstrap_interval

SCORED = {"temperature": TEMPERATURE, "max_tokens": 10**6}


@pytest.fixture(scope="module")
def policy():
    return exact_policy()


@pytest.fixture(scope="module")
def groups(policy):
    return make_groups(policy)


@pytest.fixture(params=["shared", "padded"])
def way(request, monkeypatch):
    if request.param == "padded":
        monkeypatch.setattr("ngrpo.lab.gradient_effects.can_share_prefix", lambda policy: False)
    return request.param


def bits(policy):
    return {name: tensor.detach().numpy().tobytes() for name, tensor in policy.model.named_parameters()}


def give_gradient(policy, name, groups):
    parameters = policy.trainable_parameters()
    flat = naive_gradient(policy, name, groups, parameters)
    for parameter, part in zip(parameters, flat.split([each.numel() for each in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).clone()
    return flat


def effect(policy, groups, take_step, gold_of=lambda _: None):
    sequences, populations = populations_of(groups, sort_groups(groups, 9), gold_of)
    before = score(policy, sequences, **SCORED)
    told = effect_of(policy, take_step, sequences, before, populations, **SCORED)
    return told, {(each["quantity"], each["of"], each["per"]): each for each in told["changes"]}


def test_log_probabilities_and_entropies_are_those_of_the_definition(policy, groups, way):
    pairs = [(group.prompt.token_ids, each.token_ids) for group in groups for each in group.completions]
    for (prompt, completion), stats in zip(pairs, score(policy, pairs, **SCORED), strict=True):
        with torch.no_grad():
            logprobs = naive_logprobs(policy, prompt, completion)
        np.testing.assert_allclose(stats.entropies, -(logprobs.exp() * logprobs).sum(-1).numpy(), rtol=1e-9)
        own = logprobs[range(len(completion)), list(completion)]
        np.testing.assert_allclose(stats.logprobs, own.numpy(), rtol=1e-9)


def test_however_the_passes_are_cut(policy, groups, way):
    pairs = [(group.prompt.token_ids, each.token_ids) for group in groups for each in group.completions]
    small = score(policy, pairs, temperature=TEMPERATURE, max_tokens=1)
    for one, other in zip(small, score(policy, pairs, **SCORED), strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-9)
        np.testing.assert_allclose(one.entropies, other.entropies, rtol=1e-9)


def test_scores_of_a_bfloat16_policy_are_those_of_its_float32_weights(groups):
    policy = small_policy()
    pairs = [(groups[0].prompt.token_ids, each.token_ids) for each in groups[0].completions]
    for one, other in zip(
        score(replace(policy, autocast_dtype=torch.bfloat16), pairs, **SCORED),
        score(policy, pairs, **SCORED),
        strict=True,
    ):
        assert one.logprobs.tolist() == other.logprobs.tolist()


def test_a_small_step_changes_entropy_and_log_probabilities_by_their_slope(policy, groups):
    """To first order the change is the gradient of the quantity times the step: gradients of both by autograd."""
    parameters = policy.trainable_parameters()
    mixed = [groups[0], groups[4]]
    flat = give_gradient(policy, "grpo", mixed)
    length = 1e-5
    _, changes = effect(policy, groups, lambda: sgd_step(policy, length))

    def slope(quantity):
        by_weight = torch.autograd.grad(quantity, parameters, retain_graph=True)
        by_weights = torch.cat([each.flatten() for each in by_weight])
        return float(by_weights @ flat) * -length / float(flat.norm())

    lines = [naive_logprobs(policy, group.prompt.token_ids, each.token_ids) for group in groups
             for each in group.completions]  # fmt: skip
    entropy = torch.cat([-(line.exp() * line).sum(-1) for line in lines]).mean()
    assert changes["entropy", "natural", "token"]["estimate"] == pytest.approx(slope(entropy), rel=1e-3)
    right = [
        naive_token_logprobs(policy, group.prompt.token_ids, each.token_ids)
        for group in mixed
        for each, outcome in zip(group.completions, group.outcomes, strict=True)
        if outcome.correct
    ]
    per_completion = changes["logprob", "correct in mixed", "completion"]
    assert per_completion["estimate"] == pytest.approx(slope(sum(each.sum() for each in right) / 3), rel=1e-3)
    assert changes["logprob", "correct in mixed", "token"]["estimate"] == pytest.approx(
        slope(torch.cat(right).mean()), rel=1e-3
    )
    # A step up in what correct completions weigh, and down in what wrong ones do.
    assert per_completion["estimate"] > 0 > changes["logprob", "wrong in mixed", "completion"]["estimate"]
    assert per_completion["num_groups"] == 2


def test_the_divergence_is_its_estimate_token_by_token_and_grows_with_the_square_of_the_step(policy, groups):
    give_gradient(policy, "grpo", [groups[0]])
    gradients = [parameter.grad.clone() for parameter in policy.trainable_parameters()]
    found = []
    for length in (1e-4, 2e-4):
        for parameter, gradient in zip(policy.trainable_parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        told, changes = effect(policy, groups, lambda length=length: sgd_step(policy, length))
        assert told["step_norm"] == pytest.approx(length, rel=1e-6)
        found.append(changes["kl", "natural", "token"]["estimate"])
    assert found[0] > 0
    assert found[1] / found[0] == pytest.approx(4.0, rel=0.01)
    gaps = [1.5, 0.5]
    ratios = [math.exp(each) - each - 1 for each in gaps]
    one, other = (TokenStats(np.array(values), np.zeros(2)) for values in ([-2.0, -1.0], [-0.5, -0.5]))
    assert QUANTITIES["kl"](one, other).tolist() == pytest.approx(ratios)


def test_adams_first_step_goes_by_the_learning_rate_in_every_weight(policy, groups):
    """m / sqrt(v) of a fresh state is the sign of the gradient, where that is large beside eps = 1e-8."""
    give_gradient(policy, "nsr", groups)
    before = [parameter.detach().clone() for parameter in policy.trainable_parameters()]
    gradients = [parameter.grad.clone() for parameter in policy.trainable_parameters()]
    with weights_restored(policy):
        adam_step(policy, config_of("optim.lr=1e-3"))
        for parameter, was, gradient in zip(policy.trainable_parameters(), before, gradients, strict=True):
            is_large = gradient.abs() > 1e-4
            moved = (parameter.detach() - was)[is_large]
            torch.testing.assert_close(moved, -1e-3 * gradient[is_large].sign(), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_the_same_bits_afterwards(groups, tmp_path, dtype):
    policy = small_policy(dtype)
    with torch.no_grad():
        policy.trainable_parameters()[0][0, :3] = torch.tensor([-0.0, 1e-42, 3.0])  # what arithmetic would lose
    before = bits(policy)
    told = measured(policy, groups, tmp_path)
    assert any(each["changes"] for each in told["effects"])
    assert bits(policy) == before
    assert all(parameter.grad is None for parameter in policy.trainable_parameters())


def test_weights_are_the_same_bits_after_an_error(groups):
    policy = small_policy()
    before = bits(policy)

    def fall_over():
        for parameter in policy.trainable_parameters():
            parameter.data.add_(1.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        effect(policy, groups, fall_over)
    assert bits(policy) == before


def test_populations_are_what_they_are_called(groups):
    golds = {groups[1].prompt.id: (5, EOS), groups[4].prompt.id: (6, EOS)}
    sequences, populations = populations_of(groups, sort_groups(groups, 9), lambda group: golds.get(group.prompt.id))
    found = {each.name: [[sequences[place][1] for place in places] for places in each.by_group] for each in populations}
    of = [[completion.token_ids for completion in group.completions] for group in groups]
    assert found["natural"] == of
    assert found["wrong in all_wrong"] == found["all_wrong"] == [of[1], of[3], of[5]]
    assert found["wrong in mixed"] == [of[0][1:3], of[4][:3]]
    assert found["correct in mixed"] == [[of[0][0], of[0][3]], of[4][3:]]
    assert found["correct in all_right"] == [of[2]]
    assert found["gold of all_wrong"] == [[(5, EOS)]]
    assert found["gold of mixed"] == [[(6, EOS)]]
    assert len(sequences) == 4 * len(groups) + 2  # each once, whatever it belongs to


def test_the_ratio_interval_weighs_groups_by_what_they_hold():
    """Of equal counts it is the bootstrap interval of the mean; a group without any changes nothing of the estimate."""
    plain = bootstrap_interval([1.0, 2.0, 6.0])
    found = ratio_interval([2.0, 4.0, 12.0], [2, 2, 2])
    assert (found.estimate, found.low, found.high) == pytest.approx((plain.estimate, plain.low, plain.high))
    assert ratio_interval([3.0, 0.0, 1.0], [1, 0, 3]).estimate == 1.0
    # Residuals (0 - 3/4) / 2 and (3 - 9/4) / 2: one resample in four has the first group twice, one the second.
    two = ratio_interval([0.0, 3.0], [1, 3])
    assert (two.estimate, two.low, two.high) == (0.75, 0.375, 1.125)
    # Every group has the same ratio: there is nothing to be unsure of.
    sure = ratio_interval([1.0, 2.0, 5.0], [2, 4, 10])
    assert (sure.estimate, sure.low, sure.high) == (0.5, 0.5, 0.5)
