"""What tests of methods with state share: a scripted engine, a run without a folder, and stopping in the middle."""

import signal
from types import SimpleNamespace

import pytest
import torch

from helpers import make_completion, make_prompt, small_policy
from ngrpo.config import load_config
from ngrpo.errors import Interrupted
from ngrpo.rollout import Sampling
from ngrpo.train import assemble, train
from ngrpo.train.checkpoint import TrainerState
from ngrpo.types import Group, Outcome


class Answers:
    """An engine that answers a request with what a function says, and keeps what it was asked."""

    def __init__(self, answer):
        self.answer, self.requests, self.samplings = answer, [], []

    def sample(self, requests, sampling, *, on_completions=None, should_stop=None):
        if should_stop is not None and should_stop():
            raise Interrupted("asked to")
        self.requests += requests
        self.samplings.append(sampling)
        completions = [make_completion(self.answer(request)) for request in requests]
        if on_completions is not None:
            on_completions(list(range(len(requests))), completions)
        return completions


def value_of_text(prompts, completions):
    """A reward: the text of the completion is its value, and 1 is correct."""
    values = [float(completion.text.replace("=", "-").replace("+", "")) for completion in completions]
    return [Outcome(value, value == 1.0) for value in values]


def bare_run(engine, *, num_prompts=4, reward=value_of_text, step=0, overrides=(), **others):
    """As much of a training run as companions look at, over prompts `p0`, `p1`, ..."""
    config = load_config("tiny", ["run.seed=9", "update.num_updates_per_step=1", *overrides])
    defaults = {
        "config": config,
        "prompts": tuple(make_prompt(f"1,2,{place + 3}=6:", id=f"p{place}") for place in range(num_prompts)),
        "engine": engine,
        "reward": reward,
        "sampling": Sampling(12, 1.0),
        "policy": small_policy(),
        "reference": None,
        "companions": (),
        "state": TrainerState(step=step),
    }
    return SimpleNamespace(**defaults | others)


def group_of(prompt, *texts, rewards=None):
    """A group with these completions, judged by their text unless rewards are given."""
    completions = tuple(make_completion(text) for text in texts)
    outcomes = value_of_text(None, completions) if rewards is None else [Outcome(each, each == 1.0) for each in rewards]
    return Group(prompt, completions, tuple(outcomes))


def never():
    return False


def always():
    return True


class SignalAtCall:
    """Stands before a function and sends this process a signal at its n-th call, then calls it."""

    def __init__(self, function, call):
        self.function, self.left = function, call

    def __call__(self, *args, **options):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return self.function(*args, **options)


def train_until_stopped(config, prepare, *, resume=False):
    """Trains a run that `prepare` has seen to being interrupted, and returns what is left of it."""
    run = assemble(config, resume=resume)
    prepare(run)
    try:
        with pytest.raises(Interrupted):
            train(run, on_step=lambda _: None)
    finally:
        run.close()
    return run


def assert_same_state_files(one, other):
    """What companions left in two checkpoints, number for number."""
    names = {path.name for path in one.glob("companion_*.pt")}
    assert names == {path.name for path in other.glob("companion_*.pt")} != set()
    for name in names:
        states = [torch.load(folder / name, weights_only=True) for folder in (one, other)]
        assert states[0].keys() == states[1].keys()
        for key, value in states[0].items():
            same = torch.equal(value, states[1][key]) if isinstance(value, torch.Tensor) else value == states[1][key]
            assert same, (name, key)
            if isinstance(value, dict):
                assert list(value) == list(states[1][key])  # their order too
