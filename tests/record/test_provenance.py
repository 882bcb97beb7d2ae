"""Where a result came from: enough to repeat it, nothing that must not be told."""

import json
import os
import subprocess
import sys

import pytest

import ngrpo
from ngrpo.record import provenance
from ngrpo.record.provenance import git_revision


def git(folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, env=environment)


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "code.py").write_text("x = 1\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_it_names_versions_hardware_and_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/ngrpo", "train", "run.toml", "run.seed=1"])
    found = provenance()
    assert found["ngrpo"] == ngrpo.__version__
    assert {"torch", "transformers", "numpy"} <= found["packages"].keys()
    assert found["hardware"]["num_cpus"] >= 1
    assert found["command"] == ["ngrpo", "train", "run.toml", "run.seed=1"]
    assert json.loads(json.dumps(found)) == found


def test_it_holds_no_secrets_and_no_names(monkeypatch):
    secrets = {name: f"secret-{name}" for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "USER")}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["/home/somebody/bin/ngrpo", "quickstart"])
    text = json.dumps(provenance())
    assert not any(value in text for value in secrets.values())
    assert os.uname().nodename not in text or len(os.uname().nodename) < 4
    assert "somebody" not in text


def test_it_works_outside_a_checkout_and_without_git(tmp_path, monkeypatch):
    assert git_revision(tmp_path) is None
    assert git_revision(tmp_path / "missing") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision(tmp_path) is None
    assert provenance()["git_revision"] is None


def test_the_revision_says_whether_the_source_was_changed(checkout):
    revision = git_revision(checkout / "package")
    assert len(revision) == 40
    (checkout / "package" / "notes.txt").write_text("not tracked\n")
    assert git_revision(checkout / "package") == revision
    (checkout / "package" / "code.py").write_text("x = 2\n")
    assert git_revision(checkout / "package") == revision + "+changes"


def test_an_installation_inside_another_checkout_has_no_revision(checkout):
    installed = checkout / ".venv" / "package"
    installed.mkdir(parents=True)
    (installed / "code.py").write_text("x = 1\n")
    assert git_revision(installed) is None


def test_a_checkout_without_a_commit_has_no_revision(tmp_path):
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    assert git_revision(tmp_path) is None
