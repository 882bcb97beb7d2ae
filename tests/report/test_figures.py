"""Figures say what the records say: numbers by hand in specifications, tables and descriptions; and all draw."""

import json
import re
import shutil

import pytest
import vl_convert
from report_folders import (
    cell,
    cell_of_grid,
    effect,
    gradients,
    group_row,
    metrics_of,
    write_evaluation,
    write_experiment,
    write_run,
)

from ngrpo import objectives, stats
from ngrpo.record import write_json
from ngrpo.report.advantage import advantage_figures
from ngrpo.report.arms import arms_of, styled
from ngrpo.report.census import LANE, census_figure
from ngrpo.report.curves import LEARNING, POINTS_IN_ALL, UPDATES, curve_figures, points_per_curve
from ngrpo.report.effects import effect_figures
from ngrpo.report.export import for_paper
from ngrpo.report.gradients import gradient_figures
from ngrpo.report.pass_at_k import pass_at_k_figures
from ngrpo.report.read import read
from ngrpo.report.records import Notices
from ngrpo.report.results_tables import results_tables
from ngrpo.report.sensitivity import grid_figures


def arms_in(folder):
    (comparison,) = read([folder], Notices())
    return arms_of(comparison)


def rows_of(figure, **chosen):
    return [row for row in figure.spec["datasets"]["rows"] if all(row[key] == value for key, value in chosen.items())]


def svg_of(figure):
    """The drawing; warnings of the compiler are failures."""
    return vl_convert.vegalite_to_svg(for_paper(figure.spec))


def check(figure, num_marks):
    """It draws at least so many marks, and no colour of text or ground is its own."""
    svg = svg_of(figure)
    # Paths within groups of marks; legends and axes have roles of their own.
    drawn = re.findall(r'<g class="mark-(?:line|area|rect|rule|symbol) role-mark.*?</g>', svg, flags=re.DOTALL)
    assert sum(each.count("<path") + each.count("<line") for each in drawn) >= num_marks, figure.id
    assert "NaN" not in svg
    assert figure.spec["width"] == "container"
    assert figure.spec["background"] == "transparent"
    assert "config" not in figure.spec
    assert figure.title
    assert figure.description
    assert figure.caption
    assert all(len(row) == len(figure.columns) for row in figure.rows)


@pytest.fixture
def two_seeds(tmp_path):
    """GRPO with two seeds; the second one's rewards are twice the first one's."""
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=1, metrics=lambda step: metrics_of(step) | {"reward/mean": step / 50})
    return arms_in(tmp_path)


def test_learning_curves_are_means_of_the_seeds_with_their_range(two_seeds):
    figures = {figure.id: figure for figure in curve_figures("x", two_seeds, LEARNING, 200, Notices())}
    figure = figures["x-reward-mean"]
    assert rows_of(figure, step=4) == [{"arm": "grpo", "step": 4, "mean": 0.06, "low": 0.04, "high": 0.08}]
    assert figure.rows[-1] == ("grpo", 4, 0.06, 0.04, 0.08, 2)
    assert "2 seeds" in figure.caption
    assert "lowest to the highest seed" in figure.caption
    assert "from 0.015 at step 1 to 0.06 (seeds: 0.04 to 0.08) at 4" in figure.description
    check(figure, num_marks=2)  # a band and a line, and invisible points
    assert "x-validation-pass-at-1" not in figures  # which no run has


def test_a_single_seed_has_no_band_and_says_so(tmp_path):
    write_run(tmp_path / "a")
    (figure, *_) = curve_figures("x", arms_in(tmp_path), LEARNING, 200, Notices())
    assert "with one seed there is no band" in figure.caption.lower()
    assert "area" not in str(figure.spec["layer"])
    check(figure, num_marks=1)


def test_clip_fractions_are_shown_by_sign_as_shares(two_seeds):
    high, low, *_ = curve_figures("x", two_seeds, UPDATES, 200, Notices())
    assert (high.title, low.title) == (
        "Clipped tokens with positive advantage", "Clipped tokens with negative advantage",
    )  # fmt: skip
    assert "1.0 %" in high.description
    assert "2.0 %" in low.description


