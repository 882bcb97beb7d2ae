"""The loop on the tiny world: when it validates, what it keeps, when it gives up, and that records agree with it."""

import json
import math
import re

import pytest
import torch
from run_helpers import assert_same_tensors, newest, records, run_to_end, short_config, weights_of

from ngrpo import objectives
from ngrpo.errors import ConfigError, NothingToLearnError, NumericsError, RewardError
from ngrpo.record import METRICS
from ngrpo.train import assemble, train
from ngrpo.train.checkpoint import checkpoint_steps


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """A finished run of 5 steps."""
    return run_to_end(short_config(tmp_path_factory.mktemp("finished") / "runs", base))


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def validated_steps(folder):
    return [row["step"] for row in records(folder)["metrics"] if "validation/pass_at_1" in row]


# --- validation ---


def test_validates_before_the_first_step_every_n_and_after_the_last(finished):
    assert validated_steps(finished.folder) == [0, 2, 4, 5]


def test_the_same_step_is_validated_once(runs, base):
    run_to_end(short_config(runs, base, "train.num_steps=4"))
    assert validated_steps(runs / "run") == [0, 2, 4]


def test_validation_has_random_numbers_of_its_own(finished, runs, base):
    """Training tokens are the same with and without it, and its own are the same at every step."""
    run = run_to_end(short_config(runs, base, "validation=none"))
    with_it, without = records(finished.folder), records(run.folder)
    assert without["groups"] == with_it["groups"]
    assert without["samples"] == with_it["samples"]
    assert without["metrics"] == [row for row in with_it["metrics"] if "loss/value" in row]
    assert_same_tensors(weights_of(run), weights_of(finished))


def test_validation_and_training_share_no_random_numbers(runs, base):
    run = assemble(short_config(runs, base))
    sample, keys = run.engine.sample, {"training": [], "validation": []}

    def remember(requests, sampling, **options):
        kind = "validation" if sampling is run.validation.sampling else "training"
        keys[kind] += [request.key for request in requests]
        return sample(requests, sampling, **options)

    run.engine.sample = remember
    train(run, on_step=lambda _: None)
    run.close()
    assert len(set(keys["training"])) == len(keys["training"]) >= 5 * 16
    assert len(keys["validation"]) == 4 * 8
    assert len(set(keys["validation"])) == 8  # the same at each of the four, so that a change is the model's
    assert not set(keys["training"]) & set(keys["validation"])


def test_validation_of_weights_that_do_not_move_says_the_same_each_time(runs, base):
    run_to_end(short_config(runs, base, "optim.lr=1e-30", "train.num_steps=4"))
    rows = [row for row in records(runs / "run")["metrics"] if "validation/pass_at_1" in row]
    assert [{**row, "step": 0} for row in rows] == [rows[0]] * 3


def test_validation_by_hand(runs, base, monkeypatch):
    run = assemble(short_config(runs, base, "validation.num_samples=4"))
    from ngrpo.train import validate
    from ngrpo.train.validate import validate as run_validation

    told = []
    original = validate.sample_groups

    def sample_groups(*args, **options):
        told.extend(original(*args, **options))
        return told

    monkeypatch.setattr(validate, "sample_groups", sample_groups)
    metrics = run_validation(run, lambda: False)
    run.close()
    counts = [group.num_correct for group in told]
    assert len(counts) == 4
    assert metrics["validation/pass_at_1"] == pytest.approx(sum(counts) / 16)
    assert metrics["validation/pass_at_n"] == pytest.approx(sum(count > 0 for count in counts) / 4)
    completions = [completion for group in told for completion in group.completions]
    assert metrics["validation/mean_tokens"] == pytest.approx(sum(len(c.token_ids) for c in completions) / 16)
    assert metrics["validation/truncated_frac"] == pytest.approx(sum(c.is_truncated for c in completions) / 16)
    tokens = [(c.entropy_nats, len(c.token_ids)) for c in completions]
    expected = sum(entropy * count for entropy, count in tokens) / sum(count for _, count in tokens)
    assert metrics["validation/entropy_nats"] == pytest.approx(expected)


# --- checkpoints ---


def set_pass_at_1(monkeypatch, values):
    """Lets validations find these, one after the other."""
    from ngrpo.train import validate

    rest = iter(values)
    monkeypatch.setattr(validate, "validate", lambda *_: {"validation/pass_at_1": next(rest)})


