"""Evaluation: killed anywhere and started again it comes to the same files; what does not belong is refused."""

import dataclasses
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import time

import pytest
import slow_evaluation

from helpers import EqualsGold, make_prompt
from ngrpo.data import PromptSet
from ngrpo.errors import ConfigError, DataError, RewardError, RunFolderError
from ngrpo.evaluate import EvaluationSettings, evaluate, folder
from ngrpo.record import append_lines, hold_folder, read_jsonl
from ngrpo.rollout import NativeEngine, random_key
from ngrpo.rollout.engine import EVALUATION, uniforms
from ngrpo.types import Completion

# Longest first, so that the order of sampling (by length) is not the order of the data.
PROMPTS = PromptSet(
    tuple(
        make_prompt(text, id=name, gold=gold)
        for text, name, gold in [("1,2,3,4=10:", "π", "1+2+3+4"), ("1,2=3:", "b", "\ud800\n"), ("4,5=9:", "c", "4+5")]
    ),
    name="three",
    fingerprint="f00d",
)


def make_settings(**changes):
    defaults = {
        "model": "some/model",
        "data": "three",
        "fingerprint": "f00d",
        "num_prompts": 3,
        "num_samples": 3,
        "ks": (1, 2),
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "max_completion_tokens": 6,
        "seed": 5,
        "reward": "equals",
        "engine": "coin",
    }
    return EvaluationSettings(**{**defaults, **changes})


class CoinEngine:
    """Answers with the gold or with nonsense: a function of the request's key alone."""

    def __init__(self):
        self.requests = []

    def sample(self, requests, sampling, *, on_progress=None, should_stop=None):
        self.requests += requests
        completions = []
        for request in requests:
            number = float(uniforms([request.key], 1)[0, 0])
            text = request.prompt.gold if number < 0.5 else f"{number:.3f}"
            completions.append(Completion((2,) * (1 + int(number * 5)), (), text, "eos", entropy_nats=number))
        return completions


def never():
    pytest.fail("an engine was made")


def run(folder, settings=None, prompts=PROMPTS, make_engine=CoinEngine, reward=None, **options):
    options.setdefault("on_progress", lambda count: None)
    return evaluate(folder, settings or make_settings(), prompts, make_engine, reward or EqualsGold(), **options)


def sorted_rows(folder):
    return sorted(read_jsonl(folder / "samples.jsonl"), key=lambda row: (row["prompt"], row["sample"]))


def numbers_of(folder):
    """The summary without what it says of the processes that made it."""
    written = json.loads((folder / "summary.json").read_text())
    return {key: value for key, value in written.items() if key not in ("resumed", "command", "hardware")}


@pytest.fixture
def quick(monkeypatch):
    """Without git and waiting for disks: for tests that evaluate thousands of times."""
    monkeypatch.setattr(folder, "provenance", dict)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def done(tmp_path):
    """The folder of an evaluation that nothing interrupted."""
    run(tmp_path / "done", max_rows=4)
    return tmp_path / "done"


# --- what is written ---


def test_every_prompt_is_sampled_as_often_as_asked(done):
    rows = read_jsonl(done / "samples.jsonl")
    assert sorted((row["prompt"], row["sample"]) for row in rows) == [(i, s) for i in ("b", "c", "π") for s in range(3)]
    golds = {prompt.id: prompt.gold for prompt in PROMPTS.prompts}
    for row in rows:
        assert row["gold"] == golds[row["prompt"]]
        assert row["correct"] == (row["completion"] == row["gold"]) == bool(row["value"])
        assert (row["kind"], row["finish_reason"], row["extracted"]) == ("scored", "eos", row["completion"])
        assert (row["rule"], row["normal_form"], row["detail"]) == ("", None, "")
    assert {row["correct"] for row in rows} == {True, False}


