"""Folders of every quality: what is whole is read, what is not is told, and the rest is still there."""

import json
import re
import shutil

import numpy as np
import pytest
from report_folders import (
    FINGERPRINT,
    add_text,
    group_row,
    metrics_of,
    row_with_nan,
    tear,
    write_evaluation,
    write_experiment,
    write_run,
)

from ngrpo.errors import RunFolderError
from ngrpo.record import write_json, write_lines
from ngrpo.report.read import read
from ngrpo.report.records import Notices


def read_all(*paths):
    """Comparisons, runs by name, and the notices as one text."""
    notices = Notices()
    comparisons = read(paths, notices)
    return comparisons, {run.name: run for each in comparisons for run in each.runs}, "\n".join(notices)


def test_a_whole_run_is_read_without_a_notice(tmp_path):
    write_run(tmp_path / "a", objective="ngrpo", params={"num_virtual": 2}, seed=3, num_steps=5)
    write_evaluation(tmp_path / "a" / "eval", [[True, False], [False, False]])
    _, runs, told = read_all(tmp_path / "a")
    run = runs["a"]
    assert told == ""
    assert (run.arm, run.objective, dict(run.params), run.seed) == ("ngrpo", "ngrpo", {"num_virtual": 2}, 3)
    assert (run.group_size, run.num_steps, run.last_step, run.fingerprint) == (4, 5, 5, FINGERPRINT)
    assert run.series["reward/mean"].steps.tolist() == [1, 2, 3, 4, 5]
    assert run.series["completion/mean_tokens"].values.tolist() == [11, 12, 13, 14, 15]
    assert run.evaluation.num_correct.tolist() == [1, 0]
    assert run.evaluation.entropy_nats == 0.5
    assert run.command == "ngrpo train 'a b.toml'"


def test_a_parent_a_run_and_a_file_of_it_are_the_same_run_once(tmp_path):
    write_run(tmp_path / "deep" / "a")
    _, runs, told = read_all(tmp_path, tmp_path / "deep" / "a", tmp_path / "deep" / "a" / "metrics.jsonl")
    assert list(runs) == ["a"]
    assert told == ""


def test_checkpoints_and_hidden_folders_are_not_searched(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "checkpoints" / "b")
    write_run(tmp_path / ".hidden" / "c")
    assert list(read_all(tmp_path)[1]) == ["a"]


def test_nothing_at_all_is_an_error_that_says_why(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match=r"nothing to report(.|\n)*empty holds nothing(.|\n)*gone does not exist"):
        read_all(tmp_path / "empty", tmp_path / "gone")


def test_a_run_folder_of_empty_files_alone_is_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("metrics.jsonl", "groups.jsonl", "samples.jsonl"):
        (tmp_path / "a" / name).touch()
    with pytest.raises(RunFolderError, match="nothing to report"):
        read_all(tmp_path / "a")


def test_missing_paths_are_told_and_the_rest_is_read(tmp_path):
    write_run(tmp_path / "a")
    _, runs, told = read_all(tmp_path / "gone", tmp_path / "a")
    assert list(runs) == ["a"]
    assert f"{tmp_path / 'gone'} does not exist" in told


def test_a_torn_last_line_is_left_out_silently(tmp_path):
    write_run(tmp_path / "a", num_steps=4, planned=4)
    tear(tmp_path / "a" / "metrics.jsonl")
    _, runs, told = read_all(tmp_path / "a")
    assert runs["a"].last_step == 3
    assert told == "a is still running or was stopped: 3 of 4 steps are recorded."


def test_lines_that_are_no_metrics_are_counted_and_left_out(tmp_path):
    write_run(tmp_path / "a")
    add_text(tmp_path / "a" / "metrics.jsonl", 'nonsense\n{"step": "five"}\n[1]\n\n{"step": 5, "reward/mean": 0.5}\n')
    _, runs, told = read_all(tmp_path / "a")
    assert runs["a"].series["reward/mean"].steps.tolist() == [1, 2, 3, 4, 5]
    assert "a: of metrics.jsonl, lines that cannot be read and were left out: 3." in told


