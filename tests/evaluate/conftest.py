"""Fixtures of the tests of evaluation."""

import os

import pytest
from evaluation_helpers import run

from ngrpo.evaluate import folder


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
