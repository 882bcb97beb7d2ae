"""Runs that sample with vLLM, by its stand-in: the mismatch is measured and corrected for; a resume asks the same."""

import json
import math

import pytest
import torch
from run_helpers import forbid_models, newest, records, run_to_end, short_config, stop_at, weights_of

from ngrpo.errors import ConfigError, Interrupted, MissingExtraError
from ngrpo.rollout.engine import EVALUATION, REFERENCE_VALUES, TRAINING, random_key, seed_of
from ngrpo.train import assemble, loop, train
from ngrpo.train.rows import VLLM_IMPORTANCE_CAP, importance_cap

VLLM = ("rollout.engine=vllm", "rollout.cache_gib=0.01", "validation=none", "train.num_steps=2")
SAMPLER = {"policy/sampler_gap_nats", "policy/sampler_ratio_mean", "policy/sampler_kl_nats"}


def weights_in_update(run, monkeypatch):
    """The importance weights of every row that one step updates on, with the log-probabilities they come from."""
    seen = []
    monkeypatch.setattr(
        loop, "update_policy", lambda run, rows: seen.extend(row for group in rows for row in group) or []
    )
    monkeypatch.setattr(loop, "update_metrics", lambda *_, **__: {})
    sampled = {}
    collect = loop.collect

    def collected(run, should_stop):
        rollout = collect(run, should_stop)
        completions = [each for group in rollout.kept_groups for each in group.completions]
        sampled.update({(each.token_ids, number): each.logprobs for number, each in enumerate(completions)})
        return rollout

    monkeypatch.setattr(loop, "collect", collected)
    loop.train_step(run, lambda: False)
    run.close()
    return seen, sampled


def test_by_default_tokens_are_weighed_by_their_mismatch_truncated(vllm_stand_in, base, runs, monkeypatch):
    monkeypatch.setattr(vllm_stand_in, "LOGITS_FACTOR", 1.5)
    rows, sampled = weights_in_update(assemble(short_config(runs, base, *VLLM)), monkeypatch)
    assert rows
    for number, row in enumerate(rows):
        own = sampled[row.completion_ids, number]
        expected = [min(2.0, math.exp(new - old)) for new, old in zip(row.old_logprobs, own, strict=True)]
        assert row.importance_weights == pytest.approx(expected)
    weights = [weight for row in rows for weight in row.importance_weights]
    assert max(weights) == 2.0, "none was truncated"
    assert min(weights) < 0.9


def test_old_logprobs_are_the_trainers(vllm_stand_in, base, runs, monkeypatch):
    monkeypatch.setattr(vllm_stand_in, "LOGITS_FACTOR", 1.5)
    run = assemble(short_config(runs, base, *VLLM))
    model = run.policy.model
    rows, _ = weights_in_update(run, monkeypatch)
    row = max(rows, key=lambda row: len(row.completion_ids))
    with torch.no_grad():
        logits = model(torch.tensor([[*row.prompt_ids, *row.completion_ids]])).logits[0, len(row.prompt_ids) - 1 : -1]
    expected = logits.log_softmax(-1)[range(len(row.completion_ids)), list(row.completion_ids)]
    assert row.old_logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_switched_off_they_are_not(vllm_stand_in, base, runs, monkeypatch):
    monkeypatch.setattr(vllm_stand_in, "LOGITS_FACTOR", 1.5)
    config = short_config(runs, base, *VLLM, "update.max_importance_weight=off")
    rows, _ = weights_in_update(assemble(config), monkeypatch)
    assert {row.importance_weights for row in rows} == {()}


def test_the_cap_that_holds(base, runs):
    caps = [
        importance_cap(short_config(runs, base, *settings))
        for settings in (
            (),
            VLLM,
            (*VLLM, "update.max_importance_weight=off"),
            (*VLLM, "update.max_importance_weight=5"),
            ("update.max_importance_weight=3.0",),
            ("update.max_importance_weight=off",),
        )
    ]
    assert caps == [None, VLLM_IMPORTANCE_CAP, None, 5.0, 3.0, None]
    with pytest.raises(ConfigError, match=r"update\.max_importance_weight"):
        short_config(runs, base, *VLLM, "update.max_importance_weight=on")