def test_settings_and_summary_are_written_beside_the_samples(done):
    described = json.loads((done / "eval.json").read_text())
    assert described["settings"] == {**dataclasses.asdict(make_settings()), "ks": [1, 2], "notes": []}
    assert {"ngrpo", "packages", "command"} <= described.keys()
    written = json.loads((done / "summary.json").read_text())
    assert {key: written[key] for key in described} == described  # versions and command go with the numbers
    correct = [row["correct"] for row in read_jsonl(done / "samples.jsonl")]
    assert written["pass_at_k"]["1"]["estimate"] == pytest.approx(sum(correct) / 9)
    assert (written["num_prompts"], written["min_num_samples"], written["max_num_samples"]) == (3, 3, 3)
    names = ["eval.json", "problems.jsonl", "samples.jsonl", "summary.json"]
    assert sorted(path.name for path in done.iterdir()) == names
    problems = read_jsonl(done / "problems.jsonl")
    assert [(row["prompt"], row["gold"], row["problem"]) for row in problems] == [
        (prompt.id, prompt.gold, prompt.problem) for prompt in PROMPTS.prompts
    ]


def test_random_numbers_belong_to_the_place_in_the_data_not_to_the_order_of_sampling(tmp_path):
    engine = CoinEngine()
    run(tmp_path / "e", make_engine=lambda: engine)
    assert [request.prompt.id for request in engine.requests] == ["b"] * 3 + ["c"] * 3 + ["π"] * 3  # shortest first
    for request, sample in zip(engine.requests, [0, 1, 2] * 3, strict=True):
        place = PROMPTS.prompts.index(request.prompt)
        expected = random_key(seed=5, stream=EVALUATION, step=0, occurrence=place, sample=sample)
        assert request.key == expected


def test_progress_counts_what_was_found_and_what_was_made(tmp_path):
    counts = []
    run(tmp_path / "e", max_rows=4, on_progress=counts.append)
    assert counts == [0, 4, 4, 1]
    samples = tmp_path / "e" / "samples.jsonl"
    samples.write_bytes(b"".join(samples.read_bytes().splitlines(keepends=True)[:5]))
    counts.clear()
    run(tmp_path / "e", max_rows=4, on_progress=counts.append)
    assert counts == [5, 4]


def test_a_bar_is_shown_where_nobody_listens(tmp_path, capsys):
    run(tmp_path / "e", on_progress=None)
    assert capsys.readouterr().err.startswith("eval 9/9 sample, ")
    samples = tmp_path / "e" / "samples.jsonl"
    samples.write_bytes(samples.read_bytes()[:-1000])
    run(tmp_path / "e", on_progress=None)
    told = capsys.readouterr().err
    assert re.match(r".*: dropped \d+ bytes of a last line that was never finished\.\neval 9/9 sample, ", told)


# --- going on ---


@pytest.mark.usefixtures("quick")
def test_cut_at_any_byte_it_comes_to_the_same_files(tmp_path, capsys):
    settings, folder = make_settings(num_samples=2), tmp_path / "e"
    run(folder, settings, max_rows=4)
    begun = (folder / "eval.json").read_bytes()
    whole, numbers = (folder / "samples.jsonl").read_bytes(), numbers_of(folder)
    last_line = whole.rindex(b"\n", 0, -1) + 1
    elsewhere = random.Random(3).sample(range(last_line), 60)
    for length in [*elsewhere, *range(last_line, len(whole))]:
        (folder / "samples.jsonl").write_bytes(whole[:length])
        (folder / "summary.json").unlink()
        (folder / "eval.json").write_bytes(begun)
        run(folder, settings, max_rows=4)
        # Same rows in the same order: what is missing is sampled in the order in which it was cut off.
        assert (folder / "samples.jsonl").read_bytes() == whole, length
        assert numbers_of(folder) == numbers, length
        num_torn = length - whole.rfind(b"\n", 0, length) - 1
        is_torn = num_torn and whole[length : length + 1] != b"\n"  # else only the newline is missing
        told = f"samples.jsonl: dropped {num_torn} bytes of a last line that was never finished.\n" if is_torn else ""
        assert capsys.readouterr().err.endswith(told), length


