"""Ways to train: engines, methods, precisions, seeds; and what is shown meanwhile."""

import json

import pytest
import torch
from run_helpers import assert_same_tensors, newest, records, run_to_end, short_config, weights_of

from ngrpo.train import assemble, train


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """A finished run of 5 steps."""
    return run_to_end(short_config(tmp_path_factory.mktemp("finished") / "runs", base))


@pytest.mark.parametrize("source", ["world", "math"])
def test_the_gold_engine_trains_and_validates_at_reward_1(runs, base, source):
    options = ["rollout.engine=gold", "objective.name=grpo", "train.num_steps=2", "reward.name=auto"]
    if source == "math":
        file = runs.parent / "math.jsonl"
        golds = ["12", "7", "34", "56"]
        file.write_text("".join(json.dumps({"problem": f"{gold}=", "answer": gold}) + "\n" for gold in golds))
        # The tiny world's alphabet has no \\boxed: this reads the bare answer, as the gold engine then writes it.
        (runs.parent / "equal.py").write_text(
            "def score(completions, golds, **_):\n    return [float(a == b) for a, b in zip(completions, golds)]\n"
        )
        options += [f"data.source={file}", f"validation.data.source={file}", "validation.data.split=train"]
        options += [f"reward.name={runs.parent / 'equal.py'}:score"]
    run = run_to_end(short_config(runs, base, *options))
    rows = records(run.folder)["metrics"]
    assert [row["reward/mean"] for row in rows if "reward/mean" in row] == [1.0, 1.0]
    assert [row["validation/pass_at_1"] for row in rows if "reward/mean" not in row] == [1.0, 1.0]
    assert all(row["groups/all_right_frac"] == 1.0 for row in rows if "reward/mean" in row)
    assert [row["loss/grad_norm_max"] for row in rows if "reward/mean" in row] == [0.0, 0.0]


def test_all_wrong_prompts_move_the_weights_under_ngrpo_only(runs, base):
    norms = {}
    for name in ("grpo", "ngrpo"):
        options = [f"objective.name={name}", "reward.name=world", "validation=none", "train.num_steps=2"]
        run = assemble(short_config(runs / name, base, *options))
        before = weights_of(run)
        train(run, on_step=lambda _: None)
        run.close()
        rows = records(run.folder)["metrics"]
        assert all(row["groups/all_wrong_frac"] == 1.0 for row in rows)
        norms[name] = [row["loss/grad_norm_max"] for row in rows]
        moved = any(not torch.equal(before[key], value) for key, value in weights_of(run).items())
        assert moved == (name == "ngrpo")
    assert norms["grpo"] == [0.0, 0.0]
    assert min(norms["ngrpo"]) > 0.01


def test_the_same_seed_gives_the_same_run_and_another_another(runs, base):
    one, same, other = (
        run_to_end(short_config(runs / name, base, f"run.seed={seed}", "train.num_steps=2"))
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert records(one.folder) == records(same.folder)
    assert_same_tensors(weights_of(one), weights_of(same))
    assert records(one.folder)["groups"] != records(other.folder)["groups"]


def test_gradient_checkpointing_trains_the_same(finished, runs, base):
    run_to_end(short_config(runs, base, "model.gradient_checkpointing=true"))
    assert records(runs / "run") == records(finished.folder)


def test_double_precision_trains_close_by(finished, runs, base):
    run = run_to_end(short_config(runs, base, "model.precision=float64", "train.num_steps=2"))
    assert {parameter.dtype for parameter in run.policy.trainable_parameters()} == {torch.float64}
    first, same = records(finished.folder)["metrics"][1], records(run.folder)["metrics"][1]
    assert same["loss/grad_norm"] == pytest.approx(first["loss/grad_norm"], rel=1e-3)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_bar_shows_how_far_it_is(runs, base, monkeypatch, is_terminal):
    from io import StringIO

    from rich.console import Console

    screen = StringIO()
    shown = Console(file=screen, force_terminal=is_terminal, width=200, color_system=None)
    monkeypatch.setattr("ngrpo.record.progress.console", lambda: shown)
    config = short_config(runs, base, "run.name=[/red] [b]x", "train.num_steps=2", "validation=none")
    run = assemble(config)
    train(run)
    run.close()
    told = screen.getvalue()
    assert "[/red] [b]x" in told
    assert "2/2" in told
    assert f"correct {run.last_correct_frac:.3f}" in told


def test_autocast_retakes_the_old_log_probabilities(runs, base):
    run_to_end(short_config(runs, base, "model.precision=bfloat16", "train.num_steps=2"))
    rows = [row for row in records(runs / "run")["metrics"] if "loss/value" in row]
    assert all(0 < row["policy/sampler_gap_nats"] < 0.5 for row in rows)
    weights = newest(runs / "run") / "model.safetensors"
    from safetensors.torch import load_file

    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float32}


def test_training_raises_the_reward(runs, base):
    """Towards answers with a product in them: what the reward pays for."""
    options = ["objective.name=grpo", "train.num_steps=12", "optim.lr=3e-3", "validation=none"]
    run_to_end(short_config(runs, base, *options))
    rewards = [row["reward/mean"] for row in records(runs / "run")["metrics"]]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.2