def test_points_of_a_page_are_bounded():
    for num_curves in (1, 100, 500):
        assert num_curves * points_per_curve(num_curves) <= POINTS_IN_ALL


def test_the_census_stacks_the_kinds_in_lanes_and_says_what_grpo_throws_away(tmp_path):
    write_run(tmp_path / "a", objective="grpo")
    write_run(tmp_path / "b", objective="ngrpo")
    figure = census_figure("x", arms_in(tmp_path), 200, Notices())
    # All wrong .5, mixed .3, all right .2; the first arm has the upper of two lanes.
    edges = {row["kind"]: (row["low"], row["high"], row["share"]) for row in rows_of(figure, arm="grpo", step=1)}
    assert edges == {
        "all wrong": (LANE, LANE + 0.5, 0.5), "mixed": (LANE + 0.5, LANE + 0.8, 0.3),
        "all right": (LANE + 0.8, LANE + 1.0, 0.2),
    }  # fmt: skip
    assert "thrown away 70.0 % of the groups of grpo, 70.0 % of the groups of ngrpo" in figure.caption
    assert "all wrong 50.0 % to 50.0 %, mixed 30.0 % to 30.0 %" in figure.description
    assert figure.rows[0] == ("grpo", 1, 0.5, 0.3, 0.2)
    check(figure, num_marks=6)


def test_pass_at_k_is_the_unbiased_estimate_with_its_interval(tmp_path):
    write_evaluation(tmp_path / "m", [[True, False, False, False], [False] * 4, [True] * 4])
    (figure,), (table,) = pass_at_k_figures("x", arms_in(tmp_path), Notices(), has_tables=False)
    # pass@1: (1/4 + 0 + 1) / 3; pass@2: (1/2 + 0 + 1) / 3; pass@4: (1 + 0 + 1) / 3
    assert [(row["k"], row["estimate"]) for row in rows_of(figure)] == [(1, 0.4167), (2, 0.5), (4, 0.6667)]
    interval = stats.mean_interval([0.25, 0.0, 1.0])
    assert rows_of(figure)[0]["low"] == pytest.approx(interval.low, rel=1e-3)
    assert "3 prompts of sums-test; 4 samples of each; temperature 1; k from 1 to 4" in figure.caption
    assert "pass@1 41.7 %" in figure.description
    # The area under 5/12, 1/2, 2/3 over log2 k: (5/24 + 1/2 + 1/3) / 2
    assert table.rows[0][0] == "m"
    assert table.rows[0][2].startswith("52.1 (")
    check(figure, num_marks=5)


def test_seeds_share_an_interval_over_seeds_and_prompts_and_differ_in_pairs(tmp_path):
    labels = {"grpo": ([[True], [False]], [[False], [False]]), "ngrpo": ([[True], [True]], [[True], [False]])}
    for method, of_seeds in labels.items():
        for seed, correct in enumerate(of_seeds):
            write_run(tmp_path / f"{method}{seed}", objective=method, seed=seed)
            write_evaluation(tmp_path / f"{method}{seed}" / "eval", correct)
    (figure,), (_, differences) = pass_at_k_figures("x", arms_in(tmp_path), Notices(), has_tables=False)
    expected = stats.crossed_interval([[1.0, 0.0], [0.0, 0.0]])
    (row,) = rows_of(figure, arm="grpo")
    assert (row["estimate"], row["low"], row["high"]) == (0.25, max(0.0, expected.low), min(1.0, expected.high))
    assert "over seeds and prompts" in figure.caption
    # Seed 0: 0 and 1; seed 1: 1 and 0; mean 1/2
    assert differences.rows[0][0] == "ngrpo - grpo"
    assert differences.rows[0][1].startswith("+50.0 (") or differences.rows[0][1].startswith("+50.0* (")
    assert differences.rows[0][-1] == "2"


