"""One optimiser step: its gradient by hand, whatever the microbatches; what moves and what stays."""

import math
from dataclasses import replace

import pytest
import torch
from update_helpers import (
    CORRECT,
    MAX_TOKENS,
    METHODS,
    TEMPERATURE,
    cut_evenly,
    exact_policy,
    frozen_reference,
    gradient,
    make_groups,
    make_rows,
    method,
    reference_of,
    take_step,
)

from helpers import small_model, small_policy
from ngrpo.errors import NumericsError
from ngrpo.train import step
from ngrpo.train.rows import group_rows
from ngrpo.types import Outcome

# --- the gradient ---


def token_loss(name, log_ratio, current, advantage, ref, entropy):
    """The loss of one token, from the papers' formulas."""
    ratio = log_ratio.exp()
    low, high = {"ngrpo": (0.16, 0.24), "dapo": (0.2, 0.28)}.get(name.partition(" ")[0], (0.2, 0.2))
    objective = torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    if name == "rloo":
        objective = current * advantage
    if name == "dapo" and advantage < 0:
        objective = objective.clamp(min=10.0 * advantage)
    if "kl" in name:
        objective = objective - 0.3 * ((ref - current).exp() - (ref - current) - 1) + 0.2 * entropy
    return -objective


def loss_by_hand(name, policy, groups) -> torch.Tensor:
    """The loss of a whole step: row by row without padding, each token by the formula, and one division."""
    advantages = {
        # (r - mean) / (std + eps): by hand for the groups of CORRECT, of 4 real and for ngrpo 1 virtual reward.
        "ngrpo": [by_statistics(row, 1) for row in CORRECT],
        "grpo": [by_statistics(row, 0) for row in CORRECT],
        "dapo": [by_statistics(row, 0) for row in CORRECT],
        "dr_grpo": [[value - sum(row) / 4 for value in row] for row in CORRECT],
        "psr": [[float(value) for value in row] for row in CORRECT],
        "nsr": [[value - 1.0 for value in row] for row in CORRECT],
        "rloo": [[value - (sum(row) - value) / 3 for value in row] for row in CORRECT],
    }[name.partition(" ")[0]]
    reference = frozen_reference()
    sums, lengths = [], []
    for group, row_advantages in zip(groups, advantages, strict=True):
        for completion, advantage in zip(group.completions, row_advantages, strict=True):
            if (name.startswith("psr") and advantage == 0) or (name == "dapo" and completion.is_truncated):
                continue
            current, entropy = by_hand(policy, group.prompt.token_ids, completion.token_ids)
            ref = by_hand(reference, group.prompt.token_ids, completion.token_ids)[0].detach()
            old = torch.tensor(completion.logprobs, dtype=torch.float64)
            losses = [
                token_loss(name, current[t] - old[t], current[t], advantage, ref[t], entropy[t])
                for t in range(len(completion.token_ids))
            ]
            sums.append(torch.stack(losses).sum())
            lengths.append(len(losses))
    if name in ("grpo", "psr by sequence"):
        return sum(total / length for total, length in zip(sums, lengths, strict=True)) / len(sums)
    if name == "dr_grpo":
        return sum(sums) / MAX_TOKENS / len(sums)
    if name == "rloo":
        return sum(sums) / len(sums)
    return sum(sums) / sum(lengths)


def by_statistics(row, num_virtual):
    values = [*row, *[1] * num_virtual]
    mean = sum(values) / len(values)
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return [(value - mean) / (std + 1e-6) for value in row]


def by_hand(policy, prompt, completion):
    """Log-probabilities and entropies of one completion, from a forward pass over it alone."""
    logits = policy.model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1] / TEMPERATURE
    logprobs = logits.log_softmax(-1)
    return logprobs[range(len(completion)), list(completion)], -(logprobs.exp() * logprobs).sum(-1)


