"""`ngrpo data`: what it prints, what it writes, and how it ends."""

import json

import pytest

from ngrpo.data import presets, read_rows

ROWS = [
    {"id": "a", "question": "What is 1+1?", "answer": "2", "type": "Sums"},
    {"id": "b", "question": "What is 2+2?", "answer": "so 4\n#### 4", "type": "Sums"},
]
BAD = {"id": "b", "question": "What is 3+3?", "answer": "6"}


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="mine.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    return write


def test_the_list_names_every_set_with_size_source_and_note(ngrpo):
    told = ngrpo("data", "list")
    assert (told.code, told.err) == (0, "")
    text = " ".join(told.out.split())
    for name in presets.names():
        preset = presets.get(name)
        assert name in told.out
        assert f"{preset.num_problems:,}" in told.out
        assert preset.hub in told.out
    assert "Public since February 2025" in text


def test_the_list_as_json_is_all_that_is_known(ngrpo):
    listed = json.loads(ngrpo("data", "list", "--json").out)
    assert [each["name"] for each in listed] == list(presets.names())
    (math500,) = [each for each in listed if each["name"] == "math500"]
    assert math500["hub"] == "HuggingFaceH4/MATH-500"
    assert math500["fingerprint"] == presets.get("math500").fingerprint
    assert math500["licence"] == "MIT"


def test_a_report_alone_writes_nothing(ngrpo, write, tmp_path):
    told = ngrpo("data", "convert", write(*ROWS))
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith(
        "mine.jsonl: 2 rows, 2 usable; problem from 'question', gold from 'answer', id from 'id'"
    )
    assert "\nworth knowing\n      1  the gold is a whole solution; its answer was taken\n" in told.out
    assert "           row 2 (id b): '4' from" in told.out
    assert [each.name for each in tmp_path.iterdir()] == ["mine.jsonl"]


def test_a_clean_file_is_said_to_be(ngrpo, write):
    assert "nothing is wrong with it" in ngrpo("data", "convert", write(ROWS[0])).out


@pytest.mark.parametrize("to", ["out.parquet", "out.jsonl"])
def test_a_file_is_converted(ngrpo, write, to, tmp_path):
    told = ngrpo("data", "convert", write(*ROWS), "--to", to)
    assert told.code == 0
    assert told.out.endswith(f"wrote {to}: 2 rows\n")
    written = [row.columns for row in read_rows(str(tmp_path / to)).rows]
    assert [(row["id"], row["problem"], row["answer"], row["subject"]) for row in written] == [
        ("a", "What is 1+1?", "2", "Sums"), ("b", "What is 2+2?", "4", "Sums"),
    ]  # fmt: skip


def test_bad_rows_end_with_2_and_can_be_left_out(ngrpo, write, tmp_path):
    file = write(*ROWS, BAD)
    told = ngrpo("data", "convert", file)
    assert told.code == 2
    assert "cannot be used\n      1  the id is not unique\n" in told.out
    assert "row 3 (id b), field 'id': the id is not unique (row 2 has it too)" in told.out
    assert told.err == (
        "error: mine.jsonl: 1 of 3 rows cannot be used. Mend them, or leave them out with --to FILE --drop-bad-rows.\n"
    )
    told = ngrpo("data", "convert", file, "--to", "out.jsonl")
    assert told.code == 2
    assert "Nothing was written to out.jsonl." in told.err
    assert not (tmp_path / "out.jsonl").exists()
    told = ngrpo("data", "convert", file, "--to", "out.jsonl", "--drop-bad-rows")
    assert (told.code, told.err) == (0, "")
    assert "wrote out.jsonl: 2 rows, 1 left out" in told.out
    assert len(read_rows(str(tmp_path / "out.jsonl")).rows) == 2


def test_nothing_usable_is_never_written(ngrpo, write, tmp_path):
    told = ngrpo("data", "convert", write({**BAD, "answer": ""}), "--to", "out.jsonl", "--drop-bad-rows")
    assert told.code == 2
    assert "1 of 1 rows cannot be used. Nothing was written to out.jsonl. Mend them." in told.err
    assert not (tmp_path / "out.jsonl").exists()


