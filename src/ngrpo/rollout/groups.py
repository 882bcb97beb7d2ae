"""Prompts in, groups with outcomes out."""

from collections.abc import Callable, Sequence

from ngrpo.rewards import Reward
from ngrpo.rollout.engine import Engine, SampleRequest, Sampling, random_key
from ngrpo.rollout.grading import sample_and_judge
from ngrpo.types import Completion, Group, Outcome, Prompt


def sample_groups(
    engine: Engine,
    reward: Reward,
    prompts: Sequence[Prompt],
    *,
    num_samples: int,
    sampling: Sampling,
    seed: int,
    stream: int,
    step: int,
    occurrences: Sequence[int] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Group]:
    """Samples `num_samples` completions of each prompt and judges them.

    A reward that is asked on this thread is asked once, for all of them in the order of the groups.

    Args:
        engine: Samples.
        reward: Judges.
        prompts: The same prompt may occur more than once; each occurrence is a group of its own.
        num_samples: Completions per prompt.
        sampling: How tokens are drawn.
        seed: The run's seed.
        stream: Which stream of random numbers: `TRAINING`, `EVALUATION` or another of `rollout.engine`.
        step: The rollout step.
        occurrences: Number of each prompt within the step; left out, they are counted from 0.
        should_stop: Asked between tokens.
    """
    if not prompts:
        return []
    numbers = range(len(prompts)) if occurrences is None else occurrences
    requests = [
        SampleRequest(prompt, random_key(seed=seed, stream=stream, step=step, occurrence=number, sample=sample))
        for prompt, number in zip(prompts, numbers, strict=True)
        for sample in range(num_samples)
    ]
    judged: dict[int, tuple[Completion, Outcome]] = {}

    def keep(indices: list[int], completions: list[Completion], outcomes: list[Outcome]) -> None:
        judged.update(zip(indices, zip(completions, outcomes, strict=True), strict=True))

    sample_and_judge(engine, reward, requests, sampling, keep, num_at_once=len(requests), should_stop=should_stop)
    pairs = [judged[index] for index in range(len(requests))]
    return [
        Group(
            prompt,
            tuple(completion for completion, _ in pairs[place * num_samples : (place + 1) * num_samples]),
            tuple(outcome for _, outcome in pairs[place * num_samples : (place + 1) * num_samples]),
        )
        for place, prompt in enumerate(prompts)
    ]