def test_a_constant_gain_is_established_over_seeds_and_by_no_single_seed(tmp_path):
    for method, right in (("grpo", 0), ("ngrpo", 4), ("dapo", 0)):
        for seed in range(2):
            write_run(tmp_path / f"{method}{seed}", objective=method, seed=seed)
            write_evaluation(tmp_path / f"{method}{seed}" / "eval", [[place < right for place in range(4)]] * 30)

    def differences():
        table = pass_at_k_figures("x", arms_in(tmp_path), Notices(), has_tables=False)[1][1]
        return table.caption, {row[0]: row[1] for row in table.rows}

    caption, cells = differences()
    assert cells["ngrpo - grpo"].startswith("+100.0* (")
    assert cells["dapo - grpo"].startswith("+0.0 (")
    assert "* marks" in caption
    for method in ("grpo", "ngrpo", "dapo"):
        shutil.rmtree(tmp_path / f"{method}1")
    caption, cells = differences()
    assert cells["ngrpo - grpo"].startswith("+100.0 (")
    assert "say nothing of another seed, so none is marked" in caption
    assert "established" not in caption


def test_other_ranges_of_k_samples_prompts_and_temperatures_are_told(tmp_path):
    write_run(tmp_path / "grpo", objective="grpo")
    write_evaluation(tmp_path / "grpo" / "eval", [[True, False]] * 3)
    write_run(tmp_path / "ngrpo", objective="ngrpo")
    write_evaluation(tmp_path / "ngrpo" / "eval", [[True, False] * 4] * 3, temperature=0.7)
    write_run(tmp_path / "psr", objective="psr")
    write_evaluation(tmp_path / "psr" / "eval", [[True]], prompts=["other"])
    notices = Notices()
    figures, tables = pass_at_k_figures("x", arms_in(tmp_path), notices, has_tables=False)
    told = "\n".join(notices)
    assert len(figures) == 2
    assert "2 different sets of prompts (3, 1 prompts)" in told
    assert "largest k differs (grpo 2, ngrpo 8). Areas under pass@k are given up to 2" in told
    assert "samples of each prompt differs (grpo 2, ngrpo 8)" in told
    assert "different temperatures (grpo 1.0, ngrpo 0.7)" in told
    assert tables[0].columns == ("arm", "pass@1", "AUC 1..2", "seeds")
    for figure in figures:
        check(figure, num_marks=1)


def test_advantages_are_the_catalogs_with_the_runs_own_parameters(tmp_path):
    write_run(tmp_path / "a", objective="ngrpo", params={"num_virtual": 3}, group_size=6)
    write_run(tmp_path / "b", objective="psr", params={"group_filter": "keep_mixed"}, group_size=6)
    wrong, correct = advantage_figures("x", arms_in(tmp_path), Notices())
    expected = objectives.sweep({"ngrpo": {"num_virtual": 3}}, 6)["ngrpo"]["wrong"][:-1]
    got = [row["advantage"] for row in rows_of(wrong, arm="ngrpo")]
    assert got == pytest.approx(expected, rel=1e-3)
    # All wrong: -3/9 over the deviation of six 0 and three 1, sqrt(9 * 1/3 * 2/3 / 8) = 1/2
    assert got[0] == pytest.approx(-2 / 3, rel=1e-3)
    assert "ngrpo: -0.667 (all wrong)" in wrong.description
    *_, mixed, all_right = rows_of(correct, arm="psr")
    assert (mixed["advantage"], mixed["kept"]) == (1.0, True)
    assert (all_right["advantage"], all_right["kept"]) == (0.0, False)  # 1, were it not dropped
    for figure in (wrong, correct):
        check(figure, num_marks=12)


def test_a_method_that_is_not_in_the_catalog_is_told(tmp_path):
    write_run(tmp_path / "a", objective="mine")
    notices = Notices()
    assert advantage_figures("x", arms_in(tmp_path), notices) == []
    assert "its advantages cannot be computed" in "\n".join(notices)


