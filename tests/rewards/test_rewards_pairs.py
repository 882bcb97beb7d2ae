"""The hand-made pairs of pairs.jsonl, every one graded: with the exact path and without it, in both orders.

A row has a category, a gold, a reason and either `answer`, the content of the box, or `completion`, the whole text.
Rows of the tier "must" are beyond dispute and carry one verdict, `correct`, that holds under every documented profile.
Rows of the tier "policy" are where a project has to choose; they carry one verdict per profile.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from ngrpo.rewards.math import MathReward

ROWS = [json.loads(line) for line in (Path(__file__).parent / "pairs.jsonl").read_text("utf-8").splitlines()]
MUST = [row for row in ROWS if row["tier"] == "must"]
POLICY = [row for row in ROWS if row["tier"] == "policy"]
PROFILES = ("strict", "lenient")


def completion_of(row):
    """What a model would have written to give this row's answer."""
    return row["completion"] if "completion" in row else f"We find \\boxed{{{row['answer']}}}."


def disagreements(reward, rows, expected):
    """The rows whose verdict is not the expected one, a line each."""
    outcomes = reward.grade_pairs([(completion_of(row), row["gold"]) for row in rows])
    return [
        f"{row['category']}: gold {row['gold']!r}, {'answer' if 'answer' in row else 'completion'} "
        f"{row.get('answer', row.get('completion'))!r}: expected {expected(row)}, got {outcome.correct} "
        f"({outcome.kind}, read as {outcome.extracted!r}; {row['why']}) {outcome.detail}".rstrip()
        for row, outcome in zip(rows, outcomes, strict=True)
        if outcome.correct != expected(row)
    ]


def report(lines, of):
    return "\n".join([f"{len(lines)} of {of} verdicts differ:", *lines])


@pytest.fixture(scope="module", params=["exact path", "math-verify alone"])
def use_exact_path(request):
    return request.param == "exact path"


@pytest.fixture(scope="module", params=PROFILES)
def profile(request):
    return request.param


@pytest.fixture(scope="module")
def reward(profile, use_exact_path):
    reward = MathReward(profile, timeout_s=5.0, num_workers=1, use_exact_path=use_exact_path)
    yield reward
    reward.close()


def test_the_set_is_large_balanced_and_well_formed():
    assert len(ROWS) >= 400
    for row in ROWS:
        verdicts = {"correct"} if row["tier"] == "must" else set(PROFILES)
        text = {"answer", "completion"} & set(row)
        assert len(text) == 1, row
        assert set(row) == {"category", "gold", "tier", "why"} | text | verdicts, row
        assert all(isinstance(row[name], bool) for name in verdicts), row
    equal = sum(row["correct"] for row in MUST)
    assert 0.4 < equal / len(MUST) < 0.6
    assert len({row["category"] for row in ROWS}) >= 35
    for category in {row["category"] for row in MUST}:
        assert len({row["correct"] for row in MUST if row["category"] == category}) == 2, category
    pairs = Counter((row["gold"], completion_of(row)) for row in ROWS)
    assert [pair for pair, count in pairs.items() if count > 1] == []


def test_no_disagreement_on_what_is_beyond_dispute(reward):
    lines = disagreements(reward, MUST, lambda row: row["correct"])
    assert not lines, report(lines, len(MUST))


def test_equality_does_not_depend_on_the_order(reward):
    """The answer taken as gold and the gold as answer; an answer that cannot serve as gold must be one to reject."""
    swapped = [row | {"gold": row["answer"], "answer": row["gold"]} for row in MUST if "answer" in row]
    objections = reward.check_golds([row["gold"] for row in swapped])
    refused = [row for row, objection in zip(swapped, objections, strict=True) if objection]
    assert [row for row in refused if row["correct"]] == []
    kept = [row for row, objection in zip(swapped, objections, strict=True) if not objection]
    lines = disagreements(reward, kept, lambda row: row["correct"])
    assert not lines, report(lines, len(kept))


def test_what_a_project_must_choose_is_chosen_by_the_profile(reward, profile):
    lines = disagreements(reward, POLICY, lambda row: row[profile])
    assert not lines, report(lines, len(POLICY))


def test_the_profiles_differ_only_in_one_direction():
    """Lenient accepts whatever strict accepts."""
    assert [row for row in POLICY if row["strict"] and not row["lenient"]] == []
