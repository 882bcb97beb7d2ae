"""The misconception world: sums that the base model works out by a confident wrong procedure.

A prompt `47+85=` is answered by the letter of a strategy and the digits of the sum, the last digit first: `P231`. There
are two strategies: P carries, L adds digit by digit and drops every carry (`L22`). The checker reads the digits only. A
prompt is hard where a carry occurs, so that the strategies differ, and easy where none does.

A base model knows how to work out both and nearly always chooses L: on hard prompts nearly every group is all wrong,
with the same wrong answer, and what is right has a small and known probability. Which one is decided by `right_prior`;
there is a world for each of three, with the same rows and the same checker.

Problems are split by their two numbers, whichever comes first: 85+47 is the same problem as 47+85.
"""

import random
import re
from functools import cache, partial

from ngrpo.errors import DataError
from ngrpo.types import Outcome
from ngrpo.worlds.world import Demonstration, Row, World, require_distinct, split_by_hash

# Shares of the 4,095 pairs of numbers, in percent.
SPLIT_PERCENT = {"warm": 50, "train": 30, "validation": 10, "test": 10}

HARD_PERCENT_BY_TRAIN_SPLIT = {"train_hard10": 10, "train_hard25": 25, "train_hard75": 75, "train_hard90": 90}
"""Further training splits, of the same pairs as `train`, by their share of hard prompts. In all others it is 50."""

RIGHT_PRIORS = {"misconception_mild": 0.01, "misconception": 0.003, "misconception_severe": 0.0002}
"""Probability with which a base model chooses the strategy that carries, by world."""

# Rows of these splits are all different problems, half of them easy, of which there are 113 and 102.
MAX_DISTINCT_ROWS = {"validation": 200, "test": 200}

FORCED_FRAC = 0.25
"""Demonstrations that carry without having chosen to: the letter P stands there, unlearned, and the digits follow."""

_PROMPT = re.compile(r"([1-9][0-9])\+([1-9][0-9])=")
_COMPLETION = re.compile(r"[PL]([0-9]{1,4})")


def split_of(one: int, other: int) -> str:
    """Tell which split the problems of two numbers belong to, whichever comes first; `train` for all kinds of it.

    Example:
        >>> split_of(47, 85) == split_of(85, 47)
        True
    """
    return split_by_hash(f"misconception:{min(one, other)},{max(one, other)}", SPLIT_PERCENT)


def with_carry(one: int, other: int) -> str:
    """The digits of the sum, the last one first.

    Example:
        >>> with_carry(47, 85)
        '231'
    """
    return str(one + other)[::-1]


def without_carry(one: int, other: int) -> str:
    """What is left when every carry is dropped: the sums of the digits modulo 10, the last one first.

    Example:
        >>> without_carry(47, 85)
        '22'
    """
    return f"{(one + other) % 10}{(one // 10 + other // 10) % 10}"


def is_hard(one: int, other: int) -> bool:
    """Whether the two strategies differ.

    Example:
        >>> is_hard(47, 85), is_hard(41, 25)
        (True, False)
    """
    return with_carry(one, other) != without_carry(one, other)


def check(prompt_text: str, completion_text: str) -> Outcome:
    """Judge a completion: a letter of a strategy, whichever, and then exactly the digits of the sum.

    Args:
        prompt_text: A prompt of this world.
        completion_text: What the model answered, without the end-of-sequence token.

    Returns:
        Value 1.0 and correct, or value 0.0 with the reason in `detail`. Kind `unparsed` where the completion is not a
        letter and one to four digits.

    Raises:
        DataError: `prompt_text` is not a prompt of this world.

    Example:
        >>> check("47+85=", "L231").correct, check("47+85=", "P22").detail
        (True, 'drops the carry: 22, not 231')
    """
    one, other = _parsed(prompt_text)
    match = _COMPLETION.fullmatch(completion_text)
    if match is None:
        return Outcome(value=0.0, correct=False, kind="unparsed", detail="not P or L and one to four digits")
    digits, right = match[1], with_carry(one, other)
    if digits == right:
        return Outcome(value=1.0, correct=True, extracted=digits)
    why = "drops the carry" if digits == without_carry(one, other) else "another mistake"
    return Outcome(value=0.0, correct=False, extracted=digits, detail=f"{why}: {digits}, not {right}")