def test_effects_are_a_forest_with_what_is_not_established_hollow():
    effects = [
        effect(["calibration"], 1.5, 0.5, 2.5),
        effect(["calibration", "keep"], 0.5, -1.0, 2.0),
        effect(["keep"], -1.0, -2.0, 0.0, at={"calibration": True}),
        effect(["calibration"], 0.1, -1, 1, quantity="AUC 1..64"),
    ]
    first, second = effect_figures("x", {"effects": effects, "tables": []}, Notices())
    assert [(row["label"], row["verdict"]) for row in rows_of(first)] == [
        ("calibration", "excludes zero"),
        ("calibration x keep", "contains zero: not established"),
        ("keep where calibration is on", "contains zero: not established"),
    ]
    assert "1 of 3 established: calibration +1.5 (+0.5 to +2.5)" in first.description
    assert second.id == "x-effects-auc-1-64"
    for figure in (first, second):
        check(figure, num_marks=3)


def test_a_grid_is_a_heat_map_of_differences_and_a_line_along_one_setting():
    sizes = [
        cell_of_grid(size, method, 20.0 + size, None, axis="group_size", x_name="group_size", y_name="method")
        for size in (16, 4)
        for method in ("grpo", "ngrpo")
    ]
    grid = [
        cell_of_grid(0.16, 0.24, 27.3, None),
        cell_of_grid(0.08, 0.24, 25.1, -2.2),
        cell_of_grid(0.16, 0.36, 27.0, 0.5),
    ]
    cells, line = grid_figures("x", {"grid": [*grid, *sizes]}, Notices())
    assert {(row["x"], row["y"]): (row["value"], row["text"]) for row in rows_of(cells)} == {
        ("0.16", "0.24"): (0.0, "27.3"), ("0.08", "0.24"): (-2.2, "25.1 (-2.2*)"), 
        ("0.16", "0.36"): (0.5, "27.0 (+0.5)"),
    }  # fmt: skip
    assert "at 0.08, 0.24 25.1 (-2.2*)" in cells.description
    check(cells, num_marks=3)
    assert [(row["x"], row["estimate"]) for row in rows_of(line, arm="grpo")] == [("4", 24.0), ("16", 36.0)]
    check(line, num_marks=6)


def test_virtual_rewards_that_punish_correct_completions_are_named():
    table = [
        {"num_virtual": 0, "virtual_reward": None, "group_size": 2, "wrong": [0.0, -0.7, None],
         "correct": [None, 0.7, 0.0], "kept": [True, True, True], "punished_from": None},
        {"num_virtual": 1, "virtual_reward": 4.0, "group_size": 2, "wrong": [-0.6, -0.8, None],
         "correct": [None, -0.3, -0.6], "kept": [True, True, False], "punished_from": 1},
    ]  # fmt: skip
    correct, wrong = grid_figures("x", {"advantages": table}, Notices())
    assert [(row["y"], row["x"], row["text"]) for row in rows_of(correct)] == [
        ("none (GRPO)", "1", "+0.70"), ("none (GRPO)", "2", "+0.00"), ("1 x 4", "1", "-0.30"),
    ]  # fmt: skip
    assert "1 x 4 from 1 correct on" in correct.caption
    for figure in (correct, wrong):
        check(figure, num_marks=3)


def test_tables_of_an_experiment_say_what_is_not_established(tmp_path):
    write_experiment(tmp_path / "e", seeds=1)
    (comparison,) = read([tmp_path], Notices())
    (table,) = results_tables(comparison.experiment.results, Notices())
    assert table.rows == (("ngrpo - grpo", "+1.0 (-1.0 to +3.0)"),)
    assert "1 seed of each arm, 2 prompts, 2 samples of each, k from 1 to 2, temperature 1. One seed:" in table.caption


