"""Stopped and gone on with, a run is the run that was never stopped: bit for bit, on one thread of a CPU."""

import json
import shutil
import signal

import pytest
import torch
from run_helpers import assert_same_run, forbid_models, newest, records, run_to_end, short_config, stop_at

from ngrpo.errors import CheckpointError, ConfigError, Interrupted, RunFolderError
from ngrpo.train import assemble, train
from ngrpo.train.checkpoint import checkpoint_steps

KINDS = {
    "weights": ["optim.schedule=linear", "update.max_grad_norm=0.05", "optim.weight_decay=0.1"],
    "adapter": ["model.lora.rank=4"],
    "reference": ["objective.params.kl_coef=0.1", "objective.params.entropy_coef=0.01"],
}


@pytest.fixture(scope="module", params=KINDS)
def finished(request, base, tmp_path_factory):
    """The folder of a run that was never stopped, and its settings."""
    if request.param == "adapter":
        pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp(request.param)
    overrides = [*KINDS[request.param], f"reward.name={folder / 'reward.py'}:has_times"]
    run_to_end(short_config(folder / "runs", base, *overrides))
    return folder / "runs" / "run", overrides


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory):
    """The same under the default settings."""
    folder = tmp_path_factory.mktemp("plain")
    overrides = [f"reward.name={folder / 'reward.py'}:has_times"]
    run_to_end(short_config(folder / "runs", base, *overrides))
    return folder / "runs" / "run", overrides


def train_until_stopped(config, on_step=lambda _: None, *, resume=False, prepare=lambda run: None, stop=Interrupted):
    run = assemble(config, resume=resume)
    prepare(run)
    try:
        with pytest.raises(stop):
            train(run, on_step=on_step)
    finally:
        run.close()
    return run


@pytest.mark.parametrize("step", [0, 2, 3])
def test_stopped_between_two_steps(finished, runs, base, step):
    folder, overrides = finished
    config = short_config(runs, base, *overrides)
    run = train_until_stopped(config, stop_at(step))
    assert run.state.step == step
    run_to_end(config, resume=True)
    assert_same_run(runs / "run", folder)


def test_stopped_at_every_step(plain, runs, base):
    folder, overrides = plain
    config = short_config(runs, base, *overrides)
    for step in range(1, 5):
        train_until_stopped(config, stop_at(step, signal.SIGTERM), resume=step > 1)
    run_to_end(config, resume=True)
    assert_same_run(runs / "run", folder)
    assert [row["step"] for row in json.loads((runs / "run" / "run.json").read_text())["resumed"]] == [1, 2, 3, 4]


class SignalAt:
    """Stands before a function and sends a signal at its n-th call, then calls it."""

    def __init__(self, function, call, *numbers):
        self.function, self.left, self.numbers = function, call, numbers

    def __call__(self, *args, **options):
        self.left -= 1
        if self.left == 0:
            for number in self.numbers:
                signal.raise_signal(number)
        return self.function(*args, **options)


@pytest.mark.parametrize("call", [1, 2, 4, 7])  # of the validations and rollouts, refills included
def test_stopped_in_the_middle_of_sampling(plain, runs, base, call):
    folder, overrides = plain
    config = short_config(runs, base, *overrides)

    def prepare(run):
        run.engine.sample = SignalAt(run.engine.sample, call, signal.SIGINT)

    train_until_stopped(config, prepare=prepare)
    run_to_end(config, resume=True)
    assert_same_run(runs / "run", folder)


def test_a_signal_during_the_updates_lets_the_step_finish(plain, runs, base):
    folder, overrides = plain
    config = short_config(runs, base, *overrides)

    def prepare(run):
        run.optimizer.step = SignalAt(run.optimizer.step, 3, signal.SIGTERM)  # the first of the second step's two

    run = train_until_stopped(config, prepare=prepare)
    assert run.state.step == 2
    run_to_end(config, resume=True)
    assert_same_run(runs / "run", folder)


