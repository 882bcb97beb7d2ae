import hashlib
import time

import pyarrow
import pyarrow.parquet
import pytest

from ngrpo.data import load_prompts
from ngrpo.errors import ConfigError, DataError
from ngrpo.types import Prompt

GOOD = {"id": "a", "problem": "1+1?", "answer": "2"}


def row(**changes):
    return {**GOOD, **changes}


def test_a_row_becomes_a_prompt(write_rows, tokenizer):
    source = write_rows([row(level=3)])
    prompts = load_prompts(source, tokenizer)
    ids = tuple(tokenizer("1+1?")["input_ids"])
    assert prompts.prompts == (Prompt("a", "1+1?", ids, "2", "rows.jsonl row 1", row(level=3), "1+1?"),)
    assert (prompts.name, prompts.num_dropped, len(prompts)) == ("rows", {}, 1)


@pytest.mark.parametrize(
    ("columns", "text", "gold"),
    [
        ({"prompt": "p", "problem": "q", "question": "r", "gold": "1", "answer": "2", "solution": "3"}, "p", "1"),
        ({"question": "r", "problem": "q", "solution": "3", "answer": "2"}, "q", "2"),
        ({"question": "r", "solution": "3"}, "r", "3"),
    ],
)
def test_columns_are_found_in_this_order(write_rows, tokenizer, columns, text, gold):
    (prompt,) = load_prompts(write_rows([columns]), tokenizer).prompts
    assert (prompt.text, prompt.gold, prompt.id) == (text, gold, "1")


def test_columns_can_be_named(write_rows, tokenizer):
    rows = [row(task="q?", result=5, key=7)]
    (prompt,) = load_prompts(
        write_rows(rows), tokenizer, prompt_column="task", gold_column="result", id_column="key"
    ).prompts
    assert (prompt.text, prompt.gold, prompt.id) == ("q?", "5", "7")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"prompt_column": "text"},
            r"rows\.jsonl has no column 'text' \(data\.prompt_column\)\. Its columns are: id, x, y",
        ),
        ({"gold_column": "text"}, r"none of the columns prompt, problem, question for the problem text\. .*id, x, y"),
        ({"prompt_column": "x", "gold_column": "g"}, r"no column 'g' \(data\.gold_column\)"),
        (
            {"prompt_column": "x"},
            r"none of the columns gold, answer, solution for the reference answer.*data\.gold_column",
        ),
        ({"prompt_column": "x", "gold_column": "y", "id_column": "i"}, r"no column 'i' \(data\.id_column\)"),
    ],
)
def test_missing_columns_are_named_with_those_that_exist(write_rows, tokenizer, settings, message):
    with pytest.raises(DataError, match=message):
        load_prompts(write_rows([{"id": 1, "x": "q", "y": "r"}]), tokenizer, **settings)


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        (5, "5"),
        (-5, "-5"),
        (27.0, "27"),
        (0.5, "0.5"),
        (1e-7, "0.0000001"),
        (1e22, "1" + "0" * 22),
        (10**30, "1" + "0" * 30),
        (" 5 ", " 5 "),
    ],
)
def test_numbers_as_golds_become_text(write_rows, tokenizer, gold, text):
    (prompt,) = load_prompts(write_rows([row(answer=gold)]), tokenizer).prompts
    assert prompt.gold == text


def test_decimals_of_parquet_are_numbers(tmp_path, tokenizer):
    from decimal import Decimal

    table = pyarrow.Table.from_pylist(
        [{"problem": "?", "answer": Decimal("2.50")}, {"problem": "?", "answer": Decimal("3.00")}]
    )
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    assert [p.gold for p in load_prompts(str(tmp_path / "d.parquet"), tokenizer).prompts] == ["2.50", "3"]


