import json
import sys

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from ngrpo import worlds
from ngrpo.data import read_rows, sources
from ngrpo.errors import ConfigError, DataError, MissingExtraError

ROWS = [{"id": str(i), "problem": f"{i}+1?", "answer": str(i + 1)} for i in range(4)]


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    """Nothing is written into the user's cache of data sets, and the hub is out of reach."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def records(found):
    return [row.columns for row in found.rows]


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json", ".JSONL"])
def test_files_give_their_rows(here, write_rows, suffix):
    if suffix == ".parquet":
        write_parquet(here / "some.parquet", ROWS)
    else:
        write_rows(ROWS, f"some{suffix}")
    found = read_rows(f"some{suffix}")
    assert records(found) == ROWS
    assert (found.name, found.source, found.columns) == ("some", f"some{suffix}", ("id", "problem", "answer"))
    assert [row.number for row in found.rows] == [1, 2, 3, 4]
    assert records(read_rows(f"some{suffix}", limit=2)) == ROWS[:2]
    assert records(read_rows(f"some{suffix}", limit=9)) == ROWS


def test_a_home_folder_is_found(here, write_rows, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    write_rows(ROWS)
    assert len(read_rows("~/rows.jsonl").rows) == 4


def test_empty_lines_are_counted_and_passed_over(here):
    (here / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"b": "\\u00e9"}')
    found = read_rows("a.jsonl")
    assert [(row.number, row.columns) for row in found.rows] == [(1, {"a": 1}), (4, {"b": "é"})]
    assert found.columns == ("a", "b")


def test_a_limit_stops_reading(here):
    (here / "a.jsonl").write_text('{"a": 1}\nrubbish')
    assert len(read_rows("a.jsonl", limit=1).rows) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"^a\.jsonl is empty: 0 bytes"),
        (b"\n \n", r"^a\.jsonl has no rows"),
        (b'{"a": 1}\n{"a": 2, "b": "x', r"a\.jsonl line 2, the last one, is cut off: it ends in '.*\"b\": \"x'"),
        (b'{"a": 1}\n{"a": \n{"a": 3}\n', r"a\.jsonl line 2 is not JSON: Expecting value, character 7\."),
        (b'{"a": 1}\n[1, 2]\n', r"a\.jsonl line 2 is a JSON list and not an object: each line has to be one object"),
        (b'"text"\n', r"a\.jsonl line 1 is a JSON string and not an object"),
        (b"5\n", r"a\.jsonl line 1 is a JSON number and not an object"),
        (b"null\n", r"a\.jsonl line 1 is a JSON null and not an object"),
        (b"true\n", r"a\.jsonl line 1 is a JSON true and not an object"),
        (
            b'[\n{"a": 1},\n{"a": 2}\n]\n',
            r"a\.jsonl line 1 is not JSON: .*A file that is one JSON list has to be rewritten",
        ),
        (b'{"a": "\xff"}\n', r"a\.jsonl line 1 is not UTF-8 \(byte 8 is 0xff\)"),
        (b"[" * 100_000 + b"\n", r"a\.jsonl line 1 is not JSON"),
    ],
)
def test_broken_json_lines_are_named(here, content, message):
    (here / "a.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows("a.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"^a\.parquet is empty: 0 bytes"),
        (b"no parquet file at all", r"^a\.parquet cannot be read as parquet: .*magic bytes"),
    ],
)
def test_broken_parquet_files_are_named(here, content, message):
    (here / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows("a.parquet")


def test_a_cut_parquet_file_is_named(here):
    write_parquet(here / "whole.parquet", ROWS)
    (here / "a.parquet").write_bytes((here / "whole.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"^a\.parquet cannot be read as parquet"):
        read_rows("a.parquet")


def test_a_parquet_file_without_rows_is_refused(here):
    table = pyarrow.table({"problem": pyarrow.array([], pyarrow.string())})
    pyarrow.parquet.write_table(table, here / "a.parquet")
    with pytest.raises(DataError, match=r"^a\.parquet has no rows"):
        read_rows("a.parquet")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("gone.parquet", DataError, r"there is no file gone\.parquet \(data\.source; a relative path starts"),
        ("sub/gone.jsonl", DataError, r"there is no file sub/gone\.jsonl"),
        (
            "gone",
            DataError,
            r"'gone': there is no such file or folder\. A source is a \.parquet or \.jsonl file, .*hub:",
        ),
        ("there.csv", ConfigError, r"'there\.csv' is a file of unknown kind\. A source is"),
    ],
)
def test_sources_that_are_not_there(here, source, error, message):
    (here / "there.csv").write_text("a,b\n1,2\n")
    with pytest.raises(error, match=message):
        read_rows(source)


def test_settings_that_do_not_apply_are_refused(write_rows):
    path = write_rows(ROWS)
    with pytest.raises(
        ConfigError, match=r"data\.params are parameters of a gym: task, but data\.source is 'rows\.jsonl'"
    ):
        read_rows(path, params={"min_terms": 2})
    with pytest.raises(ConfigError, match=r"data\.subset is for folders and hub data sets"):
        read_rows(path, subset="main")


# --- folders and the hub ---------------------------------------------------------------------------------------------


def test_a_folder_of_files(here, write_rows):
    (here / "mine").mkdir()
    write_rows(ROWS, "mine/train.jsonl")
    write_rows(ROWS[:1], "mine/test.jsonl")
    found = read_rows("mine")
    assert (records(found), found.name, found.columns) == (ROWS, "mine", ("id", "problem", "answer"))
    assert records(read_rows("mine", split="test")) == ROWS[:1]
    assert records(read_rows("mine", limit=3)) == ROWS[:3]
    with pytest.raises(DataError, match=r"^mine has no split 'dev' \(data\.split\)\. Its splits are: train, test"):
        read_rows("mine", split="dev")
    with pytest.raises(DataError, match=r"the folder mine cannot be loaded as data: BuilderConfig 'x' not found"):
        read_rows("mine", subset="x")


def test_a_folder_named_like_a_format_is_a_folder(here, write_rows):
    (here / "json").mkdir()  # also the name of a loader in `datasets`
    write_rows(ROWS, "json/train.jsonl")
    write_rows(ROWS[:1], "train.jsonl")
    assert records(read_rows("json")) == ROWS


def test_progress_bars_are_left_as_they_were(here, write_rows):
    (here / "mine").mkdir()
    write_rows(ROWS, "mine/train.jsonl")
    datasets.enable_progress_bars()
    read_rows("mine")
    assert not datasets.are_progress_bars_disabled()


def test_a_saved_data_set(here):
    datasets.Dataset.from_list(ROWS).save_to_disk("saved")
    assert records(read_rows("saved", split="whatever it was")) == ROWS
    both = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS), dev=datasets.Dataset.from_list(ROWS[:2]))
    both.save_to_disk("both")
    assert records(read_rows("both", split="dev")) == ROWS[:2]
    with pytest.raises(DataError, match=r"both has no split 'test'.*Its splits are: train, dev"):
        read_rows("both", split="test")


def test_folders_that_hold_no_data(here):
    (here / "empty").mkdir()
    with pytest.raises(DataError, match=r"the folder empty cannot be loaded as data: .*doesn't contain any data files"):
        read_rows("empty")
    (here / "cut").mkdir()
    (here / "cut" / "train.jsonl").write_text('{"a": 1}\n{"a": ')
    with pytest.raises(DataError, match=r"the folder cut cannot be loaded as data: JSON parse error"):
        read_rows("cut")
    (here / "half.jsonl").mkdir()
    with pytest.raises(DataError, match=r"the folder half\.jsonl cannot be loaded"):
        read_rows("half.jsonl")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConnectionError("Couldn't reach 'org/name' on the Hub"),
            r"^hub:org/name cannot be reached: Couldn't.*download",
        ),
        (datasets.exceptions.DatasetNotFoundError("'org/name' doesn't exist"), "the hub has no such public data set"),
        (ValueError("Config name is missing.\nPlease pick one"), r"cannot be loaded: Config name is missing\.$"),
        (datasets.exceptions.DatasetGenerationError("broken"), r"cannot be loaded: broken"),
    ],
)
def test_a_hub_that_does_not_answer(monkeypatch, error, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=message):
        read_rows("hub:org/name")


def test_a_hub_data_set(monkeypatch):
    asked = []

    def load(path, name):
        asked.append((path, name))
        return datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS), test=datasets.Dataset.from_list(ROWS[:1]))

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = read_rows("hub:org/name", subset="main", split="test")
    assert (records(found), found.name, asked) == (ROWS[:1], "org/name", [("org/name", "main")])


def test_nothing_but_the_hub_asks_the_hub(here, write_rows, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("the hub was asked"))
    write_rows(ROWS)
    read_rows("rows.jsonl")
    with pytest.raises(DataError, match="no such file or folder"):
        read_rows("org/name")


# --- worlds and reasoning-gym ----------------------------------------------------------------------------------------


def test_a_world():
    found = read_rows("world:countdown", split="test", size=5, seed=3)
    assert records(found) == [dict(row) for row in worlds.get("countdown").problems("test", 5, 3)]
    assert (found.name, found.needs_gold) == ("countdown", True)
    assert records(read_rows("world:countdown", split="test", size=5, seed=3, limit=2)) == records(found)[:2]
    with pytest.raises(DataError, match="there is no world 'count'"):
        read_rows("world:count")
    with pytest.raises(DataError, match="has no split 'dev'"):
        read_rows("world:countdown", split="dev")


SMALL = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def test_a_gym_task_is_a_function_of_its_settings():
    pytest.importorskip("reasoning_gym")
    found = read_rows("gym:chain_sum", size=5, seed=3)
    assert [row.columns["id"] for row in found.rows] == [f"chain_sum/3/{i}" for i in range(5)]
    assert set(found.columns) == set(found.rows[0].columns)
    assert found.name == "chain_sum"
    assert records(read_rows("gym:chain_sum", size=5, seed=3)) == records(found)
    assert records(read_rows("gym:chain_sum", size=5, seed=4)) != records(found)


def test_repeated_questions_of_a_gym_task_are_left_out():
    pytest.importorskip("reasoning_gym")
    found = read_rows("gym:chain_sum", size=200, params=SMALL)
    questions = [row.columns["question"] for row in found.rows]
    assert len(set(questions)) == len(questions) < 200  # there are 2 * 10 * 10 such sums
    assert found.num_dropped == {"repeated question": 200 - len(questions)}
    # The first occurrence stays, under its own number.
    assert [row.columns["id"].rsplit("/")[-1] for row in found.rows] == [str(row.number - 1) for row in found.rows]


def test_tasks_that_depend_on_the_hash_seed_warn_once(monkeypatch):
    pytest.importorskip("reasoning_gym")
    monkeypatch.setattr(sources, "_warned_tasks", set())
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    read_rows("gym:word_ladder", size=1)
    monkeypatch.setenv("PYTHONHASHSEED", "random")
    with pytest.warns(UserWarning, match=r"'word_ladder' depend on PYTHONHASHSEED.*Start with PYTHONHASHSEED=0"):
        read_rows("gym:word_ladder", size=1)
    read_rows("gym:word_ladder", size=1)  # a second warning would be an error here
    read_rows("gym:chain_sum", size=1)


def test_gym_tasks_that_cannot_be_opened(monkeypatch):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ConfigError, match=r"no task 'chainsum'.*chain_sum"):
        read_rows("gym:chainsum")
    with pytest.raises(ConfigError, match=r"has no parameter 'terms'"):
        read_rows("gym:chain_sum", params={"terms": 2})
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingExtraError, match=r"pip install \"ngrpo\[gym\]\""):
        read_rows("gym:chain_sum")


def test_a_gym_row_that_cannot_be_made_is_named(monkeypatch):
    class Broken:
        def __getitem__(self, index):
            raise ValueError("no solution\nfound")

    monkeypatch.setattr(sources, "open_task", lambda *_, **__: Broken())
    with pytest.raises(DataError, match=r"gym:chain_sum could not make row 1 of 7: no solution\.$"):
        read_rows("gym:chain_sum", size=7)


def test_rows_survive_a_json_round_trip(write_rows):
    assert json.loads(json.dumps(records(read_rows(write_rows(ROWS))))) == ROWS