def test_nan_and_null_are_no_numbers(tmp_path):
    write_run(tmp_path / "a", num_steps=2)
    add_text(tmp_path / "a" / "metrics.jsonl", row_with_nan(3) + '{"step": 4, "reward/mean": Infinity}\n')
    _, runs, told = read_all(tmp_path / "a")
    assert runs["a"].series["reward/mean"].steps.tolist() == [1, 2]
    assert "cannot be read" not in told


def test_a_step_that_was_made_again_counts_as_it_was_made_last(tmp_path):
    write_run(tmp_path / "a", num_steps=3)
    add_text(tmp_path / "a" / "metrics.jsonl", '{"step": 2, "reward/mean": 0.9}\n')
    _, runs, told = read_all(tmp_path / "a")
    assert runs["a"].series["reward/mean"].values.tolist() == [0.01, 0.9, 0.03]
    assert "a: steps that are recorded twice, of which the later line counts: 1." in told


def test_a_validation_line_of_the_same_step_is_no_repetition(tmp_path):
    write_run(tmp_path / "a", num_steps=2)
    add_text(tmp_path / "a" / "metrics.jsonl", '{"step": 2, "validation/pass_at_1": 0.25}\n')
    _, runs, told = read_all(tmp_path / "a")
    assert runs["a"].series["validation/pass_at_1"].values.tolist() == [0.25]
    assert told == ""


def test_without_metrics_the_groups_are_counted(tmp_path):
    groups = [
        group_row(1, [False, False]),
        group_row(1, [True, False]),
        group_row(1, [True, True], kept=False),
        group_row(1, [False, False]),
    ]
    write_run(tmp_path / "a", groups=groups)
    (tmp_path / "a" / "metrics.jsonl").unlink()
    _, runs, told = read_all(tmp_path / "a")
    values = {name: series.values.tolist() for name, series in runs["a"].series.items()}
    # 4 groups: 2 all wrong, 1 mixed, 1 all right; 3 of 8 completions right; 6 of 8 in kept groups, all with advantages
    assert values["groups/all_wrong_frac"] == [0.5]
    assert values["groups/mixed_frac"] == [0.25]
    assert values["groups/all_right_frac"] == [0.25]
    assert values["reward/correct_frac"] == [3 / 8]
    assert values["groups/gradient_frac"] == [6 / 8]
    assert values["completion/mean_tokens"] == [3.0]
    assert "metrics.jsonl is missing or empty; what is drawn of it was counted from groups.jsonl" in told


def test_without_run_json_curves_are_there_and_the_method_is_not(tmp_path):
    write_run(tmp_path / "a")
    (tmp_path / "a" / "run.json").write_text('{"config": ')
    _, runs, told = read_all(tmp_path / "a")
    assert runs["a"].objective == ""
    assert runs["a"].arm == "a"
    assert runs["a"].last_step == 4
    assert "run.json is missing or damaged, so its method and settings are not known" in told


def test_run_json_of_another_shape_is_survived(tmp_path):
    write_run(tmp_path / "a")
    write_json(tmp_path / "a" / "run.json", {"config": {"objective": "grpo", "run": [], "train": {"num_steps": "4"}}})
    assert read_all(tmp_path / "a")[1]["a"].num_steps is None


def test_an_evaluation_in_progress_is_left_out_and_told(tmp_path):
    write_run(tmp_path / "a")
    write_evaluation(tmp_path / "a" / "eval", [[True, False], []], num_samples=2)
    _, runs, told = read_all(tmp_path / "a")
    assert runs["a"].evaluation is None
    assert "a: 1 of 2 prompts of its evaluation have no samples yet" in told


def test_an_evaluation_with_fewer_samples_of_a_prompt_ends_at_its_k(tmp_path):
    write_evaluation(tmp_path / "m" / "eval", [[True] * 4, [False]], num_samples=4)
    _, runs, told = read_all(tmp_path / "m")
    assert runs["m"].evaluation.num_samples.tolist() == [4, 1]
    assert "have fewer than 4 samples; its pass@k ends at k = 1" in told