def test_the_last_and_the_best_are_kept(runs, base, monkeypatch):
    set_pass_at_1(monkeypatch, [0.1, 0.5, 0.3, 0.4, 0.2])  # steps 0, 2, 4, 6, 8
    options = ["train.num_steps=8", "checkpoint.every_steps=1", "checkpoint.keep_last=2"]
    run = run_to_end(short_config(runs, base, *options))
    assert checkpoint_steps(run.folder / "checkpoints") == [2, 7, 8]
    assert (run.state.best_step, run.state.best_pass_at_1) == (2, 0.5)


def test_a_new_best_is_saved_at_once_and_the_old_one_goes(runs, base, monkeypatch):
    set_pass_at_1(monkeypatch, [0.1, 0.2, 0.2, 0.9, 0.2])
    options = ["train.num_steps=8", "checkpoint.every_steps=50", "checkpoint.keep_last=1"]
    run = run_to_end(short_config(runs, base, *options))
    assert checkpoint_steps(run.folder / "checkpoints") == [6, 8]  # 2 was best until 6; a tie is no new best
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == ["step_000006", "step_000008"]


def test_a_tie_is_no_new_best(runs, base, monkeypatch):
    set_pass_at_1(monkeypatch, [0.1, 0.2, 0.2])
    run = run_to_end(short_config(runs, base, "train.num_steps=4", "checkpoint.keep_last=1"))
    assert checkpoint_steps(run.folder / "checkpoints") == [2, 4]


def test_without_validation_the_last_are_kept(runs, base):
    options = ["validation=none", "checkpoint.every_steps=1", "checkpoint.keep_last=3"]
    run = run_to_end(short_config(runs, base, *options))
    assert checkpoint_steps(run.folder / "checkpoints") == [3, 4, 5]


def test_the_last_step_is_saved_whatever_the_interval(runs, base):
    run = run_to_end(short_config(runs, base, "validation=none", "checkpoint.every_steps=50"))
    assert checkpoint_steps(run.folder / "checkpoints") == [5]


