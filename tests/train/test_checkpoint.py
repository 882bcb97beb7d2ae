"""A checkpoint is whole or absent: killed at any point of writing one, or out of room, the one before is usable."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager

import pytest
import torch
from run_helpers import assert_same_run, assert_same_tensors, run_to_end, settings, short_config

from helpers import small_policy
from ngrpo.config import load_config
from ngrpo.errors import CheckpointError, NgrpoError
from ngrpo.policy import load_policy
from ngrpo.train import assemble, train
from ngrpo.train.checkpoint import (
    TrainerState,
    checkpoint_steps,
    load_optimizer,
    load_state,
    newest_checkpoint,
    save_checkpoint,
)


def trained_policy():
    """A policy after one step of AdamW, and its optimiser."""
    policy = small_policy()
    optimizer = torch.optim.AdamW(policy.trainable_parameters(), lr=0.1)
    policy.model(torch.tensor([[2, 3, 4]])).logits.sum().backward()
    optimizer.step()
    return policy, optimizer


def test_what_was_saved_is_loaded(tmp_path):
    policy, optimizer = trained_policy()
    state = TrainerState(3, 24, 6, 96, 1, 2, 2, 0.25)
    path = save_checkpoint(tmp_path, policy, optimizer, state, keep_last=1)
    assert (path.name, newest_checkpoint(tmp_path)) == ("step_000003", path)
    assert load_state(path) == state
    other = load_policy(str(path), policy.tokenizer)
    assert_same_tensors(dict(other.model.state_dict()), dict(policy.model.state_dict()))
    fresh = torch.optim.AdamW(other.trainable_parameters(), lr=0.1)
    load_optimizer(path, fresh, other.device)
    for one, same in zip(optimizer.state.values(), fresh.state.values(), strict=True):
        assert_same_tensors(one, same)


def test_the_same_step_again_writes_only_where_the_run_is(tmp_path):
    policy, optimizer = trained_policy()
    path = save_checkpoint(tmp_path, policy, optimizer, TrainerState(step=3), keep_last=1)
    before = (path / "model.safetensors").stat().st_mtime_ns
    save_checkpoint(tmp_path, policy, optimizer, TrainerState(step=3, validated_step=3), keep_last=1)
    assert load_state(path).validated_step == 3
    assert (path / "model.safetensors").stat().st_mtime_ns == before


def test_only_whole_checkpoints_are_found(tmp_path):
    for name in ("step_000010", "step_1234567", "step_000002", ".writing_step_000011", "step_12", "step_000013.bak"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_000099").write_text("a file")
    assert checkpoint_steps(tmp_path) == [2, 10, 1234567]
    assert checkpoint_steps(tmp_path / "nothing") == []
    assert newest_checkpoint(tmp_path / "nothing") is None


# --- killed ---

# In the child of a fork, `die` replaces what is called at the point, and the process is gone without a word.
POINTS = {
    "before the weights": "Model.save_pretrained = die",
    "half of the weights": "Model.save_pretrained = half_of(Model.save_pretrained, 'model.safetensors')",
    "before the optimiser": "torch.save = die",
    "half of the optimiser": "torch.save = half_of(torch.save, 'optimizer.pt')",
    "before the state": "checkpoint.write_json = die",
    "before it is durable": "checkpoint._flush = die",
    "before its name": "Path.rename = die",
    "after its name": "Path.rename = after(Path.rename)",
    "while the old one goes": "Path.rename = after(Path.rename, 2)",
    "while the old one is deleted": "checkpoint.shutil.rmtree = deletes_one_and_dies",
}
SCRIPT = """
import os, shutil, signal, sys, types
from pathlib import Path
import torch
from helpers import small_policy
from test_checkpoint import POINTS, trained_policy
from transformers import Qwen2ForCausalLM as Model
from ngrpo.train import checkpoint
from ngrpo.train.checkpoint import TrainerState, save_checkpoint

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def half_of(function, name):
    def call(*args, **options):
        function(*args, **options)
        (path,) = Path(sys.argv[1]).glob(f"*/.writing_*/{name}")
        os.truncate(path, path.stat().st_size // 2)
        die()
    return call

def after(function, times=1):
    calls = []
    def call(*args, **options):
        result = function(*args, **options)
        calls.append(1)
        if len(calls) == times:
            die()
        return result
    return call

original = shutil.rmtree
def deletes_one_and_dies(path, **options):
    if ".removing_" in str(path) and Path(path).exists():
        (Path(path) / "model.safetensors").unlink()
        die()
    original(path, **options)

policy, optimizer = trained_policy()
for number, point in enumerate(POINTS):
    folder = Path(sys.argv[1]) / str(number)
    folder.mkdir()
    save_checkpoint(folder, policy, optimizer, TrainerState(step=1), keep_last=2)
    save_checkpoint(folder, policy, optimizer, TrainerState(step=2), keep_last=2)
    child = os.fork()
    if child == 0:
        exec(POINTS[point])
        save_checkpoint(folder, policy, optimizer, TrainerState(step=3), keep_last=2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (point, status)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """For each point a folder of checkpoints 1 and 2, in which a process was killed while it wrote 3."""
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], check=True, env=environment, timeout=120)
    return folder


