"""`ngrpo lab objectives` from its settings to its tables, in one small experiment with everything on."""

import inspect
import json
from dataclasses import replace

import pytest
from experiment_helpers import run_no_tasks, run_tasks_here, small_setup, tables_of
from typer.testing import CliRunner

from ngrpo.cli import lab_objectives
from ngrpo.cli.main import app
from ngrpo.errors import ConfigError, NumericsError, RunFolderError
from ngrpo.evaluate.folder import read_described
from ngrpo.lab import learning_rate
from ngrpo.lab.experiment import read_results
from ngrpo.lab.experiment_folder import open_experiment
from ngrpo.lab.learning_rate import RateChoice, best_rate, grid_around
from ngrpo.lab.objectives_experiment import (
    METHODS,
    ObjectivesSettings,
    estimate_s,
    objectives_plan,
    objectives_tables,
    run_objectives,
)
from ngrpo.lab.setups import get
from ngrpo.record import read_jsonl

METHODS_HERE = ("psr", "ngrpo")


def settings_for(folder, base, **more):
    return ObjectivesSettings(folder=folder, setup=small_setup(), methods=METHODS_HERE, num_seeds=1, model=base, **more)


@pytest.fixture(scope="module")
def everything(tmp_path_factory, weak_base):
    """The folder and the tables of an experiment with chosen rates, controls and equal updates."""
    folder = tmp_path_factory.mktemp("objectives") / "x"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning_rate, "GRID_FACTORS", (1.0, 3.0))
        settings = settings_for(folder, weak_base, chooses_rates=True, equal_updates=True)
        tables = run_objectives(settings, run_tasks_here)
    return folder, tables


def test_every_comparison_has_a_table(everything):
    folder, tables = everything
    titles = [table.title for table in tables]
    assert titles[:3] == ["Held-out pass@k", "Groups of 8, entropy and length, held out", "Training"]
    assert titles[3:5] == ["Differences to psr", "Differences to base"]
    assert titles[5].startswith("Differences to base at T=0.")
    assert titles[6:] == ["At equal updates: pass@k", "At equal updates: differences to psr"]
    assert [table["title"] for table in tables_of(folder)] == titles
    assert all("One seed" in table.footer for table in tables if table.title != "Training")
    assert list(tables[0].rows) == [
        "base", "base at T=0.8", "base at T=0.6", "base at T=0.4", "base at T=0.2", "psr", "ngrpo",
        "grpo + entropy bonus", "grpo, random reward",
    ]  # fmt: skip


def test_training_is_told_with_the_updates_that_counted(everything):
    folder, tables = everything
    cells = tables[2].rows
    # An ignorant base: nothing is right. PSR has nothing to learn from, NGRPO has all of it.
    assert cells["psr"]["updates"].estimate == 0
    assert cells["ngrpo"]["updates"].estimate == 2 * 4
    assert cells["psr"]["all wrong"].estimate == 100
    assert "of 8." in tables[2].caption
    assert cells["psr"]["completions"].estimate == 2 * 4 * 4
    assert "aggregated by the token mean in all arms" in tables[2].caption
    assert "no interval" in tables[2].footer
    assert (tables[2].num_prompts, tables[2].max_k) == (None, None)
    chosen = json.loads((folder / "experiment.json").read_text())["settings"]["learning_rates"]["chosen"]
    assert cells["ngrpo"]["lr"].estimate == pytest.approx(chosen["ngrpo"])


def test_runs_with_fewer_updates_are_lengthened_and_the_first_ones_kept(everything):
    folder, tables = everything
    cells = tables[6].rows
    assert cells["psr"]["steps"].estimate == 4 * 2  # it never got there
    assert (cells["ngrpo"]["steps"].estimate, cells["ngrpo"]["updates"].estimate) == (2, 8)
    assert len(read_jsonl(folder / "runs/psr_seed0/metrics.jsonl")) == 2
    assert len(read_jsonl(folder / "equal_updates/psr_seed0/metrics.jsonl")) == 8
    assert not (folder / "equal_updates" / "ngrpo_seed0").exists()
    assert "the same training prompts again, in a further epoch" in tables[6].caption  # 2 x 4 of the 8 in two steps


