"""`ngrpo eval --server` against `transformers serve`, which is somebody else's OpenAI-compatible server."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from urllib.error import URLError

import pytest

from helpers import small_policy, small_tokenizer
from ngrpo.record import read_jsonl
from ngrpo.rollout.server import ask

pytest.importorskip("uvicorn", reason="transformers serve needs fastapi, uvicorn and openai")
pytest.importorskip("fastapi", reason="transformers serve needs fastapi, uvicorn and openai")
pytest.importorskip("openai", reason="transformers serve needs fastapi, uvicorn and openai")

START_S = 180.0


@pytest.fixture(scope="module")
def served(model_folder, tmp_path_factory):
    """The small model behind a server: its address, and the folder."""
    folder = tmp_path_factory.mktemp("served") / "small"
    shutil.copytree(model_folder, folder)
    # The server takes from here whether it samples at all.
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "do_sample": True}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = [sys.executable, "-c", "from transformers.cli.transformers import main; main()"]
    command = [*program, "serve", folder, "--host", "127.0.0.1", "--port", port, "--device", "cpu"]
    log = tmp_path_factory.mktemp("log") / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*map(str, command)], stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    try:
        until = time.monotonic() + START_S
        while True:
            try:
                ask(f"http://127.0.0.1:{port}/health", None, 2.0)
                break
            except (URLError, OSError, ValueError):
                if process.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"transformers serve did not start: {log.read_text()[-500:]}")
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", folder
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def evaluate(monkeypatch, capsys, *options):
    from ngrpo.cli.main import main

    monkeypatch.setattr(sys, "argv", ["ngrpo", "eval", *map(str, options)])
    code = 0
    try:
        main()
    except SystemExit as ending:
        code = ending.code or 0
    return code, capsys.readouterr().err


def test_an_evaluation_by_a_server_is_whole_and_resumed(served, monkeypatch, capsys, tmp_path):
    url, folder = served
    monkeypatch.chdir(tmp_path)
    command = [folder, "--data", "world:countdown", "--samples", 3, "--max-completion-tokens", 6, "--server", url]
    command += ["--out", "e", "data.size=4"]
    code, told = evaluate(monkeypatch, capsys, *command)
    assert code == 0, told
    rows = read_jsonl(tmp_path / "e" / "samples.jsonl")
    assert len({(row["prompt"], row["sample"]) for row in rows}) == len(rows) == 12
    assert all(1 <= row["tokens"] <= 6 for row in rows)
    assert all(row["finish_reason"] == ("length" if row["tokens"] == 6 else "eos") for row in rows)
    assert "entropy_nats" not in rows[0]  # this server gives no log-probabilities
    assert len({row["completion"] for row in rows if row["prompt"] == rows[0]["prompt"]}) > 1
    settings = json.loads((tmp_path / "e" / "eval.json").read_text())["settings"]
    assert settings["engine"] == f"server:{folder}"
    assert settings["notes"] == [f"sampled by {url}"]

    samples = tmp_path / "e" / "samples.jsonl"
    samples.write_bytes(b"".join(samples.read_bytes().splitlines(keepends=True)[:7]))
    kept = samples.read_bytes()
    code, told = evaluate(monkeypatch, capsys, *command)
    assert code == 0, told
    assert samples.read_bytes().startswith(kept)
    assert len(read_jsonl(samples)) == 12
    code, told = evaluate(monkeypatch, capsys, *command, "--model", "another")
    assert code == 2
    assert "engine: 'server:" in told


def test_greedy_completions_are_the_models_own(served):
    """The text of each, against our own forward passes."""
    import torch

    from helpers import make_prompts
    from ngrpo.rollout import NativeEngine, SampleRequest, Sampling
    from ngrpo.rollout.server import ServerEngine

    url, folder = served
    requests = [SampleRequest(prompt, (place,)) for place, prompt in enumerate(make_prompts())]
    sampling = Sampling(8, 0.0)
    theirs = ServerEngine(url, str(folder), small_tokenizer(), num_at_once=1).sample(requests, sampling)
    ours = NativeEngine(small_policy(torch.float32)).sample(requests, sampling)
    assert [each.text for each in theirs] == [each.text for each in ours]
    assert [len(each.token_ids) for each in theirs] == [len(each.token_ids) for each in ours]
