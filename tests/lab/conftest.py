"""What several tests of the laboratory share."""

import pytest


@pytest.fixture
def in_process(monkeypatch):
    """Commands run experiments in this very process: starting others takes longer than what they have to do."""
    from experiment_helpers import run_tasks_here

    monkeypatch.setattr("ngrpo.lab.parallel.run_tasks", run_tasks_here)