BAD_ROWS = [
    ({"answer": None}, "answer", "no gold", ""),
    ({"answer": ""}, "answer", "the gold is empty", ""),
    ({"answer": " \n"}, "answer", "the gold is empty", ""),
    ({"answer": float("nan")}, "answer", "no gold", ""),
    ({"answer": float("inf")}, "answer", "the gold is not text or a number", " (it is the number inf)"),
    ({"answer": True}, "answer", "the gold is not text or a number", " (it is true or false)"),
    ({"answer": ["2"]}, "answer", "the gold is not text or a number", " (it is a list)"),
    ({"answer": {"v": 2}}, "answer", "the gold is not text or a number", " (it is an object)"),
    ({"problem": None}, "problem", "no prompt", ""),
    ({"problem": "  "}, "problem", "the prompt is empty", ""),
    ({"problem": 5}, "problem", "the prompt is not text", " (it is the number 5)"),
    ({"problem": [{"role": "user"}]}, "problem", "the prompt is not text", " (it is a list)"),
    ({"problem": "\ud800"}, "problem", "the prompt is not valid Unicode", " (it has half of a surrogate pair)"),
    ({"answer": "\udfff"}, "answer", "the gold is not valid Unicode", " (it has half of a surrogate pair)"),
    ({"id": None}, "id", "no id", ""),
    ({"id": ""}, "id", "no id", ""),
    (
        {"problem": "x" * 21},
        "problem",
        "the prompt is too long",
        " (it has 21 tokens and data.max_prompt_tokens is 20)",
    ),
    ({"answer": "nonsense"}, "answer", "the gold cannot be matched", " (it is nonsense)"),
]


def refuse_nonsense(golds):
    return ["it is nonsense" if gold == "nonsense" else None for gold in golds]


@pytest.mark.parametrize("case", BAD_ROWS, ids=lambda case: case[2])
def test_a_bad_row_is_named_or_counted(write_rows, tokenizer, case):
    changes, field, reason, detail = case
    source = write_rows([row(id="first"), row(**{"id": "bad", **changes})])
    settings = {"max_prompt_tokens": 20, "check_golds": refuse_nonsense}
    with pytest.raises(DataError) as caught:
        load_prompts(source, tokenizer, **settings)
    identity = "" if changes.get("id", "bad") is None else f" (id {changes.get('id', 'bad')})"
    assert str(caught.value) == (
        f"rows.jsonl: 1 of 2 rows cannot be used: row 2{identity}, field {field!r}: {reason}{detail}. "
        'Mend them, or leave them out with data.on_bad_row = "drop".'
    )
    prompts = load_prompts(source, tokenizer, on_bad_row="drop", **settings)
    assert ([prompt.id for prompt in prompts.prompts], prompts.num_dropped) == (["first"], {reason: 1})


def test_a_missing_key_is_a_missing_value(write_rows, tokenizer):
    source = write_rows([GOOD, {"id": "b", "problem": "?"}, {"id": "c", "answer": "?"}])
    assert load_prompts(source, tokenizer, on_bad_row="drop").num_dropped == {"no gold": 1, "no prompt": 1}


def test_many_bad_rows_are_counted_and_the_first_few_named_in_order(write_rows, tokenizer):
    # The long prompt is found last, in another pass, and still comes first.
    rows = [row(id="0", problem="x" * 30), row(id="good"), *(row(id=str(i), answer="") for i in range(1, 9))]
    with pytest.raises(DataError) as caught:
        load_prompts(write_rows(rows), tokenizer, max_prompt_tokens=20)
    message = str(caught.value)
    assert message.startswith(
        "rows.jsonl: 9 of 10 rows cannot be used: row 1 (id 0), field 'problem': the prompt is too"
    )
    assert message.count("; row ") == 4
    assert "row 6 (id 4), field 'answer': the gold is empty; and 4 more. Mend them" in message


def test_nothing_left_is_an_error_even_when_dropping(write_rows, tokenizer):
    with pytest.raises(
        DataError, match=r"rows\.jsonl: none of its 2 rows can be used: row 1 .*See that data\.prompt_column"
    ):
        load_prompts(write_rows([row(answer=""), row(problem="")]), tokenizer, on_bad_row="drop")


def test_an_id_that_comes_twice_is_refused(write_rows, tokenizer):
    source = write_rows([row(id=1), row(id=2), row(id="1", problem="?")])
    for on_bad_row in ("error", "drop"):
        with pytest.raises(DataError, match=r"rows\.jsonl: rows 1 and 3 have the same 'id': '1'\..*data\.id_column"):
            load_prompts(source, tokenizer, on_bad_row=on_bad_row)