@pytest.mark.parametrize("name", ["eval.json", "problems.jsonl", "samples.jsonl"])
def test_a_damaged_evaluation_is_told_and_the_run_stays(tmp_path, name):
    write_run(tmp_path / "a")
    write_evaluation(tmp_path / "a" / "eval", [[True, False]])
    (tmp_path / "a" / "eval" / name).write_text("{\n{}\n")
    _, runs, told = read_all(tmp_path / "a")
    assert runs["a"].evaluation is None
    assert re.search("a: its evaluation cannot be (read|used) and was left out", told)


def test_loose_evaluations_join_the_runs_on_the_same_prompts(tmp_path):
    write_run(tmp_path / "a")
    write_evaluation(tmp_path / "a" / "eval", [[True], [False]])
    write_evaluation(tmp_path / "base" / "eval", [[False], [False]])
    write_evaluation(tmp_path / "base_sharp" / "eval", [[False], [True]], temperature=0.6)
    (comparison,), runs, told = read_all(tmp_path)
    assert [run.arm for run in comparison.runs] == ["grpo", "base", "base at T=0.6"]
    assert runs["base"].role == "base"
    assert told == ""


def test_other_data_is_another_comparison(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", fingerprint="0" * 64)
    comparisons, _, told = read_all(tmp_path)
    assert [each.title for each in comparisons] == ["sums (ffffffff)", "sums (00000000)"]
    assert len({each.id for each in comparisons}) == 2
    assert "of 2 different data sets" in told


def test_seeds_are_one_arm_and_other_settings_another(tmp_path):
    write_run(tmp_path / "a0", seed=0)
    write_run(tmp_path / "a1", seed=1)
    write_run(tmp_path / "b0", seed=0, lr=3e-4)
    _, runs, told = read_all(tmp_path)
    assert {name: run.arm for name, run in runs.items()} == {
        "a0": "grpo, lr=0.0001", "a1": "grpo, lr=0.0001", "b0": "grpo, lr=0.0003",
    }  # fmt: skip
    assert told == ""


def test_a_second_run_of_a_seed_is_left_out_the_longer_one_stays(tmp_path):
    write_run(tmp_path / "a", num_steps=2, planned=4)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    add_text(tmp_path / "b" / "metrics.jsonl", json.dumps({"step": 3, **metrics_of(3)}) + "\n")
    _, runs, told = read_all(tmp_path)
    assert list(runs) == ["b"]
    assert "a and b are both seed 0 of grpo: a was left out" in told


def test_runs_of_one_name_are_told_apart_by_their_parents(tmp_path):
    write_run(tmp_path / "x" / "a", seed=0)
    write_run(tmp_path / "y" / "a", seed=1)
    assert list(read_all(tmp_path)[1]) == ["x/a", "y/a"]


def test_other_group_sizes_are_told(tmp_path):
    write_run(tmp_path / "a", objective="grpo", group_size=4)
    write_run(tmp_path / "b", objective="ngrpo", group_size=8)
    assert "groups of 4, 8 completions" in read_all(tmp_path)[2]


def test_an_experiment_with_its_base_runs_and_results(tmp_path):
    write_experiment(tmp_path / "e")
    (comparison,), runs, told = read_all(tmp_path / "e")
    assert told == ""
    assert comparison.title == "objectives in the world countdown (e)"
    assert [run.arm for run in comparison.runs] == ["base", "grpo", "grpo", "ngrpo", "ngrpo"]
    assert runs["ngrpo_seed1"].seed == 1
    assert comparison.experiment.results["tables"]


def test_runs_of_an_experiment_that_are_not_there_are_named(tmp_path):
    write_experiment(tmp_path / "e")
    shutil.rmtree(tmp_path / "e" / "runs" / "grpo_seed1")
    (tmp_path / "e" / "results.json").unlink()
    _, runs, told = read_all(tmp_path)
    assert len(runs) == 4
    assert "e: 1 of 5 runs have not been made yet or are lost: grpo_seed1." in told
    assert "there is no results.json" in told


def test_a_damaged_experiment_json_leaves_the_runs(tmp_path):
    write_experiment(tmp_path / "e")
    (tmp_path / "e" / "experiment.json").write_text("{")
    _, runs, told = read_all(tmp_path)
    assert set(runs) == {"grpo_seed0", "grpo_seed1", "ngrpo_seed0", "ngrpo_seed1"}
    assert "experiment.json is damaged" in told


def test_what_was_chosen_on_validation_prompts_is_not_reported_with_an_experiment(tmp_path):
    write_experiment(tmp_path / "e")
    write_experiment(tmp_path / "e" / "learning_rate")
    write_experiment(tmp_path / "e" / "equal_updates")
    assert [each.experiment.folder.name for each in read_all(tmp_path)[0]] == ["e", "equal_updates"]


def test_exact_pass_at_k_of_another_shape_is_told(tmp_path):
    write_run(tmp_path / "a")
    whole = {"ks": [1, 2], "prompt_ids": ["q"], "logprob": [-1.0], "pass_at_k": [[0.25, 0.5]]}
    write_json(tmp_path / "a" / "exact.json", whole)
    assert np.array_equal(read_all(tmp_path)[1]["a"].exact.pass_at_k, [[0.25, 0.5]])
    for damage in ({"pass_at_k": [[0.25]]}, {"pass_at_k": [[0.25, 1.5]]}, {"ks": None}):
        write_json(tmp_path / "a" / "exact.json", whole | damage)
        _, runs, told = read_all(tmp_path)
        assert runs["a"].exact is None
        assert "holds no exact pass@k" in told


def test_a_census_of_others_with_several_runs(tmp_path):
    rows = [
        {"step": 1, "rewards": [0, 1], "correct": [False, True], "run": "trl_grpo_0", "method": "grpo", "seed": 0},
        {"step": 1, "rewards": [0.5, 0.7], "correct": [False, False], "run": "trl_grpo_1", "method": "grpo", "seed": 1},
        {"step": 2, "rewards": [0.0, 0.0], "run": "trl_grpo_1", "method": "grpo"},  # labels from rewards 0 and 1
        {"step": 2, "rewards": [0.5, 0.0], "run": "trl_grpo_1"},  # no labels
        {"loss": 1.0},
    ]
    write_lines(tmp_path / "trl.jsonl", rows)
    (comparison,), runs, told = read_all(tmp_path / "trl.jsonl")
    assert {name: (run.arm, run.seed, run.group_size) for name, run in runs.items()} == {
        "trl_grpo_0": ("grpo", 0, 2), "trl_grpo_1": ("grpo", 1, 2),
    }  # fmt: skip
    assert runs["trl_grpo_0"].series["groups/mixed_frac"].values.tolist() == [1.0]
    assert runs["trl_grpo_1"].series["groups/all_wrong_frac"].values.tolist() == [1.0, 1.0]
    assert runs["trl_grpo_1"].series["reward/mean"].values.tolist() == [0.6, 0.0]
    assert "trl.jsonl: lines that are no groups with labels and were left out: 2." in told
    assert comparison.title == "trl"


def test_a_file_without_groups_is_told(tmp_path):
    write_run(tmp_path / "a")
    write_lines(tmp_path / "log.jsonl", [{"loss": 1}])
    _, runs, told = read_all(tmp_path / "a", tmp_path / "log.jsonl")
    assert list(runs) == ["a"]
    assert "log.jsonl holds no census of groups" in told


def test_a_long_census_keeps_a_bounded_even_choice_of_groups(tmp_path):
    write_lines(tmp_path / "long.jsonl", (group_row(step, [False, False]) for step in range(1000)))
    (run,) = read_all(tmp_path)[1].values()
    steps = [row["step"] for row in run.groups]
    assert 30 <= len(steps) <= 60
    assert set(np.diff(steps)) == {32}  # the first power of two that leaves at most 60 of 1000
    assert steps[0] == 0


def test_a_sensitivity_experiment_may_vary_its_data_and_group_size(tmp_path):
    for kind, is_told in (("sensitivity", False), ("objectives", True)):
        write_experiment(tmp_path / kind, kind=kind)
        shutil.rmtree(tmp_path / kind / "runs" / "grpo_seed0")
        write_run(tmp_path / kind / "runs" / "grpo_seed0", fingerprint="0" * 64, group_size=8)
        told = read_all(tmp_path / kind)[2]
        assert ("trained on 2 different data sets" in told) == is_told
        assert ("groups of 4, 8 completions" in told) == is_told
