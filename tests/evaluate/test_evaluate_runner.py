"""Evaluation: killed anywhere and started again it comes to the same files."""

import dataclasses
import json
import multiprocessing
import random
import re
import shutil
import signal
import time

import pytest
import slow_evaluation
from evaluation_helpers import PROMPTS, Alongside, CoinEngine, make_settings, never, numbers_of, run, sorted_rows

from helpers import EqualsGold
from ngrpo.errors import RewardError
from ngrpo.evaluate import runner
from ngrpo.record import read_jsonl
from ngrpo.rollout import NativeEngine, random_key
from ngrpo.rollout.engine import EVALUATION

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


@pytest.mark.parametrize(
    ("most_fills", "chunk_tokens", "expected"),
    [
        (32, 1 << 22, [18]),  # all at once, so that the engine never idles
        (2, 1 << 22, [8, 8, 2]),
        (32, 6 * 4 * 3 + 1, [12, 6]),  # 6 tokens a completion
        (32, 1, [4, 4, 4, 4, 2]),  # no more than it decodes at a time
    ],
)
def test_the_engine_is_given_as_many_requests_as_memory_allows(
    tmp_path, monkeypatch, most_fills, chunk_tokens, expected
):
    monkeypatch.setattr(runner, "MOST_FILLS", most_fills)
    monkeypatch.setattr(runner, "CHUNK_TOKENS", chunk_tokens)
    sizes = []

    class Counting(CoinEngine):
        def sample(self, requests, sampling, **options):
            sizes.append(len(requests))
            return super().sample(requests, sampling, **options)

    run(tmp_path / "e", make_settings(num_samples=6), make_engine=Counting, max_rows=4)
    assert sizes == expected


def test_samples_are_written_as_they_are_judged(tmp_path):
    class Looking(CoinEngine):
        def answer(self, request):
            if len(self.requests) == 6:  # the sixth is being made
                assert len(read_jsonl(tmp_path / "e" / "samples.jsonl")) == 4
            return super().answer(request)

    run(tmp_path / "e", make_engine=Looking, max_rows=2)


def test_an_error_of_the_reward_alongside_leaves_what_was_judged(tmp_path, done):
    class Raising(Alongside):
        def __call__(self, prompts, completions):
            raise RewardError("no verdict")

    with pytest.raises(RewardError, match="no verdict"):
        run(tmp_path / "e", reward=Raising())
    assert read_jsonl(tmp_path / "e" / "samples.jsonl") == []
    run(tmp_path / "e", reward=Alongside())
    assert sorted_rows(tmp_path / "e") == sorted_rows(done)


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


@pytest.mark.usefixtures("quick")
def test_judged_alongside_and_cut_at_any_byte_it_comes_to_the_same_samples(tmp_path):
    settings, folder = make_settings(num_samples=40), tmp_path / "e"
    run(folder, settings, reward=Alongside())
    rows, numbers = sorted_rows(folder), numbers_of(folder)
    assert len(rows) == 120
    whole = (folder / "samples.jsonl").read_bytes()
    for length in random.Random(4).sample(range(len(whole)), 20):
        (folder / "samples.jsonl").write_bytes(whole[:length])
        run(folder, settings, reward=Alongside())
        assert sorted_rows(folder) == rows, length
        assert numbers_of(folder) == numbers, length


@pytest.mark.parametrize("reward", [slow_evaluation.SaysLow(), slow_evaluation.SaysLowElsewhere()])
def test_killed_at_random_moments_it_comes_to_the_same_samples(tmp_path, reward):
    slow_evaluation.work(tmp_path / "whole", reward, pause_s=0)
    context = multiprocessing.get_context("forkserver")  # processes that begin with everything imported
    context.set_forkserver_preload(["ngrpo.evaluate"])
    path, moments = tmp_path / "killed" / "samples.jsonl", random.Random(7)
    num_kills, sizes = 0, [0]
    for _ in range(5):
        worker = context.Process(target=slow_evaluation.work, args=(tmp_path / "killed", reward))
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
    slow_evaluation.work(tmp_path / "killed", reward, pause_s=0)
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
        def answer(self, request):
            if len(self.requests) == 6:
                raise KeyboardInterrupt
            return super().answer(request)

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
