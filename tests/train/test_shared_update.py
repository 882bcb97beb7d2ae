"""Each prompt once and no padding: gradient, numbers and log-probabilities of padded rows, for any method."""

import pytest
import torch
from update_helpers import (
    TEMPERATURE,
    cut_evenly,
    exact_policy,
    frozen_reference,
    gradient,
    make_rows,
    method,
    take_step,
)

from helpers import small_policy
from model_kinds import KINDS, kind_policy
from ngrpo import objectives
from ngrpo.train import step
from ngrpo.train.measure import update_metrics
from ngrpo.train.step import TrainingRow, logprobs_of

BUILT_IN = [name for name in objectives.names() if objectives.describe(name).source]
SETTINGS = {
    "dr_grpo": {"budget_tokens": 9},
    "ucpo": {"abstention_weight": 0.5},
    "dppo": {"prompt_prune_prob": 0.5, "completion_prune_prob": 0.5, "low_advantage": 0.6},
}


def rows_for(policy, per_token: bool = False) -> list[TrainingRow]:
    """Groups of four with an advantage for each row, or for each token; a row without a token, prompts in disorder."""
    rows = make_rows(policy, method("grpo"))
    rows = [*rows[::2], TrainingRow(rows[3].prompt_ids, (), (), 0.7, group=0), *rows[1::2]]
    if not per_token:
        return rows
    return [
        row.with_advantage([row.advantage + 0.1 * place for place in range(len(row.completion_ids))]) for row in rows
    ]


def both_ways(monkeypatch, objective, make_policy=exact_policy, per_token=False, **settings):
    """Gradient and numbers of a step by padded rows and by shared prompts."""
    found = []
    for is_shared in (False, True):
        policy = make_policy()
        rows = rows_for(policy, per_token)
        reference = frozen_reference() if objective.needs_reference else None
        with monkeypatch.context() as patch:
            if not is_shared:
                patch.setattr(step, "can_share_prefix", lambda policy: False)
            stats = take_step(policy, objective, rows, reference=reference, **settings)
        found.append((gradient(policy).clone(), stats))
    return found


def assert_same(padded, shared, tolerance):
    (expected, expected_stats), (found, stats) = padded, shared
    assert (found - expected).norm() <= tolerance * expected.norm()
    assert expected.norm() > 1e-3
    assert (stats.old_kl_coef is None) == (expected_stats.old_kl_coef is None)
    exact = ("num_tokens", "num_positive_tokens", "num_negative_tokens", "clipped_high_tokens", "clipped_low_tokens")
    for name in exact:
        assert getattr(stats, name) == getattr(expected_stats, name), name
    rounded = ("loss", "ratio_sum", "old_kl_nats_sum", "reference_kl_nats_sum", "max_ratio", "grad_norm")
    for name in rounded:
        assert getattr(stats, name) == pytest.approx(getattr(expected_stats, name), rel=tolerance), name


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_method_has_the_gradient_of_padded_rows(name, monkeypatch):
    objective = objectives.get(name, **SETTINGS.get(name, {}))
    assert_same(*both_ways(monkeypatch, objective), tolerance=1e-9)


@pytest.mark.parametrize("name", ["ngrpo", "grpo", "gspo", "disco"])
@pytest.mark.parametrize("max_tokens", [1, 25, 70])
def test_under_any_budget(name, max_tokens, monkeypatch):
    assert_same(*both_ways(monkeypatch, objectives.get(name), max_tokens=max_tokens), tolerance=1e-9)


def test_an_advantage_for_each_token_a_kl_and_an_entropy(monkeypatch):
    objective = method("ngrpo with kl and entropy")
    assert_same(*both_ways(monkeypatch, objective, per_token=True), tolerance=1e-9)


@pytest.mark.parametrize("chunk_bytes", [1, 2000])
def test_the_output_layer_may_see_one_completion_at_a_time(chunk_bytes, monkeypatch):
    monkeypatch.setattr("ngrpo.policy.head.CHUNK_BYTES", {"cpu": chunk_bytes})
    assert_same(*both_ways(monkeypatch, method("ngrpo with kl and entropy")), tolerance=1e-9)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "qwen3"])
def test_in_float32_but_for_rounding(kind, monkeypatch):
    def make():
        policy = kind_policy(kind, torch.float32)
        for module in policy.model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        return policy

    assert_same(*both_ways(monkeypatch, objectives.get("ngrpo"), make), tolerance=1e-5)


def test_shared_rows_have_no_padding_and_fewer_positions(monkeypatch):
    (_, padded), (_, shared) = both_ways(monkeypatch, method("grpo"))
    rows = [row for row in rows_for(exact_policy()) if row.has_gradient and row.completion_ids]
    prompts = {row.prompt_ids for row in rows}
    tokens = sum(map(len, prompts)) + sum(len(row.completion_ids) - 1 for row in rows)
    assert shared.num_positions == shared.num_filled_positions == tokens < padded.num_filled_positions
    assert update_metrics([shared], with_reference=False)["update/fill_frac"] == 1.0


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"qwen2", "llama", "qwen3"}))
def test_models_of_other_families_take_the_padded_way(kind, monkeypatch):
    monkeypatch.delattr(step, "shared_microbatches")
    rows = [TrainingRow((3, 4), (5, 6), (-1.0, -1.0), 1.0)]
    assert take_step(kind_policy(kind, torch.float32), objectives.get("grpo"), rows).num_tokens == 2


@pytest.mark.parametrize("max_tokens", [1, 30, 10**9])
def test_log_probabilities_come_in_the_order_given(max_tokens, monkeypatch):
    policy = small_policy(torch.float64)
    pairs = [(row.prompt_ids, row.completion_ids) for row in rows_for(policy)]
    found = logprobs_of(policy, pairs, temperature=TEMPERATURE, max_microbatch_tokens=max_tokens)
    monkeypatch.setattr(step, "can_share_prefix", lambda policy: False)
    cut_evenly(monkeypatch, 1)
    expected = logprobs_of(policy, pairs, temperature=TEMPERATURE, max_microbatch_tokens=10**9)
    assert [len(line) for line in found] == [len(completion) for _, completion in pairs]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-9)
