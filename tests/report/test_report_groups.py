"""The browser's groups: a bounded, even choice, with the right texts and the catalog's advantages."""

import numpy as np
import pytest
from report_folders import group_row, sample_row, write_run

from ngrpo import objectives
from ngrpo.record import write_lines
from ngrpo.report import groups as groups_module
from ngrpo.report.arms import arms_of
from ngrpo.report.groups import MAX_CHARACTERS, MAX_GROUPS, MAX_SIZE, RECORDED, sampled_groups
from ngrpo.report.read import read
from ngrpo.report.records import Notices


def groups_in(folder):
    return sampled_groups([arm for each in read([folder], Notices()) for arm in arms_of(each)], Notices())


def test_a_group_has_its_texts_rewards_and_the_advantages_of_methods(tmp_path):
    correct = [True, False, False]
    samples = [sample_row(1, "right", reward=1.0, group=0, place=0), sample_row(1, "wrong", group=0, place=2)]
    write_run(tmp_path / "a", objective="ngrpo", params={"num_virtual": 2}, num_steps=1,
              groups=[group_row(1, correct, advantages=[1.0, -0.5, -0.5])], samples=samples)  # fmt: skip
    (group,) = groups_in(tmp_path)
    assert (group.run, group.step, group.prompt, group.gold, group.kind) == ("a", 1, "p=?", "7", "mixed")
    assert group.completions == ("right", None, "wrong")
    assert (group.rewards, group.correct) == ((1.0, 0.0, 0.0), (True, False, False))
    assert list(group.advantages) == [RECORDED, "grpo", "ngrpo", "psr", "nsr"]
    assert group.advantages[RECORDED] == (1.0, -0.5, -0.5)
    assert group.advantages["psr"] == (1.0, 0.0, 0.0)
    assert group.advantages["nsr"] == (0.0, -1.0, -1.0)
    # The report's own NGRPO has two virtual samples: it replaces the default.
    expected = objectives.get("ngrpo", num_virtual=2).advantages([1.0, 0.0, 0.0], [0, 0, 0]).tolist()
    assert group.advantages["ngrpo"] == pytest.approx(expected, rel=1e-3)


def test_advantages_follow_their_completions_in_any_order(tmp_path):
    write_run(
        tmp_path / "a", groups=[group_row(1, [False, True, False]), group_row(1, [True, False, False])], samples=[]
    )
    first, second = (group.advantages["grpo"] for group in groups_in(tmp_path))
    assert first == (second[1], second[0], second[2])


def test_a_dropped_group_weighs_nothing(tmp_path):
    write_run(
        tmp_path / "a",
        objective="nsr",
        params={"group_filter": "keep_mixed"},
        groups=[group_row(1, [False] * 4, kept=False)],
        samples=[],
    )
    (group,) = groups_in(tmp_path)
    assert RECORDED not in group.advantages
    assert group.advantages["nsr"] == (0.0,) * 4  # -1 each, were it kept
    assert group.advantages["ngrpo"][0] == pytest.approx(-1 / np.sqrt(5), rel=1e-3)


def test_older_samples_without_places_go_to_a_completion_with_their_reward(tmp_path):
    groups = [group_row(1, [False, False], prompt="p0"), group_row(1, [False, True], prompt="p1")]
    samples = [sample_row(1, "good", prompt="p1", reward=1.0), sample_row(1, "lost", prompt="unknown")]
    write_run(tmp_path / "a", groups=groups, samples=samples)
    (group,) = groups_in(tmp_path)
    assert group.completions == (None, "good")


def test_places_that_a_group_has_not_are_passed_over(tmp_path):
    samples = [sample_row(1, "x", group=9, place=0), sample_row(1, "y", group=0, place=9)]
    write_run(tmp_path / "a", groups=[group_row(1, [False, False])], samples=samples)
    assert [group.completions for group in groups_in(tmp_path)] == [(None, None)]


def test_the_choice_is_bounded_even_over_steps_and_has_all_kinds(tmp_path):
    write_run(tmp_path / "a", num_steps=2000, samples=[])
    found = groups_in(tmp_path)
    assert len(found) == MAX_GROUPS
    for kind in ("all_wrong", "mixed", "all_right"):
        steps = [group.step for group in found if group.kind == kind]
        assert len(steps) == MAX_GROUPS // 3
        assert min(steps) == 1
        assert max(steps) == 2000
        assert np.diff(steps).max() <= 30  # 2000 steps by 100


def test_runs_share_the_choice(tmp_path):
    for seed in range(7):
        write_run(tmp_path / f"a{seed}", seed=seed, num_steps=60)
    counts = np.unique([group.run for group in groups_in(tmp_path)], return_counts=True)[1]
    assert len(counts) == 7
    assert counts.sum() <= MAX_GROUPS
    assert counts.min() >= 40


def test_texts_and_large_groups_are_cut(tmp_path):
    samples = [sample_row(1, "x" * 5000, group=0, place=0)]
    write_run(tmp_path / "a", groups=[group_row(1, [False] * 200)], samples=samples)
    (group,) = groups_in(tmp_path)
    assert group.completions[0] == "x" * MAX_CHARACTERS + f" [... {5000 - MAX_CHARACTERS} more characters]"
    assert len(group.completions) == len(group.rewards) == len(group.advantages["grpo"]) == MAX_SIZE
    # Advantages are those of the whole group: 200 wrong ones and one virtual right one.
    assert group.advantages["ngrpo"][0] == pytest.approx(-1 / np.sqrt(201), rel=1e-3)


def test_all_texts_together_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(groups_module, "CHARACTERS_IN_ALL", 5000)
    samples = [sample_row(step, "x" * 400, group=1, place=0) for step in range(1, 101)]
    write_run(tmp_path / "a", num_steps=100, samples=samples)
    found = groups_in(tmp_path)
    assert 0 < len(found) < 12
    assert sum(len(text or "") for group in found for text in group.completions) <= 5000


def test_groups_of_a_census_file_may_bring_texts(tmp_path):
    write_lines(tmp_path / "trl.jsonl", [
        {"step": 3, "prompt": "p7", "rewards": [1.0, 0.0], "correct": [True, False], "completions": ["yes", "no"],
         "prompt_text": "2+2=", "gold": "4"},
    ])  # fmt: skip
    (group,) = groups_in(tmp_path)
    assert (group.prompt, group.gold, group.completions) == ("2+2=", "4", ("yes", "no"))
    assert group.advantages["grpo"] == pytest.approx((2**-0.5, -(2**-0.5)), rel=1e-3)


def test_a_method_is_there_once_however_many_arms_have_it(tmp_path):
    write_run(tmp_path / "a", objective="grpo", seed=0)
    write_run(tmp_path / "b", objective="grpo", seed=1, lr=3e-4)
    write_run(tmp_path / "c", objective="ngrpo", params={"num_virtual": 1})
    write_run(tmp_path / "d", objective="ngrpo", params={"num_virtual": 4})
    methods = [name for name in groups_in(tmp_path)[0].advantages if name != RECORDED]
    assert methods == ["grpo", "ngrpo, num_virtual=1", "ngrpo, num_virtual=4", "psr", "nsr"]
