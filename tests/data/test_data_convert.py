"""Looking a file over: everything that is wrong with it is counted and shown, and what is usable is written whole."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.data import convert, load_prompts, read_rows
from ngrpo.data.convert import Finding, check_output, inspect_file, write_records
from ngrpo.errors import ConfigError, DataError

GOOD = {"id": "a", "problem": "1+1?", "answer": "2"}


def accept(golds):
    return [None] * len(golds)


def refuse_nonsense(golds):
    return [f"{gold!r} does not parse" if "nonsense" in gold else None for gold in golds]


def row(**changes):
    return {**GOOD, **changes}


def look(path, check_golds=refuse_nonsense, **options):
    report, records = inspect_file(path, check_golds=check_golds, **options)
    assert report.num_usable == len(records)
    return report, records


def lines(*rows):
    return "".join(json.dumps(each) + "\n" for each in rows)


@pytest.fixture
def file(tmp_path):
    """Writes a file and looks it over."""

    def make(content, name="mine.jsonl", **options):
        path = tmp_path / name
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
        return look(path, **options)

    return make


ROWS = [row(), row(id="b", problem="2+2?", answer="4")]


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (lines(*ROWS), "mine.jsonl"),
        (lines(*ROWS), "mine.json"),
        (json.dumps(ROWS), "mine.json"),
        ("\ufeff \n" + json.dumps(ROWS, indent=1) + "\n", "mine.jsonl"),
        ("id,problem,answer\na,1+1?,2\nb,2+2?,4\n", "mine.csv"),
        ('\ufeffid,problem,answer\r\na,"1+1?",2\r\n\r\nb,2+2?,"4"\r\n', "mine.CSV"),
        ("id\tproblem\tanswer\na\t1+1?\t2\nb\t2+2?\t4\n", "mine.tsv"),
        (ROWS, "mine.parquet"),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(file, content, name):
    report, records = file(content, name)
    assert records == ROWS
    assert (report.num_rows, report.is_clean, report.findings) == (2, True, ())
    assert (report.prompt_column, report.gold_column, report.id_column) == ("problem", "answer", "id")


def test_a_table_may_have_line_breaks_quotes_and_very_long_fields(file):
    long = "x" * 200_000
    _, records = file(f'problem,answer,solution\n"a ""b"",\nc?",2,{long}\n', "mine.csv")
    assert records == [{"id": "1", "problem": 'a "b",\nc?', "answer": "2", "solution": long}]


@pytest.mark.parametrize(
    ("content", "name", "what", "example", "num_usable"),
    [
        (lines(*ROWS).encode() + b'{"id": "c", "prob', "m.jsonl", "the last line is cut off", "line 3: '{", 2),
        (lines(ROWS[0]) + "{oops}\n" + lines(ROWS[1]), "m.jsonl", "the line is not JSON", "line 2: '{oops}'", 2),
        (lines(*ROWS) + "[1]\n7\n", "m.jsonl", "the line is not a JSON object", "line 3: '[1]'", 2),
        (lines(*ROWS).encode() + b'{"a": "\xff"}\n', "m.jsonl", "the line is not UTF-8", "line 3: '{", 2),
        (json.dumps(ROWS)[:-20], "m.json", "the list is cut off or broken", "item 2: '{", 1),
        (json.dumps([*ROWS, 7]), "m.json", "the item is not a JSON object", "item 3: '7'", 2),
        (json.dumps(ROWS) + "{}", "m.json", "text after the end of the list", "'{}'", 2),
        (json.dumps(ROWS).encode()[:-2] + b',"x":"\xff"}]', "m.json", "the row is not UTF-8", "item 2: ", 1),
        ("problem,answer\n1?,2\n2?,3,4\n", "m.csv", "the row has more or fewer fields than the header", "row 2: 3", 1),
        ('problem,answer\n1?,2\n"2?,3\n', "m.csv", "the table is cut off or wrongly quoted", "after row 1", 1),
        (b"problem,answer\n1?,2\n\xff?,3\n", "m.csv", "the row is not UTF-8", "row 2: ", 1),
    ],
)  # fmt: skip
def test_damage_is_counted_and_shown_and_the_rest_is_kept(file, content, name, what, example, num_usable):
    report, records = file(content, name)
    (finding,) = report.findings
    assert (finding.what, finding.blocks) == (what, True)
    assert finding.examples[0].startswith(example)
    assert len(records) == num_usable
    assert report.num_rows == num_usable + finding.count
    assert not report.is_clean


@pytest.mark.parametrize(
    ("content", "name", "error", "message"),
    [
        ("", "m.jsonl", DataError, "is empty: 0 bytes"),
        ("\n \n", "m.jsonl", DataError, r"m\.jsonl has no row that can be read\.$"),
        ("{oops}\n", "m.jsonl", DataError, r"no row that can be read\. The first of 1 faults: the line is not JSON"),
        ("[", "m.json", DataError, "no row that can be read.*the list is cut off"),
        ("[]", "m.json", DataError, "no row that can be read"),
        ("problem,answer\n", "m.csv", DataError, "no row that can be read"),
        (b"PAR1", "m.parquet", DataError, "cannot be read as parquet"),
        ("a", "m.txt", ConfigError, r"m\.txt is a file of unknown kind\. The kinds are: \.jsonl, .*\.parquet"),
        (lines({"x": 1, "y": 2}), "m.jsonl", DataError, r"none of the columns prompt, .*Its columns are: x, y\. Name "
         r"the right one in --prompt-column"),
        (lines({"problem": "?", "y": 2}), "m.jsonl", DataError, "the right one in --gold-column"),
    ],
)  # fmt: skip
def test_files_that_give_nothing_are_errors(file, content, name, error, message):
    with pytest.raises(error, match=message):
        file(content, name)


def test_columns_that_do_not_exist_are_named_as_options(file):
    for option in ("prompt", "gold", "id"):
        with pytest.raises(DataError, match=rf"has no column 'x' \(--{option}-column\)"):
            file(lines(GOOD), **{f"{option}_column": "x"})


# --- rows that cannot be used ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"answer": None}, "no gold"),
        ({"answer": " "}, "the gold is empty"),
        ({"answer": r"so \boxed{}"}, "the gold is empty"),
        ({"answer": ["2"]}, "the gold is not text or a number"),
        ({"answer": "\ud800"}, "the gold is not valid Unicode"),
        ({"answer": "nonsense 12"}, "the gold cannot be matched"),
        ({"answer": r"\boxed{nonsense}"}, "the gold cannot be matched"),
        ({"problem": None}, "no prompt"),
        ({"problem": "\n"}, "the prompt is empty"),
        ({"problem": 5}, "the prompt is not text"),
        ({"id": None}, "no id"),
        ({"id": "a"}, "the id is not unique"),
    ],
)
def test_a_bad_row_is_counted_named_and_left_out(file, changes, what):
    report, records = file(lines(row(), row(**{"id": "b", "problem": "?", **changes}), row(id="c", problem="3?")))
    (finding,) = [finding for finding in report.findings if finding.blocks]
    assert (finding.what, finding.count) == (what, 1)
    assert finding.examples[0].startswith("row 2")
    assert [record["id"] for record in records] == ["a", "c"]
    assert (report.num_rows, report.num_usable) == (3, 2)


def test_what_blocks_is_what_loading_refuses(tmp_path, monkeypatch, tokenizer):
    """Over each kind of bad row: a file is clean exactly when it loads."""
    monkeypatch.chdir(tmp_path)
    bad = [None, " ", ["2"], "nonsense", True]
    for number, gold in enumerate([*bad, "3", 3, 3.0]):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(lines(row(), row(id="b", answer=gold)))
        report, _ = look(path)
        if report.is_clean:
            assert len(load_prompts(path.name, tokenizer, check_golds=refuse_nonsense)) == 2
        else:
            with pytest.raises(DataError, match="1 of 2 rows cannot be used"):
                load_prompts(path.name, tokenizer, check_golds=refuse_nonsense)
    assert number == 7


def test_refused_golds_are_counted_by_the_kind_of_refusal(file):
    def refuse(golds):
        return ["the gold has 600 characters and at most 512 are compared" if len(gold) > 9 else f"{gold!r} is odd"
                for gold in golds]  # fmt: skip

    rows = [row(id=i, problem=f"{i}?", answer="1" * (i + 8)) for i in range(4)]
    report, _ = file(lines(*rows), check_golds=refuse)
    assert {finding.what: finding.count for finding in report.findings} == {
        "the gold cannot be matched: the gold has N characters and at most N are compared": 2,
        "the gold cannot be matched": 2,
    }


def test_golds_are_checked_once_each_and_after_the_answer_is_taken_out(file):
    seen = []

    def check(golds):
        seen.extend(golds)
        return accept(golds)

    file(lines(row(), row(id="b", problem="?", answer=r"\boxed{2}"), row(id="c", problem="!", answer=7.0)),
         check_golds=check)  # fmt: skip
    assert seen == ["2", "7"]


def test_only_the_first_examples_are_kept(file):
    report, _ = file(lines(row(), *(row(id=str(i), problem=f"{i}?", answer="") for i in range(7))))
    assert report.findings[0].count == 7
    assert len(report.findings[0].examples) == convert.MAX_EXAMPLES
    assert report.findings[0].examples[0] == "row 2 (id 0), field 'answer': the gold is empty"


# --- worth knowing ---------------------------------------------------------------------------------------------------


def test_whole_solutions_give_their_answer_and_stay_as_solutions(file):
    report, records = file(lines(
        row(answer=r"1 + 1 = 2, so \boxed{2}."),
        row(id="b", problem="b?", answer="10 * 100\n#### 1,000"),
        row(id="c", problem="c?", answer=r"\boxed{2}", solution="kept"),
        row(id="d", problem="d?", answer="2.50"),
    ))  # fmt: skip
    (finding,) = report.findings
    assert (finding.what, finding.count, finding.blocks) == (
        "the gold is a whole solution; its answer was taken", 3, False,
    )  # fmt: skip
    assert [record["answer"] for record in records] == ["2", "1000", "2", "2.50"]
    assert [record.get("solution") for record in records] == [
        r"1 + 1 = 2, so \boxed{2}.", "10 * 100\n#### 1,000", "kept", None,
    ]  # fmt: skip
    assert report.is_clean


def test_repeated_problems_are_told_apart_by_their_golds(file):
    report, records = file(lines(
        row(id="a", problem="What is  1+1?"),
        row(id="b", problem="what is\n1 + 1?", answer=" 2 "),
        row(id="c", problem="And 2+2?", answer="4"),
        row(id="d", problem="And 2+2?", answer="5"),
        row(id="e", problem="And 2+2?", answer="4"),
        row(id="f", problem="Alone?"),
    ))  # fmt: skip
    assert report.findings == (
        Finding("a problem is repeated, its golds are written differently", 1, False,
                ("row 3 (id c), row 4 (id d), row 5 (id e): '4', '5'",)),
        Finding("a problem is repeated with the same gold", 1, False, ("row 1 (id a), row 2 (id b): '2'",)),
    )  # fmt: skip
    assert len(records) == 6  # worth knowing, not refused


def test_mixed_types_are_counted_by_column(file):
    report, records = file(lines(row(id=1), row(id="b", problem="?", answer=3), row(id="c", problem="!", answer=2.5)))
    assert [(finding.what, finding.examples) for finding in report.findings] == [
        ("column 'id' has mixed types (2 text, 1 number)", ("row 1: '1'",)),
        ("column 'answer' has mixed types (2 number, 1 text)", ("row 1: '2'",)),
    ]
    assert [(record["id"], record["answer"]) for record in records] == [("1", "2"), ("b", "3"), ("c", "2.5")]


def test_problems_of_a_benchmark_are_found_whatever_their_spaces_and_case(file, tmp_path):
    (tmp_path / "bench.jsonl").write_text(lines({"question": "WHAT is 1 + 1 ?"}, {"question": None}, {"question": "x"}))
    bench = str(tmp_path / "bench.jsonl")
    report, records = file(lines(row(problem="What is\n1+1?"), row(id="b", problem="else?")), against=[bench])
    (finding,) = report.findings
    assert (finding.what, finding.count, finding.blocks) == (f"the problem is in {bench} too", 1, False)
    assert finding.examples == ("row 1 (id a): 'What is 1+1?'",)
    assert len(records) == 2
    (tmp_path / "bench.jsonl").write_text(lines({"text": "?"}))
    with pytest.raises(DataError, match=r"--against .*bench\.jsonl has none of the columns"):
        file(lines(GOOD), against=[bench])


def test_rows_without_ids_are_numbered_as_loading_numbers_them(file, tmp_path, tokenizer):
    content = "\n" + lines({"problem": "a?", "answer": "1"}, {"problem": "b?", "answer": "2"})
    report, records = file(content)
    assert report.id_column is None
    loaded = load_prompts(str(tmp_path / "mine.jsonl"), tokenizer)
    assert [record["id"] for record in records] == ["2", "3"] == [prompt.id for prompt in loaded.prompts]


def test_level_and_subject_come_along(file):
    _, records = file(lines(row(level=3, type="Algebra", junk=1), row(id="b", problem="?", subject="Sets")))
    assert records == [row(level="3", subject="Algebra"), row(id="b", problem="?", subject="Sets")]


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl"])
def test_what_is_written_is_read_back(file, tmp_path, name):
    _, records = file(lines(row(problem="é?", solution="\ud800 half"), row(id="b", problem="?", level=2)))
    write_records(tmp_path / name, records)
    found = read_rows(str(tmp_path / name))
    read = [{key: value for key, value in each.columns.items() if value is not None} for each in found.rows]
    assert read == records
    assert records[0]["solution"] == "\\ud800 half"
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".tmp"] == []
    again, _ = look(tmp_path / name)
    assert (again.is_clean, again.findings) == (True, ())


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    with pytest.raises(TypeError):
        write_records(out, [{"id": "a"}, {"id": object()}])
    assert out.read_text() == "old"


def test_places_where_nothing_can_be_written(tmp_path):
    source, there = tmp_path / "mine.jsonl", tmp_path / "there.parquet"
    source.write_text("x")
    there.write_text("x")
    check_output(tmp_path / "new.jsonl", source, overwrite=False)
    check_output(there, source, overwrite=True)
    for path, overwrite, message in (
        (tmp_path / "new.csv", False, r"must end in \.parquet or \.jsonl"),
        (tmp_path / "gone" / "new.jsonl", False, "there is no folder"),
        (there, False, "is there already. Choose another name, or add --overwrite"),
        (source, True, "is the file that is read"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_output(path, source, overwrite=overwrite)


def test_progress_is_told_by_stages(file, monkeypatch):
    monkeypatch.setattr(convert, "_GOLDS_AT_A_TIME", 2)
    told = []
    rows = [row(id=str(i), problem=f"{i}?", answer=str(i)) for i in range(3)]
    file(lines(*rows), on_progress=lambda stage, share: told.append((stage, share)))
    assert told == [("reading", 1.0), ("checking golds", 0.0), ("checking golds", 2 / 3), ("checking golds", 1.0)]


# --- whatever a file holds -------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=2),
    st.sampled_from([r"\boxed{2}", r"\boxed{", "#### 5", r"\boxed 2", "nonsense", "2", "a"]),
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.dictionaries(st.sampled_from(["id", "problem", "answer", "level", "solution"]), VALUES), max_size=6),
    st.integers(0, 30),
    st.sampled_from(["mine.jsonl", "mine.json"]),
)
def test_every_row_is_usable_or_accounted_for(tmp_path_factory, rows, num_cut, name):
    path = tmp_path_factory.mktemp("any") / name
    text = json.dumps([GOOD, *rows]) if name == "mine.json" else lines(GOOD, *rows)
    path.write_bytes(text.encode()[: max(len(lines(GOOD)) + 1, len(text) - num_cut)])
    report, records = look(path)
    blocked = sum(finding.count for finding in report.findings if finding.blocks)
    assert report.num_usable + blocked == report.num_rows
    assert records[0] == GOOD
    assert len({record["id"] for record in records}) == len(records)
    json.dumps(report.as_dict())
    if report.is_clean and not num_cut:
        assert len(records) == 1 + len(rows)
    write_records(path.with_name("out.parquet"), records)
    write_records(path.with_name("out.jsonl"), records)
    for out in ("out.parquet", "out.jsonl"):
        again, same = look(path.with_name(out))
        assert again.is_clean
        assert [(each["id"], each["problem"], each["answer"]) for each in same] == [
            (each["id"], each["problem"], each["answer"]) for each in records
        ]
