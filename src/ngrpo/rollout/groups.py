"""Prompts in, groups with outcomes out."""

from collections.abc import Callable, Sequence

from ngrpo.rewards import Reward
from ngrpo.rollout.engine import Engine, SampleRequest, Sampling, random_key
from ngrpo.types import Group, Prompt


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
    first_occurrence: int = 0,
    on_progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Group]:
    """Samples `num_samples` completions of each prompt and judges them.

    Args:
        engine: Samples.
        reward: Judges.
        prompts: The same prompt may occur more than once; each occurrence is a group of its own.
        num_samples: Completions per prompt.
        sampling: How tokens are drawn.
        seed: The run's seed.
        stream: Which stream of random numbers: `TRAINING` or `EVALUATION`.
        step: The rollout step.
        first_occurrence: Number of the first prompt within the step; later ones count on from it.
        on_progress: Called with the number of completions finished since the last call.
        should_stop: Asked between tokens.
    """
    requests = [
        SampleRequest(
            prompt, random_key(seed=seed, stream=stream, step=step, occurrence=first_occurrence + place, sample=sample)
        )
        for place, prompt in enumerate(prompts)
        for sample in range(num_samples)
    ]
    completions = engine.sample(requests, sampling, on_progress=on_progress, should_stop=should_stop)
    outcomes = reward([request.prompt for request in requests], completions)
    return [
        Group(
            prompt,
            tuple(completions[place * num_samples : (place + 1) * num_samples]),
            tuple(outcomes[place * num_samples : (place + 1) * num_samples]),
        )
        for place, prompt in enumerate(prompts)
    ]