@pytest.mark.parametrize("place", ["optimizer.step", "recorder.groups", "recorder.metrics"])
def test_a_second_ctrl_c_leaves_at_once_and_saves_no_half_step(plain, runs, base, place):
    folder, overrides = plain
    config = short_config(runs, base, *overrides)

    def prepare(run):
        owner, name = getattr(run, place.split(".")[0]), place.split(".")[1]
        call = {"optimizer.step": 6, "recorder.groups": 3, "recorder.metrics": 5}[place]  # all in the third step
        setattr(owner, name, SignalAt(getattr(owner, name), call, signal.SIGINT, signal.SIGINT))

    run = train_until_stopped(config, prepare=prepare, stop=KeyboardInterrupt)
    assert not run.is_sound
    assert checkpoint_steps(runs / "run" / "checkpoints") == [2]
    run_to_end(config, resume=True)
    assert_same_run(runs / "run", folder)


def test_a_kill_after_the_validation_of_a_saved_step_leaves_no_second_record_of_it(plain, runs, base):
    folder, overrides = plain
    config = short_config(runs, base, *overrides)

    def stop_in_validation(run):  # the second, which is of step 2
        run.engine.sample = SignalInEvaluation(run.engine.sample, 2)

    run = train_until_stopped(config, prepare=stop_in_validation)
    assert (run.state.step, run.state.validated_step) == (2, 0)
    # The validation is recorded, and then the process is killed before it can save that it is.
    row = next(row for row in records(folder)["metrics"] if row["step"] == 2 and "validation/pass_at_1" in row)
    with (runs / "run" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    run_to_end(config, resume=True)
    assert_same_run(runs / "run", folder)


class SignalInEvaluation:
    """Stands before an engine's `sample` and sends a signal in the n-th validation."""

    def __init__(self, sample, evaluation):
        self.sample, self.left = sample, evaluation

    def __call__(self, requests, *args, **options):
        self.left -= requests[0].key[1] == 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return self.sample(requests, *args, **options)


def test_a_finished_run_is_extended_by_num_steps(plain, runs, base):
    folder, overrides = plain
    run_to_end(short_config(runs, base, *overrides, "train.num_steps=4"))
    run_to_end(short_config(runs, base, *overrides), resume=True)
    assert_same_run(runs / "run", folder)


def test_a_finished_run_resumed_does_nothing(plain, runs, base):
    folder, overrides = plain
    shutil.copytree(folder, runs / "run")
    before = records(runs / "run")
    run = run_to_end(short_config(runs, base, *overrides), resume=True)
    assert run.state.step == 5
    assert records(runs / "run") == before


def test_a_run_past_num_steps_is_refused(plain, runs, base):
    folder, overrides = plain
    shutil.copytree(folder, runs / "run")
    with pytest.raises(CheckpointError, match=r"has made 5 steps already, more than train\.num_steps = 3"):
        assemble(short_config(runs, base, *overrides, "train.num_steps=3"), resume=True)


def test_settings_that_cut_the_work_differently_may_change(plain, runs, base):
    _, overrides = plain
    config = short_config(runs, base, *overrides)
    train_until_stopped(config, stop_at(2))
    free = [
        "rollout.max_rows=3",
        "update.max_microbatch_tokens=64",
        "checkpoint.keep_last=1",
        "record.tensorboard=true",
    ]
    run = run_to_end(short_config(runs, base, *overrides, *free), resume=True)
    assert run.state.step == 5


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("optim.lr=2e-3", r"optim\.lr: 0\.001 -> 0\.002"),
        ("run.seed=1", r"run\.seed: 0 -> 1"),
        ("objective.params.clip_low=0.2", r"objective\.params\.clip_low: not set -> 0\.2"),
        ("model.lora.rank=2", r"model\.lora\.rank: not set -> 2"),
        ("validation=none", r"validation\.every_steps: 2 -> not set"),
    ],
)
def test_a_changed_setting_is_refused_and_shown(plain, runs, base, override, shown, monkeypatch):
    folder, overrides = plain
    shutil.copytree(folder, runs / "run")
    forbid_models(monkeypatch)
    message = rf"(?s)started with other settings.*{shown}.*What may change: .*train\.num_steps"
    with pytest.raises(CheckpointError, match=message):
        assemble(short_config(runs, base, *overrides, override), resume=True)


