"""Explaining a method on one group."""

import json
import runpy
from pathlib import Path

import pytest

from ngrpo import objectives
from ngrpo.errors import ConfigError, RewardError

KEYS = ["objective", "rewards", "advantages", "kept", "mean", "std", "clip_low", "clip_high"]


def test_explain_one_right_of_four_by_hand():
    # {0,0,0,1,1}: mean .4, std sqrt(1.2/4) = .547723
    told = objectives.explain(objectives.get("ngrpo", eps=0.0), [0, 0, 0, 1])
    assert list(told) == KEYS
    assert told["advantages"] == pytest.approx([-0.730297, -0.730297, -0.730297, 1.095445], abs=1e-6)
    assert told["mean"] == pytest.approx(0.4)
    assert told["std"] == pytest.approx(0.547723, abs=1e-6)
    assert (told["objective"], told["rewards"], told["kept"]) == ("ngrpo", [0.0, 0.0, 0.0, 1.0], True)
    assert (told["clip_low"], told["clip_high"]) == (0.16, 0.24)


def test_explain_uses_the_methods_own_ddof():
    assert objectives.explain(objectives.get("ngrpo", ddof=0), [0, 0, 0, 1])["std"] == pytest.approx(0.24**0.5)
    assert objectives.explain(objectives.get("grpo"), [0, 0, 0, 1])["std"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "rewards", "kept"),
    [("ngrpo", [0, 0], True), ("ngrpo", [1, 1], False), ("dapo", [0, 0], False), ("grpo", [1, 1], True)],
)
def test_explain_says_whether_the_group_is_kept(name, rewards, kept):
    assert objectives.explain(objectives.get(name), rewards)["kept"] is kept


@pytest.mark.parametrize("name", objectives.names())
def test_explain_is_json_for_every_method(name):
    objective = objectives.get(name, **({"budget_tokens": 10} if name == "dr_grpo" else {}))
    told = objectives.explain(objective, [0, 1, 1])
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["clip_low"] is None) is (name in {"rloo", "reinforce"})


def test_explain_of_an_estimator_of_ones_own_has_plain_statistics():
    objective = objectives.Objective(
        advantage=lambda batch: batch.rewards, policy=objectives.Reinforce(), aggregation=objectives.token_mean
    )
    told = objectives.explain(objective, [0, 0, 0, 1])
    assert (told["mean"], told["std"]) == (0.25, 0.5)


def test_explain_leaves_open_what_is_undefined_or_unknown():
    assert objectives.explain(objectives.get("reinforce"), [1])["std"] is None
    assert objectives.explain(objectives.get("ngrpo"), [0.5, 0.2])["kept"] is None
    assert objectives.explain(objectives.get("ngrpo"), [0.5, 0.2], correct=[True, True])["kept"] is False


def test_explain_refuses_what_advantages_refuse():
    with pytest.raises(RewardError, match="there is no reward to explain"):
        objectives.explain(objectives.get("ngrpo"), [])
    with pytest.raises(ConfigError, match="virtual_reward 1 is below the best reward 2"):
        objectives.explain(objectives.get("ngrpo"), [0, 2])
    with pytest.raises(ConfigError, match="grpo needs at least 2 completions"):
        objectives.explain(objectives.get("grpo"), [0])


def test_the_three_groups_example_tells_the_story(capsys):
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "01_three_groups.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert "  grpo  " + "   0.000" * 8 in [line.replace(" grpo   ", " grpo  ") for line in lines]
    assert sum(line.count("-0.333") for line in lines if "ngrpo" in line) == 8
    widths = {len(line) for line in lines if line.startswith("  ")}
    assert len(widths) == 1  # aligned
