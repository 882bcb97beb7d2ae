"""Values of any kind where numbers should be: what is damaged is told and left out, and the rest is reported."""

import json

import pytest
from report_folders import (
    cell,
    cell_of_grid,
    effect,
    group_row,
    sample_row,
    write_evaluation,
    write_experiment,
    write_run,
)

from ngrpo.record import write_json, write_lines
from ngrpo.report.build import build_report
from ngrpo.report.effects import effect_figures
from ngrpo.report.fields import or_tell
from ngrpo.report.read import read
from ngrpo.report.records import Notices
from ngrpo.report.results_tables import results_tables
from ngrpo.report.sensitivity import grid_figures

HUGE = 10**400


def changed(path, **changes):
    write_json(path, json.loads(path.read_text()) | changes)


def read_runs(folder):
    notices = Notices()
    return {run.name: run for each in read([folder], notices) for run in each.runs}, "\n".join(notices)


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("temperature", "1.0", "eval.json: temperature is '1.0', expected a number from 0 on"),
        ("temperature", [1], "eval.json: temperature is [1], expected a number from 0 on"),
        ("ks", 5, "eval.json: ks is 5, expected a list of whole numbers from 1 on"),
        ("ks", ["1", "x"], "expected a list of whole numbers from 1 on"),
        ("ks", [0], "eval.json: ks is [0], expected"),
        ("data", {"a": 1}, "eval.json: data is {'a': 1}, expected text"),
    ],
)
def test_a_setting_of_another_kind_is_told_and_passed_over(tmp_path, setting, value, told):
    write_evaluation(tmp_path / "m" / "eval", [[True, False], [False, False]])
    path = tmp_path / "m" / "eval" / "eval.json"
    changed(path, settings=json.loads(path.read_text())["settings"] | {setting: value})
    report = build_report([tmp_path])
    assert told in "\n".join(report.notices)
    (figure,) = report.sections[0].figures
    assert figure.rows[0][:3] == ("m", 1, 0.25)


@pytest.mark.parametrize("value", ["128", [1], -1, HUGE])
def test_a_number_of_samples_that_is_none_costs_the_evaluation_only(tmp_path, value):
    write_run(tmp_path / "a")
    write_evaluation(tmp_path / "a" / "eval", [[True, False]])
    path = tmp_path / "a" / "eval" / "eval.json"
    changed(path, settings=json.loads(path.read_text())["settings"] | {"num_samples": value})
    runs, told = read_runs(tmp_path)
    assert runs["a"].evaluation is None
    assert runs["a"].last_step == 4
    assert "expected a whole number from 1 to 1048576, or null" in told


@pytest.mark.parametrize("step", [HUGE, 10**30, 2**53 + 1, -5, True])
def test_a_step_that_is_none_is_a_bad_line(tmp_path, step):
    write_run(tmp_path / "a", groups=[group_row(step, [True, False]), group_row(2, [False, False])])
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "reward/mean": 1.0}) + "\n")
    runs, told = read_runs(tmp_path)
    assert runs["a"].series["reward/mean"].steps.tolist() == [1, 2, 3, 4]
    assert "of metrics.jsonl, lines that cannot be read and were left out: 1." in told
    (tmp_path / "a" / "metrics.jsonl").unlink()
    assert read_runs(tmp_path)[0]["a"].series["groups/all_wrong_frac"].steps.tolist() == [2]


@pytest.mark.parametrize("column", ["rewards", "tokens", "advantages"])
def test_numbers_that_no_float_holds_are_no_numbers(tmp_path, column):
    rows = [group_row(1, [True, False], **{column: [HUGE, HUGE]}), group_row(2, [True, False])]
    write_lines(tmp_path / "trl.jsonl", rows)
    report = build_report([tmp_path / "trl.jsonl"])
    assert {group.step for group in report.groups} == ({2} if column == "rewards" else {1, 2})
    write_run(tmp_path / "a", groups=rows, samples=[sample_row(step, "x", group=0, place=0) for step in (1, 2)])
    (tmp_path / "a" / "metrics.jsonl").unlink()
    assert 2 in {group.step for group in build_report([tmp_path / "a"]).groups}


@pytest.mark.parametrize("ks", [[float("inf")], [2, 1], [0, 1], [1, 1]])
def test_exact_pass_at_k_of_no_rising_ks_is_told(tmp_path, ks):
    write_run(tmp_path / "a")
    exact = {"ks": ks, "prompt_ids": ["q"], "pass_at_k": [[0.5] * len(ks)]}
    (tmp_path / "a" / "exact.json").write_text(json.dumps(exact))
    runs, told = read_runs(tmp_path)
    assert runs["a"].exact is None
    assert "holds no exact pass@k" in told