def test_the_report_as_json_stands_alone_on_standard_output(ngrpo, write):
    told = ngrpo("data", "convert", write(*ROWS, BAD), "--json", "--to", "out.jsonl", "--drop-bad-rows")
    report = json.loads(told.out)
    assert (report["num_rows"], report["num_usable"], report["is_clean"]) == (3, 2, False)
    assert report["findings"][0] == {
        "what": "the id is not unique",
        "count": 1,
        "blocks": True,
        "examples": ["row 3 (id b), field 'id': the id is not unique (row 2 has it too)"],
    }
    assert told.err == "wrote out.jsonl: 2 rows, 1 left out\n"


def test_more_findings_than_examples_are_counted(ngrpo, write):
    rows = [{"problem": f"{i}?", "answer": ""} for i in range(5)]
    assert "           and 2 more\n" in ngrpo("data", "convert", write(*rows)).out


def test_benchmarks_in_training_data_are_reported(ngrpo, write):
    bench = write({"problem": "WHAT is 2 + 2?", "answer": "4"}, name="bench.jsonl")
    told = ngrpo("data", "convert", write(*ROWS), "--against", bench)
    assert told.code == 0
    assert "      1  the problem is in bench.jsonl too\n           row 2 (id b): 'What is 2+2?'\n" in told.out


def test_columns_can_be_named(ngrpo, write):
    options = ("--prompt-column", "q", "--gold-column", "a", "--id-column", "k")
    told = ngrpo("data", "convert", write({"q": "1?", "a": "1", "k": "x"}), *options)
    assert (told.code, told.out.splitlines()[0]) == (
        0,
        "mine.jsonl: 1 rows, 1 usable; problem from 'q', gold from 'a', id from 'k'",
    )


def test_mistakes_are_named_before_anything_is_read(refused, write, monkeypatch):
    from ngrpo.data import convert

    monkeypatch.setattr(convert, "read_loosely", lambda *_: pytest.fail("the file was read"))
    file, there = write(*ROWS), write(*ROWS, name="there.jsonl")
    assert "is there already" in refused("data", "convert", file, "--to", there)
    assert "is the file that is read" in refused("data", "convert", file, "--to", file, "--overwrite")
    assert "must end in .parquet or .jsonl" in refused("data", "convert", file, "--to", "x.csv")
    assert "there is no file gone.jsonl" in refused("data", "convert", write(*ROWS), "--against", "gone.jsonl")


def test_an_old_file_is_replaced_when_asked(ngrpo, write, tmp_path):
    there = write(*ROWS, name="there.jsonl")
    assert ngrpo("data", "convert", write(ROWS[0]), "--to", there, "--overwrite").code == 0
    assert len(read_rows(str(tmp_path / there)).rows) == 1


def test_a_file_that_is_not_there_or_no_data_is_refused(refused, write, tmp_path):
    assert "there is no file gone.jsonl" in refused("data", "convert", "gone.jsonl")
    (tmp_path / "a.txt").write_text("x")
    assert "a.txt is a file of unknown kind" in refused("data", "convert", "a.txt")
    assert "(--gold-column)" in refused("data", "convert", write(*ROWS), "--gold-column", "x")


def test_a_published_set_that_is_something_else_is_refused(refused, write):
    message = refused("data", "convert", write(*ROWS), "--against", "math500:mine.jsonl")
    assert "math500:mine.jsonl is not MATH-500 as it is known here: it has 2 rows and not 500" in message


def test_the_reward_is_closed_whatever_happens(ngrpo, write, monkeypatch):
    from ngrpo import rewards

    closed = []
    monkeypatch.setattr(rewards.MathReward, "close", lambda self: closed.append(True))
    ngrpo("data", "convert", write(*ROWS))
    ngrpo("data", "convert", "gone.jsonl")
    assert closed == [True, True]
