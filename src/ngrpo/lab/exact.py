"""pass@k without sampling: the probability of a right completion, as the sum over all that the checker accepts.

It takes a world that can write them down (`World.answers`). The estimate from n samples of a prompt has a standard
error of sqrt(p (1 - p) / n); this has none, so that what is left between runs is what training made different.

Axes: P prompts, K values of k.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ngrpo.errors import RunFolderError
from ngrpo.policy import Policy, completion_logprobs, pad_rows, sensible_threads
from ngrpo.record import write_json
from ngrpo.types import Prompt

ROWS_PER_PASS = 64
"""Completions scored at once. Few: what a pass of a tiny model touches should stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Exact:
    """What a model is worth on each of some prompts.

    Attributes:
        prompt_ids: P of them, in the order of the data.
        strata: Name of a column (`difficulty`) to its value for each prompt.
        ks: K numbers of samples.
        temperature: Of the distribution that is scored.
        logprob: [P] log-probability that one sample is right, in nats.
    """

    prompt_ids: tuple[str, ...]
    strata: Mapping[str, tuple[str, ...]]
    ks: tuple[int, ...]
    temperature: float
    logprob: NDArray[np.float64]

    @property
    def pass_at_k(self) -> NDArray[np.float64]:
        """[P, K] probability that one of k samples is right, at least."""
        return exact_pass_at_k(self.logprob, self.ks)


def exact_pass_at_k(logprob: ArrayLike, ks: Sequence[int]) -> NDArray[np.float64]:
    """1 - (1 - p)^k of each prompt, to full precision for the smallest p.

    Args:
        logprob: [P] log p in nats, at most 0; -inf where a sample cannot be right.
        ks: K numbers of samples, at least 1.

    Returns:
        [P, K].

    Example:
        >>> exact_pass_at_k([-np.log(2), -50.0], [1, 2]).round(4).tolist()
        [[0.5, 0.75], [0.0, 0.0]]
        >>> float(exact_pass_at_k([-50.0], [100]).item() / (100 * np.exp(-50)))      # not 0
        1.0
    """
    logprob = np.asarray(logprob, dtype=np.float64)[:, None]
    with np.errstate(divide="ignore"):  # log(0) where p is 1: its -inf gives pass@k = 1
        log_wrong = np.log1p(-np.exp(logprob))
    return -np.expm1(np.asarray(ks) * log_wrong)


def log_probabilities(
    policy: Policy, prompts: Sequence[Prompt], completions: Sequence[str], *, temperature: float = 1.0
) -> NDArray[np.float64]:
    """Log-probability of each completion and its end behind its prompt, as it is sampled with neither top-p nor top-k.

    Args:
        policy: The model. Where it has several end-of-sequence tokens, its tokenizer's own is meant.
        prompts: One for each completion; they may repeat.
        completions: Texts. Scored as the tokenizer encodes them: other token sequences that read the same do not count.
        temperature: The sampling temperature, above 0.

    Returns:
        One number per completion, in nats.
    """
    eos = policy.tokenizer.eos_token_id
    encoded = policy.tokenizer(list(completions), add_special_tokens=False)["input_ids"] if completions else []
    rows = [(prompt.token_ids, (*ids, eos)) for prompt, ids in zip(prompts, encoded, strict=True)]
    found = np.empty(len(rows))
    order = sorted(range(len(rows)), key=lambda index: tuple(map(len, rows[index])))  # little padding
    with torch.inference_mode(), sensible_threads(policy):
        for start in range(0, len(order), ROWS_PER_PASS):
            places = order[start : start + ROWS_PER_PASS]
            batch = pad_rows(
                *zip(*(rows[place] for place in places), strict=True),
                pad_token_id=policy.pad_token_id,
                device=policy.device,
            )
            logprobs, _ = completion_logprobs(policy, batch, temperature=temperature)
            found[places] = (logprobs.double() * batch.mask).sum(-1).cpu().numpy()
    return found


def score_answers(
    policy: Policy,
    prompts: Sequence[Prompt],
    answers: Callable[[str], tuple[str, ...]],
    *,
    ks: Sequence[int],
    max_completion_tokens: int,
    temperature: float = 1.0,
) -> Exact:
    """Scores every completion that is right and can be sampled: its end has to come within the completion limit.

    Args:
        policy: The model.
        prompts: Of one world.
        answers: `World.answers` of that world.
        ks: For pass@k.
        max_completion_tokens: Longest completion of whoever samples, its end included.
        temperature: The sampling temperature, above 0.
    """
    texts = [
        [text for text in answers(prompt.columns.get("prompt", prompt.text))
         if len(policy.tokenizer(text, add_special_tokens=False)["input_ids"]) < max_completion_tokens]
        for prompt in prompts
    ]  # fmt: skip
    repeated = [prompt for prompt, of_prompt in zip(prompts, texts, strict=True) for _ in of_prompt]
    logprobs = log_probabilities(policy, repeated, [text for each in texts for text in each], temperature=temperature)
    by_prompt = np.split(logprobs, np.cumsum([len(each) for each in texts])[:-1])
    # Rounding can lift a sum of probabilities that is 1 a little above it.
    logprob = np.minimum([np.logaddexp.reduce(each) for each in by_prompt], 0.0)
    difficulties = tuple(str(prompt.columns.get("difficulty", "")) for prompt in prompts)
    return Exact(
        prompt_ids=tuple(prompt.id for prompt in prompts),
        strata={"difficulty": difficulties} if any(difficulties) else {},
        ks=tuple(ks),
        temperature=temperature,
        logprob=logprob,
    )


def write_exact(path: Path, exact: Exact) -> None:
    """Writes `exact.json`; a log-probability of -inf, which JSON has not, as null."""
    write_json(
        path,
        {
            "ks": list(exact.ks),
            "temperature": exact.temperature,
            "prompt_ids": list(exact.prompt_ids),
            "strata": {name: list(values) for name, values in exact.strata.items()},
            "logprob": [None if value == -np.inf else value for value in exact.logprob.tolist()],
            "pass_at_k": exact.pass_at_k.tolist(),
        },
    )


def read_exact(path: Path) -> Exact:
    """Reads `exact.json`.

    Raises:
        RunFolderError: It is missing or not what `write_exact` wrote.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        exact = Exact(
            prompt_ids=tuple(found["prompt_ids"]),
            strata={name: tuple(values) for name, values in found["strata"].items()},
            ks=tuple(found["ks"]),
            temperature=found["temperature"],
            logprob=np.array([-np.inf if value is None else value for value in found["logprob"]], dtype=np.float64),
        )
        is_whole = exact.logprob.shape == (len(exact.prompt_ids),) and (exact.logprob <= 0).all()
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(f"{path} is not a file of exact scores ({error!r}). Remove it and score again.") from error
    if not is_whole:
        raise RunFolderError(f"{path} has not one log-probability for each prompt. Remove it and score again.")
    return exact
