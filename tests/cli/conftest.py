"""Fixtures of command-line tests."""

import sys
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Told:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def ngrpo(monkeypatch, capsys, tmp_path):
    """Runs a command in this process as the shell would, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("NGRPO_CACHE", str(tmp_path / "cache"))

    def run(*arguments) -> Told:
        from ngrpo.cli.main import main

        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["ngrpo", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ending:
            code = ending.code or 0
        printed = capsys.readouterr()
        return Told(code, printed.out, printed.err)

    return run


@pytest.fixture
def refused(ngrpo):
    """Runs a command that must be refused, and returns its one message."""

    def run(*arguments) -> str:
        told = ngrpo(*arguments)
        assert told.code == 2, told
        assert told.out == ""
        assert "Traceback" not in told.err
        assert told.err.count("error:") == 1
        assert told.err.startswith("error: ")
        return told.err.removeprefix("error: ")

    return run


@pytest.fixture
def no_models(monkeypatch):
    """Makes the test fail where a model is loaded."""
    import transformers

    def fail(*_, **__):
        pytest.fail("a model was loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)


@pytest.fixture(scope="session")
def noise(tmp_path_factory):
    """A random model that reads any text, as `ngrpo lab random` writes it."""
    from ngrpo.lab.random_model import write_random_model

    return write_random_model(tmp_path_factory.mktemp("models") / "noise", max_positions=200)