@pytest.mark.parametrize("point", POINTS)
def test_killed_while_writing_a_checkpoint_the_newest_is_whole(killed, point, tmp_path):
    folder = shutil.copytree(killed / str(list(POINTS).index(point)), tmp_path / "checkpoints")
    is_renamed = point in ("after its name", "while the old one goes", "while the old one is deleted")
    newest = newest_checkpoint(folder)
    assert newest.name == ("step_000003" if is_renamed else "step_000002")
    expected, expected_optimizer = trained_policy()
    for step in checkpoint_steps(folder):  # every one that has a name is whole
        path = folder / f"step_{step:06d}"
        assert load_state(path).step == step
        policy = load_policy(str(path), expected.tokenizer)
        assert_same_tensors(dict(policy.model.state_dict()), dict(expected.model.state_dict()))
        optimizer = torch.optim.AdamW(policy.trainable_parameters(), lr=0.1)
        load_optimizer(path, optimizer, policy.device)
        assert optimizer.state_dict()["param_groups"] == expected_optimizer.state_dict()["param_groups"]
    # The next one clears up behind the kill.
    save_checkpoint(folder, expected, expected_optimizer, TrainerState(step=4), keep_last=2)
    assert sorted(path.name for path in folder.iterdir()) == [
        "step_000003" if is_renamed else "step_000002",
        "step_000004",
    ]


# --- no room, no folder ---


@contextmanager
def files_no_larger_than(num_bytes):
    """Writing beyond this fails like a full disk: OSError where Python writes, RuntimeError where torch does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("num_bytes", [0, 100, 30_000, 90_000])  # nothing, a start, not the weights, not the optimiser
def test_a_full_disk_is_said_and_earlier_checkpoints_stay(tmp_path, num_bytes):
    policy, optimizer = trained_policy()
    save_checkpoint(tmp_path, policy, optimizer, TrainerState(step=1), keep_last=1)
    with (
        files_no_larger_than(num_bytes),
        pytest.raises(CheckpointError, match=r"step_000002 could not be written.*Earlier .* are whole") as told,
    ):
        save_checkpoint(tmp_path, policy, optimizer, TrainerState(step=2), keep_last=1)
    assert told.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step_000001"]  # the room it took is given back
    load_policy(str(tmp_path / "step_000001"), policy.tokenizer)
    save_checkpoint(tmp_path, policy, optimizer, TrainerState(step=2), keep_last=1)
    assert checkpoint_steps(tmp_path) == [2]


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    overrides = [f"reward.name={folder / 'reward.py'}:has_times"]
    run_to_end(short_config(folder / "runs", base, *overrides))
    return folder / "runs" / "run", overrides


def test_a_run_out_of_room_goes_on_when_there_is_some(finished, runs, base):
    folder, overrides = finished
    config = short_config(runs, base, *overrides)
    run = assemble(config)
    with files_no_larger_than(200_000), pytest.raises(CheckpointError, match="step_000002 could not be written"):
        train(run, on_step=lambda _: None)
    run.close()
    run_to_end(config, resume=True)
    assert_same_run(runs / "run", folder)


@pytest.mark.parametrize("name", ["groups", "metrics"])
def test_records_out_of_room_are_made_again(finished, runs, base, name):
    folder, overrides = finished
    config = short_config(runs, base, *overrides)
    run = assemble(config)
    original = getattr(run.recorder, name)

    def write(step, *args):
        original(step, *args)
        if step == 3:
            raise OSError(28, "No space left on device")

    setattr(run.recorder, name, write)
    with pytest.raises(OSError, match="No space left on device"):
        train(run, on_step=lambda _: None)
    run.close()
    assert checkpoint_steps(runs / "run" / "checkpoints") == [2]  # step 3 is not saved without its records
    run_to_end(config, resume=True)
    assert_same_run(runs / "run", folder)


@pytest.mark.parametrize("step", [1, 2])
def test_a_run_folder_removed_in_the_middle_is_said_and_not_made_anew(runs, base, step):
    run = assemble(short_config(runs, base))

    def remove(done):
        if done == step:
            shutil.rmtree(runs / "run")

    with pytest.raises((NgrpoError, FileNotFoundError), match=r"No such file or directory.*run"):
        train(run, on_step=remove)
    run.close()
    assert not (runs / "run").exists()


# --- signals, in a process of its own ---


def command(*arguments):
    return [sys.executable, "-m", "ngrpo", "train", "tiny", *arguments]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_command_saves_and_the_command_goes_on(finished, runs, base, number):
    folder, overrides = finished
    # Its fourth call waits for the signal to have been sent; what it judges is the same.
    (runs.parent / "waiting.py").write_text(
        textwrap.dedent(f"""
        import pathlib, time
        FOLDER = pathlib.Path({str(runs.parent)!r})
        calls = []
        def has_times(completions, **_):
            calls.append(1)
            if len(calls) == 4:
                (FOLDER / "waits").touch()
                while not (FOLDER / "is_sent").exists():
                    time.sleep(0.01)
            return [float("*" in text) for text in completions]
        """)
    )
    arguments = settings(runs, base, *overrides, f"reward.name={runs.parent / 'waiting.py'}:has_times")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    wait_for(runs.parent / "waits", process)
    process.send_signal(number)
    (runs.parent / "is_sent").touch()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"{number.name}: saving, then leaving" in err
    assert "and saved" in err
    assert "Traceback" not in err
    state = load_state(newest_checkpoint(runs / "run" / "checkpoints"))
    assert 0 < state.step < 5
    # Gone on with in this process, it is the run never stopped: only the file of the reward has another name.
    run_to_end(load_config("tiny", arguments), resume=True)
    assert_same_run(runs / "run", folder)


def wait_for(path, process):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