def test_a_folder_that_no_file_system_takes_is_a_missing_run(tmp_path):
    write_experiment(tmp_path / "e")
    path = tmp_path / "e" / "experiment.json"
    listed = json.loads(path.read_text())["runs"]
    changed(path, runs=[listed[0] | {"folder": "x" * 400}, *listed[1:]])
    runs, told = read_runs(tmp_path)
    assert set(runs) == {"grpo_seed0", "grpo_seed1", "ngrpo_seed0", "ngrpo_seed1"}
    assert "1 of 5 runs have not been made yet or are lost: base." in told


def test_a_group_size_below_one_is_not_known(tmp_path):
    write_run(tmp_path / "a", group_size=4)
    path = tmp_path / "a" / "run.json"
    config = json.loads(path.read_text())["config"]
    changed(path, config=config | {"rollout": {"num_samples_per_prompt": -3}})
    assert read_runs(tmp_path)[0]["a"].group_size is None
    assert build_report([tmp_path]).sections


@pytest.mark.parametrize("params", [{"num_virtual": "two"}, {"virtual_reward": [1]}, {"num_virtual": None}, {"zzz": 1}])
def test_parameters_of_another_kind_cost_the_methods_advantages_only(tmp_path, params):
    write_run(tmp_path / "a", objective="ngrpo", params=params)
    report = build_report([tmp_path])
    assert "a" in report.configurations
    assert "sums-learning" in {section.id for section in report.sections}
    assert "sums-advantages" not in {section.id for section in report.sections}
    assert any("ngrpo" in notice for notice in report.notices)


@pytest.mark.parametrize("change", [{"rewards": 3}, {"correct": "yes"}, {"rewards": {"0": 1}}])
def test_groups_whose_columns_are_no_lists_are_passed_over(tmp_path, change):
    rows = [group_row(1, [True, False]) | change, group_row(2, [True, False])]
    samples = [sample_row(step, f"text {step}", reward=1.0) for step in (1, 2)]
    write_run(tmp_path / "a", groups=rows, samples=samples)
    assert [group.completions for group in build_report([tmp_path]).groups] == [("text 2", None)]


def test_a_surprise_is_a_notice():
    notices = Notices()
    assert or_tell(lambda: int("x"), "the part", notices) is None
    assert or_tell(lambda: {}["rows"], "another", notices) is None
    assert list(notices) == [
        "the part is damaged or of another version and was left out: a value in it is not of the kind that is expected "
        "there.",
        "another is damaged or of another version and was left out: a field 'rows' is expected there, and is missing.",
    ]


def test_a_surprise_in_one_run_leaves_the_others(tmp_path, monkeypatch):
    write_experiment(tmp_path / "e")
    from ngrpo.report import read_experiment

    def surprised(at, notices, *, name):
        if name == "grpo_seed0":
            raise RuntimeError
        return whole(at, notices, name=name)

    whole = read_experiment.read_run
    monkeypatch.setattr(read_experiment, "read_run", surprised)
    runs, told = read_runs(tmp_path)
    assert set(runs) == {"base", "grpo_seed1", "ngrpo_seed0", "ngrpo_seed1"}
    assert "grpo_seed0 is damaged" in told


BAD = (("12", "'12'"), (None, "null"), (float("nan"), "nan"), (HUGE, "1000"), (True, "True"))


@pytest.mark.parametrize(("value", "shown"), BAD)
def test_a_bad_number_loses_its_row_only(value, shown):
    good = cell(1.0, 0.5, 1.5, established=True)
    rows = [{"name": "a - b", "cells": {"x": good | {"low": value}}}, {"name": "c - b", "cells": {"x": good}}]
    notices = Notices()
    (table,) = results_tables({"tables": [{"title": "T", "columns": ["x"], "rows": rows}]}, notices)
    assert [row[0] for row in table.rows] == ["c - b"]
    assert next(iter(notices)).startswith(
        f"results.json, table 'T', entry 1 ('a - b') cannot be used and was left out. `low` is {shown}"
    )

    effects = [effect(["clip"], 1.0, 0.5, 1.5) | {"high": value}, effect(["keep"], 1.0, 0.5, 1.5)]
    (figure,) = effect_figures("x", {"effects": effects}, Notices())
    assert [row[0] for row in figure.rows] == ["keep"]

    grid = [cell_of_grid(0.1, 0.2, 27.0, None) | {"estimate": value}, cell_of_grid(0.2, 0.2, 28.0, None)]
    (figure,) = grid_figures("x", {"grid": grid}, Notices())
    assert [row[0] for row in figure.rows] == [0.2]


@pytest.mark.parametrize("tables", [None, "abc", {"a": 1}])
def test_tables_that_are_no_list_are_told_by_field(tmp_path, tables):
    write_experiment(tmp_path / "e")
    changed(tmp_path / "e" / "results.json", tables=tables)
    report = build_report([tmp_path])
    assert "`tables` is" in "\n".join(report.notices)
    assert "Error" not in "\n".join(report.notices)
    assert report.sections[0].figures