def test_the_search_for_rates_saw_validation_prompts_only(everything):
    folder, _ = everything
    search = folder / "learning_rate"
    told = json.loads((search / "experiment.json").read_text())
    assert told["kind"] == "learning_rate"
    assert {each["seed"] for each in told["runs"] if each["seed"] is not None} == {1000, 1001}
    evaluations = list(search.rglob("eval/problems.jsonl"))
    assert len(evaluations) == 2 + 2 * 2 * 2
    for path in evaluations:
        assert all(row["prompt"].startswith("countdown/validation/") for row in read_jsonl(path))
    reported = list((folder / "runs").rglob("eval/problems.jsonl")) + list(
        (folder / "equal_updates").rglob("problems.jsonl")
    )
    assert len(reported) == 2 + 4 + 4 + 1
    for path in reported:
        assert all(row["prompt"].startswith("countdown/test/") for row in read_jsonl(path))


def test_what_was_chosen_is_what_scored_best_and_is_on_record(everything):
    folder, _ = everything
    told = json.loads((folder / "results.json").read_text())["learning_rates"]
    assert told["decided_by"].startswith("mean pass@1 on the validation split")
    for arm in METHODS_HERE:
        scores = told["scores"][arm]
        assert set(scores) == {"0.0001", "0.0003"}
        for rate, score in scores.items():
            exact = [
                json.loads((folder / f"learning_rate/runs/{arm}_lr_{float(rate):g}_seed{seed}/exact.json").read_text())
                for seed in (1000, 1001)
            ]
            means = [sum(row[0] for row in each["pass_at_k"]) / len(each["pass_at_k"]) for each in exact]
            assert score == pytest.approx(sum(means) / 2)
        assert told["chosen"][arm] == float(max(scores, key=lambda rate: (scores[rate], -float(rate))))
        config = json.loads((folder / f"runs/{arm}_seed0/run.json").read_text())["config"]
        assert config["optim"]["lr"] == told["chosen"][arm]


def test_controls_are_judged_by_the_true_checker(everything):
    folder, _ = everything
    control = folder / "runs" / "grpo_random_reward_seed0"
    assert read_described(control / "eval")["settings"]["reward"] == "world"
    groups = read_jsonl(control / "groups.jsonl")
    assert {value for row in groups for value in row["rewards"]} == {0.0, 1.0}
    assert not any(label for row in groups for label in row["correct"])  # nothing of it was right


def test_the_same_again_is_read_from_disk(everything, weak_base, monkeypatch):
    folder, _ = everything
    before = (folder / "results.json").read_text()
    monkeypatch.setattr(learning_rate, "GRID_FACTORS", (1.0, 3.0))
    run_objectives(settings_for(folder, weak_base, chooses_rates=True, equal_updates=True), run_no_tasks)
    assert (folder / "results.json").read_text() == before


def test_of_equal_rates_the_lower_one_is_taken():
    assert best_rate("x", {3e-4: 0.5, 1e-4: 0.5, 3e-5: 0.4}) == 1e-4
    assert best_rate("x", {3e-4: None, 1e-4: 0.1}) == 1e-4
    with pytest.raises(NumericsError, match=r"x failed at every learning rate of the grid \(0.1, 1\)"):
        best_rate("x", {0.1: None, 1.0: None})


def test_a_rate_at_the_edge_of_the_grid_is_told():
    scores = {"a": {1.0: 0.1, 2.0: 0.2, 3.0: 0.0}, "b": {1.0: 0.1, 2.0: 0.0, 3.0: 0.0}}
    assert RateChoice({"a": 2.0, "b": 1.0}, scores).at_the_edge() == ["b"]
    assert grid_around(3e-4) == (9e-5, 3e-4, 9e-4)


def test_a_plan_without_controls_still_has_the_sharpened_base(tmp_path):
    with_controls, without = (
        objectives_plan(settings_for(tmp_path, "m", with_controls=is_wanted)) for is_wanted in (True, False)
    )
    assert [arm.role for arm in with_controls.arms] == ["method", "method", "control", "control"]
    assert [arm.name for arm in without.arms] == list(METHODS_HERE)
    assert without.sharp_temperatures == (0.6,)


def test_a_method_is_named_once(tmp_path):
    settings = ObjectivesSettings(tmp_path, small_setup(), "world:countdown", methods=("grpo", "grpo"))
    with pytest.raises(ConfigError, match="names a method twice"):
        objectives_plan(settings)


def test_the_default_fits_in_twenty_minutes_on_two_cores(tmp_path):
    settings = ObjectivesSettings(tmp_path, get("countdown"), "world:countdown")
    assert settings.methods == METHODS
    assert 60 < estimate_s(settings, 2) < 20 * 60


def test_the_default_methods_are_the_experiments_own():
    default = inspect.signature(lab_objectives.objectives).parameters["methods"].default
    assert tuple(default.split(",")) == METHODS


