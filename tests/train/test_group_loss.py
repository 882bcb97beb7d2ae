"""DisCO in the trainer: a loss that is no sum over completions, cut into updates, microbatches and packed rows."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from run_helpers import run_to_end, short_config
from update_helpers import TEMPERATURE, cut_evenly, exact_policy, gradient, make_groups, take_step

from ngrpo import objectives
from ngrpo.config import load_config
from ngrpo.train.measure import update_metrics
from ngrpo.train.policy_update import update_policy
from ngrpo.train.rows import group_rows

METHODS = {"disco": {"tau": 0.7, "delta": 0.02, "beta": 3.0}, "disco_b": {"delta": 0.02, "beta": 3.0}}


def drifted(groups, nats):
    """The same groups, had the old policy thought every token so much likelier."""
    return [
        replace(
            group,
            completions=tuple(
                replace(each, logprobs=tuple(value + nats for value in each.logprobs)) for each in group.completions
            ),
        )
        for group in groups
    ]


def mean_logprobs(policy, group):
    """Of each completion's tokens, now and before, each from a forward pass over it alone."""
    found = []
    for each in group.completions:
        ids = [*group.prompt.token_ids, *each.token_ids]
        logits = policy.model(torch.tensor([ids])).logits[0, len(group.prompt.token_ids) - 1 : -1] / TEMPERATURE
        logprobs = logits.log_softmax(-1)[range(len(each.token_ids)), list(each.token_ids)]
        found.append((logprobs.mean(), sum(each.logprobs) / len(each.logprobs)))
    return found


def direct_loss(name, policy, groups):
    """The method's own loss of a whole step, and its divergence from the old policy in nats."""
    settings = METHODS[name]
    total, drifts = 0.0, []
    for group in groups:
        means = mean_logprobs(policy, group)
        drifts += [old - now for now, old in means]
        right, wrong = (
            [now for (now, _), outcome in zip(means, group.outcomes, strict=True) if outcome.correct is label]
            for label in (True, False)
        )
        if right and wrong:
            wrong = torch.stack(wrong)
            tau = settings.get("tau")
            worst = wrong.mean() if tau is None else tau * (wrong / tau).exp().mean().log()
            total = total + torch.stack(right).mean() - worst
    drift = torch.stack(drifts).mean()
    penalty = settings["beta"] / 2 * (drift - settings["delta"]).clamp(min=0) ** 2
    return -total / len(groups) + penalty, drift


def direct_gradient(name, policy, groups):
    loss, drift = direct_loss(name, policy, groups)
    parts = torch.autograd.grad(loss, policy.trainable_parameters())
    return torch.cat([part.flatten() for part in parts]), drift.item()


def rows_of(objective, groups):
    return [row for group in group_rows(objective, groups) for row in group]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shift", [-0.5, 0.4])  # within the trust region, and beyond
@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_gradient_is_that_of_the_direct_formula_under_any_cut(name, shift, count, way, monkeypatch):
    policy, objective = exact_policy(), objectives.get(name, **METHODS[name])
    groups = drifted(make_groups(policy), shift)
    expected, drift = direct_gradient(name, policy, groups)
    cut_evenly(monkeypatch, count)
    stats = take_step(policy, objective, rows_of(objective, groups))
    assert (gradient(policy) - expected).norm() <= 1e-9 * expected.norm()
    assert expected.norm() > 1e-2
    assert (drift > 0.02) == (shift > 0)
    assert stats.old_kl_coef == pytest.approx(3.0 * max(drift - 0.02, 0.0), rel=1e-9)


@pytest.mark.parametrize(
    "options", [{"max_tokens": 30}, {"packing_window": 4}, {"max_tokens": 60, "packing_window": 2}]
)
def test_nor_does_it_depend_on_the_token_budget_or_on_packing(options, way):
    policy, objective = exact_policy(), objectives.get("disco", **METHODS["disco"])
    groups = drifted(make_groups(policy), 0.4)
    expected, _ = direct_gradient("disco", policy, groups)
    take_step(policy, objective, rows_of(objective, groups), **options)
    assert (gradient(policy) - expected).norm() <= 1e-9 * expected.norm()


class Watched(torch.optim.SGD):
    """Keeps, at each step, the gradient and what the direct formula says of it there and then."""

    def watch(self, policy, expected):
        self.policy, self.expected, self.seen = policy, expected, []

    def step(self):
        found = gradient(self.policy).clone()
        self.seen.append((found, self.expected[len(self.seen)]()))
        super().step()


def test_every_update_has_the_loss_of_its_own_groups_and_its_own_trust_region():
    """Two updates of two groups each: the second starts where the first has moved the policy."""
    policy, objective = exact_policy(), objectives.get("disco", **METHODS["disco"])
    groups = drifted(make_groups(policy), 0.1)
    optimizer = Watched(policy.trainable_parameters(), lr=0.05)
    optimizer.watch(
        policy, [lambda part=part: direct_gradient("disco", policy, part) for part in (groups[:2], groups[2:])]
    )
    config = load_config(
        "tiny",
        [
            "update.num_updates_per_step=2", "update.max_microbatch_tokens=40", "update.max_grad_norm=1e9",
            "optim.lr=0.05", "optim.warmup_steps=0", f"rollout.temperature={TEMPERATURE}",
        ],
    )  # fmt: skip
    run = SimpleNamespace(
        config=config, policy=policy, optimizer=optimizer, objective=objective, reference=None, companions=(),
        state=SimpleNamespace(step=0),
    )  # fmt: skip
    updates = update_policy(run, group_rows(objective, groups))
    drifts = []
    for found, (expected, drift) in optimizer.seen:
        assert (found - expected).norm() <= 1e-9 * expected.norm()
        drifts.append(drift)
    coefs = [3.0 * max(drift - 0.02, 0.0) for drift in drifts]
    assert [stats.old_kl_coef for stats in updates] == pytest.approx(coefs, rel=1e-9)
    metrics = update_metrics(updates, with_reference=False)
    assert metrics["policy/old_kl_coef"] == pytest.approx(sum(coefs) / 2)
    assert max(coefs) > 0


def test_other_methods_have_no_such_weight():
    policy, objective = exact_policy(), objectives.get("grpo")
    stats = take_step(policy, objective, rows_of(objective, make_groups(policy)))
    assert stats.old_kl_coef is None
    assert "policy/old_kl_coef" not in update_metrics([stats], with_reference=False)


def test_the_first_update_of_a_step_is_within_the_region_and_later_ones_need_not_be(base, runs):
    run_to_end(short_config(runs, base, "objective.name=disco", "validation=none", "optim.lr=3e-3"))
    rows = [json.loads(line) for line in (runs / "run" / "metrics.jsonl").read_text().splitlines()]
    # Step 1 has learning rate 1.5e-3 or so: nothing moved before its first update, something before its second.
    assert all(row["policy/old_kl_coef"] >= 0 for row in rows)
    assert any(row["policy/old_kl_coef"] > 0 for row in rows)
    run_to_end(
        short_config(
            runs.parent / "one", base, "objective.name=disco", "validation=none", "update.num_updates_per_step=1"
        )
    )
    rows = [json.loads(line) for line in (runs.parent / "one" / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["policy/old_kl_coef"] == 0 for row in rows)
