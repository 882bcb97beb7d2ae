"""A mistyped path on a machine without a hub is told in seconds."""

import io
import ssl
import time
from urllib.error import HTTPError, URLError

import pytest
from huggingface_hub import constants

from ngrpo.errors import ModelError
from ngrpo.policy import hub, load_tokenizer, max_positions


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.hub_answers.cache_clear()
    yield
    hub.hub_answers.cache_clear()


@pytest.mark.parametrize("loader", [load_tokenizer, max_positions])
def test_no_hub_no_waiting(monkeypatch, capfd, loader):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    started = time.perf_counter()
    with pytest.raises(ModelError, match=r"'runs/mistyped' \(model\.path\).*the hub gave nothing"):
        loader("runs/mistyped")
    assert time.perf_counter() - started < 10.0
    assert "Retry" not in capfd.readouterr().err


def raising(error):
    def urlopen(request, timeout):
        raise error

    return urlopen


@pytest.mark.parametrize(
    ("error", "is_there"),
    [
        (HTTPError("https://hub.example", 403, "no", None, io.BytesIO()), True),
        (URLError(ssl.SSLCertVerificationError("self-signed")), True),
        (URLError(ConnectionRefusedError("nobody")), False),
        (TimeoutError("slow"), False),
    ],
)
def test_any_answer_is_an_answer(monkeypatch, error, is_there):
    monkeypatch.setattr(hub, "urlopen", raising(error))
    assert hub.hub_answers() == is_there


def test_it_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "urlopen", lambda request, timeout: asked.append(request.full_url) or io.BytesIO())
    assert hub.hub_answers()
    assert hub.hub_answers()
    assert asked == [constants.ENDPOINT]


def test_it_is_not_asked_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "urlopen", lambda *_, **__: pytest.fail("the hub was asked"))
    assert not hub.hub_answers()


def test_a_local_folder_does_not_ask(monkeypatch, model_folder):
    monkeypatch.setattr(hub, "urlopen", lambda *_, **__: pytest.fail("the hub was asked"))
    load_tokenizer(str(model_folder))