def test_changed_data_are_refused_before_a_model_is_loaded(runs, base, monkeypatch):
    file = runs.parent / "rows.jsonl"
    rows = [{"prompt": f"1,2,{digit}={digit}:", "gold": "1"} for digit in range(3, 9)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = short_config(runs, base, f"data.source={file}", "validation=none", "train.num_steps=2")
    run_to_end(config)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    forbid_models(monkeypatch)
    with pytest.raises(CheckpointError, match=r"prompts are not those .* \(6 then, 5 now, fingerprints differ\)"):
        assemble(config, resume=True)


def test_without_a_checkpoint_a_run_starts_at_step_0(plain, runs, base, capsys):
    folder, overrides = plain
    config = short_config(runs, base, *overrides)
    assemble(config).close()  # a kill before the first checkpoint leaves this, and perhaps records
    shutil.copy(folder / "metrics.jsonl", runs / "run")
    run_to_end(config, resume=True)
    assert "has no checkpoint yet: starting at step 0" in " ".join(capsys.readouterr().err.split())
    assert_same_run(runs / "run", folder)


def test_records_after_the_checkpoint_are_made_again(plain, runs, base, capsys):
    folder, overrides = plain
    shutil.copytree(folder, runs / "run")
    shutil.rmtree(newest(runs / "run"))  # steps 2 and 4 are kept, 5 is gone
    with (runs / "run" / "groups.jsonl").open("a") as file:
        file.write('{"step": 6, "prompt": "torn')
    run_to_end(short_config(runs, base, *overrides), resume=True)
    assert "dropped 2 lines of metrics that are newer" in capsys.readouterr().err  # a step and its validation
    assert_same_run(runs / "run", folder)


def test_nothing_there_to_resume(runs, base):
    with pytest.raises(RunFolderError, match=r"run holds no run: its run\.json cannot be read"):
        assemble(short_config(runs, base), resume=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"config": {}}', '"config"'])
def test_a_damaged_run_file_is_said(plain, runs, base, text):
    folder, overrides = plain
    shutil.copytree(folder, runs / "run")
    (runs / "run" / "run.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"run holds no run: its run\.json"):
        assemble(short_config(runs, base, *overrides), resume=True)


@pytest.mark.parametrize("line", ["\0\0\0\n", "[]\n", "{}\n"])
def test_a_damaged_record_is_said(plain, runs, base, line):
    folder, overrides = plain
    shutil.copytree(folder, runs / "run")
    metrics = runs / "run" / "metrics.jsonl"
    metrics.write_text(line + metrics.read_text())
    with pytest.raises(RunFolderError, match=r"records \(\*\.jsonl\) in .*run cannot be read.*Remove the damaged"):
        assemble(short_config(runs, base, *overrides), resume=True)


@pytest.mark.parametrize("file", ["trainer.json", "optimizer.pt", "model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_damaged_checkpoint_is_said(plain, runs, base, file, damage):
    folder, overrides = plain
    shutil.copytree(folder, runs / "run")
    path = newest(runs / "run") / file
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:40] if damage == "cut" else b"something else altogether")
    with pytest.raises((CheckpointError, ConfigError, ValueError), match=r"step_000005"):
        assemble(short_config(runs, base, *overrides), resume=True)


def test_an_optimizer_state_of_another_shape_is_said(plain, runs, base):
    folder, overrides = plain
    shutil.copytree(folder, runs / "run")
    torch.save({"state": {}, "param_groups": []}, newest(runs / "run") / "optimizer.pt")
    with pytest.raises(CheckpointError, match=r"optimiser state in .*step_000005 cannot be used"):
        assemble(short_config(runs, base, *overrides), resume=True)


def test_one_process_at_a_time(plain, runs, base):
    _, overrides = plain
    config = short_config(runs, base, *overrides)
    run = assemble(config)
    with pytest.raises(RunFolderError, match=r"another process is at work in .*run"):
        assemble(config, resume=True)
    run.close()
    assemble(config, resume=True).close()
