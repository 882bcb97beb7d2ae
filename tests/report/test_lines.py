"""Reading lines: every one that can be, and only those of some steps without reading the rest."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngrpo.report.lines import LineReader, rows_of_steps, step_range


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A file that examples write anew."""
    return tmp_path_factory.mktemp("lines") / "groups.jsonl"


def write(path, steps, widths):
    rows = [{"step": step, "text": "x" * width} for step, width in zip(steps, widths, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


sorted_steps = st.lists(st.integers(0, 12), min_size=1, max_size=30).map(sorted)


@given(sorted_steps, st.lists(st.integers(0, 40), min_size=30, max_size=30), st.lists(st.integers(0, 13), max_size=4))
def test_halving_finds_what_reading_everything_finds(place, steps, widths, wanted):
    rows = write(place, steps, widths[: len(steps)])
    after = {min((step for step in steps if step >= want), default=None) for want in wanted} - {None}
    assert rows_of_steps(place, wanted) == {step: [row for row in rows if row["step"] == step] for step in after}
    assert step_range(place) == (steps[0], steps[-1])


def test_bad_lines_between_are_passed_over_by_halving(tmp_path):
    path = tmp_path / "groups.jsonl"
    path.write_text(
        '{"step": 1}\nrubbish\n\n{"step": 2, "a": 1}\n{"step": "3"}\n{"step": 2, "a": 2}\n{"step": 4}\n{"st'
    )
    assert rows_of_steps(path, [2]) == {2: [{"step": 2, "a": 1}, {"step": 2, "a": 2}]}
    assert step_range(path) == (1, 4)


def test_a_missing_and_an_empty_file_have_no_steps(tmp_path):
    (tmp_path / "empty").touch()
    for name in ("empty", "missing"):
        assert rows_of_steps(tmp_path / name, [1]) == {}
        assert step_range(tmp_path / name) is None


def test_the_last_step_is_found_behind_a_line_longer_than_a_look(tmp_path):
    path = tmp_path / "samples.jsonl"
    write(path, [1, 7], [3, 1 << 17])
    assert step_range(path) == (1, 7)


def test_rows_across_blocks_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("ngrpo.report.lines.BLOCK_BYTES", 7)
    rows = write(tmp_path / "a", range(20), [5] * 20)
    reader = LineReader(dict)
    assert list(reader.rows(tmp_path / "a")) == rows
    assert reader.num_bad == 0


def test_a_line_of_endless_length_is_one_bad_line(tmp_path, monkeypatch):
    monkeypatch.setattr("ngrpo.report.lines.BLOCK_BYTES", 8)
    monkeypatch.setattr("ngrpo.report.lines.MAX_LINE_BYTES", 64)
    (tmp_path / "a").write_text('{"a": 1}\n' + "x" * 1000 + '\n{"a": 2}\n')
    reader = LineReader(dict)
    assert list(reader.rows(tmp_path / "a")) == [{"a": 1}, {"a": 2}]
    assert reader.num_bad == 1
