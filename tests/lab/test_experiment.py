"""The engine: folders, resuming, failures, and that an interrupted experiment ends as one that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import slow_experiment
from experiment_helpers import run_no_tasks, run_tasks_here, small_plan, small_setup

from ngrpo.errors import ConfigError, DataError, RewardError, RunFolderError
from ngrpo.evaluate import read_counts
from ngrpo.lab.experiment import run_experiment
from ngrpo.lab.experiment_folder import open_experiment
from ngrpo.lab.jobs import failed_runs
from ngrpo.lab.plan import Arm
from ngrpo.record import read_jsonl

GRPO, NGRPO = Arm("grpo", "grpo"), Arm("ngrpo", "ngrpo", factors={"virtual": 1})


def run(folder, plan, run_tasks=run_tasks_here):
    return run_experiment(folder, plan, command=["ngrpo", "lab", "test"], run_tasks=run_tasks)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, weak_base):
    """A plan and its results; do not change the folder."""
    plan = small_plan(weak_base, GRPO, NGRPO)
    return plan, run(tmp_path_factory.mktemp("experiments") / "x", plan)


def test_a_folder_says_what_is_in_it(finished, weak_base):
    plan, results = finished
    told = json.loads((results.folder / "experiment.json").read_text())
    assert (told["kind"], told["world"], told["command"]) == ("objectives", "countdown", ["ngrpo", "lab", "test"])
    assert told["held_equal"] == list(plan.held_equal)
    assert told["audit"]["num_shared_with_train"] == 0
    assert told["settings"]["model"] == weak_base
    assert "torch" in told["versions"]["packages"]
    by_name = {each["name"]: each for each in told["runs"]}
    assert list(by_name) == ["base", "base_sharp", "grpo_seed0", "grpo_seed1", "ngrpo_seed0", "ngrpo_seed1"]
    assert by_name["ngrpo_seed1"] | {"params": 0} == {
        "name": "ngrpo_seed1", "arm": "ngrpo", "role": "method", "factors": {"virtual": 1}, "seed": 1,
        "objective": "ngrpo", "params": 0, "overrides": [], "folder": "runs/ngrpo_seed1",
    }  # fmt: skip
    for each in told["runs"]:
        folder = results.folder / each["folder"]
        assert read_counts(folder / "eval").num_samples.tolist() == [8] * 5
        assert len(json.loads((folder / "exact.json").read_text())["logprob"]) == 5
        if each["seed"] is not None:
            assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == [1, 2]


def test_seeds_and_methods_share_prompts(finished):
    _, results = finished
    prompts = {
        (arm, seed): [row["prompt"] for row in read_jsonl(results.folder / f"runs/{arm}_seed{seed}/groups.jsonl")]
        for arm in ("grpo", "ngrpo")
        for seed in (0, 1)
    }
    assert prompts["grpo", 0] == prompts["ngrpo", 0]
    assert prompts["grpo", 1] == prompts["ngrpo", 1]
    assert prompts["grpo", 0] != prompts["grpo", 1]


def test_rows_are_over_the_seeds_and_the_base_is_one_model(finished):
    _, results = finished
    assert {name: row.num_seeds for name, row in results.rows.items()} == {"grpo": 2, "ngrpo": 2}
    assert (results.base.num_seeds, results.base.temperature) == (1, 1.0)
    assert (results.sharp.name, results.sharp.temperature) == ("base at T=0.6", 0.6)
    assert results.failed == {}


def test_what_is_finished_is_not_done_again(finished):
    plan, results = finished
    again = run(results.folder, plan, run_no_tasks)
    assert again.rows["grpo"].values == results.rows["grpo"].values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_seeds": 3}, r"settings\.num_seeds: 2 -> 3"),
        ({"setup": small_setup(num_steps=9)}, r"settings\.num_steps: 2 -> 9"),
        ({"arms": (GRPO, replace(NGRPO, params={"clip_low": 0.1}))}, r"params\.clip_low: not set -> 0\.1"),
        ({"arms": (GRPO,)}, "6 runs -> 4 runs"),
    ],
)
def test_another_plan_is_refused_and_told_apart(finished, change, message):
    plan, results = finished
    with pytest.raises(RunFolderError, match=message):
        run(results.folder, replace(plan, **change))


def test_a_folder_of_something_else_is_refused(tmp_path, weak_base):
    (tmp_path / "experiment.json").write_text("[]")
    with pytest.raises(RunFolderError, match="Give another --folder"):
        run(tmp_path, small_plan(weak_base))


def test_mistakes_are_found_before_anything_is_written(tmp_path, weak_base):
    with pytest.raises(ConfigError, match="grpo has no parameter 'clop'"):
        run(tmp_path / "x", small_plan(weak_base, Arm("x", "grpo", {"clop": 1})))
    leaky = small_setup(run_overrides=(*small_setup().run_overrides, "data.split=test"))
    with pytest.raises(DataError, match="are among those of world:countdown test"):
        run(tmp_path / "x", small_plan(weak_base, setup=leaky))
    assert not (tmp_path / "x").exists()


def test_an_arm_that_fails_does_not_take_the_others_down(tmp_path, weak_base):
    """Its filter drops every group of an ignorant base: told to stop for that, it stops with nothing to learn."""
    stopped = Arm("dapo", "dapo", overrides=("refill.max_empty_steps=1",))
    plan = small_plan(weak_base, stopped, GRPO)
    results = run(tmp_path / "x", plan)
    assert list(results.rows) == ["grpo"]
    assert list(results.failed) == ["dapo"]
    assert (
        "2 of 2 runs failed. seed 0: NothingToLearnError: 1 rollout steps in a row kept no group"
        in (results.failed["dapo"])
    )
    assert run(tmp_path / "x", plan, run_no_tasks).failed == results.failed


def test_other_errors_stop_the_experiment(tmp_path, weak_base, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("ngrpo.lab.jobs.train", fail)
    with pytest.raises(OSError, match="no space left"):
        run(tmp_path / "x", small_plan(weak_base))


def test_the_sharpest_base_is_chosen_on_validation_prompts(tmp_path, weak_base):
    plan = small_plan(weak_base, num_seeds=1, sharp_temperatures=(0.2, 0.6))
    results = run(tmp_path / "x", plan)
    assert [row.temperature for row in results.cooler] == [0.6, 0.2]  # all are shown
    searched = sorted((tmp_path / "x" / "validation").iterdir())
    assert [folder.name for folder in searched] == ["base_T0.2", "base_T0.6"]
    scores = {}
    for folder in searched:
        exact = json.loads((folder / "exact.json").read_text())
        assert all(name.startswith("countdown/validation/") for name in exact["prompt_ids"])
        scores[exact["temperature"]] = sum(row[0] for row in exact["pass_at_k"])
    assert results.sharp.temperature == max(scores, key=scores.get)


def test_a_killed_experiment_ends_as_one_that_was_not(tmp_path, weak_base):
    """kill -9 of all its processes between two checkpoints; the same command goes on, number for number."""
    folder, straight = tmp_path / "killed", tmp_path / "straight"
    command = [sys.executable, slow_experiment.__file__, str(folder), weak_base]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    metrics, deadline = folder / "runs" / "ngrpo_seed0" / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert (folder / "runs" / "ngrpo_seed0" / "checkpoints" / "step_000002").is_dir()
    assert not (folder / "runs" / "base" / "exact.json").exists()  # there was more to do

    plan = slow_experiment.plan(weak_base)
    ended, other = run(folder, plan), run(straight, plan)
    assert json.loads((folder / "runs/ngrpo_seed0/run.json").read_text())["resumed"][0]["step"] >= 2
    for name in ("grpo_seed0", "ngrpo_seed0", "base", "base_sharp"):
        for file in ("groups.jsonl", "exact.json"):
            one, two = (place / "runs" / name / file for place in (folder, straight))
            assert one.exists() == two.exists()
            assert not one.exists() or one.read_text() == two.read_text()
    assert ended.rows["ngrpo"].values == other.rows["ngrpo"].values
    assert (ended.base.values, ended.sharp.values) == (other.base.values, other.sharp.values)


def test_another_base_in_the_same_place_is_refused(tmp_path, weak_base):
    base = tmp_path / "base"
    shutil.copytree(weak_base, base)
    plan = small_plan(str(base), num_seeds=1)
    run(tmp_path / "x", plan)
    assert len(json.loads((tmp_path / "x" / "experiment.json").read_text())["base_weights"]) == 16
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(RunFolderError, match=r"begun from other weights than those in .*base \(base_weights: "):
        run(tmp_path / "x", plan)


def test_a_plugin_is_what_is_in_it_and_not_where_it_is(tmp_path, weak_base):
    here, there = tmp_path / "here" / "mine.py", tmp_path / "there" / "mine.py"
    for file in (here, there):
        file.parent.mkdir()
        file.write_text("# one\n")
    open_experiment(tmp_path / "x", small_plan(weak_base, plugins=(str(here),)), [], audit={})
    open_experiment(tmp_path / "x", small_plan(weak_base, plugins=(str(there),)), [], audit={})
    there.write_text("# two\n")
    with pytest.raises(RunFolderError, match=r"settings\.plugins\[0\]\.mine\.py: "):
        open_experiment(tmp_path / "x", small_plan(weak_base, plugins=(str(there),)), [], audit={})


def test_other_versions_are_told_and_not_refused(tmp_path, weak_base, capsys):
    plan = small_plan(weak_base)
    open_experiment(tmp_path, plan, [], audit={})
    open_experiment(tmp_path, plan, [], audit={})
    assert "other versions" not in capsys.readouterr().err
    told = json.loads((tmp_path / "experiment.json").read_text())
    told["versions"]["packages"]["torch"] = "0.1"
    (tmp_path / "experiment.json").write_text(json.dumps(told))
    open_experiment(tmp_path, plan, [], audit={})
    assert "other versions than it was begun with: torch 0.1 -> " in capsys.readouterr().err


def test_a_reward_that_failed_is_tried_again(tmp_path, weak_base, monkeypatch):
    def fail(*_, **__):
        raise RewardError("its workers\ndied")

    plan = small_plan(weak_base, num_seeds=1)
    with monkeypatch.context() as patch:
        patch.setattr("ngrpo.lab.jobs.train", fail)
        assert list(run(tmp_path / "x", plan).failed) == ["grpo"]
    assert failed_runs(tmp_path / "x") == ["runs/grpo_seed0 failed. RewardError: its workers died"]
    again = run(tmp_path / "x", plan)
    assert (list(again.rows), again.failed, failed_runs(tmp_path / "x")) == (["grpo"], {}, [])
