"""The quickstart at the smallest size that still goes through every part of it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

SIZE = ["--steps", "3", "--seeds", "2", "--prompts", "6", "--samples", "8", "--base-steps", "8"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return {**os.environ, "NGRPO_CACHE": str(cache), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def start(folder, environment):
    command = [sys.executable, "-m", "ngrpo", "quickstart", "--folder", str(folder), *SIZE]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def finished(tmp_path_factory, environment):
    folder = tmp_path_factory.mktemp("quickstart") / "q"
    code, out, err = finish(start(folder, environment))
    assert code == 0, err
    return folder, out, err


def test_one_table_with_every_quantity_and_model(finished):
    _, out, err = finished
    for word in ("pass@1", "pass@8", "AUC 1..8", "groups all wrong", "groups mixed", "groups all right", "entropy"):
        assert word in out
    for model in ("base", "base at T=0.6", "grpo", "ngrpo"):
        assert model in out
    assert "ngrpo - grpo" in out
    assert "grpo - base at T=0.6" in out
    assert "not established" in out
    assert "With fewer than 5 seeds" in out
    assert "built" in err


def test_the_numbers_are_those_of_the_samples(finished):
    folder, _, _ = finished
    told = json.loads((folder / "results.json").read_text())["tables"][0]
    rows = [json.loads(line) for line in (folder / "runs" / "base" / "eval" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 6 * 8
    share = sum(row["correct"] for row in rows) / len(rows)
    assert [row["name"] for row in told["rows"]] == ["base", "base at T=0.6", "grpo", "ngrpo"]
    assert told["rows"][0]["cells"]["pass@1"]["estimate"] == pytest.approx(100 * share)
    assert (told["num_seeds"], told["num_prompts"], told["num_samples"], told["max_k"]) == (2, 6, 8, 8)


def test_a_picture_is_drawn(finished):
    folder, _, _ = finished
    assert (folder / "quickstart.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_again_it_reuses_the_base_and_every_run_and_says_so(finished, environment):
    folder, out, _ = finished
    before = (folder / "runs" / "ngrpo_seed1" / "metrics.jsonl").read_text()
    code, again, err = finish(start(folder, environment))
    assert code == 0, err
    assert "cached, reused" in err
    assert (folder / "runs" / "ngrpo_seed1" / "metrics.jsonl").read_text() == before
    assert again.splitlines()[:10] == out.splitlines()[:10]


def test_interrupted_it_saves_and_the_same_command_ends_as_if_nothing_had_happened(finished, environment, tmp_path):
    folder = tmp_path / "q"
    process = start(folder, environment)
    waited = time.perf_counter()
    while not list(folder.glob("runs/*/metrics.jsonl")) and time.perf_counter() - waited < 120:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C in a terminal does
    code, _, err = finish(process)
    assert code == 130
    assert "same command goes on" in err
    code, _, err = finish(start(folder, environment))
    assert code == 0, err
    uninterrupted = (finished[0] / "results.json").read_text()
    assert (folder / "results.json").read_text() == uninterrupted


def test_another_size_in_the_same_folder_is_refused(finished, environment):
    folder, _, _ = finished
    command = [sys.executable, "-m", "ngrpo", "quickstart", "--folder", str(folder), *SIZE, "--steps", "4"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "holds another experiment: settings.num_steps: 3 -> 4" in " ".join(done.stderr.split())
