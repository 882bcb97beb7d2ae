"""Published sets: any copy comes out in one form, and a copy that is another set is refused with the difference."""

import os
import random
import re
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from ngrpo.data import load_prompts, presets, read_rows
from ngrpo.data.content import even_text, fingerprint, problem_key
from ngrpo.errors import ConfigError, DataError

PROBLEMS = ["What is 1+1?", "What is\n 2 +  2?", "What is 3+3?", "What is 4+4?", "What is 1+1?"]
GOLDS = ["2", "4", "6", "8", "2"]


def published(problems=PROBLEMS, golds=GOLDS, mended=(), **changes):
    """The preset that such rows are the true copy of."""
    facts = presets.DataPreset(
        name="small",
        title="A small set",
        hub="org/small",
        split="test",
        num_problems=len(problems),
        fingerprint=fingerprint(zip(problems, golds, strict=True)),
        problems_fingerprint=fingerprint((problem,) for problem in problems),
        licence="MIT",
        origin="here",
        note="none",
        golds=dict(mended),
    )
    return replace(facts, **changes)


@pytest.fixture
def known(monkeypatch):
    def make(**changes):
        monkeypatch.setitem(presets._PRESETS, "small", published(**changes))

    return make


@pytest.fixture
def hub(monkeypatch):
    """A hub that holds what the test puts there; every call is written down."""
    shelf, calls = {}, []

    def load_dataset(path, name=None):
        calls.append((path, name))
        return shelf[path, name]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return shelf, calls


def rows_of(problems=PROBLEMS, golds=GOLDS, prompt="problem", gold="answer", **more):
    return [{prompt: problem, gold: answer, **more} for problem, answer in zip(problems, golds, strict=True)]


def plain(found):
    return [(row.columns["id"], even_text(row.columns["problem"]), row.columns["answer"]) for row in found.rows]


# --- the facts -------------------------------------------------------------------------------------------------------


def test_every_set_says_what_is_needed_to_use_it_well():
    assert presets.names() == (
        "math_train", "math_test", "math500", "amc23", "aime2024", "aime2025", "gsm8k_train", "gsm8k_test",
    )  # fmt: skip
    sizes = {name: presets.get(name).num_problems for name in presets.names()}
    assert sizes == {
        "math_train": 7500,
        "math_test": 5000,
        "math500": 500,
        "amc23": 40,
        "aime2024": 30,
        "aime2025": 30,
        "gsm8k_train": 7473,
        "gsm8k_test": 1319,
    }
    prints = set()
    for name in presets.names():
        preset = presets.get(name)
        assert preset.name == name
        assert re.fullmatch(r"[\w-]+/[\w-]+", preset.hub)
        assert "ublic since" in preset.note  # nothing is clean for ever: the reader needs the date
        assert len(preset.note) > 50
        if name == "aime2024":
            assert preset.fingerprint is None
            assert "number of rows only" in preset.note
        else:
            assert re.fullmatch("[0-9a-f]{64}", preset.fingerprint)
            prints |= {preset.fingerprint, preset.problems_fingerprint}
    assert len(prints) == 14


def test_a_source_that_is_none_of_them_is_nothing_special():
    assert presets.about("math500").name == presets.about("math500:a/b.parquet").name == "math500"
    for source in ("math500.parquet", "./math500", "hub:HuggingFaceH4/MATH-500", "data/math500:x", "world:countdown"):
        assert presets.about(source) is None


# --- one form for all copies -----------------------------------------------------------------------------------------


def test_a_file_comes_out_with_ids_of_its_problems(known, write_rows):
    known()
    write_rows(rows_of(id="own", level=3, extra=[1]), "copy.jsonl")
    found = read_rows("small:copy.jsonl")
    assert (found.name, found.source, found.num_dropped) == ("small", "small:copy.jsonl", {})
    ids = [row.columns["id"] for row in found.rows]
    assert all(re.fullmatch("small-[0-9a-f]{10}(-2)?", each) for each in ids)
    assert len(set(ids)) == 5
    assert ids[4] == ids[0] + "-2"  # the problem that is there twice
    assert found.rows[1].columns == {
        "id": ids[1], "problem": PROBLEMS[1], "answer": "4", "source_id": "own", "level": "Level 3", "extra": [1],
    }  # fmt: skip
    assert set(found.columns) == set(found.rows[1].columns)