def test_the_gradient_panel():
    figures, (table,) = gradient_figures("x", gradients(), Notices())
    by_id = {figure.id: figure for figure in figures}
    assert list(by_id) == [
        "x-gradient-norms", "x-gradient-cosines", "x-gradient-layers-all-wrong", "x-gradient-layers-mixed",
        "x-gradient-effect-adam-all-wrong",
    ]  # fmt: skip
    assert "grpo on all wrong 0;" in by_id["x-gradient-norms"].description
    assert "ngrpo, all wrong and grpo, mixed +0.37" in by_id["x-gradient-cosines"].description
    effects = by_id["x-gradient-effect-adam-all-wrong"]
    assert "No update at all, because the gradient is zero: grpo." in effects.caption
    assert [row["label"] for row in rows_of(effects)] == ["entropy of natural"]
    assert [row[1] for row in effects.rows] == ["entropy of natural", "logprob of natural per completion"]
    assert table.rows == (
        ("ngrpo, all wrong", "-0.100 (-0.200 to -0.050)", "", "-0.100 (-0.200 to -0.050)", "", "", "1.000"),
    )
    for figure in figures:
        check(figure, num_marks=2)


def test_names_of_arms_may_be_anything(tmp_path):
    name = 'it\'s a "test" \\ <b>50 %</b>\nnew [0].x'
    write_run(tmp_path / "a", objective=name, groups=[group_row(1, [True, False])])
    arms = arms_in(tmp_path)
    figures = [*curve_figures("x", arms, LEARNING, 200, Notices()), census_figure("x", arms, 200, Notices())]
    for figure in figures:
        check(figure, num_marks=1)
    assert "it's a" in svg_of(figures[-1]).replace("&#39;", "'").replace("&apos;", "'")


def test_one_colour_per_arm_in_every_figure(tmp_path):
    write_experiment(tmp_path / "e")
    arms = arms_in(tmp_path)
    colours = {arm.name: arm.colour for arm in arms}
    figures = [
        *curve_figures("x", arms, LEARNING, 200, Notices()),
        *pass_at_k_figures("x", arms, Notices(), has_tables=True)[0],
    ]
    for figure in figures:
        scale = figure.spec["layer"][-1]["encoding"]["color"]["scale"]
        assert dict(zip(scale["domain"], scale["range"], strict=True)).items() <= colours.items()
    assert styled({"ngrpo": []})[0].colour == colours["ngrpo"]


def encoding_of(figure, channel):
    return [
        layer["encoding"][channel] for layer in figure.spec.get("layer", [figure.spec]) if channel in layer["encoding"]
    ]


def test_steps_are_whole_numbers_on_every_axis(two_seeds):
    for figure in (
        curve_figures("x", two_seeds, LEARNING, 200, Notices())[0],
        census_figure("x", two_seeds, 200, Notices()),
    ):
        assert all(x["axis"]["tickMinStep"] == 1 and x["axis"]["format"] == "d" for x in encoding_of(figure, "x"))


def test_of_many_arms_only_base_and_reference_have_bands_and_the_caption_says_so(tmp_path):
    for method in ("dapo", "grpo", "ngrpo", "nsr", "psr", "rloo", "w_reinforce"):
        for seed in range(2):
            write_run(tmp_path / f"{method}{seed}", objective=method, seed=seed, num_steps=2)
            write_evaluation(tmp_path / f"{method}{seed}" / "eval", [[True, False]])
    write_evaluation(tmp_path / "base" / "eval", [[False, True]])
    arms = arms_in(tmp_path)
    (figure,), _ = pass_at_k_figures("x", arms, Notices(), has_tables=True)
    assert figure.spec["layer"][0]["transform"] == [{"filter": {"field": "arm", "oneOf": ["base", "grpo"]}}]
    assert "Bands of base and grpo only." in figure.caption
    curves = curve_figures("x", arms, LEARNING, 200, Notices())[0]
    assert curves.spec["layer"][0]["transform"] == [{"filter": {"field": "arm", "oneOf": ["grpo"]}}]
    assert "Bands of grpo only." in curves.caption
    few = curve_figures("x", arms[:6], LEARNING, 200, Notices())[0]
    assert len(few.spec["layer"][0]["transform"][0]["filter"]["oneOf"]) == 5
    assert "only." not in few.caption