def answers(prompt_text: str) -> tuple[str, ...]:
    """Both completions that the checker accepts.

    Example:
        >>> answers("47+85=")
        ('P231', 'L231')
    """
    right = with_carry(*_parsed(prompt_text))
    return f"P{right}", f"L{right}"


def canonical(prompt_text: str) -> str:
    """The same whichever number comes first.

    Example:
        >>> canonical("85+47=")
        '47+85='
    """
    one, other = sorted(_parsed(prompt_text))
    return f"{one}+{other}="


def _parsed(prompt_text: str) -> tuple[int, int]:
    match = _PROMPT.fullmatch(prompt_text)
    if match is None:
        raise DataError(f"{prompt_text!r} is not a prompt of the misconception world. One looks like '47+85='.")
    return int(match[1]), int(match[2])


def generate(split: str, size: int, seed: int) -> list[Row]:
    """Make the first `size` rows of a split; see `World.problems`.

    Hard and easy prompts are spread evenly, so that any stretch of rows has them in the split's proportion.

    Raises:
        DataError: A split of distinct problems was asked for more than `MAX_DISTINCT_ROWS`.
    """
    require_distinct("misconception", split, size, MAX_DISTINCT_ROWS.get(split))
    hard_percent = HARD_PERCENT_BY_TRAIN_SPLIT.get(split, 50)
    rng = random.Random(f"misconception/{split}/{seed}")
    base_split = "train" if split in HARD_PERCENT_BY_TRAIN_SPLIT else split
    pools = {hard: list(_pairs(base_split, hard)) for hard in (True, False)}
    for pool in pools.values():
        rng.shuffle(pool)
    num_drawn = {True: 0, False: 0}
    rows = []
    for index in range(size):
        hard = (index + 1) * hard_percent // 100 > index * hard_percent // 100
        pool = pools[hard]
        # Once through all pairs before any comes again.
        one, other = rng.sample(pool[num_drawn[hard] % len(pool)], k=2)
        num_drawn[hard] += 1
        rows.append(
            Row(
                id=f"misconception/{split}/{seed}/{index}",
                prompt=f"{one}+{other}=",
                gold=f"P{with_carry(one, other)}",
                difficulty="hard" if hard else "easy",
            )
        )
    return rows


def demonstrate(size: int, seed: int, *, right_prior: float) -> list[Demonstration]:
    """Make what a base model is shown; see `World.demonstrations`. Half of the prompts are hard.

    Args:
        size: How many.
        seed: Which list of them.
        right_prior: Share of strategies P among those that are chosen, not forced.
    """
    rng = random.Random(f"misconception/demonstrations/{right_prior}/{seed}")
    shown = []
    for _ in range(size):
        one, other = rng.sample(rng.choice(_pairs("warm", rng.random() < 0.5)), k=2)
        is_forced = rng.random() < FORCED_FRAC
        if is_forced or rng.random() < right_prior:
            completion = f"P{with_carry(one, other)}"
        else:
            completion = f"L{without_carry(one, other)}"
        shown.append(Demonstration(f"{one}+{other}=", completion, num_unlearned=int(is_forced)))
    return shown


@cache
def _pairs(split: str, hard: bool) -> tuple[tuple[int, int], ...]:
    """All pairs of a split that are hard, or easy, the smaller number first."""
    pairs = ((one, other) for one in range(10, 100) for other in range(one, 100))
    return tuple(pair for pair in pairs if split_of(*pair) == split and is_hard(*pair) == hard)


MISCONCEPTIONS = tuple(
    World(
        name=name,
        version=1,
        alphabet="0123456789+=PL",
        max_prompt_chars=len("99+99="),
        max_completion_tokens=6,
        splits=(*SPLIT_PERCENT, *HARD_PERCENT_BY_TRAIN_SPLIT),
        generate=generate,
        check=check,
        answers=answers,
        demonstrate=partial(demonstrate, right_prior=right_prior),
        canonical=canonical,
    )
    for name, right_prior in RIGHT_PRIORS.items()
)
