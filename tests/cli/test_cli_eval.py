"""`ngrpo eval` over several data sets, from existing samples, and what it refuses."""

import csv
import json
import re
import shutil

import pytest

from ngrpo.cli import evaluation
from ngrpo.record import append_lines, read_jsonl

MATH_ROWS = [
    {"id": "six", "problem": "6 x 7?", "answer": "42", "level": "1", "subject": "Algebra"},
    {"id": "half", "problem": "A half?", "answer": r"\frac{1}{2}", "level": "2", "subject": "Algebra"},
    {"id": "π", "problem": "All above 3?", "answer": r"(3, \infty)", "level": "2", "subject": "Geometry"},
]
GOLD = ["--engine", "gold", "--samples", 2, "--max-completion-tokens", 20]

# Of lm-eval: two samples of each, of the second only one is right, and by a rule that is not strict.
LM_EVAL_ROWS = [
    {"doc_id": 0, "doc": {"problem": "6 x 7?", "level": "1"}, "target": "42", "arguments": {}, "filter": "none",
     "resps": [["so \\boxed{42}", "\\boxed{41}"]]},
    {"doc_id": 1, "doc": {"problem": "A half?", "level": "2"}, "target": "\\frac12", "arguments": {}, "filter": "none",
     "resps": [["", "The answer is $0.5$."]]},
]  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def math(tmp_path):
    return write(tmp_path / "math.jsonl", MATH_ROWS)


@pytest.fixture
def lm_eval(tmp_path):
    return write(tmp_path / "lm.jsonl", LM_EVAL_ROWS)


def summary_in(folder):
    return json.loads((folder / "summary.json").read_text())


def settings_in(folder):
    return json.loads((folder / "eval.json").read_text())["settings"]


# --- several data sets ---


@pytest.fixture
def num_loads(monkeypatch):
    """How often a model was loaded."""
    loads = []
    load = evaluation.load_policy
    monkeypatch.setattr(evaluation, "load_policy", lambda *parts, **more: loads.append(1) or load(*parts, **more))
    return loads


@pytest.mark.usefixtures("math")
def test_several_data_sets_in_one_call(ngrpo, noise, tmp_path, num_loads):
    command = ["eval", noise, "--data", "math.jsonl", "--data", "world:countdown", *GOLD, "data.limit=3"]
    told = ngrpo(*command, "--out", "all")
    assert told.code == 0, told.err
    assert len(num_loads) == 1
    for name in ("math", "world-countdown"):
        files = {path.name for path in (tmp_path / "all" / name).iterdir()}
        assert {"summary.json", "summary.md", "summary.csv", "pass_at_k.png", "problems.jsonl"} <= files
        assert len(read_jsonl(tmp_path / "all" / name / "samples.jsonl")) == 6
        assert f"samples and summary: all/{name}\n" in told.out
    assert (tmp_path / "all" / "pass_at_k.png").read_bytes().startswith(b"\x89PNG")
    assert "maj@2" not in told.out.partition("countdown")[2]  # a world tells no normal forms

    again = ngrpo(*command, "--out", "all", "--json")
    assert "nothing to do: every sample is in all/math, all/world-countdown already" in again.err
    assert len(num_loads) == 1
    assert [summary["settings"]["data"] for summary in json.loads(again.out)] == ["math", "countdown"]

    # What one of them lacks is sampled, the other is only read; both with one model.
    samples = tmp_path / "all" / "world-countdown" / "samples.jsonl"
    whole = samples.read_bytes()
    samples.write_bytes(whole[:-30])
    assert ngrpo(*command, "--out", "all").code == 0
    assert samples.read_bytes() == whole
    assert len(num_loads) == 2


