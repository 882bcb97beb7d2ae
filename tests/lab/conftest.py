"""What several tests of the laboratory share."""

import pytest


@pytest.fixture(scope="session")
def weak_base(tmp_path_factory):
    """Folder of a countdown model that has learned nothing: its groups are all wrong."""
    from ngrpo import worlds
    from ngrpo.lab.tokenizer import character_tokenizer
    from ngrpo.lab.warm_start import MAX_POSITIONS, new_model
    from ngrpo.policy import no_progress_bars

    folder = tmp_path_factory.mktemp("bases") / "weak"
    tokenizer = character_tokenizer(worlds.get("countdown").alphabet, max_tokens=MAX_POSITIONS)
    with no_progress_bars():
        new_model(tokenizer, 0, hidden_size=32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def in_process(monkeypatch):
    """Experiments run in this very process: starting others takes longer than what they have to do."""
    from experiment_helpers import run_tasks_here

    monkeypatch.setattr("ngrpo.lab.experiment.run_tasks", run_tasks_here)
