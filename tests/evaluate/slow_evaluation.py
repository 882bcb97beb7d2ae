"""An evaluation in a process of its own that takes its time; imports little, so that the process starts at once."""

import time

from ngrpo.data import PromptSet
from ngrpo.evaluate import EvaluationSettings, evaluate
from ngrpo.rollout.engine import uniforms
from ngrpo.types import Completion, Outcome, Prompt

PROMPTS = PromptSet(tuple(Prompt(name, name * 3, (2,), "low") for name in ("a", "b", "c")), "three", {}, "f00d")
SETTINGS = EvaluationSettings(
    model="m", data="three", fingerprint="f00d", num_prompts=3, num_samples=60, ks=(1, 2), temperature=1.0, top_p=1.0,
    top_k=0, max_completion_tokens=6, seed=5, reward="low", engine="slow",
)  # fmt: skip


class SlowEngine:
    """Answers with a word that its key decides on, after a pause."""

    def __init__(self, pause_s):
        self.pause_s = pause_s

    def sample(self, requests, sampling, *, on_completions, should_stop):
        completions = []
        for index, request in enumerate(requests):
            time.sleep(self.pause_s)
            number = float(uniforms([request.key], 1)[0, 0])
            text = f"low {number}" if number < 0.5 else "high"
            completions.append(Completion((2,), (), text, "eos", entropy_nats=number))
            on_completions([index], completions[index:])
        return completions


class SaysLow:
    """A reward: correct is what starts with the gold."""

    def __call__(self, prompts, completions):
        right = [
            completion.text.startswith(prompt.gold) for prompt, completion in zip(prompts, completions, strict=True)
        ]
        return [Outcome(float(is_right), is_right, normal_form=str(is_right)) for is_right in right]


class SaysLowElsewhere(SaysLow):
    """The same, asked while others are sampled."""

    judges_elsewhere = True


def work(folder, reward, pause_s=0.01):
    """Evaluates; what is judged between samplings is written one by one."""
    return evaluate(
        folder, SETTINGS, PROMPTS, lambda: SlowEngine(pause_s), reward, max_rows=1, on_progress=lambda count: None
    )