def test_a_run_learns_and_logs_how_far_the_sampler_is(vllm_stand_in, base, runs):
    run = run_to_end(short_config(runs / "exact", base, *VLLM))
    folder = newest(runs / "exact" / "run").parents[1]
    assert json.loads((folder / "run.json").read_text())["packages"]["vllm"] == "0.33.0"
    rows = records(folder)["metrics"]
    assert all(row.keys() >= SAMPLER for row in rows)
    assert all(row["policy/sampler_gap_nats"] < 1e-3 and row["policy/entropy_nats"] > 0 for row in rows)
    start = weights_of(assemble(short_config(runs / "start", base, *VLLM)))
    assert any(not torch.equal(value, start[name]) for name, value in weights_of(run).items())

    # Each step sampled with that step's weights: a gap as small as this would show older ones.
    vllm_stand_in.LOGITS_FACTOR = 1.2
    run_to_end(short_config(runs / "shifted", base, *VLLM))
    shifted = records(newest(runs / "shifted" / "run").parents[1])["metrics"]
    assert all(row["policy/sampler_kl_nats"] > 1e-3 for row in shifted)


def test_a_resumed_run_asks_for_the_same_completions(vllm_stand_in, base, runs):
    settings = (*VLLM, "train.num_steps=3", "checkpoint.every_steps=1")
    whole = assemble(short_config(runs / "whole", base, *settings))
    added = whole.engine._llm.llm_engine.added
    train(whole, on_step=lambda _: None)
    whole.close()
    asked = [(each.prompt, each.params.seed) for each in added]
    added.clear()
    cut = assemble(short_config(runs / "cut", base, *settings))
    with pytest.raises(Interrupted, match="sampled again, from the same seeds"):
        train(cut, on_step=stop_at(1))
    cut.close()
    run_to_end(short_config(runs / "cut", base, *settings), resume=True)
    again = [(each.prompt, each.params.seed) for each in added]
    assert sorted(set(again)) == sorted(set(asked))
    assert len(asked) == len(set(asked))


def test_validation_and_the_reference_model_are_sampled_by_the_same_vllm(vllm_stand_in, base, runs):
    settings = [each for each in VLLM if not each.startswith("validation")]
    settings += ["objective.name=pvpo", "objective.params.gold_anchors=false", "validation.every_steps=1"]
    run = assemble(short_config(runs, base, *settings))
    engine = run.engine._llm.llm_engine
    made = []
    vllm_stand_in.LLM.__init__ = lambda self, *_, **__: made.append(self)
    train(run, on_step=lambda _: None)
    run.close()
    assert not made
    seeds = {each.params.seed for each in engine.added}
    for stream in (TRAINING, EVALUATION, REFERENCE_VALUES):
        keys = [random_key(seed=0, stream=stream, step=0, occurrence=number, sample=0) for number in range(24)]
        assert seeds & {seed_of(key, num_bits=63) for key in keys}, stream


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model.precision=float64"], "no float64"),
        (["rollout.temperature=2.5"], "not at 2.5"),
        (["validation.temperature=0.001"], "not at 0.001"),
    ],
)
def test_what_vllm_cannot_do_is_found_before_a_model_is_loaded(vllm_stand_in, base, runs, monkeypatch, settings, said):
    forbid_models(monkeypatch)
    with pytest.raises(ConfigError, match=said):
        assemble(short_config(runs, base, "rollout.engine=vllm", *settings))
    assert not (runs / "run").exists()


def test_without_the_extra_nothing_is_loaded(base, runs, monkeypatch):
    forbid_models(monkeypatch)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"ngrpo\[vllm\]"):
        assemble(short_config(runs, base, "rollout.engine=vllm"))
    assert not (runs / "run").exists()
