"""A generation of TRL as whole groups: labels, unscored completions, filters, advantages, records."""

import json

import pytest
import torch

from ngrpo import objectives
from ngrpo.errors import ConfigError, RewardError
from ngrpo.integrations.trl_groups import decide, group_metrics, house_groups, judged
from ngrpo.objectives import RolloutFacts
from ngrpo.record import Recorder, read_jsonl

NAN = float("nan")
# Four groups of four: all wrong, mixed, all right, and one with a completion that nobody scored.
REWARDS = [0.0] * 4 + [1.0, 0.0, 0.0, 0.0] + [1.0] * 4 + [1.0, NAN, 0.0, 0.0]
LENGTHS = torch.tensor([3, 1, 2, 5] * 4)


def batch_of(rewards=REWARDS, weights=(1.0,), **options):
    matrix = torch.tensor(rewards, dtype=torch.float32)
    matrix = matrix if matrix.ndim == 2 else matrix.unsqueeze(1)
    return judged(matrix, torch.tensor(weights), 4, **{"label_column": 0, "correct_at": 1.0, **options})


def facts(num_rows=16):
    return RolloutFacts(completion_tokens=LENGTHS[:num_rows], is_truncated=torch.zeros(num_rows, dtype=torch.bool))


def test_ngrpo_learns_from_all_wrong_groups_and_leaves_out_all_right_and_unscored_ones():
    """All wrong with one virtual reward, ddof 1: -1 / sqrt(5); one of four right: as the catalog's documentation."""
    decided = decide(objectives.get("ngrpo"), batch_of(), facts())
    expected = [-0.4472] * 4 + [1.0954, -0.7303, -0.7303, -0.7303] + [0.0] * 8
    assert decided.advantages.tolist() == pytest.approx(expected, abs=1e-4)
    assert decided.is_kept.tolist() == [True] * 8 + [False] * 8
    assert decided.is_counted.tolist() == decided.is_kept.tolist()
    assert decided.per_completion is decided.advantages


def test_the_census_counts_as_our_own_trainer_does():
    """A completion that nobody scored is not right; the shares of the three kinds add up to 1."""
    batch = batch_of()
    metrics = group_metrics(batch, decide(objectives.get("ngrpo"), batch, facts()))
    assert metrics == {
        "groups/num_sampled": 4.0,
        "groups/num_kept": 2.0,
        "groups/failed_frac": 0.25,
        "groups/gradient_frac": 0.5,
        "groups/all_wrong_frac": 0.25,
        "groups/mixed_frac": 0.5,
        "groups/all_right_frac": 0.25,
    }


def test_without_labels_there_is_no_census():
    batch = batch_of(label_column=None)
    metrics = group_metrics(batch, decide(objectives.get("grpo"), batch, facts()))
    assert "groups/mixed_frac" not in metrics
    assert metrics["groups/num_kept"] == 3.0


def test_labels_come_from_the_named_function_and_never_from_the_sum():
    """Format (0.5) for all, correctness for some: a wrong completion with a reward is still wrong."""
    rewards = [[0.5, 0.0], [0.5, 0.0], [0.5, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0], [0.5, 0.0], [0.5, NAN]]
    batch = batch_of(rewards, weights=(1.0, 2.0), label_column=1)
    assert batch.rewards.tolist() == [0.5, 0.5, 0.5, 0.5, 2.5, 2.0, 0.5, 0.0]
    assert batch.correct.tolist() == [False] * 4 + [True, True, False, False]
    assert batch.is_scored.tolist() == [True] * 7 + [False]  # without its label nobody knows
    decided = decide(objectives.get("ngrpo", virtual_reward=2.5), batch, facts(8))
    assert decided.is_kept.tolist() == [True] * 4 + [False] * 4


def test_a_function_that_does_not_apply_to_a_row_is_no_failure():
    batch = batch_of([[1.0, NAN], [NAN, 0.0], [0.0, NAN], [NAN, 1.0]], weights=(1.0, 1.0), label_column=None)
    assert batch.is_scored.all()
    assert batch.rewards.tolist() == [1.0, 0.0, 0.0, 1.0]


