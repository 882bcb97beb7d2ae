"""Evaluation folders: what does not belong is refused, and what is odd is kept whole."""

import dataclasses
import json
import os

import pytest
from evaluation_helpers import PROMPTS, CoinEngine, make_settings, never, run, sorted_rows

from helpers import EqualsGold
from ngrpo.errors import ConfigError, DataError, RewardError, RunFolderError
from ngrpo.evaluate import EvaluationSettings
from ngrpo.record import append_lines, hold_folder, read_jsonl
from ngrpo.types import Completion


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"model": "other/model"}, r"model: 'some/model' -> 'other/model'"),
        ({"temperature": 0.6}, r"temperature: 1\.0 -> 0\.6"),
        ({"num_samples": 4}, r"num_samples: 3 -> 4"),
        ({"seed": 6}, r"seed: 5 -> 6"),
        ({"fingerprint": "beef"}, r"fingerprint: 'f00d' -> 'beef'"),
        ({"reward": "math", "top_k": 5}, r"top_k: 0 -> 5\n  reward: 'equals' -> 'math'"),
    ],
)
def test_other_settings_are_refused_with_the_difference(done, change, shown):
    before = {path.name: path.read_bytes() for path in done.iterdir()}
    with pytest.raises(RunFolderError, match=rf"holds another evaluation:\n  {shown}\nGive another --out"):
        run(done, make_settings(**change), make_engine=never)
    assert {path.name: path.read_bytes() for path in done.iterdir()} == before


def test_every_setting_but_the_ks_is_part_of_the_evaluation(done):
    for field in dataclasses.fields(EvaluationSettings):
        if field.name not in ("ks", "notes", "source", "graded_from"):
            changed = dataclasses.replace(make_settings(), **{field.name: 7})
            with pytest.raises(RunFolderError, match=rf"\n  {field.name}: "):
                run(done, changed, make_engine=never)


def test_a_folder_without_a_sample_is_begun_anew(tmp_path):
    """The name of a model at a server was wrong: the mended command needs no other folder."""

    def refuse():
        raise ConfigError("no such model")

    with pytest.raises(ConfigError, match="no such model"):
        run(tmp_path / "e", make_settings(engine="server:wrong"), make_engine=refuse)
    run(tmp_path / "e", make_settings(engine="server:right"))
    assert json.loads((tmp_path / "e" / "eval.json").read_text())["settings"]["engine"] == "server:right"
    (tmp_path / "e" / "samples.jsonl").unlink()  # a summary is somebody's result
    with pytest.raises(RunFolderError, match="engine: 'server:right' -> 'coin'"):
        run(tmp_path / "e", make_engine=never)


def test_more_ks_are_read_off_the_same_samples(done):
    before = (done / "samples.jsonl").read_bytes()
    found = run(done, make_settings(ks=(1, 2, 3)), make_engine=never)
    assert list(found.overall.pass_at_k) == [1, 2, 3]
    assert (done / "samples.jsonl").read_bytes() == before
    assert json.loads((done / "eval.json").read_text())["settings"]["ks"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("ks", "message"),
    [
        ((1, 4), r"pass@4 needs at least 4 samples per prompt, got --samples 3"),
        ((0, 1), r"--ks 0,1 must be rising whole numbers"),
        ((2, 1), r"--ks 2,1 must be rising"),
        ((1, 1), r"--ks 1,1 must be rising"),
        ((), r"--ks  must be rising"),
    ],
)
def test_ks_that_the_samples_cannot_answer_are_refused_first(tmp_path, ks, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "e", make_settings(ks=ks), make_engine=never)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    "extra", [{"prompt": "b", "sample": 1}, {"prompt": "z", "sample": 0}, {"prompt": "b", "sample": 3}]
)
def test_a_sample_twice_or_of_another_evaluation_is_refused_before_sampling(done, extra):
    template = read_jsonl(done / "samples.jsonl")[0]
    append_lines(done / "samples.jsonl", [{**template, **extra}])
    before = (done / "samples.jsonl").read_bytes()
    message = rf"samples\.jsonl: sample {extra['sample']} of prompt '{extra['prompt']}' is there twice, or is none of"
    with pytest.raises(DataError, match=message):
        run(done, make_engine=never)
    assert (done / "samples.jsonl").read_bytes() == before


