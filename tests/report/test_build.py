"""Whole reports: every part is there, damage leaves the rest, sizes are bounded, figures become files."""

import json
from dataclasses import asdict

import pytest
from report_folders import (
    cell,
    cell_of_grid,
    effect,
    gradients,
    group_row,
    metrics_of,
    tear,
    write_evaluation,
    write_experiment,
    write_run,
)

from ngrpo.errors import RunFolderError
from ngrpo.record import write_json, write_lines
from ngrpo.report import export
from ngrpo.report.build import build_report
from ngrpo.report.export import export_figures
from ngrpo.report.model import Report


def figures_of(report):
    return {figure.id: figure for section in report.sections for figure in section.figures}


def test_an_experiment_has_every_part(tmp_path):
    more = {"effects": [effect(["clip"], 1.0, 0.5, 1.5)], "grid": [cell_of_grid(0.16, 0.24, 27.3, None)]}
    write_experiment(tmp_path / "e", results=more)
    write_json(tmp_path / "e" / "gradients.json", gradients())
    seen = []
    report = build_report([tmp_path / "e"], lambda stage, share: seen.append((stage, share)))
    assert isinstance(report, Report)
    assert report.notices == ()
    assert [section.id for section in report.sections] == [
        "e-results", "e-mechanisms", "e-gradients", "e-groups", "e-learning", "e-generation", "e-updates",
        "e-advantages", "e-runs",
    ]  # fmt: skip
    figures = figures_of(report)
    assert {
        "e-pass-at-k",
        "e-effects-pass-1",
        "e-grid-clip-pass-at-1",
        "e-gradient-norms",
        "e-census",
    } <= figures.keys()
    assert len(figures) == sum(len(section.figures) for section in report.sections)  # every id once
    assert report.groups
    assert {seen[0], seen[-1]} == {("reading", 0.0), ("drawing", 1.0)}
    json.dumps(asdict(report), allow_nan=False)


def test_configurations_have_every_run_and_its_command(tmp_path):
    write_experiment(tmp_path / "e")
    report = build_report([tmp_path / "e"])
    assert set(report.configurations) == {
        "objectives in the world countdown (e)", "base", "grpo_seed0", "grpo_seed1", "ngrpo_seed0", "ngrpo_seed1",
    }  # fmt: skip
    assert "# command: ngrpo lab objectives" in report.configurations["objectives in the world countdown (e)"]
    text = report.configurations["ngrpo_seed1"]
    assert "# command: ngrpo train 'a b.toml'" in text
    assert 'objective.name = "ngrpo"' in text
    assert "optim.lr = 0.0001" in text


def test_a_mixture_of_everything_and_much_damage_still_is_a_report(tmp_path):
    write_experiment(tmp_path / "e", results={"effects": [{"factors": 3}], "grid": "no"})
    write_json(tmp_path / "e" / "gradients.json", {"methods": []})
    write_run(tmp_path / "torn", num_steps=4)
    tear(tmp_path / "torn" / "groups.jsonl")
    tear(tmp_path / "torn" / "samples.jsonl")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("")
    (tmp_path / "noise.bin").write_bytes(b"\x00\xff")
    write_evaluation(tmp_path / "lone", [[True, False]], prompts=["elsewhere"])
    write_lines(tmp_path / "verl.jsonl", [group_row(step, [step % 2 == 0, False]) for step in range(5)])
    report = build_report([tmp_path / "e", tmp_path, tmp_path / "noise.bin", tmp_path / "gone"])
    told = "\n".join(report.notices)
    for sentence in (
        "results.json, effects, entry 1 cannot be used and was left out. `quantity` is null, expected text.",
        "grid in results.json cannot be used and was left out. `grid` is 'no', expected a list.",
        "gradients.json is damaged or of another version and was left out: a field 'batches' is expected there",
        "noise.bin holds nothing that can be reported",
        "gone does not exist",
        "broken/run.json is damaged",
        "3 different data sets",
    ):
        assert sentence in told, sentence
    assert {"e-census", "sums-census", "verl-census"} <= figures_of(report).keys()
    assert {group.run for group in report.groups} >= {"torn", "verl"}


def test_one_seed_of_each_arm_is_said_where_results_are(tmp_path):
    write_run(tmp_path / "a")
    write_evaluation(tmp_path / "a" / "eval", [[True, False]])
    results = build_report([tmp_path]).sections[0]
    assert "no difference here is one between methods" in results.text[0]


def test_only_where_nothing_can_be_read_it_is_an_error(tmp_path):
    with pytest.raises(RunFolderError, match="nothing to report"):
        build_report([tmp_path])


def test_the_notices_of_a_report_are_bounded(tmp_path):
    write_run(tmp_path / "a")
    report = build_report([tmp_path / "a", *(tmp_path / f"gone{number}" for number in range(100))])
    assert len(report.notices) == 61
    assert report.notices[-1] == "40 more such notices were left out."


def test_a_report_of_many_long_runs_is_bounded(tmp_path):
    for number in range(30):
        write_run(tmp_path / f"r{number}", num_steps=400, lr=1e-5 * (1 + number), groups=[], samples=[],
                  metrics=lambda step: metrics_of(step) | {"reward/mean": (step * 7919 % 101) / 101})  # fmt: skip
    report = build_report([tmp_path])
    figures = figures_of(report).values()
    assert sum(len(json.dumps(figure.spec)) for figure in figures) < 2_500_000
    assert max(len(figure.rows) for figure in figures) <= 400
    (learning,) = (figure for figure in figures if figure.id == "sums-reward-mean")
    first = [row for row in learning.spec["datasets"]["rows"] if row["arm"].endswith("lr=1e-05")]
    assert [row["step"] for row in first][:: len(first) - 1] == [10, 400]  # smoothed over 10, thinned, both ends kept


def test_results_that_a_failed_arm_has_not_are_said(tmp_path):
    write_experiment(tmp_path / "e")
    path = tmp_path / "e" / "results.json"
    results = json.loads(path.read_text())
    results["tables"][0]["rows"].append({"name": "nsr - grpo", "cells": {}})
    results["tables"][0]["rows"].append({"name": "x", "cells": {"pass@1": cell(3.0, 1.0, 5.0, established=True)}})
    write_json(path, results)
    rows = build_report([tmp_path / "e"]).sections[0].tables[0].rows
    assert rows[1:] == (("nsr - grpo", "no result"), ("x", "+3.0* (+1.0 to +5.0)"))


def test_every_figure_becomes_a_png_and_an_svg(tmp_path):
    write_run(tmp_path / "a", num_steps=3, metrics=lambda step: {"reward/mean": step / 9})
    report = build_report([tmp_path / "a"])
    files = export_figures(report, tmp_path / "out" / "figures", width=300)
    assert {path.stem for path in files} == figures_of(report).keys()
    assert len(files) == 2 * len(figures_of(report))
    for path in files:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG" if path.suffix == ".png" else b"<svg")
    svg = (tmp_path / "out" / "figures" / "sums-reward-mean.svg").read_text()
    assert 'fill="#ffffff"' in svg.partition("<g")[0]  # on white


def test_figures_that_cannot_be_written_are_a_user_error(tmp_path):
    write_run(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot write figures into"):
        export.export_figures(build_report([tmp_path / "a"]), tmp_path / "file")