def test_the_tables_have_every_number(ngrpo, noise, math, tmp_path):
    told = ngrpo("eval", noise, "--data", math, *GOLD, "--out", "e")
    assert told.code == 0, told.err
    written = summary_in(tmp_path / "e")
    for label in ("mean@2", "pass@1", "pass@2", "Pass@k AUC, k = 1..2"):
        assert re.search(rf"^{re.escape(label)} +\d+\.\d +", told.out, re.MULTILINE), label
    assert re.search(r"^level +prompts +mean@2 +pass@2 *\n1 +1 .*\n2 +2 ", told.out, re.MULTILINE)
    assert re.search(r"^subject .*\nAlgebra +2 .*\nGeometry +1 ", told.out, re.MULTILINE)
    assert re.search(r"^outcomes: (scored|unparsed) ", told.out, re.MULTILINE)
    rows = list(csv.DictReader((tmp_path / "e" / "summary.csv").read_text().splitlines()))
    of_all = {row["quantity"]: row for row in rows if not row["column"]}
    assert float(of_all["pass@2"]["low"]) == written["pass_at_k"]["2"]["low"]
    assert float(of_all["mean_tokens"]["estimate"]) == written["mean_tokens"]
    of_geometry = [row for row in rows if row["value"] == "Geometry"]
    assert {row["num_prompts"] for row in of_geometry} == {"1"}
    markdown = (tmp_path / "e" / "summary.md").read_text()
    assert markdown.startswith(f"**{noise} on math: 3 prompts x 2 samples, temperature 1, top-p 1, seed 0**\n")
    assert re.search(r"^\| pass@2 \| \d+\.\d \| \d+\.\d to \d+\.\d \| ", markdown, re.MULTILINE)
    assert "\n- fingerprint: " in markdown
    assert written["command"][:2] == ["ngrpo", "eval"]
    assert "math-verify" in written["packages"]
    assert settings_in(tmp_path / "e")["judge"]["profile"] == "strict"


def test_the_paper_preset_gives_way_to_options(ngrpo, noise, math, tmp_path):
    command = ["eval", noise, "--data", math, "--engine", "gold", "--preset", "paper", "data.limit=1"]
    told = ngrpo(*command, "--max-completion-tokens", 20, "--out", "e")
    assert told.code == 0, told.err
    found = settings_in(tmp_path / "e")
    names = ("num_samples", "temperature", "top_p", "top_k", "max_completion_tokens")
    assert [found[name] for name in names] == [256, 0.6, 0.95, 0, 20]
    assert found["ks"] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert "max-completion-tokens = 4096 leaves no room" in ngrpo(*command, "--out", "f").err


def test_left_out_rows_are_told_with_the_numbers(ngrpo, noise, tmp_path):
    write(tmp_path / "gaps.jsonl", [*MATH_ROWS, {"id": "no", "problem": "?", "answer": ""}])
    told = ngrpo("eval", noise, "--data", "gaps.jsonl", *GOLD, "--out", "e", "data.on_bad_row=drop")
    assert "note: 1 rows of the data were left out (1 the gold is empty)\n" in told.out
    assert summary_in(tmp_path / "e")["settings"]["notes"] == ["1 rows of the data were left out (1 the gold is empty)"]


# --- samples that exist ---


def test_samples_of_another_program_are_graded(ngrpo, lm_eval, tmp_path, no_models):
    told = ngrpo("eval", "--from", lm_eval, "--out", "e")
    assert told.code == 0, told.err
    rows = read_jsonl(tmp_path / "e" / "samples.jsonl")
    found = [(row["prompt"], row["sample"], row["correct"], row["kind"]) for row in rows]
    assert found == [
        ("0", 0, True, "scored"), ("0", 1, False, "scored"), ("1", 0, False, "unparsed"), ("1", 1, False, "unparsed"),
    ]  # fmt: skip
    written = summary_in(tmp_path / "e")
    assert written["mean"]["estimate"] == 0.25
    assert written["truncated_frac"] is None  # the file does not say
    assert set(written["strata"]["level"]) == {"1", "2"}
    assert "temperature" not in told.out
    samples = (tmp_path / "e" / "samples.jsonl").read_bytes()
    assert ngrpo("eval", "--from", lm_eval, "--out", "e").out == told.out
    assert (tmp_path / "e" / "samples.jsonl").read_bytes() == samples

    # The paper's profile takes "the answer is"; the folder's own samples are judged again, without the file.
    lm_eval.unlink()
    told = ngrpo("eval", "--from", "e", "--out", "paper", "--profile", "paper")
    assert told.code == 0, told.err
    assert summary_in(tmp_path / "paper")["mean"]["estimate"] == 0.5
    assert (tmp_path / "e" / "samples.jsonl").read_bytes() == samples
    again = ngrpo("eval", "--from", "paper/samples.jsonl", "reward.name=exact", "--out", "exact")
    assert again.code == 0, again.err
    assert settings_in(tmp_path / "exact")["reward"] == "exact"


