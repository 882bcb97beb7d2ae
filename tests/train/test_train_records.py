"""What a run writes down: declared, complete, and in agreement with itself."""

import json
import re

import pytest
import torch
from run_helpers import records, run_to_end, short_config

from ngrpo import objectives
from ngrpo.record import METRICS
from ngrpo.train import assemble, train
from ngrpo.train.checkpoint import checkpoint_steps


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """A finished run of 5 steps."""
    return run_to_end(short_config(tmp_path_factory.mktemp("finished") / "runs", base))


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


# Runs that measure what others do not.
SPECIAL = (
    ["objective.params.kl_coef=0.1"],
    ["objective.name=remax"],
    ["objective.name=spo", "rollout.num_samples_per_prompt=1"],
    ["objective.name=pvpo", "data.anchor_column=gold"],
    ["objective.name=ppo", "critic.lr=1e-3", "objective.params.reward_kl_coef=0.01"],
    ["objective.name=disco"],
    ["objective.name=igrpo", "objective.params.num_drafts=2"],
    [
        "objective.name=dppo",
        "objective.params.prompt_prune_prob=0.5",
        "objective.params.completion_prune_prob=0.5",
        "objective.params.low_advantage=0.6",
    ],
)


def test_every_metric_is_declared_and_every_declared_one_is_emitted(finished, runs, base):
    emitted = {name for row in records(finished.folder)["metrics"] for name in row}
    for number, overrides in enumerate(SPECIAL):
        config = short_config(runs, base, f"run.name={number}", "train.num_steps=2", *overrides)
        emitted |= {name for row in lines(run_to_end(config).folder, "metrics.jsonl") for name in row}
    # Left: what is measured only where the forward pass is not in the weights' own precision.
    assert emitted - {"step"} == {name for name in METRICS if not name.startswith("policy/sampler_")}


def test_an_undeclared_metric_is_a_bug(finished):
    with pytest.raises(AssertionError, match="undeclared metrics \\['made/up'\\]"):
        finished.recorder.metrics(9, {"made/up": 1.0})


def test_metrics_agree_with_the_groups_recorded(finished):
    groups = lines(finished.folder, "groups.jsonl")
    trained = [row for row in records(finished.folder)["metrics"] if "loss/value" in row]
    assert [row["step"] for row in trained] == [1, 2, 3, 4, 5]
    seen = 0
    for row in trained:
        own = [group for group in groups if group["step"] == row["step"]]
        seen += sum(len(group["rewards"]) for group in own)
        kinds = [sum(group["correct"]) / len(group["correct"]) for group in own]
        assert row["groups/num_sampled"] == len(own)
        assert row["groups/num_kept"] == sum(group["kept"] for group in own)
        assert row["groups/all_wrong_frac"] == sum(kind == 0 for kind in kinds) / len(own)
        assert row["groups/all_right_frac"] == sum(kind == 1 for kind in kinds) / len(own)
        assert row["groups/mixed_frac"] == sum(0 < kind < 1 for kind in kinds) / len(own)
        assert row["reward/mean"] == pytest.approx(sum(sum(group["rewards"]) for group in own) / (4 * len(own)))
        advantages = [value for group in own for value in group["advantages"]]
        assert row["groups/gradient_frac"] == sum(value != 0 for value in advantages) / (4 * len(own))
        assert row["advantage/sum_per_completion"] == pytest.approx(sum(advantages) / len(advantages))
        assert row["advantage/positive_sum_per_completion"] == pytest.approx(
            sum(max(value, 0) for value in advantages) / len(advantages)
        )
        assert row["advantage/negative_sum_per_completion"] == pytest.approx(
            sum(min(value, 0) for value in advantages) / len(advantages)
        )
        assert row["advantage/abs_max"] == max(map(abs, advantages))
        assert row["data/num_completions"] == seen
        assert row["completion/max_tokens"] == max(count for group in own for count in group["tokens"])
        assert row["optim/num_updates"] == 2 * row["step"]
        assert row["data/epoch"] == seen / 4 / 24  # 4 completions of each prompt, of 24
        assert row["optim/lr"] == 1e-3
    assert {kind for group in groups for kind in ("mixed" if 0 < sum(group["correct"]) < 4 else "alike",)} == {
        "mixed",
        "alike",
    }


def test_dropped_groups_have_no_advantages_and_kept_ones_have_all(finished):
    groups = lines(finished.folder, "groups.jsonl")
    objective = objectives.get("ngrpo")
    assert {group["kept"] for group in groups} == {True, False}
    for group in groups:
        if group["kept"]:
            rewards = torch.tensor(group["rewards"], dtype=torch.float64)
            expected = objective.advantages(rewards, [0] * 4, correct=group["correct"]).tolist()
            assert group["advantages"] == expected
        else:
            assert all(group["correct"])
            assert group["advantages"] == []