def test_a_method_of_ones_own(tmp_path, weak_base, in_process):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from ngrpo import objectives\n"
        "if 'half' not in objectives.names():\n"
        "    @objectives.register('half')\n"
        "    def half():\n"
        "        'GRPO by another name.'\n"
        "        return objectives.get('grpo')\n"
    )
    folder = tmp_path / "x"
    arguments = ["lab", "objectives", "--methods", "half,grpo", "--plugin", str(plugin), "--steps", "1", "--seeds", "1"]
    arguments += ["--prompts", "4", "--samples", "8", "--model", weak_base, "--folder", str(folder), "--no-controls"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "half - grpo" in done.stdout
    assert done.stdout.splitlines()[-1] == f"next:  ngrpo report {folder}"
    assert f"{folder}" in done.stdout.splitlines()[-2]
    assert "Held equal: same base" in done.stderr
    assert max(map(len, done.stdout.splitlines()[:-2])) <= 100


def test_a_schedule_that_cannot_be_lengthened_is_refused_before_anything_is_trained(tmp_path, weak_base):
    setup = small_setup(run_overrides=(*small_setup().run_overrides, "optim.schedule=cosine"))
    settings = replace(settings_for(tmp_path / "x", weak_base, equal_updates=True), setup=setup)
    with pytest.raises(ConfigError, match="--equal-updates makes runs longer"):
        run_objectives(settings, run_no_tasks)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_seeds": 2}, r"settings\.num_seeds: 1 -> 2"),
     ({"setup": small_setup(num_steps=9)}, r"settings\.num_steps: 2 -> 9")],
)  # fmt: skip
def test_a_folder_of_another_size_is_refused_before_the_search_for_rates(
    everything, weak_base, monkeypatch, change, message
):
    folder, _ = everything
    monkeypatch.setattr(learning_rate, "run_experiment", lambda *_, **__: pytest.fail("the search was begun"))
    settings = settings_for(folder, weak_base, chooses_rates=True, equal_updates=True)
    with pytest.raises(RunFolderError, match=message):
        run_objectives(replace(settings, **change), run_no_tasks)


def test_a_folder_without_chosen_rates_is_refused_before_the_search(tmp_path, weak_base, monkeypatch):
    settings = settings_for(tmp_path, weak_base)
    open_experiment(tmp_path, objectives_plan(settings), [], audit={})
    monkeypatch.setattr(learning_rate, "run_experiment", lambda *_, **__: pytest.fail("the search was begun"))
    with pytest.raises(RunFolderError, match=r"settings\.learning_rates: not set"):
        run_objectives(replace(settings, chooses_rates=True), run_no_tasks)


def test_what_failed_is_in_every_table_and_named_as_the_lost_reference(everything, weak_base):
    folder, _ = everything
    plan = objectives_plan(settings_for(folder, weak_base))
    results = read_results(folder, plan)
    failed = {"grpo": "1 of 1 runs failed.", "grpo + entropy bonus": "1 of 1 runs failed."}
    rows = {name: row for name, row in results.rows.items() if name not in failed}
    for table in objectives_tables(replace(results, rows=rows, failed=failed), None):
        assert table.rows["grpo + entropy bonus"] == table.rows["grpo"] == {}
        assert "Left out, because a run failed: grpo, grpo + entropy bonus." in table.caption
        if table.title.startswith("Differences"):
            assert "GRPO failed, so that psr is the reference." in table.caption


def test_failed_runs_are_printed_one_by_one(tmp_path, weak_base, in_process):
    folder = tmp_path / "x"
    options = "--methods ngrpo --steps 1 --seeds 2 --prompts 2 --samples 8 --no-controls optim.lr=1e30"
    arguments = ["lab", "objectives", *options.split(), "--model", weak_base, "--folder", str(folder)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    lines = [line for line in done.stdout.splitlines() if " failed. " in line]
    assert [line.split()[0] for line in lines] == ["runs/ngrpo_seed0", "runs/ngrpo_seed1"]
    assert lines == (folder / "results.md").read_text().strip().split("\n\n")[-2:]


def test_the_search_is_in_the_estimate_with_its_own_sizes(tmp_path):
    settings = settings_for(tmp_path, "m")
    more = estimate_s(replace(settings, chooses_rates=True), 1) - estimate_s(settings, 1)
    runs = 2 * learning_rate.NUM_SEEDS * len(learning_rate.GRID_FACTORS)
    assert more == pytest.approx(runs * (2 * 4 * 4 * 7e-4 + 3.0 + 5 * 8 * 4e-4))


def test_a_finding_is_repeated_with_other_seeds(tmp_path):
    plan = objectives_plan(settings_for(tmp_path, "world:countdown", first_seed=5))
    assert list(plan.seeds) == [5]
