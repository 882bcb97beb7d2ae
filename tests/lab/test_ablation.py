"""The factorial of NGRPO's mechanisms: its arms, what is the same by construction, and its effects."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from experiment_helpers import run_tasks_here
from typer.testing import CliRunner

from ngrpo import objectives
from ngrpo.cli.main import app
from ngrpo.errors import ConfigError
from ngrpo.lab import setups
from ngrpo.lab.ablation import FACTOR_NAMES, analyse, arms, effects, factors, plan_ablation
from ngrpo.lab.arms import run_config, with_settings
from ngrpo.lab.experiment import Results, run_experiment
from ngrpo.lab.results import Row
from ngrpo.stats import Interval

COUNTDOWN = setups.get("countdown")


def objective_of(arm):
    return objectives.get(arm.objective, aggregation="token_mean", **arm.params)


# --- arms -------------------------------------------------------------------------------------------------------------


def test_the_corners_are_ngrpo_as_published_and_grpo_on_mixed_groups():
    by_name = {arm.name: arm for arm in arms()}
    assert len(by_name) == 8
    published, ngrpo = objective_of(by_name["calibration+clip+keep"]), objectives.get("ngrpo")
    assert replace(published, aggregation=ngrpo.aggregation) == ngrpo
    lowest, grpo = objective_of(by_name["none"]), objectives.get("grpo", group_filter="keep_mixed")
    assert (lowest.policy, lowest.group_filter) == (grpo.policy, grpo.group_filter)
    rewards, groups = [0, 0, 0, 1, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.equal(lowest.advantages(rewards, groups), grpo.advantages(rewards, groups))


def test_each_factor_changes_its_own_part_only():
    by_levels = {tuple(arm.factors.values()): objective_of(arm) for arm in arms()}
    parts = {"calibration": "advantage", "clip": "policy", "keep": "group_filter"}
    for levels, objective in by_levels.items():
        for place, name in enumerate(FACTOR_NAMES):
            other = by_levels[(*levels[:place], not levels[place], *levels[place + 1 :])]
            changed = [part for part in ("advantage", "policy", "group_filter", "aggregation")
                       if getattr(objective, part) != getattr(other, part)]  # fmt: skip
            assert changed == [parts[name]]


@pytest.mark.parametrize("arm", arms(), ids=lambda arm: arm.name)
def test_what_is_learned_from_all_wrong_groups(arm):
    """Nothing without calibration: keeping them there only changes denominators."""
    objective = objective_of(arm)
    advantages, kept = objective.advantages([0] * 8, [0] * 8), objective.keep([0] * 8, [0] * 8)
    assert kept.all() == kept.any() == arm.factors["keep"]
    assert advantages.tolist() == pytest.approx([-1 / 3 if arm.factors["calibration"] else 0.0] * 8, abs=1e-5)
    assert objective.counted(advantages).all()  # in the denominators, where it is kept
    assert not objective.keep([1] * 8, [0] * 8).any()  # all right: left out in every arm


def test_clips_are_scaled_at_both_levels():
    _, clip, _ = factors(clip_scale=0.1)
    assert (dict(clip.low), dict(clip.high)) == (
        {"clip_low": 0.02, "clip_high": 0.02},
        {"clip_low": 0.016, "clip_high": 0.024},
    )
    with pytest.raises(ConfigError, match=r"clip_scale must be above 0 and at most 5.*got 0"):
        plan_ablation(COUNTDOWN, num_seeds=1, model="m", clip_scale=0)


def test_updates_per_step_are_in_the_run_files_and_in_what_is_held_equal():
    plan = plan_ablation(with_settings(COUNTDOWN, ["update.num_updates_per_step=16"]), num_seeds=1, model="m")
    assert {
        run_config(plan, arm, 0, base="m", folder=Path("r/a")).update.num_updates_per_step for arm in plan.arms
    } == {16}
    assert any("16 updates per step" in line for line in plan.held_equal)


# --- effects ----------------------------------------------------------------------------------------------------------


def results_of(values):
    """An experiment whose arms came out with these shares: by levels, [seeds, prompts] of pass@1."""
    point = Interval(0.0, 0.0, 0.0)

    def row(name, shares):
        shares = np.asarray(shares, dtype=float)
        by_prompt = np.stack([shares, 2 * shares, 3 * shares], axis=-1)  # pass@1, entropy, length
        return Row(name, *shares.shape, 4, (1,), {1: point}, {"pass@1": point}, 1.0, by_prompt)

    plan = plan_ablation(COUNTDOWN, num_seeds=2, model="m")
    rows = {arm.name: row(arm.name, values(*arm.factors.values())) for arm in plan.arms}
    base = row("base", [[0.0, 0.0]])
    return Results(plan, Path("nowhere"), base, base, rows)


def test_effects_in_points_with_what_keeping_does_at_each_level_of_calibration():
    """Keeping helps by .2 with calibration and by nothing without: main effect .1, interaction (.2 - 0) / 2 = .1."""
    noise = np.array([[0.1, 0.3], [0.2, 0.4]])  # of seeds and prompts, the same in every arm
    results = results_of(lambda calibration, clip, keep: noise + 0.2 * (calibration and keep) - 0.05 * clip)
    every = effects(results)
    found = {effect.name: effect.cells["pass@1"] for effect in every}
    assert {name: round(cell.estimate, 9) for name, cell in found.items()} == {
        "calibration": 10, "clip": -5, "keep": 10, "calibration x clip": 0, "calibration x keep": 10, "clip x keep": 0,
        "calibration x clip x keep": 0, "keep, calibration off": 0, "keep, calibration on": 20,
    }  # fmt: skip
    assert all(cell.unit == "points" and cell.low <= cell.estimate <= cell.high for cell in found.values())
    assert found["clip"].established
    assert not found["keep, calibration off"].established
    assert every[1].name == "clip"
    assert {name: (round(cell.estimate, 9), cell.unit) for name, cell in every[1].cells.items()} == {
        "pass@1": (-5, "points"), "entropy": (-0.1, "nats"), "length": (-0.15, "tokens"),
    }  # fmt: skip
    of_one_seed = replace(results, plan=replace(results.plan, num_seeds=1))
    assert not any(cell.established for effect in effects(of_one_seed) for cell in effect.cells.values())


def test_an_effect_that_seeds_disagree_on_is_not_established():
    by_seed = np.array([[0.3, 0.3], [-0.1, -0.1]])
    calibration = effects(results_of(lambda calibration, clip, keep: 0.5 + by_seed * calibration))[0]
    assert calibration.name == "calibration"
    cell = calibration.cells["pass@1"]
    assert cell.estimate == pytest.approx(10)
    assert cell.low < 0 < cell.high
    assert cell.established is False


# --- a whole one ------------------------------------------------------------------------------------------------------

SOME_ARE_RIGHT = """
def even(completions, **_):
    return [float(sum(map(ord, text)) % 8 == 0) for text in completions]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, weak_base):
    """One update per step, so that no clip can bind; a reward that makes groups of every kind from a base of noise."""
    folder = tmp_path_factory.mktemp("ablation")
    (folder / "some.py").write_text(SOME_ARE_RIGHT)
    overrides = (f"reward.name={folder}/some.py:even", "validation=none", "rollout.num_prompts_per_step=8")
    setup = replace(
        COUNTDOWN, run_overrides=(*COUNTDOWN.run_overrides, *overrides), num_steps=2, num_test_prompts=3, num_samples=8,
        max_k=8,
    )  # fmt: skip
    plan = plan_ablation(with_settings(setup, ["update.num_updates_per_step=1"]), num_seeds=1, model=weak_base)

    return run_experiment(folder / "ablation", plan, command=["test"], run_tasks=run_tasks_here)


