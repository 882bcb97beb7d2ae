"""`ngrpo grade`: pairs and files, what is printed where, and what is refused before anything is judged."""

import io
import json
import re
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ngrpo.cli import grade_file
from ngrpo.cli.grade_show import cut

PLAIN = [
    {"id": "a", "completion": "So \\boxed{\\frac{1}{2}}", "gold": "0.5"},
    {"id": "a", "completion": "I think it is 3", "gold": "0.5"},
    {"id": "b", "completion": "\\boxed{4}", "gold": 5},
]


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def json_lines(text):
    return [json.loads(line) for line in text.splitlines()]


def cells(out):
    """Rows of a printed table, by their first cell: label -> the other cells."""
    return {line.split("  ")[0].strip(): re.split(r" {2,}", line.strip())[1:] for line in out.splitlines()}


def test_one_pair_says_everything(ngrpo):
    told = ngrpo("grade", "--gold", "so it is \\boxed{\\frac{1}{2}}", "--answer", "0.50")
    assert (told.code, told.err) == (0, "")
    assert cells(told.out) == {
        "verdict": ["correct"],
        "why": ["exact: equal"],
        "answer": ["0.50"],
        "found by rule": ["boxed"],
        "gold": ["\\frac{1}{2}"],
        "answer, normal form": ["1/2"],
        "gold, normal form": ["1/2"],
        "completion": ["\\boxed{0.50}"],
        "worker's time": ["none needed"],
    }


def test_a_wrong_answer_is_no_error(ngrpo):
    told = ngrpo("grade", "--gold", "5", "--answer", "4")
    assert told.code == 0
    assert cells(told.out)["verdict"] == ["wrong"]


def test_a_pair_for_the_worker_has_its_time(ngrpo):
    told = ngrpo("grade", "--gold", "x+1", "--answer", "1+x", "--json", "--workers", "1")
    (row,) = json_lines(told.out)
    assert row["correct"]
    assert row["time_ms"] > 0


def test_a_completion_is_judged_by_what_it_boxes(ngrpo):
    assert cells(ngrpo("grade", "--gold", "4", "--completion", "it is 4").out)["verdict"] == ["unparsed"]
    assert cells(ngrpo("grade", "--gold", "4", "--completion", "it is \\boxed{4}").out)["verdict"] == ["correct"]


def test_a_completion_from_standard_input(ngrpo, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("first \\boxed{3}\nthen \\boxed{4}\n"))
    told = ngrpo("grade", "--gold", "4", "--completion", "-")
    assert cells(told.out)["verdict"] == ["correct"]
    assert cells(told.out)["completion"] == ["first \\boxed{3} then \\boxed{4}"]


def test_one_pair_under_two_profiles(ngrpo):
    told = ngrpo("grade", "--gold", "12", "--completion", "I think it is 12.", "--compare", "strict,paper")
    assert cells(told.out)["verdict"] == ["unparsed", "correct"]
    assert cells(told.out)["found by rule"] == ["-", "last_number"]
    rows = json_lines(ngrpo("grade", "--gold", "12", "--completion", "12.", "--compare", "strict,paper", "--json").out)
    assert [(row["profile"], row["correct"]) for row in rows] == [("strict", False), ("paper", True)]