def test_exact_pass_at_k_says_at_which_temperature_and_a_sharper_base_is_named_once(tmp_path):
    write_experiment(tmp_path / "e")
    described = json.loads((tmp_path / "e" / "experiment.json").read_text())
    for name, temperature in (("base_sharp", 0.6), ("base_T0.6", 0.6), ("base_T0.2", 0.2)):
        write_evaluation(tmp_path / "e" / "runs" / name / "eval", [[False, True]] * 2, temperature=temperature)
        described["runs"].append({"name": name, "arm": name, "role": "base", "folder": f"runs/{name}"})
    write_json(tmp_path / "e" / "experiment.json", described)
    exact = {"ks": [1, 2], "prompt_ids": ["q"], "pass_at_k": [[0.25, 0.5]]}
    for each in described["runs"]:
        write_json(tmp_path / "e" / each["folder"] / "exact.json", exact)
    arms = arms_in(tmp_path)
    names = [arm.name for arm in arms]
    assert names == ["base", "base at T=0.6", "base at T=0.2", "grpo", "ngrpo"]
    assert len(arms[1].runs) == 1
    assert len({(arm.colour, arm.dash) for arm in arms}) == 5
    sampled, scored = pass_at_k_figures("x", arms, Notices(), has_tables=True)[0]
    for figure in (sampled, scored):
        assert "temperature 1, except base at T=0.6, base at T=0.2; k from 1 to 2" in figure.caption
    assert "1 seed of each (2 of grpo, ngrpo)" in sampled.caption


def test_captions_of_tables_say_what_their_own_cells_have():
    plain = {"estimate": 320, "low": 320, "high": 320, "established": None, "unit": "updates"}
    about = {"num_seeds": 5, "num_prompts": 128, "num_samples": 256, "max_k": 64, "temperature": 1.0}

    def caption(title, column, found, **more):
        rows = [{"name": "grpo", "cells": {column: found}}]
        (table,) = results_tables({"tables": [{"title": title, "columns": [column], "rows": rows, **about, **more}]},
                                  Notices())  # fmt: skip
        return table.caption

    assert caption("Training", "updates", plain) == "5 seeds of each arm."
    assert caption("While training", "updates", plain, footer="Over the rollouts.") == "Over the rollouts."
    held_out = "5 seeds of each arm, 128 prompts, 256 samples of each"
    assert caption("Lengths", "length", plain) == f"{held_out}, temperature 1."
    interval = cell(1.0, 0.5, 1.5, established=None)
    assert caption("H", "pass@1", interval) == (
        f"{held_out}, k from 1 to 64, temperature 1. In brackets: 95 % intervals."
    )
    true, false = (cell(1.0, 0.5, 1.5, established=established) for established in (True, False))
    assert "* The difference is established" in caption("D", "pass@1", true)
    assert "n.e." not in caption("D", "pass@1", true)
    assert "n.e.: not established" in caption("D", "pass@1", false)
    assert "* " not in caption("D", "pass@1", false)
    one_seed = caption("D", "pass@1", true, num_seeds=1)
    assert "established" not in one_seed
    assert "say nothing of another seed" in one_seed


def test_one_seed_establishes_no_effect_and_no_cell():
    tables = [{"title": "T", "columns": [], "rows": [], "num_seeds": 1}]
    (figure,) = effect_figures("x", {"effects": [effect(["clip"], 1.0, 0.5, 1.5)], "tables": tables}, Notices())
    assert rows_of(figure)[0]["verdict"] == "of one seed: over prompts only"
    assert "established" not in figure.caption + figure.description
    grid = [cell_of_grid(0.1, 0.2, 27.0, -2.0, num_seeds=1), cell_of_grid(0.2, 0.2, 28.0, None, num_seeds=1)]
    (figure,) = grid_figures("x", {"grid": grid}, Notices())
    assert rows_of(figure, x="0.1")[0]["text"] == "27.0 (-2.0)"
    assert "established" not in figure.caption


