"""Where sampler and trainer differ: how far, measured, and corrected for by weights of tokens."""

import math
from dataclasses import replace

import pytest
import torch
from run_helpers import newest, records, run_to_end, short_config, weights_of
from update_helpers import (
    TEMPERATURE,
    cut_evenly,
    exact_policy,
    gradient,
    logprobs_of,
    make_groups,
    make_rows,
    method,
    reference_of,
    take_step,
)

from ngrpo.config import load_config
from ngrpo.errors import ConfigError
from ngrpo.objectives import Counts
from ngrpo.train import assemble
from ngrpo.train.rows import group_rows, with_importance_weights, with_retaken_logprobs

CONFIG = load_config("tiny", [f"rollout.temperature={TEMPERATURE}", "update.max_microbatch_tokens=40"])


# --- how far they are apart ---


def test_the_mismatch_by_hand():
    policy = exact_policy()
    groups = make_groups(policy)[:2]
    retaken, metrics = with_retaken_logprobs(policy, groups, CONFIG)
    gaps = []
    for before, after in zip(groups, retaken, strict=True):
        ids = [each.token_ids for each in before.completions]
        news = logprobs_of(policy, [before.prompt.token_ids] * len(ids), ids)
        for sampled, own, new in zip(before.completions, after.completions, news, strict=True):
            assert own.logprobs == pytest.approx(new, abs=1e-9)
            gaps += [one - other for one, other in zip(new, sampled.logprobs, strict=True)]
    assert metrics == {
        "policy/sampler_gap_nats": pytest.approx(max(abs(gap) for gap in gaps)),
        "policy/sampler_ratio_mean": pytest.approx(sum(math.exp(gap) for gap in gaps) / len(gaps)),
        "policy/sampler_kl_nats": pytest.approx(sum(math.exp(gap) - 1 - gap for gap in gaps) / len(gaps)),
    }
    assert metrics["policy/sampler_kl_nats"] > 0.01


def test_no_tokens_have_no_mismatch():
    assert with_retaken_logprobs(exact_policy(), [], CONFIG) == ([], {})


# --- weights ---


def shifted(group, gaps):
    """The group as another sampler would have drawn it: every log-probability lower by its completion's gap."""
    return replace(
        group,
        completions=tuple(
            replace(each, logprobs=tuple(value - gap for value in each.logprobs))
            for each, gap in zip(group.completions, gaps, strict=True)
        ),
    )


def test_weights_are_capped_ratios_of_the_old_probability_over_the_samplers():
    groups = make_groups(exact_policy())
    rows = group_rows(method("grpo"), groups)
    gaps = [math.log(0.5), math.log(1.25), math.log(8.0), 0.0]
    weighted = with_importance_weights(rows, [shifted(group, gaps) for group in groups], 2.0)
    for group in weighted:
        for row, expected in zip(group, (0.5, 1.25, 2.0, 1.0), strict=True):
            assert row.importance_weights == pytest.approx([expected] * len(row.completion_ids))
    assert [[replace(row, importance_weights=()) for row in group] for group in weighted] == rows


def test_weights_are_exactly_1_where_log_probabilities_are_the_samplers():
    groups = make_groups(exact_policy())
    for group in with_importance_weights(group_rows(method("grpo"), groups), groups, 1.0):
        assert {weight for row in group for weight in row.importance_weights} == {1.0}


def weighted_rows(rows):
    """Rows with a weight of its own at each token."""
    random = torch.Generator().manual_seed(4)
    return [
        replace(row, importance_weights=tuple(torch.rand(len(row.completion_ids), generator=random).mul(2).tolist()))
        for row in rows
    ]


def gradient_by_hand(policy, objective, rows):
    """One row at a time, each token's policy loss times its weight, regularisers as they are."""
    bare, total = replace(objective, regularisers=()), 0.0
    counts = Counts(num_tokens=sum(len(row.completion_ids) for row in rows), num_sequences=len(rows))
    reference = reference_of(objective)
    for row in rows:
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        place = torch.arange(len(row.completion_ids))

        def log_p(model, ids=ids, row=row):
            logits = model(input_ids=ids, use_cache=False).logits[0, len(row.prompt_ids) - 1 : -1]
            return (logits / TEMPERATURE).log_softmax(-1)

        own = log_p(policy.model)
        current = own[place, list(row.completion_ids)].unsqueeze(0)
        old, mask = torch.tensor([row.old_logprobs], dtype=torch.float64), torch.ones_like(current)
        advantage = torch.tensor([row.advantage], dtype=torch.float64)
        extra = {"entropies": -(own.exp() * own).sum(-1).unsqueeze(0)}
        if reference is not None:
            extra["ref_logprobs"] = log_p(reference.model)[place, list(row.completion_ids)].detach().unsqueeze(0)
        whole = objective.token_terms(current, old, advantage, mask, **extra)
        part = bare.token_terms(current, old, advantage, mask).loss
        weights = torch.tensor([row.importance_weights], dtype=torch.float64)
        weighted = replace(whole, loss=whole.loss - part + weights * part)
        total = total + objective.reduce(weighted, mask, counts=counts)
    policy.model.zero_grad()
    total.backward()
    return gradient(policy)