def test_arms_that_differ_in_a_clip_that_cannot_bind_are_the_same_run_and_no_others(finished):
    tables, more = analyse(finished)
    assert more["equal_arms"] == [
        ("none", "clip"),
        ("keep", "clip+keep"),
        ("calibration", "calibration+clip"),
        ("calibration+keep", "calibration+clip+keep"),
    ]
    assert "none = clip; keep = clip+keep" in tables[1].caption
    of_clip = [entry for entry in more["effects"] if "clip" in entry["factors"]]
    assert len(of_clip) == 4 * len({entry["quantity"] for entry in of_clip})
    assert all(entry["estimate"] == entry["low"] == entry["high"] == 0 for entry in of_clip)
    assert not any(entry["established"] for entry in of_clip)
    for trained in more["training"].values():
        assert trained["loss/clip_low_frac"] == trained["loss/clip_high_frac"] == 0
        assert 0 < trained["groups/all_wrong_frac"] < 1  # or this test would say nothing


def test_results_are_json_and_name_every_arm(finished):
    tables, more = analyse(finished)
    assert json.loads(json.dumps(more))["training"].keys() == {arm.name for arm in arms()}
    assert list(tables[0].rows)[2:] == [arm.name for arm in arms()]
    assert [table.title for table in tables] == ["Arms", "Training", "Effects"]
    assert "0.16 / 0.24 instead of 0.2 / 0.2" in tables[0].caption


def test_without_an_arm_there_are_no_effects_and_it_is_said_why(finished):
    rows = {name: row for name, row in finished.rows.items() if name != "clip"}
    tables, more = analyse(replace(finished, rows=rows, failed={"clip": "1 of 1 runs failed. seed 0: NumericsError"}))
    assert more["effects"] == []
    assert "Effects need all eight arms" in more["no_effects"]
    assert "clip: 1 of 1 runs failed" in more["no_effects"]
    for table in tables:
        assert table.rows["clip"] == {}
        assert "Left out, because a run failed: clip." in table.caption
    assert [table.title for table in tables] == ["Arms", "Training"]


def test_the_command_with_controls_tells_effects_or_why_there_are_none(tmp_path, weak_base, in_process):
    options = "--steps 1 --seeds 1 --prompts 2 --samples 8 update.num_updates_per_step=1 --clip-scale 0.5 --processes 1"
    command = ["lab", "ablation", *options.split(), "--model", weak_base, "--folder", str(tmp_path / "a")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "a" / "results.json").read_text())
    assert len(told["training"]) == 8 + 2
    assert {tuple(effect["factors"]) for effect in told["effects"]} >= {
        ("calibration",),
        ("calibration", "clip", "keep"),
    }
    assert "calibration x clip x keep" in done.output
    assert "0.08 / 0.12 instead of 0.1 / 0.1" in " ".join(done.output.split())