def test_what_all_settings_are_compared_with_is_a_point_and_established_ones_have_a_star():
    axis = {"axis": "clip_ratio", "x_name": "clip_low / clip_high", "y_name": None}
    grid = [
        cell_of_grid(0.667, None, 27.3, None, **axis),
        cell_of_grid(1.0, None, 27.0, -0.3, **axis) | {"difference": {
            "estimate": -0.3, "low": -1.0, "high": 0.4, "unit": "points", "established": False}},
        cell_of_grid(3.0, None, 23.0, -4.3, **axis),
    ]  # fmt: skip
    (figure,) = grid_figures("x", {"grid": grid}, Notices())
    assert [(row["x"], row["estimate"], row["low"], row["high"], row["star"]) for row in rows_of(figure)] == [
        ("0.667", 0.0, 0.0, 0.0, ""), ("1", -0.3, -1.0, 0.4, ""), ("3", -4.3, -5.3, -3.3, "*"),
    ]  # fmt: skip
    assert "* An established difference" in figure.caption


def test_differences_in_nats_have_their_unit_and_digits_that_show_them():
    axis = {"axis": "clip", "x_name": "clip_low", "y_name": "clip_high"}
    cells = [cell_of_grid(0.16, 0.24, 0.534, None, **axis), cell_of_grid(0.08, 0.24, 0.587, 0.053, **axis)]
    in_nats = [cell | {"quantity": "entropy", "unit": "nats"} for cell in cells]
    in_nats[1]["difference"] |= {"unit": "nats", "established": True}
    (figure,) = grid_figures("x", {"grid": in_nats}, Notices())
    assert [row["text"] for row in rows_of(figure)] == ["0.587 (+0.053*)", "0.534"]
    assert "difference in entropy (nats)" in json.dumps(figure.spec)


def test_differences_are_drawn_along_a_setting_where_there_are_any():
    more = {"axis": "group_size", "x_name": "group_size", "y_name": "method"}
    grid = [
        cell_of_grid(8, "grpo", 20.0, None, **more),
        cell_of_grid(8, "ngrpo", 23.0, 3.0, **more, reference="grpo"),
    ]
    (figure,) = grid_figures("x", {"grid": grid}, Notices())
    ((row,)) = rows_of(figure)
    assert (row["arm"], row["estimate"], row["low"], row["high"], row["text"]) == (
        "ngrpo",
        3.0,
        2.0,
        4.0,
        "23.0 (+3.0*)",
    )
    assert "Differences from grpo, paired by seed and prompt" in figure.caption
    assert len(figure.rows) == 2
    check(figure, num_marks=2)


def test_a_forest_has_room_on_both_sides():
    (figure,) = effect_figures("x", {"effects": [effect(["clip"], 1.0, 0.5, 2.0)]}, Notices())
    scales = [x["scale"]["domain"] for x in encoding_of(figure, "x")]
    assert scales == [[-0.1, 2.1]] * 3  # a twentieth of 0 to 2


def test_gradients_that_coincide_are_dashed_zero_ones_named_and_absent_kinds_told():
    found = gradients()
    found["batches"].append({"name": "all_right", "num_groups": 0})
    notices = Notices()
    figures, _ = gradient_figures("x", found, notices)
    by_id = {figure.id: figure for figure in figures}
    assert list(notices) == ["gradients.json: no group that was sampled is all right: that batch is not drawn."]
    layers = by_id["x-gradient-layers-all-wrong"]
    assert "Zero in every layer, and not drawn: grpo." in layers.caption
    assert {row["arm"] for row in rows_of(layers)} == {"ngrpo"}
    (dashes,) = encoding_of(by_id["x-gradient-layers-mixed"], "strokeDash")
    assert len({tuple(dash) for dash in dashes["scale"]["range"]}) == 2
    cosines = by_id["x-gradient-cosines"]
    assert {row["x"]: row["value"] for row in rows_of(cosines) if row["x"] == row["y"]} == {
        "ngrpo, all wrong": 1.0, "grpo, mixed": 1.0,
    }  # fmt: skip
    assert not any("all_wrong" in figure.title + figure.caption + figure.description for figure in figures)
