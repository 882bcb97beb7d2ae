"""Samples made elsewhere: each format as its program writes it, found by its keys; what is wrong is named."""

import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ngrpo.data.foreign import MAX_SAMPLE_NUMBER, UNNUMBERED, format_of, read_foreign, read_samples
from ngrpo.errors import DataError

# As lm-eval 0.4.13 wrote it for a task with `repeats: 2` and two filters; hashes left out.
LM_EVAL = {
    "doc_id": 3,
    "doc": {"problem": "What is $1+1$?", "answer": "2", "level": "Level 1", "subject": "Algebra"},
    "target": "2",
    "arguments": {"gen_args_0": {"arg_0": "Problem: What is $1+1$?\nAnswer:", "arg_1": {"until": ["Problem:"]}}},
    "resps": [["It is \\boxed{2}", "It is \\boxed{3}"]],
    "filtered_resps": ["2"],
    "filter": "strict-match",
    "metrics": ["exact_match"],
    "exact_match": 1.0,
}

# As lighteval 0.13.0 saves a detail; fields that are empty for generative tasks left out.
LIGHTEVAL = {
    "doc": {
        "query": "Solve: what is $1+1$?",
        "choices": ["ANSWER: so $1+1=\\boxed{2}$"],
        "gold_index": 0,
        "id": "7",
        "task_name": "math_500|0",
        "original_query": None,
        "specific": None,
        "num_samples": 2,
    },
    "metric": {"pass@k:k=1&n=2": 0.5},
    "model_response": {
        "input": "Solve: what is $1+1$?",
        "input_tokens": [5, 6, 7],
        "text": ["\\boxed{2}", "\\boxed{3} and more"],
        "output_tokens": [[1, 2, 3], [1, 2, 3, 4, 5]],
        "logprobs": [],
    },
}

REFERENCE = {
    "prompt": "<|im_start|>user\nWhat is $1+1$?",
    "vanilla_response": "\\boxed{2}",
    "question": "What is $1+1$?",
    "answer": "It is $\\boxed{2}$.",
    "question_id": 0,
    "generation_id": 1,
    "response": "\\boxed{2}",
    "label": True,
    "gold_answer": "2",
    "pred_answer": "2",
}

OWN = {
    "prompt": "math-train-00001",
    "sample": 2,
    "completion": "\\boxed{2}",
    "gold": "2",
    "correct": True,
    "value": 1.0,
    "kind": "scored",
    "finish_reason": "length",
    "tokens": 9,
    "entropy_nats": 0.5,
}


