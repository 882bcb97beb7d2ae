"""Fixtures shared by all tests. Heavy imports stay inside: tests of torch-free parts must not pay for torch."""

import os
import signal
import sys
from pathlib import Path

import pytest

# These are read when the libraries are imported. No test reaches for a hub or for anybody's account; models this small
# are slower on several threads, and tests run side by side.
os.environ.update({"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "TOKENIZERS_PARALLELISM": "false"})
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Benchmarks are tested too. Last, because some of them have names that packages have.
sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

# A shell starts its background jobs with Ctrl-C ignored, and children inherit that; the tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def policy():
    """The small policy in float32; the session's own, so do not train it."""
    from helpers import small_policy

    return small_policy()


@pytest.fixture(scope="session")
def policy64():
    """The small policy in float64; the session's own, so do not train it."""
    import torch

    from helpers import small_policy

    return small_policy(torch.float64)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A checkpoint folder of the small model and its tokenizer; do not write into it."""
    from helpers import save_checkpoint

    return save_checkpoint(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def vllm_stand_in(tmp_path, monkeypatch):
    """The stand-in for vLLM as if it were installed, on what it takes for a GPU; the module itself."""
    import importlib

    import torch

    from ngrpo.rollout import vllm as ours

    def forget():
        ours._llm.cache_clear()
        for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
            del sys.modules[name]

    installed = tmp_path / "installed"
    (installed / "vllm-0.33.0.dist-info").mkdir(parents=True)
    (installed / "vllm-0.33.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm\nVersion: 0.33.0\n"
    )
    for folder in (installed, Path(__file__).parent / "vllm_stand_in"):
        monkeypatch.syspath_prepend(str(folder))
    for name in ours.ENVIRONMENT | ours.QUIET:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(ours, "resolve_device", lambda device: torch.device("cuda"))
    forget()
    yield importlib.import_module("vllm")
    forget()


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
