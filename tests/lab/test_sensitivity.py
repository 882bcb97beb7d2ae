"""Grids: their arms, what is held, what each is compared with; and one small experiment through the command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ngrpo.cli.main import app
from ngrpo.errors import ConfigError
from ngrpo.lab import setups
from ngrpo.lab.arms import run_config
from ngrpo.lab.sensitivity import plan_sensitivity

COUNTDOWN = setups.get("countdown")
HARD_WORLD = next(setups.get(name) for name in setups.names() if setups.get(name).train_splits)


def planned(*axes, setup=COUNTDOWN, **options):
    return plan_sensitivity(setup, axes, num_seeds=2, model=f"world:{setup.world}", **options)


def settings_of(plan, arm):
    return run_config(plan, arm, 0, base="model", folder=Path("runs/some"))


def test_clip_ratios_have_one_sum_and_both_readings():
    _, points = planned("clip_ratio")
    clips = [point.arm.params for point in points if point.arm.name != "ngrpo"]
    assert all(params["clip_low"] + params["clip_high"] == pytest.approx(0.4, abs=1e-4) for params in clips)
    # Negative to positive 3:1 is 0.3 / 0.1; the published 0.16 / 0.24 is among them, and is the default.
    assert [point.x for point in points] == pytest.approx([1 / 3, 1 / 2, 2 / 3, 1, 2, 3], abs=1e-3)
    assert [point.arm.name for point in points][2] == "ngrpo"
    assert {"clip_low": 0.3, "clip_high": 0.1} in clips
    assert {"clip_low": 0.1, "clip_high": 0.3} in clips
    assert {point.reference for point in points} == {"ngrpo", None}


def test_an_arm_of_several_grids_is_run_once():
    plan, points = planned("clip_ratio", "clip", "virtual", "clip")
    names = [arm.name for arm in plan.arms]
    assert len(names) == len(set(names)) == 5 + 8 + 8 + 1
    assert sum(point.arm.name == "ngrpo" for point in points) == 3


def test_virtual_rewards_below_the_maximum_only_by_the_explicit_setting():
    plan, _ = planned("virtual")
    assert min(arm.params.get("virtual_reward", 1.0) for arm in plan.arms) == 1.0
    plan, points = planned("virtual", virtual_below_maximum=True)
    low = [point.arm for point in points if point.y < 1]
    assert [arm.params["virtual_reward"] for arm in low] == [0.25, 0.5] * 3
    assert all(arm.params["virtual_below_best"] for arm in low)
    assert not any("virtual_below_best" in arm.params for arm in plan.arms if arm not in low)
    for arm in plan.arms:
        assert settings_of(plan, arm).objective.params["aggregation"] == "token_mean"
    with pytest.raises(ConfigError, match="not the axis virtual"):
        planned("clip", virtual_below_maximum=True)


def test_group_sizes_have_the_same_rollout_budget_and_updates():
    plan, points = planned("group_size")
    rollouts = {arm.name: settings_of(plan, arm) for arm in plan.arms}
    budgets = {each.rollout.num_prompts_per_step * each.rollout.num_samples_per_prompt for each in rollouts.values()}
    assert budgets == {256}
    assert {each.update.num_updates_per_step for each in rollouts.values()} == {4}
    for point in points:
        assert rollouts[point.arm.name].rollout.num_samples_per_prompt == point.x
        assert rollouts[point.arm.name].objective.name == point.y
        assert (point.reference is None) == (point.y == "grpo")
    assert [point.reference for point in points if point.x == 8] == [None, "grpo"]


def test_a_budget_that_cannot_be_had_in_such_groups_is_refused():
    odd = replace(COUNTDOWN, run_overrides=("rollout.num_prompts_per_step=9",))
    with pytest.raises(ConfigError, match="72 completions per step cannot be had in groups of 16"):
        planned("group_size", setup=odd)


def test_hardness_varies_the_training_prompts_and_nothing_else():
    plan, points = planned("hardness", setup=HARD_WORLD)
    for point in points:
        config = settings_of(plan, point.arm)
        assert config.data.split == HARD_WORLD.train_splits[point.x]
        assert config.validation.data.split == "validation"
    assert sorted({point.x for point in points}) == sorted(HARD_WORLD.train_splits)
    assert {"grpo", "ngrpo"} <= {arm.name for arm in plan.arms}  # at the world's own share


def test_hardness_needs_a_world_that_has_it():
    with pytest.raises(ConfigError, match=rf"which 'countdown' has not\. Choose one of: .*{HARD_WORLD.world}"):
        planned("hardness")


def test_an_unknown_axis_is_refused_with_all_there_are():
    with pytest.raises(ConfigError, match=r"no axis 'clips'.*clip_ratio, clip, virtual, group_size, hardness"):
        planned("virtual", "clips")


def test_one_command_gives_the_grid_with_differences_to_the_default(tmp_path, weak_base, in_process):
    folder = tmp_path / "s"
    options = "--axes clip_ratio --steps 1 --seeds 1 --prompts 3 --samples 8 --no-controls --processes 1"
    command = ["lab", "sensitivity", *options.split(), "--model", weak_base, "--folder", str(folder)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    told = json.loads((folder / "results.json").read_text())
    cells = [entry for entry in told["grid"] if entry["quantity"] == "pass@1"]
    assert [entry["x"] for entry in cells] == pytest.approx([1 / 3, 1 / 2, 2 / 3, 1, 2, 3], abs=1e-3)
    assert all(entry["num_seeds"] == 1 and entry["y"] is None and entry["low"] <= entry["high"] for entry in cells)
    default = cells[2]
    assert (default["arm"], default["difference"]) == ("ngrpo", None)
    for entry in cells[:2] + cells[3:]:
        assert entry["difference"]["estimate"] == pytest.approx(entry["estimate"] - default["estimate"])
        assert entry["difference"]["unit"] == "points"
    assert set(told["training"]) == {entry["arm"] for entry in cells}
    assert told["advantages"][1]["wrong"][0] == pytest.approx(-1 / 3, abs=1e-5)
    assert "not established" in done.output
    assert "punishes correct completions in groups with 6 or more" in done.output

    before = (folder / "results.json").read_text()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (folder / "results.json").read_text() == before


def test_a_mistake_is_told_before_anything_is_printed_or_made(tmp_path):
    done = CliRunner().invoke(app, ["lab", "sensitivity", "--axes", "hardness", "--folder", str(tmp_path / "s")])
    assert isinstance(done.exception, ConfigError)
    assert "Advantage" not in done.output
    assert not list(tmp_path.iterdir())


def test_the_advantages_need_no_training_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["lab", "sensitivity", "--advantages-only", "--virtual-below-maximum"])
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    assert ["1", "x", "4", "+0.33", "+0.25", "+0.17", "+0.09", "0", "-0.10", "-0.20", "(-0.33)"] in lines
    assert [line[3] for line in lines if line[:2] == ["1", "x"] and len(line) == 11][:5] == ["-0.33"] * 5
    assert not list(tmp_path.iterdir())
