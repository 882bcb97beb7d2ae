"""The profiles, and every row of the tables of docs/verifier.md."""

import re
from pathlib import Path

import pytest

from ngrpo.errors import ConfigError
from ngrpo.rewards import profiles
from ngrpo.rewards.math import MathReward

PAGE = (Path(__file__).parents[2] / "docs" / "verifier.md").read_text("utf-8")
ROW = re.compile(r"\| `(.+?)` \| `(.+?)` \| (yes|no) \| (yes|no) \| (yes|no) \|")
WHOLE, BOXED = (
    [match.groups() for line in part.splitlines() if (match := ROW.fullmatch(line))]
    for part in PAGE.split("## What is equal")
)


def test_the_page_has_tables():
    assert len(WHOLE) >= 13
    assert len(BOXED) >= 110
    assert all(row.count("|") == 6 for row in PAGE.splitlines() if row.startswith("| `") and " yes" in row)


@pytest.mark.parametrize("name", profiles.names())
def test_every_example_of_the_page(name):
    column = profiles.names().index(name) + 2
    rows = [(row[1], row) for row in WHOLE] + [(f"We find \\boxed{{{row[1]}}}.", row) for row in BOXED]
    reward = MathReward(name, num_workers=1)
    outcomes = reward.grade_pairs([(text, row[0]) for text, row in rows])
    reward.close()
    wrong = [
        (row, outcome.correct, outcome.detail)
        for (_, row), outcome in zip(rows, outcomes, strict=True)
        if outcome.correct != (row[column] == "yes")
    ]
    assert wrong == []
    assert {outcome.kind for outcome in outcomes} <= {"scored", "unparsed"}


def test_strict_accepts_nothing_that_lenient_rejects():
    assert [row for row in WHOLE + BOXED if row[2] == "yes" and row[3] == "no"] == []


def test_profiles_are_found_by_name():
    assert profiles.names() == ["strict", "lenient", "paper"]
    assert [profiles.get(name).name for name in profiles.names()] == profiles.names()
    assert profiles.get("strict").rules == ("boxed",)
    with pytest.raises(ConfigError, match=r"no verifier profile 'loose'\. Choose one of strict, lenient, paper"):
        profiles.get("loose")