@pytest.mark.parametrize("name", METHODS)
def test_loss_and_gradient_are_those_of_the_formula(name, way):
    policy, objective = exact_policy(), method(name)
    groups = make_groups(policy)
    expected = loss_by_hand(name, policy, groups)
    expected_gradient = torch.autograd.grad(expected, policy.trainable_parameters())
    rows = [row for group in group_rows(objective, groups) for row in group]
    stats = take_step(policy, objective, rows, reference=reference_of(objective))
    assert stats.loss == pytest.approx(expected.item(), rel=1e-10)
    torch.testing.assert_close(
        gradient(policy), torch.cat([part.flatten() for part in expected_gradient]), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("count", [2, 4, 16])
def test_gradient_does_not_depend_on_microbatches(name, count, way, monkeypatch):
    policy, objective = exact_policy(), method(name)
    rows, reference = make_rows(policy, objective), reference_of(objective)
    whole = take_step(policy, objective, rows, reference=reference)
    expected = gradient(policy).clone()
    cut_evenly(monkeypatch, count)
    parts = take_step(policy, objective, rows, reference=reference)
    assert (gradient(policy) - expected).norm() <= 1e-10 * expected.norm()
    assert expected.norm() > 1e-3
    assert parts.loss == pytest.approx(whole.loss, rel=1e-10)
    assert (parts.num_tokens, parts.clipped_high_tokens, parts.clipped_low_tokens, parts.max_ratio) == (
        whole.num_tokens, whole.clipped_high_tokens, whole.clipped_low_tokens, pytest.approx(whole.max_ratio),
    )  # fmt: skip


@pytest.mark.parametrize("max_tokens", [1, 30, 60, 100])
def test_gradient_does_not_depend_on_the_token_budget(max_tokens, way):
    policy, objective = exact_policy(), method("ngrpo")
    rows = make_rows(policy, objective)
    take_step(policy, objective, rows)
    expected = gradient(policy).clone()
    take_step(policy, objective, rows[::-1], max_tokens=max_tokens)
    assert (gradient(policy) - expected).norm() <= 1e-10 * expected.norm()


@pytest.mark.parametrize("name", ["ngrpo", "grpo", "dr_grpo"])
def test_rows_of_zero_advantage_are_skipped_and_stay_in_the_denominators(name, way, monkeypatch):
    policy, objective = exact_policy(), method(name)
    rows = make_rows(policy, objective)
    seen = []
    cutter = {"shared": "shared_microbatches", "padded": "microbatches"}[way]
    original = getattr(step, cutter)
    monkeypatch.setattr(step, cutter, lambda rows, size: original(seen.extend(rows) or rows, size))
    take_step(policy, objective, rows)
    assert [row for row in rows if row.advantage] == seen
    assert len(seen) == {"ngrpo": 12, "grpo": 8, "dr_grpo": 8}[name]  # of 16; under ngrpo all-wrong rows count
    expected = gradient(policy).clone()
    # As many rows of zero advantage again, of the same lengths: the same gradient, divided by twice as much.
    take_step(policy, objective, [*rows, *(replace(row, advantage=0.0) for row in rows)])
    torch.testing.assert_close(gradient(policy), expected / 2, rtol=1e-12, atol=1e-15)


def test_rows_that_do_not_count_change_nothing():
    policy, objective = exact_policy(), method("psr")
    rows = make_rows(policy, objective)
    assert [row.counts for row in rows] == [bool(value) for group in CORRECT for value in group]
    take_step(policy, objective, rows)
    expected = gradient(policy).clone()
    take_step(policy, objective, [row for row in rows if row.counts])
    torch.testing.assert_close(gradient(policy), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing_changes_nothing(way):
    policy, objective = exact_policy(), method("ngrpo")
    rows = make_rows(policy, objective)
    take_step(policy, objective, rows)
    expected = gradient(policy).clone()
    policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    take_step(policy, objective, rows)
    assert (gradient(policy) - expected).norm() <= 1e-12 * expected.norm()
    assert not policy.model.training


# --- zero gradients, not absent ones ---


def all_wrong(policy):
    return [
        replace(group, outcomes=tuple(Outcome(0.0, False) for _ in group.outcomes)) for group in make_groups(policy)
    ]


@pytest.mark.parametrize(("name", "has_gradient"), [("grpo", False), ("dr_grpo", False), ("ngrpo", True)])
def test_all_wrong_groups_teach_ngrpo_only(name, has_gradient):
    policy, objective = small_policy(), method(name)  # float32, as in real runs
    rows = [row for group in group_rows(objective, all_wrong(policy)) for row in group]
    stats = take_step(policy, objective, rows)
    assert (stats.grad_norm > 0.01) if has_gradient else (stats.grad_norm == 0.0)
    assert bool(gradient(policy).count_nonzero()) == has_gradient


@pytest.mark.parametrize("rows", ["all wrong", "none"])
def test_the_optimiser_steps_without_any_advantage(rows):
    policy, objective = exact_policy(), method("grpo")
    optimizer = torch.optim.AdamW(policy.trainable_parameters(), lr=0.1, betas=(0.9, 0.999), weight_decay=0.0)
    take_step(policy, objective, make_rows(policy, objective), optimizer=optimizer)
    before = policy.model.model.embed_tokens.weight.detach().clone()
    state = optimizer.state[policy.model.model.embed_tokens.weight]
    first, second = state["exp_avg"].clone(), state["exp_avg_sq"].clone()
    idle = [row for group in group_rows(objective, all_wrong(policy)) for row in group] if rows == "all wrong" else []
    stats = take_step(policy, objective, idle, optimizer=optimizer)
    assert (stats.grad_norm, stats.loss, stats.num_tokens) == (0.0, 0.0, 0)
    # Adam with gradient 0 at its second step: moments decay, and the momentum of the first goes on.
    mean, square = 0.9 * first / (1 - 0.9**2), 0.999 * second / (1 - 0.999**2)
    expected = before - 0.1 * mean / (square.sqrt() + 1e-8)
    torch.testing.assert_close(policy.model.model.embed_tokens.weight.detach(), expected, rtol=1e-9, atol=1e-12)
    assert (expected - before).abs().max() > 0.01


def test_gradients_of_the_step_before_are_forgotten():
    policy, objective = exact_policy(), method("grpo")
    rows = make_rows(policy, objective)
    take_step(policy, objective, rows)
    expected = gradient(policy).clone()
    take_step(policy, objective, rows)
    assert torch.equal(gradient(policy), expected)


# --- numbers that are not finite, and large ones ---


def snapshot(policy, optimizer):
    weights = [parameter.detach().clone() for parameter in policy.trainable_parameters()]
    moments = [value.clone() for state in optimizer.state.values() for value in state.values()]
    return [*weights, *moments]


@pytest.mark.parametrize("broken", ["old log-probability", "advantage", "weight", "weight of a row"])
def test_a_loss_that_is_not_finite_leaves_weights_and_optimiser_alone(broken):
    policy, objective = exact_policy(), method("ngrpo")
    rows = make_rows(policy, objective)
    optimizer = torch.optim.AdamW(policy.trainable_parameters(), lr=0.1)
    take_step(policy, objective, rows, optimizer=optimizer)
    if broken == "weight":
        policy.model.model.norm.weight.data[0] = torch.inf
    elif broken == "advantage":
        rows[0] = replace(rows[0], advantage=math.inf)
    elif broken == "old log-probability":
        rows[0] = replace(rows[0], old_logprobs=(math.nan, *rows[0].old_logprobs[1:]))
    else:
        policy.model.model.embed_tokens.weight.data[rows[0].completion_ids[0]] = torch.nan
    before = snapshot(policy, optimizer)
    with pytest.raises(NumericsError, match=r"not both finite; the update was not made\. Lower optim\.lr"):
        take_step(policy, objective, rows, optimizer=optimizer)
    after = snapshot(policy, optimizer)
    assert all(
        torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0)) for one, other in zip(before, after, strict=True)
    )


