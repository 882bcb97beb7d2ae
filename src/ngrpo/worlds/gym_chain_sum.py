"""Three worlds of reasoning-gym's `chain_sum`, from easy to hard: sums and differences of growing numbers.

A prompt `12+7-30=`, the expression that reasoning-gym's own generator drew, without its spaces and the sentence around
it, is answered by its value: `-11`. The checker accepts exactly that: there is one way to write it, where
reasoning-gym's scorer also takes `-011` and `-11.00`. One base model, shown problems of all three, serves all three.

Problems are split by their signed terms in sorted order, so that 12-30+7 and 7+12-30 are the same problem.
"""

import random
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from ngrpo.errors import DataError, MissingExtraError
from ngrpo.types import Outcome
from ngrpo.worlds.world import Demonstration, Row, World, require_distinct, split_by_hash

# Shares of the problems, in percent.
SPLIT_PERCENT = {"warm": 50, "train": 20, "validation": 15, "test": 15}

PARAMS_BY_WORLD: dict[str, dict[str, int]] = {
    "gym_chain_sum_easy": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
    "gym_chain_sum_medium": {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
    "gym_chain_sum_hard": {"min_terms": 2, "max_terms": 3, "min_digits": 3, "max_digits": 3},
}
"""Parameters of reasoning-gym's generator, by world. No problem is of two worlds: their terms have 1, 2 or 3 digits."""

# Rows of these splits are all different problems. The easy world has 197 for validation and 222 for test.
MAX_DISTINCT_ROWS = {"validation": 160, "test": 160}

_PROMPT = re.compile(r"([0-9]{1,3}(?:[+-][0-9]{1,3}){1,3})=")
_TERM = re.compile(r"[+-]?[0-9]+")
_COMPLETION = re.compile(r"-?[0-9]{1,5}")


def split_of(expression: str) -> str:
    """Tell which split an expression belongs to, in whatever order its terms stand.

    Example:
        >>> split_of("12-30+7") == split_of("7+12-30")
        True
    """
    return split_by_hash(f"gym_chain_sum:{canonical(expression)}", SPLIT_PERCENT)


def canonical(prompt_text: str) -> str:
    """The signed terms in sorted order.

    Example:
        >>> canonical("12-30+7=")
        '-30,7,12'
    """
    return ",".join(map(str, sorted(_terms(prompt_text))))


def _terms(expression: str) -> list[int]:
    return [int(term) for term in _TERM.findall(expression)]


def value_of(prompt_text: str) -> int:
    """The value of a prompt's expression.

    Raises:
        DataError: `prompt_text` is not a prompt of these worlds.

    Example:
        >>> value_of("12+7-30=")
        -11
    """
    match = _PROMPT.fullmatch(prompt_text)
    if match is None:
        raise DataError(f"{prompt_text!r} is not a prompt of the chain_sum worlds. One looks like '12+7-30='.")
    return sum(_terms(match[1]))


def check(prompt_text: str, completion_text: str) -> Outcome:
    """Judge a completion. The whole of it must be the value, written in the usual way.

    Args:
        prompt_text: A prompt of one of these worlds.
        completion_text: What the model answered, without the end-of-sequence token.

    Returns:
        Value 1.0 and correct, or value 0.0 with the reason in `detail`. Kind `unparsed` where the completion is not a
        whole number of at most five digits.

    Raises:
        DataError: `prompt_text` is not a prompt of these worlds.

    Example:
        >>> check("12+7-30=", "-11").correct, check("12+7-30=", "11").detail
        (True, '11, not -11')
    """
    value = str(value_of(prompt_text))
    if _COMPLETION.fullmatch(completion_text) is None:
        return Outcome(value=0.0, correct=False, kind="unparsed", detail="not a whole number of at most five digits")
    if completion_text != value:
        return Outcome(value=0.0, correct=False, extracted=completion_text, detail=f"{completion_text}, not {value}")
    return Outcome(value=1.0, correct=True, extracted=completion_text)


def answers(prompt_text: str) -> tuple[str, ...]:
    """The only completion that the checker accepts.

    Example:
        >>> answers("12+7-30=")
        ('-11',)
    """
    return (str(value_of(prompt_text)),)


def generate(split: str, size: int, seed: int, *, name: str) -> list[Row]:
    """Make the first `size` rows of a split; see `World.problems`.

    Raises:
        DataError: A split of distinct problems was asked for more than `MAX_DISTINCT_ROWS`.
        MissingExtraError: reasoning-gym is not installed.
    """
    require_distinct(name, split, size, MAX_DISTINCT_ROWS.get(split))
    expressions = _expressions(name, split, seed)
    rows: list[Row] = []
    seen: set[tuple[int, ...]] = set()
    while len(rows) < size:
        expression = next(expressions)
        if split in MAX_DISTINCT_ROWS:
            problem = tuple(sorted(_terms(expression)))
            if problem in seen:
                continue
            seen.add(problem)
        prompt = f"{expression}="
        rows.append(Row(id=f"{name}/{split}/{seed}/{len(rows)}", prompt=prompt, gold=str(value_of(prompt))))
    return rows


def demonstrate(size: int, seed: int) -> list[Demonstration]:
    """Make what the base model of all three worlds is shown; see `World.demonstrations`: each world in its turn."""
    streams = [_expressions(name, "warm", seed) for name in PARAMS_BY_WORLD]
    prompts = [f"{next(streams[index % len(streams)])}=" for index in range(size)]
    return [Demonstration(prompt, str(value_of(prompt))) for prompt in prompts]


def _expressions(name: str, split: str, seed: int) -> Iterator[str]:
    """Expressions of one split, without end, as reasoning-gym draws them.

    Row i of its data sets is drawn from seed + i, so that neighbouring seeds share rows: ours start far apart.
    """
    first = random.Random(f"{name}/{split}/{seed}").getrandbits(60)
    source = _open(name, first)
    index = 0
    while True:
        expression = source[index]["metadata"]["expression"].replace(" ", "")
        if split_of(expression) == split:
            yield expression
        index += 1


def _open(name: str, seed: int) -> Any:
    try:
        from reasoning_gym import create_dataset
    except ImportError as error:
        raise MissingExtraError(
            f'world {name!r} needs reasoning-gym ({error}): pip install "ngrpo[gym]".', name="reasoning_gym"
        ) from error
    return create_dataset("chain_sum", seed=seed, size=1, **PARAMS_BY_WORLD[name])


GYM_CHAIN_SUMS = tuple(
    World(
        name=name,
        version=1,
        alphabet="0123456789+-=",
        max_prompt_chars=len("+".join(["9" * params["max_digits"]] * params["max_terms"]) + "="),
        max_completion_tokens=6,
        splits=tuple(SPLIT_PERCENT),
        generate=partial(generate, name=name),
        check=check,
        answers=answers,
        demonstrate=demonstrate,
        canonical=canonical,
    )
    for name, params in PARAMS_BY_WORLD.items()
)