@pytest.fixture
def lines(tmp_path):
    """Writes rows as JSON lines."""

    def write(*rows, name="samples.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def test_lm_eval(lines):
    again = {**LM_EVAL, "filter": "flexible-extract"}
    path = lines(LM_EVAL, {**LM_EVAL, "doc_id": 4, "target": "4"}, again)
    assert format_of(path) == "lm-eval samples"
    first, second, *others = read_foreign(path)  # the second filter has the same samples
    assert [(sample.prompt, sample.sample, sample.gold) for sample in others] == [("4", 0, "4"), ("4", 1, "4")]
    assert (first.prompt, first.sample, first.completion, first.gold) == ("3", 0, "It is \\boxed{2}", "2")
    assert (second.prompt, second.sample, second.completion) == ("3", 1, "It is \\boxed{3}")
    assert (first.problem, first.level, first.subject) == ("What is $1+1$?", "Level 1", "Algebra")
    assert (first.tokens, first.finish_reason) == (None, None)
    assert str(second.place) == f"{path} row 1"


def test_lm_eval_without_a_problem_column_shows_the_prompt(lines):
    (sample, _) = read_foreign(lines({**LM_EVAL, "doc": {"text": "x"}}))
    assert sample.problem == "Problem: What is $1+1$?\nAnswer:"


@pytest.mark.parametrize("resps", [[[["-1.5", "False"]], [["-2.5", "True"]]], [], "text", [[]], [["a"], ["b"]]])
def test_lm_eval_of_choices_is_refused(lines, resps):
    with pytest.raises(DataError, match="row 1: `resps` holds no generated text"):
        list(read_foreign(lines({**LM_EVAL, "resps": resps})))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_lighteval(lines, tmp_path, suffix):
    other = {**LIGHTEVAL, "doc": {**LIGHTEVAL["doc"], "id": "8", "choices": ["3", "4"], "gold_index": 1}}
    if suffix == "jsonl":
        path = lines(LIGHTEVAL, other)
    else:
        path = tmp_path / "details_math_500|0_2026-01-31T10-11-12.parquet"
        pq.write_table(pa.Table.from_pylist([LIGHTEVAL, other]), path)
    assert format_of(path) == "lighteval details"
    samples = list(read_foreign(path))
    assert [(sample.prompt, sample.sample, sample.tokens) for sample in samples] == [
        ("7", 0, 3), ("7", 1, 5), ("8", 0, 3), ("8", 1, 5)
    ]  # fmt: skip
    assert samples[0].gold == "ANSWER: so $1+1=\\boxed{2}$"
    assert samples[2].gold == "4"
    assert samples[1].completion == "\\boxed{3} and more"
    assert samples[0].problem == "Solve: what is $1+1$?"


def test_lighteval_with_several_golds_is_refused(lines):
    row = {**LIGHTEVAL, "doc": {**LIGHTEVAL["doc"], "choices": ["3", "4"], "gold_index": [0, 1]}}
    with pytest.raises(DataError, match=r"row 1: problem '7' has not exactly one gold"):
        list(read_foreign(lines(row)))


def test_lighteval_without_text_is_refused(lines):
    row = {**LIGHTEVAL, "model_response": {"text": [], "logprobs": [-1.0]}}
    with pytest.raises(DataError, match=r"row 1: `model_response` holds no generated text"):
        list(read_foreign(lines(row)))


def test_reference(lines):
    path = lines({**REFERENCE, "generation_id": 0}, REFERENCE)
    assert format_of(path) == "NGRPO reference samples"
    first, second = read_foreign(path)
    assert (first.prompt, first.sample, second.sample) == ("0", 0, 1)
    assert (first.completion, first.gold) == ("\\boxed{2}", "It is $\\boxed{2}$.")  # not its own reading of the gold
    assert first.problem == "What is $1+1$?"


def test_own(lines):
    path = lines(OWN)
    assert format_of(path) == "ngrpo samples"
    (sample,) = read_foreign(path)
    assert (sample.prompt, sample.sample, sample.tokens, sample.finish_reason) == ("math-train-00001", 2, 9, "length")


def test_plain_rows_are_numbered_in_their_order(lines):
    rows = [{"id": key, "completion": text, "gold": 2} for key, text in (("a", "x"), ("b", "y"), ("a", "x"))]
    path = lines(*rows)
    assert format_of(path) == "rows of completion and gold"
    samples = list(read_foreign(path))
    assert [(sample.prompt, sample.sample, sample.completion, sample.gold) for sample in samples] == [
        ("a", 0, "x", "2"), ("b", 0, "y", "2"), ("a", 1, "x", "2")
    ]  # fmt: skip
    assert {sample.sample for sample in read_samples(path)} == {UNNUMBERED}


def test_plain_rows_without_an_id_belong_together_by_their_problem_else_not_at_all(lines):
    with_problem = [{"problem": text, "completion": "x", "answer": "2"} for text in ("p", "q", "p")]
    assert [(sample.prompt, sample.sample) for sample in read_foreign(lines(*with_problem))] == [
        ("p", 0), ("q", 0), ("p", 1)
    ]  # fmt: skip
    bare = [{"response": "x", "gold": "2"}] * 2
    assert [(sample.prompt, sample.sample) for sample in read_foreign(lines(*bare))] == [("1", 0), ("2", 0)]


def test_plain_rows_may_number_their_samples_from_anywhere(lines):
    rows = [
        {"id": 1, "sample_id": number, "completion": "x", "gold": "2", "finish_reason": "stop"} for number in (3, 1)
    ]
    samples = list(read_foreign(lines(*rows)))
    assert [(sample.prompt, sample.sample, sample.finish_reason) for sample in samples] == [
        ("1", 3, "eos"), ("1", 1, "eos")
    ]  # fmt: skip


def test_columns_by_name(lines):
    path = lines({"text": "x", "target": 0.5, "completion": "other", "gold": "other"})
    (sample,) = read_samples(path, completion_column="text", gold_column="target")
    assert (sample.completion, sample.gold) == ("x", "0.5")
    with pytest.raises(DataError, match=r"has no column 'txt'\. Its columns are: text, target, completion, gold"):
        next(read_samples(path, completion_column="txt"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "x", "label": 1}], r"of no format that is read\. Its columns are: text, label\. Read are: lm-eval"),
        ([{"completion": "x"}], r"of no format that is read\. Its columns are: completion\."),
        ([OWN, OWN], r"row 2: sample 2 of problem 'math-train-00001' is there twice"),
        ([OWN, {**OWN, "sample": 3}, OWN], r"row 3: sample 2 of problem 'math-train-00001' is there twice"),
        ([REFERENCE, {**REFERENCE, "generation_id": 0, "answer": "3"}], r"row 2: problem '0' has another gold"),
        ([REFERENCE, {**REFERENCE, "generation_id": 0, "question": "?"}], r"row 2: problem '0' has another gold or an"),
        ([OWN, {**OWN, "sample": 3, "gold": " "}], r"row 2: problem 'math-train-00001' has no gold"),
        ([OWN, {**OWN, "sample": 3, "gold": None}], r"row 2: problem 'math-train-00001' has no gold"),
        (
            [{**OWN, "gold": ["2"]}],
            r"row 1, problem 'math-train-00001': the gold must be text or a number, got \['2'\]",
        ),
        ([{**OWN, "gold": True}], r"the gold must be text or a number, got True"),
        ([{**OWN, "completion": None}], r"row 1, problem 'math-train-00001': the completion must be text, got None"),
        ([{**OWN, "sample": "first"}], r"the number of the sample must be a whole number .*, got 'first'"),
        ([{**OWN, "sample": -1}], r"the number of the sample must be a whole number from 0 to 1000000, got -1"),
        ([{**OWN, "sample": MAX_SAMPLE_NUMBER + 1}], r"from 0 to 1000000, got 1000001"),
        ([{**OWN, "prompt": None}], r"row 1 has no id of its problem \(got None\)"),
        ([OWN, {"sample": 3, "gold": "2"}], r"row 2 lacks completion, prompt, which ngrpo samples have"),
        ([LM_EVAL, {"doc_id": 4}], r"row 2 lacks doc, resps, target, which lm-eval samples have"),
        ([{"completion": "x", "gold": "2"}, {"completion": "x"}], r"row 2 has no gold \(gold or answer or solution\)"),
    ],
)
def test_what_is_wrong_is_named(lines, rows, message):
    path = lines(*rows)
    with pytest.raises(DataError, match=message):
        list(read_foreign(path))


