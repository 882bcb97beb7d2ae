"""What tests of evaluation share: three prompts, an engine whose answers belong to the keys, and how to run it."""

import json

import pytest

from helpers import EqualsGold, make_prompt
from ngrpo.data import PromptSet
from ngrpo.evaluate import EvaluationSettings, evaluate
from ngrpo.record import read_jsonl
from ngrpo.rollout.engine import uniforms
from ngrpo.types import Completion

# Longest first, so that the order of sampling (by length) is not the order of the data.
PROMPTS = PromptSet(
    tuple(
        make_prompt(text, id=name, gold=gold)
        for text, name, gold in [("1,2,3,4=10:", "π", "1+2+3+4"), ("1,2=3:", "b", "\ud800\n"), ("4,5=9:", "c", "4+5")]
    ),
    name="three",
    fingerprint="f00d",
)


def make_settings(**changes):
    defaults = {
        "model": "some/model",
        "data": "three",
        "fingerprint": "f00d",
        "num_prompts": 3,
        "num_samples": 3,
        "ks": (1, 2),
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "max_completion_tokens": 6,
        "seed": 5,
        "reward": "equals",
        "engine": "coin",
    }
    return EvaluationSettings(**{**defaults, **changes})


class CoinEngine:
    """Answers with the gold or with nonsense: a function of the request's key alone."""

    def __init__(self):
        self.requests = []

    def sample(self, requests, sampling, *, on_completions=None, should_stop=None):
        completions = []
        for index, request in enumerate(requests):
            self.requests.append(request)
            completions.append(self.answer(request))
            on_completions([index], completions[index:])
        return completions

    def answer(self, request):
        number = float(uniforms([request.key], 1)[0, 0])
        text = request.prompt.gold if number < 0.5 else f"{number:.3f}"
        return Completion((2,) * (1 + int(number * 5)), (), text, "eos", entropy_nats=number)


class Alongside(EqualsGold):
    """A reward that is asked while others are sampled."""

    judges_elsewhere = True


def never():
    pytest.fail("an engine was made")


def run(folder, settings=None, prompts=PROMPTS, make_engine=CoinEngine, reward=None, **options):
    options.setdefault("on_progress", lambda count: None)
    return evaluate(folder, settings or make_settings(), prompts, make_engine, reward or EqualsGold(), **options)


def sorted_rows(folder):
    return sorted(read_jsonl(folder / "samples.jsonl"), key=lambda row: (row["prompt"], row["sample"]))


def numbers_of(folder):
    """The summary without what it says of the processes that made it."""
    written = json.loads((folder / "summary.json").read_text())
    return {key: value for key, value in written.items() if key not in ("resumed", "command", "hardware")}