def test_copies_in_another_order_and_layout_have_the_same_ids_and_golds(known, write_rows, hub):
    known(subsets=("one", "two"), prompt_column="question", renamed={"type": "subject"})
    write_rows(rows_of(), "copy.jsonl")
    shelf, calls = hub
    layout = [
        {"question": f"  {problem.replace(' ', '  ')}\n", "answer": f"So it is {gold}.\n#### {gold}", "type": "Sums"}
        for problem, gold in zip(PROBLEMS, GOLDS, strict=True)
    ]
    layout = [layout[index] for index in (3, 4, 2, 0, 1)]
    shelf["org/small", "one"] = datasets.DatasetDict(test=datasets.Dataset.from_list(layout[:2]))
    shelf["org/small", "two"] = datasets.DatasetDict(
        test=datasets.Dataset.from_list(layout[2:]), train=datasets.Dataset.from_list([{"question": "?"}])
    )
    from_hub = read_rows("small")
    assert calls == [("org/small", "one"), ("org/small", "two")]
    assert [row.number for row in from_hub.rows] == [1, 2, 3, 4, 5]
    golds = {row.columns["id"]: row.columns["answer"] for row in read_rows("small:copy.jsonl").rows}
    assert {row.columns["id"]: row.columns["answer"] for row in from_hub.rows} == golds
    assert from_hub.rows[0].columns["subject"] == "Sums"
    assert from_hub.rows[0].columns["solution"] == "So it is 8.\n#### 8"


def test_a_saved_data_set_folder_is_read_by_the_split_of_the_set(known, tmp_path, monkeypatch):
    known()
    monkeypatch.chdir(tmp_path)
    both = datasets.DatasetDict(
        test=datasets.Dataset.from_list(rows_of()), train=datasets.Dataset.from_list(rows_of(["?"], ["1"]))
    )
    both.save_to_disk("saved")
    assert len(read_rows("small:saved").rows) == 5


@pytest.mark.parametrize(
    "golds",
    [
        ["2.0", "4.00", "6.0", "8.0", "2"],
        [2.0, 4.0, 6.0, 8.0, 2.0],
        [2, 4, 6, 8, 2],
        [r"so \boxed{2}", r"\boxed{1}, no: \boxed{4}", r"$x = \boxed 6$.", r"\boxed{8}", "2"],
    ],
)
def test_golds_in_other_writings_are_the_same_golds(known, write_rows, golds):
    known()
    write_rows(rows_of(golds=golds), "copy.jsonl")
    assert [row.columns["answer"] for row in read_rows("small:copy.jsonl").rows] == GOLDS


def test_thousands_of_gsm8k_are_one_number(known, write_rows):
    known(problems=["q"], golds=["70000"])
    write_rows(rows_of(["q"], ["it is $70,000\n#### 70,000"]), "copy.jsonl")
    assert [row.columns["answer"] for row in read_rows("small:copy.jsonl").rows] == ["70000"]


def test_columns_of_a_copy_can_be_named(known, write_rows, tokenizer):
    known()
    write_rows(rows_of(prompt="task", gold="target", answer="not this", id="x"), "copy.jsonl")
    prompts = load_prompts("small:copy.jsonl", tokenizer, prompt_column="task", gold_column="target")
    assert [prompt.gold for prompt in prompts.prompts] == GOLDS
    assert prompts.prompts[0].columns["source_answer"] == "not this"
    with pytest.raises(DataError, match=r"^copy\.jsonl has none of the columns prompt, problem, question"):
        load_prompts("small:copy.jsonl", tokenizer)


def test_a_set_becomes_prompts(known, write_rows, tokenizer):
    known()
    write_rows(rows_of(level="Level 2"), "copy.jsonl")
    prompts = load_prompts("small:copy.jsonl", tokenizer, check_golds=lambda golds: [None] * len(golds), limit=2)
    assert (prompts.name, len(prompts)) == ("small", 2)
    first = prompts.prompts[0]
    assert (first.text, first.gold, first.columns["level"]) == (PROBLEMS[0], "2", "Level 2")
    assert first.source == "small:copy.jsonl row 1"
    assert first.id.startswith("small-")


def test_wrong_golds_are_mended_and_missing_ones_left_out(known, write_rows, tokenizer):
    problems, golds = ["a?", "b?", "c?"], ["1", "6", ""]
    known(problems=problems, golds=golds, mended={problem_key("b?"): "6", problem_key("c?"): None})
    for copy in (["1", "12", r"so \boxed{}"], ["1", "6", None], ["1", "6", "7"]):
        write_rows(rows_of(problems, copy), "copy.jsonl")
        prompts = load_prompts("small:copy.jsonl", tokenizer)
        assert [prompt.gold for prompt in prompts.prompts] == ["1", "6"]
        assert prompts.num_dropped == {"no gold in the published solution": 1}


# --- copies that are something else ----------------------------------------------------------------------------------


def change(index, **what):
    rows = rows_of()
    rows[index].update(what)
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (rows_of()[:4], "it has 4 rows and not 5"),
        (rows_of() * 2, "it has 10 rows and not 5"),
        (change(0, answer="3"), "the problems are the same, but at least one answer differs"),
        (change(0, answer=None), "the problems are the same, but at least one answer differs"),
        (change(0, problem="What is 1+2?"), "the problems differ"),
        (change(0, problem="what is 1+1?"), "the problems differ"),
        (change(0, problem=None), "the problems differ"),
        (change(0, problem=7), "the problems differ"),
    ],
)
def test_another_content_is_refused_with_the_difference_and_the_way_round(known, write_rows, rows, message):
    known()
    write_rows(rows, "copy.jsonl")
    with pytest.raises(DataError) as caught:
        read_rows("small:copy.jsonl", limit=2)  # a limit does not hide it
    assert str(caught.value).startswith(f"small:copy.jsonl is not A small set as it is known here: {message}")
    assert 'use these rows unchecked, under their own name, with data.source = "copy.jsonl"' in str(caught.value)
    assert len(read_rows("copy.jsonl").rows) == len(rows)  # that way works


