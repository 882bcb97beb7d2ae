"""The countdown world: reach a target with each given number once.

A prompt `3,5,7,2=14:` is answered by an infix expression such as `7+2*5-3`: no parentheses, `+`, `-` and `*` with
the usual precedence, each given number exactly once. Three to five numbers from 1 to 9, a target from 1 to 99. Most
problems have many solutions, so that sampling more finds more: errors here are diffuse.

Problems are split by the sorted multiset of their numbers. Splitting by the text of the prompt would leak: the same
numbers and target in another order are the same problem.
"""

import random
import re
from functools import cache
from itertools import permutations, product

from ngrpo.errors import DataError
from ngrpo.types import Outcome
from ngrpo.worlds.world import Row, World, require_distinct, split_by_hash

# Shares of the multisets of numbers, in percent. Warm start gets the most: it must teach arithmetic to a model
# that has never seen any. The other splits only need enough distinct problems.
SPLIT_PERCENT = {"warm": 50, "train": 30, "validation": 10, "test": 10}

# Splits whose rows are all different problems (multiset and target), and how many rows they give at most: below the
# 7,000 and more that exist, so that the last rows do not take for ever to find. Warm start and training draw with
# repetition: they may ask for more rows than there are problems.
MAX_DISTINCT_ROWS = {"validation": 5000, "test": 5000}

_PROMPT = re.compile(r"([1-9](?:,[1-9]){2,4})=([1-9][0-9]?):")
_EXPRESSION = re.compile(r"[1-9](?:[-+*][1-9])*")


def split_of(numbers: list[int] | tuple[int, ...]) -> str:
    """Tell which split problems with these numbers belong to, whatever their order and target.

    Args:
        numbers: The given numbers, in any order.

    Returns:
        The name of a split. Stable for ever: a SHA-256 of the sorted numbers, not Python's hash.

    Example:
        >>> split_of([3, 5, 7, 2]) == split_of([2, 3, 5, 7])
        True
    """
    return _split_of_sorted(tuple(sorted(numbers)))


@cache  # 1,947 multisets in all
def _split_of_sorted(multiset: tuple[int, ...]) -> str:
    return split_by_hash("countdown:" + ",".join(map(str, multiset)), SPLIT_PERCENT)


def value_of(expression: str) -> int:
    """Evaluate an expression of digits 1-9 with `+`, `-` and `*`, multiplication first.

    Args:
        expression: Well formed: digits and operators alternate, digits at both ends.

    Returns:
        Its value.

    Example:
        >>> value_of("7+2*5-3")
        14
    """
    total, term = 0, int(expression[0])
    for operator, digit in zip(expression[1::2], expression[2::2], strict=True):
        if operator == "*":
            term *= int(digit)
        else:
            total += term
            term = int(digit) if operator == "+" else -int(digit)
    return total + term


def check(prompt_text: str, completion_text: str) -> Outcome:
    """Judge a completion. The whole of it must be the expression: nothing is stripped or searched for.

    Args:
        prompt_text: A prompt of this world.
        completion_text: What the model answered, without the end-of-sequence token.

    Returns:
        Value 1.0 and correct, or value 0.0 with the reason in `detail`. Kind `unparsed` where the completion is
        not an expression at all.

    Raises:
        DataError: `prompt_text` is not a countdown prompt.

    Example:
        >>> check("3,5,7,2=14:", "7*2+5-3").detail
        'worth 16, not 14'
        >>> check("3,5,7,2=19:", "7*2+5").detail
        'uses 2,5,7, not 2,3,5,7'
    """
    numbers, target = _parsed(prompt_text)
    if _EXPRESSION.fullmatch(completion_text) is None:
        return Outcome(value=0.0, correct=False, kind="unparsed", detail="not digits 1-9 joined by +, - or *")
    given, used = sorted(numbers), sorted(completion_text[::2])
    if used != given:
        detail = f"uses {','.join(used)}, not {','.join(given)}"
        return Outcome(value=0.0, correct=False, extracted=completion_text, detail=detail)
    value = value_of(completion_text)
    if value != target:
        return Outcome(value=0.0, correct=False, extracted=completion_text, detail=f"worth {value}, not {target}")
    return Outcome(value=1.0, correct=True, extracted=completion_text)