def test_gradients_are_scaled_down_to_the_norm():
    policy, objective = exact_policy(), method("ngrpo")
    rows = make_rows(policy, objective)
    free = take_step(policy, objective, rows)
    direction = gradient(policy) / free.grad_norm
    before = torch.cat([parameter.detach().flatten() for parameter in policy.trainable_parameters()])
    optimizer = torch.optim.SGD(policy.trainable_parameters(), lr=1.0)
    clipped = take_step(policy, objective, rows, optimizer=optimizer, max_grad_norm=0.01)
    after = torch.cat([parameter.detach().flatten() for parameter in policy.trainable_parameters()])
    assert clipped.grad_norm == pytest.approx(free.grad_norm)  # the norm is told before clipping
    assert free.grad_norm > 0.01
    torch.testing.assert_close(before - after, 0.01 * direction, rtol=1e-3, atol=1e-9)


def test_frozen_weights_get_no_gradient_and_stay():
    policy, objective = exact_policy(), method("ngrpo")
    policy.model.model.embed_tokens.weight.requires_grad_(False)
    optimizer = torch.optim.SGD(policy.trainable_parameters(), lr=1.0)
    take_step(policy, objective, make_rows(policy, objective), optimizer=optimizer)
    moved = {
        name
        for (name, now), then in zip(
            policy.model.named_parameters(), small_model(torch.float64).parameters(), strict=True
        )
        if not torch.equal(now, then)
    }
    assert "model.embed_tokens.weight" not in moved
    assert "model.layers.0.self_attn.q_proj.weight" in moved