def test_killed_at_random_moments_it_comes_to_the_same_samples(tmp_path):
    slow_evaluation.work(tmp_path / "whole", pause_s=0)
    context = multiprocessing.get_context("forkserver")  # processes that begin with everything imported
    context.set_forkserver_preload(["ngrpo.evaluate"])
    path, moments = tmp_path / "killed" / "samples.jsonl", random.Random(7)
    num_kills, sizes = 0, [0]
    for _ in range(5):
        worker = context.Process(target=slow_evaluation.work, args=(tmp_path / "killed",))
        worker.start()
        deadline_s = time.monotonic() + 60
        while worker.is_alive() and not (path.exists() and path.stat().st_size > sizes[-1]):
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
        time.sleep(moments.random() * 0.15)
        worker.kill()
        worker.join()
        num_kills += worker.exitcode == -signal.SIGKILL
        sizes.append(path.stat().st_size)
    assert num_kills >= 3
    assert sizes == sorted(sizes)  # what is there stays there
    slow_evaluation.work(tmp_path / "killed", pause_s=0)
    lines = [(tmp_path / name / "samples.jsonl").read_bytes().splitlines() for name in ("killed", "whole")]
    assert sorted(lines[0]) == sorted(lines[1])
    assert len(lines[0]) == 180
    described = json.loads((tmp_path / "killed" / "eval.json").read_text())
    assert len(described["resumed"]) == num_kills + (len(sizes) - 1 - num_kills > 0)


def test_a_finished_evaluation_is_only_read(done):
    before = (done / "samples.jsonl").read_bytes()
    summaries = [run(done, make_engine=never) for _ in range(2)]
    assert summaries[0] == summaries[1]
    assert (done / "samples.jsonl").read_bytes() == before


def test_an_engine_that_dies_leaves_what_was_written(tmp_path, done):
    class Dying(CoinEngine):
        def sample(self, requests, sampling, **options):
            if self.requests:
                raise KeyboardInterrupt
            return super().sample(requests, sampling, **options)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "e", make_engine=Dying, max_rows=4)
    assert len(read_jsonl(tmp_path / "e" / "samples.jsonl")) == 4
    run(tmp_path / "e", max_rows=2)
    assert sorted_rows(tmp_path / "e") == sorted_rows(done)


def test_a_reward_that_raises_leaves_what_was_judged(tmp_path, done):
    class Raising(EqualsGold):
        def __call__(self, prompts, completions):
            if self.num_calls == 1:
                raise RewardError("row 3: no")
            return super().__call__(prompts, completions)

    with pytest.raises(RewardError, match="row 3: no"):
        run(tmp_path / "e", reward=Raising(), max_rows=4)
    assert len(read_jsonl(tmp_path / "e" / "samples.jsonl")) == 4
    run(tmp_path / "e")
    assert sorted_rows(tmp_path / "e") == sorted_rows(done)


@pytest.mark.parametrize("num_writes", [0, 1])
def test_killed_while_it_begins_or_ends_it_goes_on(tmp_path, monkeypatch, done, num_writes):
    replaced = []

    def die(path, target):
        if path.suffix == ".tmp" and len(replaced) == num_writes:
            raise KeyboardInterrupt
        replaced.append(target)
        shutil.move(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "replace", die)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "e")
    assert list((tmp_path / "e").glob("*.tmp"))
    run(tmp_path / "e")
    assert sorted_rows(tmp_path / "e") == sorted_rows(done)
    assert numbers_of(tmp_path / "e") == numbers_of(done)


def test_the_native_engine_goes_on_with_the_same_samples(tmp_path, policy64):
    settings = make_settings(engine="native", num_samples=4, ks=(1,))

    def make_engine():
        return NativeEngine(policy64, max_rows=3)

    run(tmp_path / "whole", settings, make_engine=make_engine, max_rows=1000)
    run(tmp_path / "cut", settings, make_engine=make_engine, max_rows=5)
    samples = tmp_path / "cut" / "samples.jsonl"
    samples.write_bytes(samples.read_bytes()[: samples.stat().st_size * 2 // 3])
    run(tmp_path / "cut", settings, make_engine=make_engine, max_rows=2)
    for row, other in zip(sorted_rows(tmp_path / "cut"), sorted_rows(tmp_path / "whole"), strict=True):
        assert row.pop("entropy_nats") == pytest.approx(other.pop("entropy_nats"), abs=1e-12)
        assert row == other


# --- what is refused ---


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
        def sample(self, requests, sampling, **options):
            return [Completion((2,), (), text, "length", entropy_nats=0.1) for _ in requests]

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