def test_the_same_problem_under_two_ids_is_fine(write_rows, tokenizer):
    assert len(load_prompts(write_rows([row(id=1), row(id=2)]), tokenizer)) == 2


def test_a_limit_counts_rows_before_any_is_dropped(write_rows, tokenizer):
    source = write_rows([row(id=1), row(id=2, answer=""), row(id=3)])
    prompts = load_prompts(source, tokenizer, limit=2, on_bad_row="drop")
    assert ([prompt.id for prompt in prompts.prompts], prompts.num_dropped) == (["1"], {"the gold is empty": 1})


def test_a_prompt_that_is_just_short_enough_stays(write_rows, tokenizer):
    assert len(load_prompts(write_rows([row(problem="x" * 20)]), tokenizer, max_prompt_tokens=20)) == 1


def test_the_length_includes_the_template(write_rows, tokenizer):
    with pytest.raises(DataError, match="it has 23 tokens"):
        load_prompts(write_rows([row(problem="x" * 20)]), tokenizer, template="<<{prompt}>", max_prompt_tokens=22)


def test_settings_are_checked_before_data_is_read(tokenizer):
    with pytest.raises(ConfigError, match=r"has no \{prompt\} in it"):
        load_prompts("gone.jsonl", tokenizer, template="oops")


def test_golds_are_checked_together_and_as_text(write_rows, tokenizer):
    seen = []

    def look(golds):
        seen.append(list(golds))
        return [None] * len(golds)

    load_prompts(write_rows([row(answer=27.0), row(id="2", answer=None), row(id="3")]), tokenizer,
                 check_golds=look, on_bad_row="drop")  # fmt: skip
    assert seen == [["27", "2"]]


def test_the_fingerprint_is_of_ids_texts_and_golds(write_rows, tokenizer):
    def fingerprint(*rows, **settings):
        return load_prompts(write_rows(rows), tokenizer, **settings).fingerprint

    base = fingerprint(GOOD)
    assert base == fingerprint(row(level=5))  # other columns do not count
    others = [
        fingerprint(row(id="b")),
        fingerprint(row(problem="1+2?")),
        fingerprint(row(answer="3")),
        fingerprint(GOOD, template="Q {prompt}"),
        fingerprint(GOOD, row(id="b")),
        fingerprint(row(id="b"), GOOD),
        fingerprint(row(id="a1", problem="+1?")),  # the same characters, cut elsewhere
    ]
    assert len({base, *others}) == 8
    # SHA-256 over each text with its length in UTF-8 bytes before it: nothing here differs between machines.
    length = b"\0\0\0\0\0\0\0"
    assert base == hashlib.sha256(length + b"\1a" + length + b"\0041+1?" + length + b"\0012").hexdigest()


def test_gym_rows_need_no_gold(tokenizer):
    pytest.importorskip("reasoning_gym")
    prompts = load_prompts("gym:rush_hour", tokenizer, size=2, check_golds=lambda golds: ["never asked"] * len(golds))
    assert [prompt.gold for prompt in prompts.prompts] == ["", ""]
    assert prompts.prompts[0].columns["metadata"]


def test_what_the_source_left_out_is_counted(tokenizer):
    pytest.importorskip("reasoning_gym")
    params = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    prompts = load_prompts("gym:chain_sum", tokenizer, size=100, params=params)
    assert prompts.num_dropped == {"repeated question": 100 - len(prompts)}


def test_a_world_can_be_loaded(tokenizer):
    prompts = load_prompts("world:countdown", tokenizer, split="validation", size=3)
    assert [prompt.text for prompt in prompts.prompts] == [prompt.columns["prompt"] for prompt in prompts.prompts]
    assert prompts.prompts[0].source == "world:countdown row 1"


def test_a_large_file_loads_quickly(write_rows, tokenizer):
    source = write_rows([row(id=i, problem="What is the sum of all digits? " * 6) for i in range(7500)])
    began = time.process_time()
    load_prompts(source, tokenizer)
    assert time.process_time() - began < 5.0
