"""`ngrpo eval --ray`: the folder that one process writes, resumed with and without Ray; and what is refused."""

import json
import sys
import warnings

import pytest
import ray_helpers  # noqa: F401  sets how Ray starts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("ray", reason="Ray is not installed here")

from ngrpo.record import read_jsonl

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's and its dependencies' own


@pytest.fixture
def evaluated(model_folder, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(out, *options):
        from ngrpo.cli.main import main

        command = ["eval", model_folder, "--data", "world:countdown", "--samples", 4, "--max-completion-tokens", 8]
        command += ["--precision", "float64", "--out", out, *options, "data.size=12"]
        monkeypatch.setattr(sys, "argv", ["ngrpo", *map(str, command)])
        try:
            main()
        except SystemExit as ending:
            return ending.code or 0, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


def rows_of(folder):
    rows = read_jsonl(folder / "samples.jsonl")
    return sorted((row["prompt"], row["sample"], row["completion"], row["tokens"], row["correct"]) for row in rows)


def test_samples_are_those_of_one_process_and_a_folder_may_be_finished_by_either(evaluated, tmp_path):
    assert evaluated("plain")[0] == 0
    code, told = evaluated("ray", "--ray", "local")
    assert code == 0, told
    assert "Ray: " in told
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "plain")
    assert len(rows_of(tmp_path / "ray")) == 48
    settings = [json.loads((tmp_path / name / "eval.json").read_text())["settings"] for name in ("ray", "plain")]
    assert settings[0] == settings[1]
    samples = tmp_path / "ray" / "samples.jsonl"
    samples.write_bytes(samples.read_bytes()[:-200])
    code, told = evaluated("ray")
    assert code == 0, told
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "plain")


def test_a_cluster_that_is_not_there_is_named_and_no_folder_is_made(evaluated, tmp_path):
    code, told = evaluated("e", "--ray", "127.0.0.1:1")
    assert code == 2
    assert told.startswith("error: nobody answers at 127.0.0.1:1 (")
    assert not (tmp_path / "e").exists()
