r"""Judging by the scorer of a reasoning-gym task, as right or wrong, or by its score.

The scorers give partial credit (0.1 for the right number in a sentence, 0.01 for nothing at all), raise on some
answers, take for ever over others (`1e9999999999` as a fraction), and nine of them execute what the model wrote. So a
score counts only from `correct_at` upwards, all scoring happens in worker processes with a deadline, and the nine are
refused unless they are allowed by name.
"""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

from ngrpo.errors import ConfigError, DataError, MissingExtraError, RewardError
from ngrpo.rewards.extract import last_boxed, last_tagged, outside_thought
from ngrpo.rewards.pool import Pool, Reply
from ngrpo.types import Completion, Outcome, Prompt

# Scorers that pass the answer to eval() or to sympy's parse_expr(), which is eval() too (reasoning-gym 0.1.25).
EXECUTING_TASKS = frozenset({
    "binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24",
    "simple_integration", "spiral_matrix", "string_insertion",
})  # fmt: skip

_ENTRY_KEYS = ("question", "answer", "metadata")


class GymReward:
    r"""Value 1.0 where the task's scorer gives at least `correct_at`, else 0.0; or the score itself.

    What is scored is the last complete `<answer>...</answer>` or `\boxed{...}` outside of `<think>...</think>`, else
    the whole completion; stripped in each case. The entry to score against is the source row of the prompt
    (`Prompt.columns`), as `gym:` data have it.

    Args:
        task: Name of the task.
        params: Its parameters, as the data were made with.
        seed: Seed the data were made with.
        size: Number of rows the data were made with.
        correct_at: Score from which an answer is right.
        is_fractional: The value is the score, partial credit included; the label stays by `correct_at`.
        timeout_s: Seconds of processor time for scoring one answer; see `Pool`.
        num_workers: Most worker processes; by default as many as there are cores.
        allow_execution: Tasks whose scorer may execute model output.

    Raises:
        RewardError: The scorer executes model output, and the task is not in `allow_execution`.
        ConfigError: There is no such task, or its parameters are wrong.
        MissingExtraError: reasoning-gym is not installed.
    """

    judges_elsewhere = True

    def __init__(
        self,
        task: str,
        *,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        size: int = 1,
        correct_at: float = 1.0,
        is_fractional: bool = False,
        timeout_s: float = 10.0,
        num_workers: int | None = None,
        allow_execution: Collection[str] = (),
    ) -> None:
        if task in EXECUTING_TASKS and task not in allow_execution:
            raise RewardError(
                f"the scorer of gym task {task!r} executes what the model wrote, as Python, with your rights. Choose "
                f'another task, or accept that with reward.allow_execution = ["{task}"].'
            )
        settings = dict(params or {})
        open_task(task, params=settings, seed=seed, size=size)  # complain here, not in a worker
        self._correct_at, self._is_fractional = correct_at, is_fractional
        self._pool = Pool(make_scorer, args=(task, settings, seed, size), deadline_s=timeout_s, num_workers=num_workers)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Outcome]:
        """Score each completion against the row of its prompt."""
        for prompt in prompts:
            _check_row(prompt)
        answers = [extract_answer(completion.text) for completion in completions]
        pairs = zip(prompts, answers, strict=True)
        replies = iter(self._pool.map([(answer, dict(prompt.columns)) for prompt, answer in pairs if answer]))
        return [self._outcome(answer, next(replies)) if answer else _no_answer(answer) for answer in answers]

    def check_golds(self, golds: Sequence[str]) -> list[str | None]:
        """Every gold is fine: the scorer reads the whole row."""
        return [None] * len(golds)

    def close(self) -> None:
        """End the worker processes, if any run."""
        self._pool.close()

    def _outcome(self, answer: str, reply: Reply) -> Outcome:
        if reply.status == "ok" and not 0.0 <= reply.value <= 1.0:
            detail = f"the scorer gave {reply.value:g}, which is no score"
            return Outcome(value=0.0, correct=False, kind="error", extracted=answer, detail=detail)
        if reply.status == "ok":
            correct = reply.value >= self._correct_at - 1e-9
            value = reply.value if self._is_fractional else float(correct)
            return Outcome(value=value, correct=correct, extracted=answer, detail=f"score {reply.value:g}")
        kind = "timeout" if reply.status == "timeout" else "error"
        return Outcome(value=0.0, correct=False, kind=kind, extracted=answer, detail=reply.detail)


def _check_row(prompt: Prompt) -> None:
    missing = [key for key in _ENTRY_KEYS if key not in prompt.columns]
    if missing:
        raise DataError(
            f"{prompt.source or 'prompt ' + prompt.id} has no {missing[0]!r}, which reasoning-gym scores with. The "
            "gym reward is for prompts of a gym: source; set reward.name to what fits these data."
        )


def _no_answer(answer: str | None) -> Outcome:
    detail = "<think> is not closed" if answer is None else "nothing was answered"
    return Outcome(value=0.0, correct=False, kind="unparsed", detail=detail)


def extract_answer(completion_text: str) -> str | None:
    r"""Find what a reasoning-gym scorer should see.

    Args:
        completion_text: What the model wrote.

    Returns:
        The content of the last complete `<answer>...</answer>` or `\boxed{...}` outside of thought, else the whole
        text; stripped. None when a `<think>` is not closed.

    Example:
        >>> extract_answer(" 42\n"), extract_answer(r"\boxed{1}? <answer> 2 </answer>"), extract_answer("<think>3")
        ('42', '2', None)
    """
    spoken = outside_thought(completion_text)
    if spoken is None:
        return None
    marked = [found for found in (last_boxed(spoken), last_tagged(spoken)) if found is not None]
    return (max(marked)[1] if marked else spoken).strip()


def open_task(task: str, *, params: Mapping[str, Any], seed: int, size: int) -> Any:
    """Create a reasoning-gym data set.

    Args:
        task: Its name.
        params: Its parameters, without seed and size.
        seed: Seed of its items.
        size: Number of items.

    Returns:
        The data set: `[index]` gives an entry, `score_answer(answer, entry)` a score.

    Raises:
        ConfigError: There is no such task, or reasoning-gym refuses a parameter.
        MissingExtraError: reasoning-gym is not installed.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise MissingExtraError(
            f'gym task {task!r} needs reasoning-gym ({error}): pip install "ngrpo[gym]".', name="reasoning_gym"
        ) from error
    if task not in DATASETS:
        near = difflib.get_close_matches(task, DATASETS, n=5, cutoff=0.5) or sorted(DATASETS)[:5]
        raise ConfigError(f"reasoning-gym has no task {task!r}. The nearest of its {len(DATASETS)}: {', '.join(near)}.")
    known = [field.name for field in fields(DATASETS[task][1]) if field.name not in ("seed", "size")]
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise ConfigError(
            f"gym task {task!r} has no parameter {unknown[0]!r} (data.params; seed and size are data.seed and "
            f"data.size). It has: {', '.join(known)}."
        )
    try:
        return reasoning_gym.create_dataset(task, seed=seed, size=size, **params)
    except (AssertionError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"gym task {task!r} refuses its parameters {dict(params)} (data.params): {error or 'no reason given'}."
        ) from error


def make_scorer(task: str, params: dict[str, Any], seed: int, size: int) -> Callable[[str, dict[str, Any]], float]:
    """Open the task and return its scorer as a function of answer and entry. Runs in the workers."""
    dataset = open_task(task, params=params, seed=seed, size=size)
    return lambda answer, entry: float(dataset.score_answer(answer, entry))