@pytest.mark.parametrize("name", ["ngrpo", "rloo", "ngrpo with kl and entropy"])
@pytest.mark.parametrize("count", [1, 5])
def test_the_gradient_is_that_of_weighted_tokens(name, count, monkeypatch):
    policy, objective = exact_policy(), method(name)
    rows = weighted_rows(make_rows(policy, objective))
    cut_evenly(monkeypatch, count)
    take_step(policy, objective, rows, reference=reference_of(objective))
    found = gradient(policy).clone()
    expected = gradient_by_hand(policy, objective, rows)
    assert float((found - expected).norm()) < 1e-9 * float(expected.norm())
    take_step(
        policy, objective, [replace(row, importance_weights=()) for row in rows], reference=reference_of(objective)
    )
    assert float((gradient(policy) - expected).norm()) > 1e-3 * float(expected.norm())


def test_every_weight_1_is_none():
    policy, objective = exact_policy(), method("ngrpo")
    rows = make_rows(policy, objective)
    take_step(policy, objective, rows)
    plain = gradient(policy).clone()
    take_step(policy, objective, [replace(row, importance_weights=(1.0,) * len(row.completion_ids)) for row in rows])
    assert torch.equal(gradient(policy), plain)


# --- in a run ---


def test_off_by_default_and_a_cap_below_1_is_refused(base, runs):
    assert short_config(runs, base).update.max_importance_weight is None
    with pytest.raises(ConfigError, match=r"update\.max_importance_weight"):
        short_config(runs, base, "update.max_importance_weight=0.5")


def weights_after(base, folder, *overrides):
    run = run_to_end(short_config(folder, base, "train.num_steps=2", "validation=none", *overrides))
    rows = records(newest(folder / "run").parents[1])["metrics"]
    return weights_of(run), rows


def test_in_bfloat16_the_mismatch_is_logged_and_the_option_changes_the_run(base, runs):
    options = ["model.precision=bfloat16", "objective.name=ngrpo"]
    plain, rows = weights_after(base, runs / "plain", *options)
    names = {name for name in rows[0] if name.startswith("policy/sampler_")}
    assert names == {"policy/sampler_gap_nats", "policy/sampler_ratio_mean", "policy/sampler_kl_nats"}
    assert all(0.9 < row["policy/sampler_ratio_mean"] < 1.1 for row in rows)
    assert all(0 < row["policy/sampler_kl_nats"] < 0.1 for row in rows)
    corrected, _ = weights_after(base, runs / "corrected", *options, "update.max_importance_weight=2.0")
    assert any(not torch.equal(value, corrected[name]) for name, value in plain.items())


def test_in_float32_nothing_is_measured_and_the_option_changes_nothing(base, runs):
    plain, rows = weights_after(base, runs / "plain")
    assert not [name for row in rows for name in row if name.startswith("policy/sampler_")]
    same, _ = weights_after(base, runs / "same", "update.max_importance_weight=2.0")
    assert all(torch.equal(value, same[name]) for name, value in plain.items())


def test_the_option_reaches_the_update(base, runs, monkeypatch):
    seen = []
    monkeypatch.setattr("ngrpo.train.loop.update_policy", lambda run, rows: seen.append(rows) or [])
    monkeypatch.setattr("ngrpo.train.loop.update_metrics", lambda *_, **__: {})
    from ngrpo.train.loop import train_step

    run = assemble(short_config(runs, base, "update.max_importance_weight=1.5", "validation=none"))
    train_step(run, lambda: False)
    run.close()
    weights = [weight for rows in seen for group in rows for row in group for weight in row.importance_weights]
    assert weights
    assert set(weights) == {1.0}
