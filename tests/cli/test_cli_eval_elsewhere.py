"""`--ray` and `--server`: what is refused, before a model is loaded or a folder made."""

import importlib.util

import pytest

EVAL = ["--data", "world:countdown", "--samples", 2, "--max-completion-tokens", 20, "--out", "e", "data.size=2"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed here")
@pytest.mark.usefixtures("no_models")
def test_ray_is_an_extra(refused, noise, tmp_path):
    told = refused("eval", noise, "--ray", "local", *EVAL)
    assert told.startswith('Ray is not installed: pip install "ngrpo[ray]"')
    assert not (tmp_path / "e").exists()


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed here")
@pytest.mark.usefixtures("no_models")
@pytest.mark.parametrize("kind", ["objectives", "ablation"])
def test_ray_is_an_extra_of_the_laboratory_too(refused, noise, tmp_path, kind):
    told = refused("lab", kind, "--ray", "local", "--model", noise, "--folder", "e")
    assert told.startswith('Ray is not installed: pip install "ngrpo[ray]"')
    assert not (tmp_path / "e").exists()


@pytest.mark.usefixtures("no_models")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--server", "http://127.0.0.1:1/v1"], "no OpenAI-compatible server answers at http://127.0.0.1:1/v1 ("),
        (["--server", "127.0.0.1:1"], "--server '127.0.0.1:1' is no address"),
        (["--server", "http://127.0.0.1:1/v1", "--engine", "native"], "--engine is of no use with --server"),
        (["--server", "http://127.0.0.1:1/v1", "--cache-gib", "2"], "--cache-gib is of no use with --server"),
        (["--server", "http://127.0.0.1:1/v1", "--ray", "local"], "--ray is of no use with --server"),
        (["--model", "tiny"], "--model is the model's name at a server. Give --server too"),
    ],
)
def test_what_cannot_be_is_said_first(refused, noise, tmp_path, options, message):
    assert refused("eval", noise, *options, *EVAL).startswith(message)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("option", [["--ray", "local"], ["--server", "http://127.0.0.1:1/v1"], ["--model", "tiny"]])
def test_samples_that_exist_need_nobody(refused, tmp_path, option):
    given = tmp_path / "rows.jsonl"
    given.write_text("")
    assert f"{option[0]} is of no use with --from" in refused("eval", "--from", given, "--out", "e", *option)