def test_grading_that_was_cut_off_goes_on(ngrpo, lm_eval, tmp_path):
    ngrpo("eval", "--from", lm_eval, "--out", "whole")
    whole = (tmp_path / "whole" / "samples.jsonl").read_bytes()
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for length in (len(whole) - 1, len(whole) - 20, len(whole) // 2, 3, 0):
        (tmp_path / "cut" / "samples.jsonl").write_bytes(whole[:length])
        assert ngrpo("eval", "--from", lm_eval, "--out", "cut").code == 0
        assert (tmp_path / "cut" / "samples.jsonl").read_bytes() == whole
    first, second, *rest = whole.splitlines(keepends=True)
    (tmp_path / "cut" / "samples.jsonl").write_bytes(b"".join([second, first, *rest]))
    told = ngrpo("eval", "--from", lm_eval, "--out", "cut")
    assert told.code == 2
    assert "line 1 of cut/samples.jsonl is sample 1 of prompt '0'; the samples to be judged have sample 0" in told.err


def test_a_sampled_evaluation_keeps_its_settings_when_judged_again(ngrpo, noise, math, tmp_path):
    assert ngrpo("eval", noise, "--data", math, *GOLD, "--temperature", 0.7, "--out", "e").code == 0
    told = ngrpo("eval", "--from", "e", "--out", "again", "--profile", "lenient")
    assert told.code == 0, told.err
    before, after = settings_in(tmp_path / "e"), settings_in(tmp_path / "again")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"judge", "graded_from", "samples_fingerprint"}
    assert after["judge"]["profile"] == "lenient"
    assert summary_in(tmp_path / "again")["entropy_nats"] == summary_in(tmp_path / "e")["entropy_nats"]
    assert summary_in(tmp_path / "again")["strata"].keys() == {"level", "subject"}


def test_golds_can_come_from_data(ngrpo, math, tmp_path):
    rows = [{"id": row["id"], "completion": rf"\boxed{{{row['answer']}}}", "gold": "0"} for row in MATH_ROWS]
    told = ngrpo("eval", "--from", write(tmp_path / "s.jsonl", rows), "--data", math, "--out", "e")
    assert told.code == 0, told.err
    assert summary_in(tmp_path / "e")["mean"]["estimate"] == 1.0  # golds of the data, not of the file
    assert settings_in(tmp_path / "e")["data"] == "math"
    told = ngrpo("eval", "--from", write(tmp_path / "less.jsonl", rows[:1]), "--data", math, "--out", "f")
    assert (told.code, "has no sample of 2 of the 3 prompts of math: 'half', 'π'." in told.err) == (2, True), told.err
    more = [*rows, {"id": "other", "completion": "1", "gold": "1"}]
    told = ngrpo("eval", "--from", write(tmp_path / "more.jsonl", more), "--data", math, "--out", "f")
    assert (told.code, "row 4: prompt 'other' is not in the data math" in told.err) == (2, True), told.err
    assert not (tmp_path / "f").exists()