def test_a_line_that_is_no_sample_is_refused(done):
    append_lines(done / "samples.jsonl", [{"step": 1}])
    with pytest.raises(RunFolderError, match=r"line 10 of .*samples\.jsonl is no sample .* field `prompt`"):
        run(done, make_engine=never)


def test_a_broken_line_in_the_middle_is_named(done):
    lines = (done / "samples.jsonl").read_bytes().split(b"\n")
    (done / "samples.jsonl").write_bytes(b"\n".join([lines[0], lines[1][:20], *lines[2:]]))
    with pytest.raises(RunFolderError, match=r"line 2 of .*samples\.jsonl is not a JSON object"):
        run(done, make_engine=never)


def test_prompts_with_one_id_are_never_evaluated(tmp_path):
    twice = dataclasses.replace(PROMPTS, prompts=(*PROMPTS.prompts[:2], PROMPTS.prompts[0]))
    with pytest.raises(AssertionError, match="ids of prompts differ"):
        run(tmp_path / "e", prompts=twice, make_engine=never)


def test_fewer_prompts_than_said_are_never_a_smaller_mean(tmp_path):
    fewer = dataclasses.replace(PROMPTS, prompts=PROMPTS.prompts[:2])
    with pytest.raises(DataError, match=r"is of 3 prompts, but problems\.jsonl has 2\."):
        run(tmp_path / "e", prompts=fewer)
    assert not (tmp_path / "e" / "summary.json").exists()


def test_a_second_process_is_refused(done):
    lock = hold_folder(done, advice="")
    try:
        with pytest.raises(RunFolderError, match=r"another process is at work in .*done\. .* or give another --out"):
            run(done, make_engine=never)
    finally:
        os.close(lock)
    run(done, make_engine=never)


def test_a_folder_that_two_begin_at_once_is_let_go_again(tmp_path):
    with pytest.raises(RewardError, match="no"):
        run(tmp_path / "e", reward=NoReward())
    run(tmp_path / "e")  # the lock of the first went with it


class NoReward(EqualsGold):
    def __call__(self, prompts, completions):
        raise RewardError("no")


@pytest.mark.parametrize("text", ["", "x" * 1_000_000, "\ud800 \x00 \u2028"], ids=["empty", "1 MB", "odd"])
def test_any_completion_is_kept_whole(tmp_path, text):
    class Saying(CoinEngine):
        def answer(self, request):
            return Completion((2,), (), text, "length", entropy_nats=0.1)

    run(tmp_path / "e", make_engine=Saying, max_rows=4)
    samples = tmp_path / "e" / "samples.jsonl"
    samples.write_bytes(samples.read_bytes()[:-10])
    summary = run(tmp_path / "e", make_engine=Saying)
    assert [row["completion"] for row in read_jsonl(samples)] == [text] * 9
    assert summary.overall.truncated_frac == 1.0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": 1}', b'{"settings": 3}'])
def test_an_evaluation_that_cannot_be_read_is_refused(done, content):
    (done / "eval.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"eval\.json cannot be read .*Give another --out"):
        run(done, make_engine=never)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="exists and holds no evaluation"):
        run(tmp_path, make_engine=never)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("below", [(), ("deeper",)])
def test_a_folder_that_cannot_be_made_is_said_so(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunFolderError, match=r"cannot write the evaluation folder .*Not a directory.*another --out"):
        run((tmp_path / "file").joinpath(*below), make_engine=never)


def test_an_empty_folder_is_fine(tmp_path, done):
    (tmp_path / "empty").mkdir()
    run(tmp_path / "empty")
    assert sorted_rows(tmp_path / "empty") == sorted_rows(done)
