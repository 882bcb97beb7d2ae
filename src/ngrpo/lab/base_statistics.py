"""What a base model is like in a world, measured on the split `validation`, and whether that is as documented.

Exact, by scoring every right answer, but for the entropy, which is of sampled tokens.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ngrpo import worlds
from ngrpo.data import load_prompts
from ngrpo.lab.exact import exact_pass_at_k, score_answers
from ngrpo.policy import load_policy, load_tokenizer, one_thread
from ngrpo.rollout import NativeEngine, SampleRequest, Sampling, random_key
from ngrpo.rollout.engine import EVALUATION

NUM_PROMPTS = 128
GROUP_SIZE = 8
KS = (1, 8, 64)


def measure(folder: Path, world: str) -> dict[str, float]:
    """Measures a model in a world, at temperature 1.

    Args:
        folder: The model.
        world: Name of the world.

    Returns:
        `pass@1`, `pass@8`, `pass@64`; `all_wrong_frac`, `mixed_frac`, `all_right_frac` of groups of 8; `entropy_nats`
        per sampled token. Where the world tells hard prompts from easy ones, all but the entropy for hard prompts alone
        too, with `hard/` in front.
    """
    tokenizer = load_tokenizer(str(folder))
    policy = load_policy(str(folder), tokenizer, device="cpu")
    task = worlds.get(world)
    prompts = load_prompts(f"world:{world}", tokenizer, split="validation", size=NUM_PROMPTS).prompts
    assert task.answers is not None, f"the laboratory measures worlds that can write down their answers, not {world}"
    with one_thread():
        exact = score_answers(policy, prompts, task.answers, ks=KS, max_completion_tokens=task.max_completion_tokens)
        requests = [
            SampleRequest(prompt, random_key(seed=0, stream=EVALUATION, step=0, occurrence=place, sample=sample))
            for place, prompt in enumerate(prompts)
            for sample in range(GROUP_SIZE)
        ]
        sampled = NativeEngine(policy).sample(requests, Sampling(task.max_completion_tokens))
    lengths = [len(completion.token_ids) for completion in sampled]
    entropy = np.average([completion.entropy_nats for completion in sampled], weights=lengths)
    found = _chances(exact.logprob) | {"entropy_nats": float(entropy)}
    is_hard = np.array(exact.strata.get("difficulty", ())) == "hard"
    if is_hard.any():
        found |= {f"hard/{name}": value for name, value in _chances(exact.logprob[is_hard]).items()}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _chances(logprob: NDArray[np.float64]) -> dict[str, float]:
    """[P] log p -> means over prompts."""
    passed = exact_pass_at_k(logprob, (*KS, GROUP_SIZE)).mean(0).tolist()
    all_wrong, all_right = 1.0 - passed[-1], float(np.exp(GROUP_SIZE * logprob).mean())
    return dict(zip((f"pass@{k}" for k in KS), passed, strict=False)) | {
        "all_wrong_frac": all_wrong,
        "mixed_frac": max(1.0 - all_wrong - all_right, 0.0),
        "all_right_frac": all_right,
    }


def as_line(measured: Mapping[str, float]) -> str:
    """What was measured, for people.

    Example:
        >>> as_line({"pass@1": 0.1964, "all_wrong_frac": 0.3878, "entropy_nats": 0.6711})
        'pass@1 19.6 %, all wrong 38.8 %, entropy 0.671 nats per token'
    """
    parts = [
        f"entropy {value:.3f} nats per token"
        if name == "entropy_nats"
        else f"{name.removesuffix('_frac').replace('_', ' ').replace('/', ' ')} {100 * value:.1f} %"
        for name, value in measured.items()
    ]
    return ", ".join(parts)


def warn_of_drift(world: str, measured: Mapping[str, float], expected: Mapping[str, tuple[float, float]]) -> None:
    """Warns where a base is not as documented.

    It is no error: another build of torch rounds otherwise, which training carries a long way, and such a base is as
    good as any for experiments whose arms all start from it.
    """
    outside = [
        f"{name} is {measured[name]:.4g}, documented as {low:g} to {high:g}"
        for name, (low, high) in expected.items()
        if not low <= measured[name] <= high
    ]
    if outside:
        warnings.warn(
            f"the base model of {world!r} is not like the documented one: {'; '.join(outside)}. Experiments from it "
            "are sound, but not comparable with published numbers of this world. Another build of torch can do this.",
            stacklevel=2,
        )