def test_uneven_samples_are_a_range(ngrpo, tmp_path):
    rows = [{"id": name, "completion": r"\boxed{1}", "gold": "1"} for name in ("a", "a", "b", "a")]
    source = write(tmp_path / "s.jsonl", rows)
    told = ngrpo("eval", "--from", source, "--out", "e")
    assert "samples on s: 2 prompts x 1..3 samples, graded from" in told.out
    assert "mean@1..3" in told.out
    told = ngrpo("eval", "--from", source, "--out", "e", "--ks", "1,2")
    assert told.code == 2
    assert "pass@2 needs 2 samples of every prompt; prompt 'b' has 1" in told.err


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "math.jsonl"], r"needs a MODEL and --data, or --from"),
        (["data.limit=3", "--data", "math.jsonl"], r"needs a MODEL and --data, or --from"),
        (["m"], r"needs a MODEL and --data, or --from"),
        (["m", "--data", "a/x.jsonl", "--data", "a/x.parquet"], r"two of --data would share the folder a-x"),
        (["m", "--data", "math.jsonl", "--preset", "papre"], r"--preset 'papre' is none of paper"),
        (["m", "--data", "math.jsonl", "--profile", "lax"], r"--profile 'lax' is none of strict, lenient, paper"),
        (["m", "--data", "math.jsonl", "--data", "b.jsonl", "--out", "done"], r"done is an evaluation of one data set"),
        (["--from", "lm.jsonl"], r"--from needs --out"),
        (["--from", "lm.jsonl", "--out", "e", "--samples", "4"], r"--samples is of no use with --from"),
        (["--from", "lm.jsonl", "--out", "e", "--top-p", "0.5"], r"--top-p is of no use with --from"),
        (["--from", "lm.jsonl", "--out", "e", "--preset", "paper"], r"--from takes no --preset"),
        (["--from", "nothing.jsonl", "--out", "e"], r"nothing\.jsonl cannot be read: No such file"),
        (["--from", "math.jsonl", "--out", "e"], r"math\.jsonl is of no format that is read"),
        (["--from", "bad_gold.jsonl", "--out", "e"], r"1 of 2 golds cannot be matched: .*bad_gold\.jsonl row 2"),
        (["--from", "no_gold.jsonl", "--out", "e"], r"no_gold\.jsonl row 1: problem '1' has no gold"),
        (["--from", "done", "--out", "done"], r"done is an evaluation folder: it has its own model and data"),
        (["--from", "done", "--out", "e", "--data", "math.jsonl"], r"it has its own model and data"),
        (["--from", "lm.jsonl", "--out", "taken"], r"taken exists and holds no evaluation"),
        (["--from", "lm.jsonl", "--out", "done"], r"done holds another evaluation:\n"),
        (["--from", "lm.jsonl", "--out", "e", "--ks", "4,2"], r"--ks 4,2 must be rising"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("math", "lm_eval", "no_models")
def test_refusals(refused, ngrpo, tmp_path, arguments, message):
    write(tmp_path / "bad_gold.jsonl", [{"completion": "1", "gold": "1"}, {"completion": "1", "gold": "{("}])
    write(tmp_path / "no_gold.jsonl", [{"completion": "1", "gold": None}])
    write(tmp_path / "one.jsonl", [{"id": "x", "completion": "1", "gold": "1"}])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    assert ngrpo("eval", "--from", "one.jsonl", "--out", "done").code == 0
    told = refused("eval", *arguments)
    assert re.search(message, told), told
    assert not (tmp_path / "e").exists()


def test_an_incomplete_evaluation_is_not_judged_again(refused, ngrpo, lm_eval, tmp_path):
    ngrpo("eval", "--from", lm_eval, "--out", "e")
    samples = tmp_path / "e" / "samples.jsonl"
    whole = samples.read_bytes()
    samples.write_bytes(whole[:-5])
    assert "1 of 2 prompts lack samples: '1' (1 of 2)" in refused("eval", "--from", "e", "--out", "f")
    samples.write_bytes(whole)
    append_lines(samples, [json.loads(whole.splitlines()[0])])
    assert "line 5 of e/samples.jsonl: sample 0 of prompt '0' is there twice" in refused(
        "eval", "--from", "e", "--out", "f"
    )


# --- vLLM ---

VLLM = ["--engine", "vllm", "--samples", 2, "--max-completion-tokens", 6, "--cache-gib", 0.01, "--out", "out", "--json"]


def test_vllm_samples_evaluations_one_engine_for_all_data_sets(ngrpo, model_folder, vllm_stand_in):
    made = []
    make = vllm_stand_in.LLM.__init__
    vllm_stand_in.LLM.__init__ = lambda self, *given, **named: (made.append(self), make(self, *given, **named))[0]
    told = ngrpo("eval", model_folder, "--data", "world:countdown", "--data", "world:overtrained", *VLLM)
    assert told.code == 0, told.err
    assert len(made) == 1
    summaries = json.loads(told.out)
    assert len(summaries) == 2
    assert len({each.params.seed for each in made[0].llm_engine.added}) > 4


def test_what_vllm_cannot_do_is_said_before_a_model_is_loaded(ngrpo, model_folder, vllm_stand_in, monkeypatch):
    monkeypatch.setattr(evaluation, "load_policy", lambda *_, **__: pytest.fail("a model was loaded"))
    told = ngrpo("eval", model_folder, "--data", "world:countdown", *VLLM, "--temperature", 3)
    assert (told.code, told.out) == (2, "")
    assert "temperature 0 or from 0.01 to 2, not at 3" in told.err
    assert ngrpo("eval", model_folder, "--data", "world:countdown", *VLLM, "--precision", "float64").code == 2
