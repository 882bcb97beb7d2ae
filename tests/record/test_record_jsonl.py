"""Lines on disk: they survive a kill at any byte, and any text."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngrpo.errors import RunFolderError
from ngrpo.record import append_lines, keep_lines, read_jsonl, write_json
from ngrpo.record import jsonl as module

ROWS = [
    {"step": 1, "text": "a\nb"},
    {"step": 2, "text": "π\u2028\x85 {"},
    {"step": 3, "text": '"}\\', "x": [1.5, None]},
]


@pytest.fixture
def path(tmp_path):
    append_lines(tmp_path / "rows.jsonl", ROWS)
    return tmp_path / "rows.jsonl"


def test_what_is_appended_is_read(path):
    assert read_jsonl(path) == ROWS
    append_lines(path, ({"step": step} for step in (4, 5)))
    append_lines(path, [])
    assert read_jsonl(path) == [*ROWS, {"step": 4}, {"step": 5}]
    assert path.read_bytes().count(b"\n") == 5


def test_a_missing_file_is_empty(tmp_path):
    assert read_jsonl(tmp_path / "none.jsonl") == []
    assert keep_lines(tmp_path / "none.jsonl", lambda row: True) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_cut_at_any_byte_loses_only_the_line_it_is_in(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # hundreds of times, and no disk fails here
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        # A line without its newline is whole all the same: nothing of the row is missing.
        num_whole = sum(len(b"\n".join(whole.split(b"\n")[:n])) <= length for n in range(1, 4))
        assert read_jsonl(path) == ROWS[:num_whole], length
        assert keep_lines(path, lambda row: True) == 0
        append_lines(path, ROWS[num_whole:])
        assert path.read_bytes() == whole, length


@given(st.lists(st.text(st.characters(codec=None))))
def test_any_text_round_trips(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    # json joins two halves of a surrogate pair into their character, as any reader of JSON would.
    texts = [text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") for text in texts]
    append_lines(path, [{"text": text} for text in texts])
    assert [row["text"] for row in read_jsonl(path)] == texts
    assert keep_lines(path, lambda row: True) == 0
    assert [row["text"] for row in read_jsonl(path)] == texts


def test_lone_surrogates_nul_and_escapes(path):
    texts = ["\ud800", "\udfff x", "\\\ud800", "\x00", "\\ud800", "\r\n", "\ufeff", "\ud800\n\x00"]
    keep_lines(path, lambda row: False)
    append_lines(path, [{"text": text} for text in texts])
    assert [row["text"] for row in read_jsonl(path)] == texts
    path.read_bytes().decode("utf-8")  # and the file is UTF-8


def test_keep_lines_drops_what_is_not_wanted_and_counts_it(path):
    assert keep_lines(path, lambda row: row["step"] <= 1) == 2
    assert read_jsonl(path) == ROWS[:1]
    assert sorted(os.listdir(path.parent)) == ["rows.jsonl"]


@pytest.mark.parametrize("write", [lambda path: keep_lines(path, lambda row: False), lambda path: write_json(path, {})])
@pytest.mark.parametrize("dies_at", ["fsync", "replace"])
def test_rewriting_is_all_or_nothing(path, monkeypatch, write, dies_at):
    before = path.read_bytes()

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if dies_at == "fsync":
            patch.setattr(module.os, "fsync", die)
        else:
            patch.setattr(type(path), "replace", die)
        with pytest.raises(KeyboardInterrupt):
            write(path)
    assert path.read_bytes() == before
    write(path)
    assert path.read_bytes() != before


@pytest.mark.parametrize("broken", [b'{"step": ', b"[1]", b"\xff", b"3", b'{"a": 1}{"a": 2}'])
def test_a_broken_line_in_the_middle_is_named_and_nothing_is_lost(path, broken):
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], broken, *lines[1:]]))
    before = path.read_bytes()
    for use in (read_jsonl, lambda file: keep_lines(file, lambda row: True)):
        with pytest.raises(RunFolderError, match=r"line 2 of .*rows\.jsonl is not a JSON object\. Mend or remove"):
            use(path)
    assert path.read_bytes() == before


def test_a_broken_last_line_that_ends_was_not_cut_off(path):
    with path.open("ab") as file:
        file.write(b'{"step": \n')
    with pytest.raises(RunFolderError, match="line 4 of"):
        read_jsonl(path)


def test_numbers_that_json_has_not_are_refused(path):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_lines(path, [{"step": 4}, {"step": float("nan")}])
    assert path.read_bytes() == before


def test_write_json_is_read_by_people_too(tmp_path):
    write_json(tmp_path / "one.json", {"text": "π \ud800", "ks": [1, 2]})
    text = (tmp_path / "one.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "text": "π \\ud800",\n')
    assert text.endswith("\n}\n")
    assert json.loads(text) == {"text": "π \ud800", "ks": [1, 2]}
    assert os.listdir(tmp_path) == ["one.json"]