def test_the_threshold_of_labels():
    batch = batch_of([-1.0, 1.0, -1.0, 0.5], correct_at=0.5)
    assert batch.correct.tolist() == [False, True, False, True]


def test_batch_statistics_are_those_of_the_kept_groups():
    """Whitening over tokens sees what our own trainer shows it: kept groups and nothing else."""
    objective = objectives.get("reinforce_pp_baseline", group_filter="keep_mixed")
    decided = decide(objective, batch_of(), facts())
    alone = objective.advantages(
        torch.tensor(REWARDS[4:8]),
        torch.zeros(4, dtype=torch.long),
        rollout=RolloutFacts(completion_tokens=LENGTHS[4:8]),
    )
    torch.testing.assert_close(decided.advantages[4:8], alone)
    assert not decided.advantages[:4].any()
    assert not decided.advantages[8:].any()


def test_advantages_per_token():
    objective = objectives.get("reinforce_pp", gamma=0.5)
    decided = decide(objective, batch_of(), facts())
    assert decided.advantages.shape == (16, 5)
    assert not decided.advantages[12:].any()  # the unscored group
    rows = decided.advantages.sum(dim=1) / LENGTHS
    torch.testing.assert_close(decided.per_completion, rows)
    own = objective.advantages(
        torch.tensor(REWARDS[:12]), torch.arange(12) // 4, rollout=RolloutFacts(completion_tokens=LENGTHS[:12])
    )
    torch.testing.assert_close(decided.advantages[:12], own)


def test_rows_without_weight_leave_where_the_method_says_so():
    decided = decide(objectives.get("nsr"), batch_of(), facts())
    assert decided.is_kept.tolist() == [True] * 12 + [False] * 4
    assert decided.is_counted.tolist() == [True] * 4 + [False, True, True, True] + [False] * 8


def test_truncated_completions_leave_where_the_method_says_so():
    is_truncated = torch.arange(16) == 5
    objective = objectives.get("dapo", mask_truncated=True)
    decided = decide(objective, batch_of(), RolloutFacts(completion_tokens=LENGTHS, is_truncated=is_truncated))
    assert decided.is_counted.tolist() == [False] * 4 + [True, False, True, True] + [False] * 8


def test_a_generation_of_which_nothing_is_kept():
    decided = decide(objectives.get("dapo"), batch_of([0.0] * 8), facts(8))
    assert not decided.advantages.any()
    assert not decided.is_counted.any()


def test_bad_rewards():
    with pytest.raises(ConfigError, match=r"virtual_reward 1 is below the best reward 2"):
        decide(objectives.get("ngrpo"), batch_of([2.0, 0.0, 0.0, 0.0]), facts(4))
    with pytest.raises(RewardError, match="finite"):
        decide(objectives.get("grpo"), batch_of([float("inf"), 0.0, 0.0, 0.0]), facts(4))


def test_records_have_the_columns_of_our_own_runs(tmp_path):
    batch = batch_of()
    decided = decide(objectives.get("ngrpo"), batch, facts())
    prompts = [[{"role": "user", "content": f"p{row // 4}"}] for row in range(16)]
    groups = house_groups(
        batch,
        prompts,
        ["so"] * 16,
        ids=[None] * 4 + ["b"] * 12,
        token_ids=[[7] * length for length in LENGTHS.tolist()],
        is_truncated=[row == 6 for row in range(16)],
    )
    Recorder(tmp_path).groups(1, groups, decided.is_kept[::4].tolist(), [[], [1.0], [], []])
    rows = read_jsonl(tmp_path / "groups.jsonl")
    assert [row["correct"] for row in rows[:2]] == [[False] * 4, [True, False, False, False]]
    assert rows[3]["kinds"] == ["scored", "error", "scored", "scored"]
    assert [row["kept"] for row in rows] == [True, True, False, False]
    assert rows[0]["tokens"] == [3, 1, 2, 5]
    assert [row["prompt"] for row in rows[1:]] == ["b"] * 3
    assert len(rows[0]["prompt"]) == 16
    [sample, *_] = read_jsonl(tmp_path / "samples.jsonl")
    assert json.loads(sample["prompt_text"]) == prompts[0]
    assert groups[1].completions[2].is_truncated