@cache
def answers(prompt_text: str) -> tuple[str, ...]:
    """Find every expression that the checker accepts: all orders of the numbers with all operators between them.

    Args:
        prompt_text: A prompt of this world.

    Returns:
        The expressions, each once: 42 on average, some hundreds at most.

    Raises:
        DataError: `prompt_text` is not a countdown prompt.

    Example:
        >>> answers("2,2,3=8:")
        ('2+2*3', '2+3*2', '2*3+2', '3*2+2')
    """
    numbers, target = _parsed(prompt_text)
    between = list(product("+-*", repeat=len(numbers) - 1))
    candidates = (
        order[0] + "".join(map("".join, zip(operators, order[1:], strict=True)))
        for order in sorted(set(permutations(numbers)))
        for operators in between
    )
    return tuple(candidate for candidate in candidates if value_of(candidate) == target)


def canonical(prompt_text: str) -> str:
    """The same for every order of the numbers.

    Raises:
        DataError: `prompt_text` is not a countdown prompt.

    Example:
        >>> canonical("3,5,7,2=14:")
        '2,3,5,7=14:'
    """
    numbers, target = _parsed(prompt_text)
    return f"{','.join(sorted(numbers))}={target}:"


def _parsed(prompt_text: str) -> tuple[list[str], int]:
    """The given numbers, as digits in the order of the prompt, and the target."""
    match = _PROMPT.fullmatch(prompt_text)
    if match is None:
        raise DataError(f"{prompt_text!r} is not a countdown prompt. One looks like '3,5,7,2=14:'.")
    return match[1].split(","), int(match[2])


def generate(split: str, size: int, seed: int) -> list[Row]:
    """Make the first `size` rows of a split; see `World.problems`.

    Each problem is built from a random expression, which is its gold: every problem has a solution. The order of
    the numbers in the prompt is shuffled, so that it does not give the gold away.

    Raises:
        DataError: A split of distinct problems was asked for more than `MAX_DISTINCT_ROWS`.
    """
    require_distinct("countdown", split, size, MAX_DISTINCT_ROWS.get(split))
    return generate_rows(split, size, seed, are_distinct=split in MAX_DISTINCT_ROWS)


def generate_rows(split: str, size: int, seed: int, *, are_distinct: bool) -> list[Row]:
    """As `generate`, without its limits.

    Args:
        split: Which.
        size: How many.
        seed: Which list of them.
        are_distinct: Whether to pass over problems (multiset and target) that were drawn before.
    """
    # Seeded by text, all of which random.Random hashes: neighbouring seeds give unrelated rows.
    rng = random.Random(f"countdown/{split}/{seed}")
    rows: list[Row] = []
    seen: set[tuple[tuple[int, ...], int]] = set()
    while len(rows) < size:
        numbers, gold, target = _draw_problem(rng, split)
        if are_distinct:
            problem = (tuple(sorted(numbers)), target)
            if problem in seen:
                continue
            seen.add(problem)
        rng.shuffle(numbers)
        prompt = f"{','.join(map(str, numbers))}={target}:"
        rows.append(Row(id=f"countdown/{split}/{seed}/{len(rows)}", prompt=prompt, gold=gold))
    return rows


def _draw_problem(rng: random.Random, split: str) -> tuple[list[int], str, int]:
    """Draw numbers of this split and an expression of them that is worth 1 to 99."""
    while True:
        numbers = rng.choices(range(1, 10), k=rng.randint(3, 5))
        if split_of(numbers) != split:
            continue
        operators = rng.choices("+-*", k=len(numbers) - 1)
        gold = str(numbers[0]) + "".join(f"{op}{number}" for op, number in zip(operators, numbers[1:], strict=True))
        target = value_of(gold)
        if 1 <= target <= 99:
            return numbers, gold, target


COUNTDOWN = World(
    name="countdown",
    version=1,
    alphabet="0123456789+-*,=:",
    max_prompt_chars=len("1,1,1,1,1=99:"),
    max_completion_tokens=12,
    splits=tuple(SPLIT_PERCENT),
    generate=generate,
    check=check,
    answers=answers,
    canonical=canonical,
)
