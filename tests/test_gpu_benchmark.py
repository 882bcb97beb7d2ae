"""The benchmark of a GPU, run on a processor: that it still runs, and says so when a part of it does not."""

import json
import sys

import pytest
import torch

import gpu


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls it with arguments; the exit status and the JSON lines."""
    num_threads = torch.get_num_threads()

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--small", "--json", *arguments])
        with pytest.raises(SystemExit) as left:
            gpu.main()
        return left.value.code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    yield call
    torch.set_num_threads(num_threads)


def test_every_part_runs_and_finds_the_results_right(run):
    status, rows = run("--repeats", "1", "--threads", "1")
    assert status == 0
    assert list(dict.fromkeys(row["part"] for row in rows)) == list(gpu.PARTS)
    checks = [row for row in rows if row.get("note") == "right"]
    assert len(checks) == 5
    assert all(row["value"] < 1e-5 for row in checks)  # in float32 all of them


def broken(_):
    yield {"what": "so far so good", "value": 1}
    raise ValueError("not so good")


def wrong(_):
    yield gpu.checked("a gap", float("nan"), 0.1)


def test_a_part_that_fails_is_reported_and_the_others_still_run(run, monkeypatch):
    parts = {"first": broken, "second": wrong, "last": lambda _: iter([{"what": "reached", "value": 2}])}
    monkeypatch.setattr(gpu, "PARTS", parts)
    status, rows = run("--repeats", "1", "--threads", "1")
    assert status == 1
    shown = [(row["part"], row.get("what"), row.get("note")) for row in rows if row.get("what") != "the part itself"]
    assert shown[1:] == [
        ("first", "so far so good", None),
        ("first", None, "FAILED: first: ValueError: not so good"),
        ("second", "a gap", "WRONG, more than 0.1"),
        ("last", "reached", None),
    ]


def test_no_part_begins_when_the_time_is_up(run):
    status, rows = run("--minutes", "0")
    assert status == 0
    assert [row["part"] for row in rows[1:]] == list(gpu.PARTS)
    assert {row["note"] for row in rows[1:]} == {"left out: the time is up"}