def test_files_that_are_no_files_of_samples(lines, tmp_path):
    (tmp_path / "torn.jsonl").write_text(json.dumps(OWN) + '\n{"prompt": "math')
    (tmp_path / "blank.jsonl").write_text("\n")
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "data.csv").write_text("a,b\n")
    (tmp_path / "rotten.parquet").write_text("PAR1")
    pq.write_table(pa.table({"completion": pa.array([], pa.string())}), tmp_path / "none.parquet")
    for name, message in {
        "torn.jsonl": r"torn\.jsonl line 2, the last one, is cut off",
        "blank.jsonl": r"blank\.jsonl has no rows",
        "list.jsonl": r"line 1 is a JSON list and not an object",
        "empty.jsonl": r"is empty: 0 bytes",
        "data.csv": r"neither a \.jsonl nor a \.parquet",
        "rotten.parquet": r"cannot be read as parquet",
        "none.parquet": r"none\.parquet has no rows",
        "missing.jsonl": r"there is no file .*missing\.jsonl",
        ".": r"is a folder: name one file",
    }.items():
        with pytest.raises(DataError, match=message):
            list(read_foreign(tmp_path / name))


def test_samples_before_a_bad_row_are_read(tmp_path):
    path = tmp_path / "torn.jsonl"
    path.write_text(json.dumps(OWN) + '\n{"prompt": "math')
    assert next(read_foreign(path)).prompt == "math-train-00001"


def test_memory_does_not_grow_with_the_samples(lines):
    """Twenty problems, 10 and 200 samples of 2 kB each: 8 MB of text are read in the memory of 0.4."""

    def peak(num_samples):
        rows = ({**OWN, "prompt": f"p{key}", "sample": number, "completion": "x" * 2000}
                for number in range(num_samples) for key in range(20))  # fmt: skip
        path = lines(*rows)
        tracemalloc.start()
        assert sum(1 for _ in read_foreign(path)) == 20 * num_samples
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    assert peak(200)[0] < peak(10)[0] + 100_000