def test_the_message_names_both_fingerprints(known, write_rows):
    known()
    write_rows(change(2, answer="7"), "copy.jsonl")
    got = fingerprint(zip(PROBLEMS, ["2", "4", "7", "8", "2"], strict=True))[:12]
    with pytest.raises(DataError, match=f"fingerprint {got} and not {presets.get('small').fingerprint[:12]}"):
        read_rows("small:copy.jsonl")


def test_another_content_of_the_hub_is_refused(known, hub):
    known()
    hub[0]["org/small", None] = datasets.DatasetDict(test=datasets.Dataset.from_list(rows_of()[:4]))
    with pytest.raises(
        DataError, match=r'^small is not A small set .*4 rows and not 5.*data\.source = "hub:org/small"'
    ):
        read_rows("small")


def test_a_changed_layout_of_the_hub_is_named(known, hub):
    known(prompt_column="question")
    hub[0]["org/small", None] = datasets.DatasetDict(test=datasets.Dataset.from_list(rows_of()))
    with pytest.raises(DataError, match=r"hub:org/small has no column 'question'.*Its columns are: problem, answer"):
        read_rows("small")


def test_a_set_without_fingerprint_is_checked_by_its_size(known, write_rows):
    known(fingerprint=None, problems_fingerprint=None)
    write_rows(change(0, problem="Other?"), "copy.jsonl")
    assert len(read_rows("small:copy.jsonl").rows) == 5
    write_rows(rows_of()[:3], "copy.jsonl")
    with pytest.raises(DataError, match="3 rows and not 5"):
        read_rows("small:copy.jsonl")


def test_settings_that_do_not_apply(known, write_rows):
    known()
    write_rows(rows_of(), "copy.jsonl")
    assert len(read_rows("small:copy.jsonl", split="test").rows) == 5
    for settings in ({"split": "validation"}, {"subset": "main"}):
        with pytest.raises(ConfigError, match=r"names a published set, which is one split already; .* Remove them"):
            read_rows("small:copy.jsonl", **settings)
    with pytest.raises(DataError, match=r"there is no file gone\.parquet"):
        read_rows("small:gone.parquet")


def test_a_name_that_is_also_a_file_here_is_not_guessed(known, write_rows, tmp_path):
    known()
    (tmp_path / "small").mkdir()
    write_rows(rows_of(), "small/test.jsonl")
    with pytest.raises(ConfigError, match=r"Write \./small for that, small:\./small for the set read from it, or hub:"):
        read_rows("small")
    assert len(read_rows("./small", split="test").rows) == 5
    assert read_rows("small:./small").name == "small"


def test_the_hub_out_of_reach_says_what_else_there_is(known, monkeypatch):
    known()

    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"hub:org/small cannot be reached: no route.*NAME:FILE for a published set"):
        read_rows("small")


# --- the real files, where somebody has them -------------------------------------------------------------------------


@pytest.mark.parametrize("name", presets.names())
def test_real_copies_are_recognised_in_any_order(name, tmp_path):
    import pyarrow.parquet

    file = Path(os.environ.get("NGRPO_REAL_DATA", tmp_path)) / f"{name}.parquet"
    if not file.exists():
        pytest.skip(f"no {name}.parquet in the folder of NGRPO_REAL_DATA")
    found = read_rows(f"{name}:{file}")
    preset = presets.get(name)
    num_left_out = sum(gold is None for gold in preset.golds.values())
    assert len(found.rows) == preset.num_problems - num_left_out
    assert len({row.columns["id"] for row in found.rows}) == len(found.rows)
    assert all(row.columns["answer"] for row in found.rows)

    table = pyarrow.parquet.read_table(file)
    order = random.Random(0).sample(range(table.num_rows), table.num_rows)
    pyarrow.parquet.write_table(table.take(order), tmp_path / "shuffled.parquet")
    assert sorted(plain(read_rows(f"{name}:{tmp_path / 'shuffled.parquet'}"))) == sorted(plain(found))
    if "solution" in table.column_names and name.startswith("math"):  # the layout of the hub
        renamed = table.drop_columns(["answer", "id"]).rename_columns({"subject": "type"})
        pyarrow.parquet.write_table(renamed, tmp_path / "hub.parquet")
        assert plain(read_rows(f"{name}:{tmp_path / 'hub.parquet'}")) == plain(found)
