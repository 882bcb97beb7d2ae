"""Fixtures of training tests: one thread, and a base model built once."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """On one thread the same run gives the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A barely trained base model of the tiny world; do not write into it."""
    from ngrpo.lab.base import build_base

    folder = tmp_path_factory.mktemp("bases") / "barely_trained"
    return build_base(folder, num_steps=30, rows_per_step=64, lr=5e-3)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder for runs; whatever would go to a cache goes below it, too."""
    monkeypatch.setenv("NGRPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "runs"


@pytest.fixture
def padded_only(monkeypatch):
    """No model shares prompts: the slow twin, which models of unknown families take."""
    monkeypatch.setattr("ngrpo.train.step.can_share_prefix", lambda policy: False)


@pytest.fixture(params=["shared", "padded"])
def way(request):
    """Either way through the model."""
    if request.param == "padded":
        request.getfixturevalue("padded_only")
    return request.param
