"""`ngrpo lab ... --ray`: the run folders of the local runner, whoever dies or is stopped on the way."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import ray_helpers  # noqa: F401  sets how Ray starts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("ray", reason="Ray is not installed here")

from ngrpo.record import read_jsonl

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's and its dependencies' own

NUM_STEPS = 10
RUNS = ("grpo_seed0", "grpo_seed1", "ngrpo_seed0", "ngrpo_seed1")
TIMES = ("time/", "tokens_per_s")


def command(base, folder, *options):
    sizes = f"--methods grpo,ngrpo --seeds 2 --steps {NUM_STEPS} --prompts 3 --samples 8 --no-controls --model {base}"
    settings = "rollout.num_prompts_per_step=4 rollout.num_samples_per_prompt=4 data.size=8"
    more = ["checkpoint.every_steps=2", "--folder", folder, *options]
    return [sys.executable, "-m", "ngrpo", "lab", "objectives", *sizes.split(), *settings.split(), *more]


def start(base, place, *options):
    """The command, in a session of its own, as from a terminal in `place`."""
    return subprocess.Popen(
        command(base, "x", *options),
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process):
    """Its exit code and what it said."""
    err = process.communicate(timeout=300)[1]
    return process.returncode, err


@pytest.fixture(scope="module")
def local(tmp_path_factory, weak_base):
    """What the local runner leaves."""
    place = tmp_path_factory.mktemp("local")
    code, told = ended(start(weak_base, place, "--processes", "2"))
    assert code == 0, told
    return place / "x"


def contents(folder):
    """Everything that a finished experiment comes to, apart from times."""
    found = {}
    for run in RUNS:
        place = folder / "runs" / run
        rows = [{key: value for key, value in row.items() if not is_time(key)} for row in
                read_jsonl(place / "metrics.jsonl")]  # fmt: skip
        found[run, "metrics"] = rows
        found[run, "weights"] = (place / f"checkpoints/step_{NUM_STEPS:06d}/model.safetensors").read_bytes()
        found[run, "groups"] = (place / "groups.jsonl").read_text()
    for place in [*(folder / "runs" / run for run in RUNS), folder / "runs" / "base", folder / "runs" / "base_sharp"]:
        samples = [json.dumps(row, sort_keys=True) for row in read_jsonl(place / "eval" / "samples.jsonl")]
        found[place.name, "samples"] = sorted(samples)
        found[place.name, "exact"] = (place / "exact.json").read_text()
    found["tables"] = json.loads((folder / "results.json").read_text())["tables"]
    return found


def is_time(name):
    return name.startswith(TIMES)


def assert_same(folder, local):
    mine, theirs = contents(folder), contents(local)
    assert mine.keys() == theirs.keys()
    assert [key for key in mine if mine[key] != theirs[key]] == []


def wait_for_steps(folder, count, process):
    """Until some run has made so many rollout steps."""
    deadline = time.monotonic() + 240
    while not any(path.read_text().count("\n") >= count for path in folder.glob("runs/*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def runs_at_work(place):
    """The processes that run a task begun in that folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().startswith(b"ray::_run") and (entry / "cwd").resolve() == place:
                found.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return found


def test_a_grid_with_a_run_killed_is_that_of_the_local_runner(tmp_path, weak_base, local):
    """SIGKILL between two checkpoints: the run is taken up from the last one."""
    process = start(weak_base, tmp_path, "--ray", "local")
    wait_for_steps(tmp_path / "x", 3, process)
    os.kill(runs_at_work(tmp_path.resolve())[0], signal.SIGKILL)
    code, told = ended(process)
    assert code == 0, told
    assert told.count("died: it is given out again") == 1
    assert_same(tmp_path / "x", local)
    assert not list((tmp_path / "x").glob(".ray-*"))


def test_ctrl_c_saves_every_run_and_the_same_command_goes_on(tmp_path, weak_base, local):
    process = start(weak_base, tmp_path, "--ray", "local")
    wait_for_steps(tmp_path / "x", 3, process)
    os.killpg(process.pid, signal.SIGINT)
    code, told = ended(process)
    assert code == 130, told
    assert "saved its last finished step" in told
    begun = [path.parent for path in (tmp_path / "x" / "runs").glob("*/metrics.jsonl")]
    assert begun
    for place in begun:
        last = read_jsonl(place / "metrics.jsonl")[-1]["step"]
        assert (place / "checkpoints" / f"step_{last:06d}").is_dir()
    assert runs_at_work(tmp_path.resolve()) == []
    code, told = ended(start(weak_base, tmp_path, "--ray", "local"))
    assert code == 0, told
    assert_same(tmp_path / "x", local)


def test_a_driver_that_is_killed_leaves_no_process_and_the_same_command_goes_on(tmp_path, weak_base, local):
    process = start(weak_base, tmp_path, "--ray", "local")
    wait_for_steps(tmp_path / "x", 3, process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while runs_at_work(tmp_path.resolve()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    code, told = ended(start(weak_base, tmp_path))  # with Ray or without
    assert code == 0, told
    assert_same(tmp_path / "x", local)


def test_an_address_that_is_none_is_said_before_anything_is_made(tmp_path, weak_base):
    code, told = ended(start(weak_base, tmp_path, "--ray", "127.0.0.1:1"))
    assert code == 2
    assert "error: nobody answers at 127.0.0.1:1 " in told
    assert not (tmp_path / "x").exists()