def test_old_and_current_policies_are_one_at_the_first_update(runs, base):
    """The sampler's log-probabilities are the trainer's: with one update per step no ratio leaves 1."""
    run_to_end(short_config(runs, base, "update.num_updates_per_step=1", "train.num_steps=3"))
    for row in records(runs / "run")["metrics"]:
        if "loss/value" in row:
            assert row["policy/ratio_max"] == pytest.approx(1.0, abs=1e-4)
            assert row["policy/old_kl_nats"] == pytest.approx(0.0, abs=1e-8)
            assert row["loss/clip_high_frac"] == row["loss/clip_low_frac"] == 0.0


def test_the_run_file_says_what_the_run_was_made_of(finished):
    described = json.loads((finished.folder / "run.json").read_text())
    assert described["config"] == finished.config.model_dump(mode="json")
    assert described["data"]["name"] == "countdown"
    assert described["data"]["num_prompts"] == 24
    assert re.fullmatch("[0-9a-f]{64}", described["data"]["fingerprint"])
    assert described["packages"]["torch"] == torch.__version__
    assert described["hardware"]["num_threads"] == 1
    assert described["dropped_rows"] == {}
    assert described["resumed"] == []
    assert {"ngrpo", "python", "git_revision", "command"} <= described.keys()


def test_dropped_rows_are_counted_in_the_run_file_and_aloud(runs, base, capsys):
    file = runs.parent / "rows.jsonl"
    rows = [{"prompt": "1,2,3=6:", "gold": "1+2+3"}, {"prompt": "1,1,1=3:", "gold": ""}, {"gold": "1"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = short_config(runs, base, f"data.source={file}", "data.on_bad_row=drop", "validation=none")
    assemble(config).close()
    assert sum(json.loads((runs / "run" / "run.json").read_text())["dropped_rows"].values()) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "data.source: dropped 2 rows (1 the gold is empty, 1 no prompt)" in told


def test_the_learning_rate_follows_the_rollout_steps(runs, base):
    """One rate for all updates of a step: warm-up over 2 steps, then linear towards 0 one step after the last."""
    options = ["optim.warmup_steps=2", "optim.schedule=linear", "validation=none"]
    run_to_end(short_config(runs, base, *options))
    rates = [row["optim/lr"] for row in records(runs / "run")["metrics"]]
    assert rates == pytest.approx([5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4])


class Listening:
    """A listener that remembers."""

    def __init__(self):
        self.steps, self.is_closed = [], False

    def log(self, step, metrics):
        self.steps.append(step)

    def close(self):
        self.is_closed = True


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_listeners_hear_everything_and_are_closed_however_it_ends(runs, base, ends):
    run = assemble(short_config(runs, base))
    listener = Listening()
    run.recorder.listeners = [listener]

    def on_step(step):
        if step == 3 and ends == "badly":
            raise RuntimeError("something else")

    if ends == "badly":
        with pytest.raises(RuntimeError, match="something else"):
            train(run, on_step=on_step)
    else:
        train(run, on_step=on_step)
    run.close()
    assert listener.steps == ([0, 1, 2, 2, 3] if ends == "badly" else [0, 1, 2, 2, 3, 4, 4, 5, 5])
    assert listener.is_closed
    assert checkpoint_steps(run.folder / "checkpoints")[-1] == run.state.step


def test_samples_are_bounded(finished):
    samples = lines(finished.folder, "samples.jsonl")
    assert {step: sum(row["step"] == step for row in samples) for step in range(1, 6)} == dict.fromkeys(range(1, 6), 4)
    assert {"prompt_text", "completion", "gold", "reward", "kind"} <= samples[0].keys()


def test_tensorboard_has_what_the_metrics_file_has(runs, base):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_to_end(short_config(runs, base, "record.tensorboard=true", "train.num_steps=2"))
    events = EventAccumulator(str(runs / "run" / "tensorboard"))
    events.Reload()
    written = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    rows = lines(runs / "run", "metrics.jsonl")
    assert written.keys() == {name for row in rows for name in row} - {"step"}
    for name in ("reward/mean", "validation/pass_at_1", "loss/grad_norm"):
        expected = {row["step"]: row[name] for row in rows if name in row}
        assert dict(written[name]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_wandb_offline(runs, base, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_to_end(short_config(runs, base, "record.wandb=offline", "train.num_steps=2"))
    (folder,) = (runs / "run" / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))