def test_an_answer_may_bring_its_own_box(ngrpo):
    assert cells(ngrpo("grade", "--gold", "4", "--answer", "\\boxed{4}").out)["verdict"] == ["correct"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_file_as_json(ngrpo, tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        write(path, *PLAIN)
    else:
        pq.write_table(pa.Table.from_pylist([{**row, "gold": str(row["gold"])} for row in PLAIN]), path)
    told = ngrpo("grade", path, "--json")
    assert told.code == 0
    rows = json_lines(told.out)
    assert [(row["row"], row["id"], row["correct"], row["kind"], row["extracted"], row["rule"]) for row in rows] == [
        (1, "a", True, "scored", "\\frac{1}{2}", "boxed"),
        (2, "a", False, "unparsed", None, ""),
        (3, "b", False, "scored", "4", "boxed"),
    ]
    assert rows[0]["normal_form"] == rows[0]["gold_normal_form"] == "1/2"
    assert (rows[2]["gold"], rows[2]["normal_form"], rows[2]["gold_normal_form"]) == ("5", "4", "5")
    assert "3 judged in" in told.err
    assert re.search(r"1 +33\.3%  correct by boxed", told.err)
    assert re.search(r"1 +33\.3%  unparsed by no rule", told.err)


def test_the_table_has_what_is_wrong_unless_asked(ngrpo, tmp_path):
    path = write(tmp_path / "rows.jsonl", *PLAIN)
    told = ngrpo("grade", path)
    head, *rows = told.out.splitlines()
    assert head.split() == ["row", "id", "gold", "verdict", "answer", "rule", "why"]
    assert [line.split()[:4] for line in rows] == [["2", "a", "0.5", "unparsed"], ["3", "b", "5", "wrong"]]
    assert "(I think it is 3)" in rows[0]
    assert [line.split()[0] for line in ngrpo("grade", path, "--show", "correct").out.splitlines()[1:]] == ["1"]
    assert [line.split()[0] for line in ngrpo("grade", path, "--show", "all").out.splitlines()[1:]] == ["1", "2", "3"]
    assert ngrpo("grade", path, "--show", "none").out == ""
    short = ngrpo("grade", path, "--max-rows", "1")
    assert len(short.out.splitlines()) == 2
    assert "and 1 more" in short.err


def test_rows_written_to_a_file_are_those_of_json(ngrpo, tmp_path):
    path = write(tmp_path / "rows.jsonl", *PLAIN)
    printed = ngrpo("grade", path, "--json", "--to", "out.jsonl").out
    assert json_lines((tmp_path / "out.jsonl").read_text()) == json_lines(printed)
    told = ngrpo("grade", path, "--to", "out.jsonl")
    assert told.code == 2
    assert "out.jsonl exists already" in told.err


def test_only_differences_are_compared(ngrpo, tmp_path):
    path = write(tmp_path / "rows.jsonl", *PLAIN, {"id": "c", "completion": "It is 7.", "gold": "7"})
    told = ngrpo("grade", path, "--compare", "strict,paper")
    assert [line.split()[:4] for line in told.out.splitlines()] == [
        ["row", "id", "gold", "profile"],
        ["4", "c", "7", "strict"],
        ["paper", "correct", "7", "last_number"],
    ]
    assert re.search(r"1 +25\.0%  strict: unparsed by no rule \| paper: correct by last_number", told.err)
    (row,) = json_lines(ngrpo("grade", path, "--compare", "strict,paper", "--json").out)
    assert (row["row"], row["strict"]["correct"], row["paper"]["correct"]) == (4, False, True)


def test_bare_answers_in_a_column(ngrpo, tmp_path):
    path = write(tmp_path / "rows.jsonl", {"mine": "1/2", "theirs": "0.5"}, {"mine": "2", "theirs": "3"})
    told = ngrpo("grade", path, "--answer-column", "mine", "--gold-column", "theirs", "--json")
    assert [row["correct"] for row in json_lines(told.out)] == [True, False]


def test_samples_of_lm_eval(ngrpo, tmp_path):
    row = {"doc_id": 3, "doc": {}, "target": "2", "arguments": {}, "resps": [["\\boxed{2}", "\\boxed{3}"]]}
    told = ngrpo("grade", write(tmp_path / "samples_task.jsonl", row), "--json")
    assert [(each["id"], each["sample"], each["correct"]) for each in json_lines(told.out)] == [
        ("3", 0, True), ("3", 1, False)
    ]  # fmt: skip
    assert "(lm-eval samples)" in told.err


def test_bad_golds_are_refused_or_left_out_and_named(ngrpo, tmp_path):
    rows = [*PLAIN, {"id": "c", "completion": "\\boxed{}", "gold": " "}, {"id": "d", "completion": "x", "gold": None}]
    path = write(tmp_path / "rows.jsonl", *rows)
    told = ngrpo("grade", path, "--json")
    assert (told.code, told.out) == (2, "")
    assert re.search(r"2 of 5 rows have a gold that no answer can match: row 4: the gold is empty.*; row 5: ", told.err)
    told = ngrpo("grade", path, "--json", "--skip-bad-golds")
    assert told.code == 0
    assert [row["row"] for row in json_lines(told.out)] == [1, 2, 3]
    assert "left out: 2 rows" in told.err


def test_hostile_text_is_shown_harmlessly(ngrpo, tmp_path):
    text = "\x1b[2J\u202e[bold red]" + "y" * 100_000 + "\\boxed{[/]\ud800}"
    path = write(tmp_path / "rows.jsonl", {"completion": text, "gold": "[/red]"})
    told = ngrpo("grade", path, "--to", "out.jsonl")
    assert told.code == 0
    assert "\x1b[2J" not in told.out + told.err
    assert "[/]\\ud800" in told.out
    assert "[/red]" in told.out
    assert max(map(len, told.out.splitlines())) <= 250
    assert json_lines(ngrpo("grade", path, "--json").out)[0]["extracted"] == "[/]\ud800"


def test_long_files_come_in_chunks_with_a_bar(ngrpo, tmp_path, monkeypatch):
    monkeypatch.setattr(grade_file, "CHUNK_ROWS", 7)
    monkeypatch.setattr(grade_file, "MIN_ROWS_OF_BAR", 20)
    path = write(tmp_path / "rows.jsonl", *({"completion": f"\\boxed{{{n}}}", "gold": n // 2 * 2} for n in range(20)))
    told = ngrpo("grade", path, "--json")
    assert [row["correct"] for row in json_lines(told.out)] == [True, False] * 10
    assert "grade 20/20 row" in told.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"nothing to grade\. Give a FILE"),
        (["--gold", "1"], r"nothing to grade"),
        (["--answer", "1"], r"nothing to grade"),
        (["--gold", "1", "--answer", "1", "--completion", "1"], r"nothing to grade"),
        (["--gold", " ", "--answer", "1"], r"the gold is empty"),
        (["--gold", "1", "--answer", "1}"], r"'1\}' has braces that do not balance: no box can hold it"),
        (
            ["--gold", "1", "--answer", "1", "--profile", "loose"],
            r"no verifier profile 'loose'.*strict, lenient, paper",
        ),
        (["rows.jsonl", "--compare", "strict"], r"--compare 'strict' must be two profiles"),
        (["rows.jsonl", "--compare", "strict,strict"], r"must be two profiles"),
        (["rows.jsonl", "--compare", "strict,loose"], r"no verifier profile 'loose'"),
        (["rows.jsonl", "--gold", "1"], r"--gold: for one pair, and a FILE is given"),
        (["--gold", "1", "--answer", "1", "--to", "x.jsonl"], r"--to: for a FILE, and none is given"),
        (["rows.jsonl", "--show", "some"], r"--show 'some' is none of wrong, correct, all, none"),
        (["rows.jsonl", "--gold-column", "target"], r"has no column 'target'\. Its columns are: id, completion, gold"),
        (["rows.jsonl", "--answer-column", "id", "--completion-column", "id"], r"both say where the answers are"),
        (["braces.jsonl", "--answer-column", "text"], r"row 1: the answer '1\}' has braces"),
        (["nothing.jsonl"], r"there is no file nothing\.jsonl"),
        (["empty.jsonl"], r"is empty: 0 bytes"),
        (["rows.csv"], r"neither a \.jsonl nor a \.parquet"),
        (["torn.jsonl"], r"torn\.jsonl line 4, the last one, is cut off"),
        (["mixed.jsonl"], r"row 4, problem 'c': the completion must be text, got 5"),
        (["strange.jsonl"], r"of no format that is read\. Its columns are: a"),
    ],
)
def test_what_cannot_be_graded_is_refused(refused, tmp_path, arguments, message):
    write(tmp_path / "rows.jsonl", *PLAIN)
    torn = write(tmp_path / "torn.jsonl", *PLAIN)
    torn.write_text(torn.read_text() + '{"id": "c", "compl')
    write(tmp_path / "mixed.jsonl", *PLAIN, {"id": "c", "completion": 5, "gold": "5"})
    write(tmp_path / "strange.jsonl", {"a": 1})
    write(tmp_path / "braces.jsonl", {"text": "1}", "gold": "1"})
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "rows.csv").write_text("a,b\n")
    assert re.search(message, refused("grade", *arguments))


@pytest.mark.parametrize("width", [2, 7, 40])
@pytest.mark.parametrize("text", ["", "a", "a\x00b" * 50, "é\u202e" * 30, "  x \n y  ", "\ud800" * 9])
def test_cut_text_is_printable_and_fits(text, width):
    for keep_end in (False, True):
        shown = cut(text, width, keep_end=keep_end)
        assert len(shown) <= width
        assert shown.isprintable()


def test_help_has_examples(ngrpo):
    told = ngrpo("grade", "--help")
    assert told.code == 0
    assert "ngrpo grade --gold" in told.out