def test_a_checkpoint_is_a_model_that_transformers_loads(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(newest(finished.folder))
    assert_same_tensors(dict(model.state_dict()), weights_of(finished))
    assert AutoTokenizer.from_pretrained(newest(finished.folder)).encode("1,2=3:") == (
        finished.policy.tokenizer.encode("1,2=3:")
    )


# --- records ---


def test_every_metric_is_declared_and_every_declared_one_is_emitted(finished, runs, base):
    emitted = {name for row in records(finished.folder)["metrics"] for name in row}
    run = run_to_end(short_config(runs, base, "objective.params.kl_coef=0.1", "train.num_steps=2"))
    emitted |= {name for row in lines(run.folder, "metrics.jsonl") for name in row}
    # Left: what is measured only where the forward pass is not in the weights' own precision.
    assert emitted - {"step"} == METRICS.keys() - {"policy/sampler_gap_nats"}


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


# --- when it stops by itself ---


def test_steps_that_keep_nothing_end_the_run_which_is_saved(runs, base):
    config = short_config(
        runs, base, "objective.name=dapo", "reward.name=world", "refill.max_empty_steps=3", "validation=none"
    )
    run = assemble(config)  # the base gets nothing right, and dapo wants mixed groups
    before = weights_of(run)
    with pytest.raises(NothingToLearnError, match=r"3 rollout steps in a row kept no group, up to step 3.*'dapo'"):
        train(run, on_step=lambda _: None)
    run.close()
    rows = [row for row in records(run.folder)["metrics"] if "loss/value" in row]
    assert [(row["groups/num_batches"], row["groups/is_short"], row["groups/num_kept"]) for row in rows] == [
        (2, 1.0, 0)
    ] * 3
    assert [row["groups/gradient_frac"] for row in rows] == [0.0] * 3
    assert checkpoint_steps(run.folder / "checkpoints")[-1] == 3
    assert_same_tensors(weights_of(run), before)  # never an advantage: Adam has no momentum to go on with
    with pytest.raises(NothingToLearnError, match=r"4 rollout steps in a row"):  # resumed, it counts on
        run_to_end(config, resume=True)


def test_one_group_in_between_starts_the_count_anew(runs, base):
    config = short_config(runs, base, "objective.name=dapo", "refill.max_empty_steps=2", "validation=none")
    run = assemble(config)
    judge, calls = run.reward, []

    class EveryOther:
        def __call__(self, prompts, completions):
            calls.append(len(prompts))
            outcomes = judge(prompts, completions)
            is_lean = (len(calls) - 1) % 3 < 2  # two batches of a step that keep nothing, then one that does
            label = [False] * len(outcomes) if is_lean else [place % 2 == 0 for place in range(len(outcomes))]
            return [type(one)(float(right), right) for one, right in zip(outcomes, label, strict=True)]

        def close(self):
            pass

    run.reward = EveryOther()
    train(run, on_step=lambda _: None)
    run.close()
    kept = [row["groups/num_kept"] for row in records(run.folder)["metrics"]]
    assert kept == [0, 4, 0, 4, 0]
    assert run.state.num_empty_steps == 1


@pytest.mark.parametrize("broken_at", [3, 4])  # found when sampling for step 4; when saving step 4
def test_weights_that_are_not_finite_end_the_run_and_are_not_saved(runs, base, broken_at):
    run = assemble(short_config(runs, base, "validation=none"))

    def break_weights(step):
        if step == broken_at:
            run.policy.model.model.norm.weight.data[0] = math.nan

    with pytest.raises(NumericsError, match="not finite"):
        train(run, on_step=break_weights)
    run.close()
    assert checkpoint_steps(run.folder / "checkpoints") == [2]
    assert_weights_are_finite(newest(run.folder))


def test_a_run_that_diverges_leaves_a_sound_checkpoint(runs, base):
    config = short_config(runs, base, "validation=none", "optim.lr=1e38", "checkpoint.every_steps=1")
    with pytest.raises(NumericsError, match="finite"):
        run_to_end(config)
    for step in checkpoint_steps(runs / "run" / "checkpoints"):
        assert_weights_are_finite(runs / "run" / "checkpoints" / f"step_{step:06d}")


def test_weights_that_are_finite_but_of_no_use_are_not_saved(runs, base):
    one_update = ["update.num_updates_per_step=1", "optim.lr=1e38", "optim.warmup_steps=0"]
    config = short_config(runs, base, *one_update, "validation=none", "checkpoint.every_steps=50")
    with pytest.raises(NumericsError, match="logits are not finite while sampling"):
        run_to_end(config)
    assert checkpoint_steps(runs / "run" / "checkpoints") == []


def assert_weights_are_finite(checkpoint):
    from safetensors.torch import load_file

    assert all(tensor.isfinite().all() for tensor in load_file(checkpoint / "model.safetensors").values())


def test_a_gradient_that_is_not_finite_saves_nothing_of_its_step(runs, base, monkeypatch):
    import sys

    run = assemble(short_config(runs, base))
    loop = sys.modules["ngrpo.train.loop"]
    original, calls = loop.update, []

    def update(policy, optimizer, objective, rows, **options):
        calls.append(len(rows))
        if len(calls) == 6:  # the second of the third step
            policy.model.model.norm.weight.data.fill_(math.inf)
        return original(policy, optimizer, objective, rows, **options)

    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(NumericsError, match=r"not both finite; the update was not made"):
        train(run, on_step=lambda _: None)
    run.close()
    assert checkpoint_steps(run.folder / "checkpoints") == [2]
    assert_weights_are_finite(newest(run.folder))


def test_a_reward_function_that_breaks_on_the_way_loses_nothing(runs, base):
    config = short_config(runs, base, "validation=none")
    run = assemble(config)
    judge, calls = run.reward, []

    class Breaks:
        def __call__(self, prompts, completions):
            calls.append(1)
            if len(calls) > 3:
                raise RewardError("reward function broke")
            return judge(prompts, completions)

        def close(self):
            pass

    run.reward = Breaks()
    with pytest.raises(RewardError, match="broke"):
        train(run, on_step=lambda _: None)
    run.close()
    assert checkpoint_steps(run.folder / "checkpoints")[-1] == run.state.step
    assert run_to_end(config, resume=True).state.step == 5


def test_a_reward_above_the_virtual_one_is_said(runs, base):
    (runs.parent / "generous.py").write_text("def score(completions, **_):\n    return [2.0] * len(completions)\n")
    config = short_config(runs, base, f"reward.name={runs.parent / 'generous.py'}:score", "reward.correct_at=3")
    with pytest.raises(ConfigError, match=r"virtual_reward 1 is below the best reward 2"):
        run_to_end(config)


def test_a_method_that_gives_no_number_is_said(runs, base, monkeypatch):
    from dataclasses import replace

    from ngrpo.objectives import registry

    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    @objectives.register("divides")
    def divides():
        """Divides by the number of right answers."""
        return replace(objectives.get("grpo"), advantage=lambda batch: batch.rewards / batch.rewards.sum())

    config = short_config(runs, base, "objective.name=divides", "reward.name=world", "validation=none")
    with pytest.raises(ConfigError, match=r"'divides' gave the advantage nan to a completion of reward 0\.0"):
        run_to_end(config)


# --- more ways to train ---


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
