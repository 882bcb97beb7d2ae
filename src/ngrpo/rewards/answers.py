r"""Judging answers that are no mathematics: the same text, the same number up to a tolerance, the same letter.

The answer is what the last complete `\boxed{...}` or `<answer>...</answer>` outside of `<think>...</think>` holds;
where there is none, the whole of what was said. A number among other words, or a letter in running text, is no answer:
nothing is gained by writing down many.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from string import ascii_uppercase
from typing import Any

from ngrpo.errors import ConfigError, DataError
from ngrpo.rewards.extract import last_boxed, last_tagged, outside_thought
from ngrpo.rewards.math import final_answer
from ngrpo.rewards.rational import as_fraction
from ngrpo.rewards.tidy import tidy
from ngrpo.types import Completion, Outcome, Prompt

MAX_ANSWER_CHARS = 512
"""Answers longer than this, and than twice their gold, are not looked at."""

MAX_EXPONENT = 400
"""Largest power of ten of a number in scientific notation; a double ends at 308."""

_POWER = re.compile(r"(?P<digits>[^eE\\*^]+)(?:[eE]|(?:\\times|\\cdot|\*) ?10\^)\{?(?P<power>[+-]?[0-9]{1,4})\}?")
_LETTER = re.compile(r"(?:\\(?:text|textbf|mathrm|mathbf)\{)?\s*\(?\s*(?P<letter>[A-Za-z])\s*\)?\s*\.?\s*\}?\s*\.?")
_ANSWER_IS = re.compile(
    r"\b[Aa]nswer(?:\s{1,3}is\b\s{0,3}:?|\s{0,3}:)\s{0,3}\*{0,2}\s{0,3}\(?(?P<letter>[A-Z])(?:\)|(?=\s{0,3}(?:[.,;:!*\n]|$)))"
)
_PARENTHESES = re.compile(r"\((?P<letter>[A-Z])\)")

Found = tuple[str, str]
"""An answer as it was written, and the name of the rule that found it."""


@dataclass(frozen=True, slots=True)
class AnswerReward:
    """Value 1.0 where the answer agrees with the gold, else 0.0.

    Attributes:
        find: Completion (without thought) to the answer in it, or None.
        read: Answer to what is compared, or None where it is none.
        agree: Whether a gold and an answer that were read are the same.
        expected: What an answer has to be, for messages.
    """

    find: Callable[[str], Found | None]
    read: Callable[[str], Any]
    agree: Callable[[Any, Any], bool]
    expected: str

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Outcome]:
        """Judge each completion against the gold of its prompt.

        Raises:
            DataError: A gold cannot be matched by any answer.
        """
        outcomes = []
        for prompt, completion in zip(prompts, completions, strict=True):
            reason = self._fault_of_gold(prompt.gold)
            if reason is not None:
                raise DataError(f"{prompt.source or 'prompt ' + prompt.id}: {reason}. Mend or leave out that row.")
            outcomes.append(self.grade(completion.text, prompt.gold))
        return outcomes

    def grade(self, completion_text: str, gold_text: str) -> Outcome:
        """Judge one text.

        Args:
            completion_text: What the model wrote, whatever it is.
            gold_text: The reference answer; one that `check_golds` has nothing against.

        Returns:
            The outcome; `unparsed` where no answer of the expected kind was found.
        """
        gold = final_answer(gold_text)
        spoken = outside_thought(completion_text)
        if spoken is None:
            return Outcome(value=0.0, correct=False, kind="unparsed", detail="<think> is not closed")
        found = self.find(spoken)
        if found is None:
            return Outcome(value=0.0, correct=False, kind="unparsed", detail=f"no answer that is {self.expected}")
        answer, rule = found
        if len(answer) > max(MAX_ANSWER_CHARS, 2 * len(gold)):
            detail = f"the answer has {len(answer)} characters"
            return Outcome(value=0.0, correct=False, kind="unparsed", rule=rule, detail=detail)
        value = self.read(answer)
        if value is None:
            detail = f"the answer is not {self.expected}"
            return Outcome(value=0.0, correct=False, kind="unparsed", extracted=answer, rule=rule, detail=detail)
        correct = self.agree(self.read(gold), value)
        return Outcome(float(correct), correct, extracted=answer, rule=rule, normal_form=str(value))

    def check_golds(self, golds: Sequence[str]) -> list[str | None]:
        """Say of each gold why no answer could match it, or None."""
        return [self._fault_of_gold(gold) for gold in golds]

    def _fault_of_gold(self, gold_text: str) -> str | None:
        gold = final_answer(gold_text)
        if not gold:
            return "the gold is empty"
        shown = gold if len(gold) <= 80 else f"{gold[:77]}..."
        return f"the gold {shown!r} is not {self.expected}" if self.read(gold) is None else None

    def close(self) -> None:
        """Nothing is held."""


def exact_reward() -> AnswerReward:
    r"""The answer is the gold, character by character, but for white space and a full stop at the end.

    Characters are compared in Unicode's composed form (an accent may be a character of its own); case counts.

    Example:
        >>> reward = exact_reward()
        >>> [reward.grade(text, "New York").correct for text in ("New  York.", r"\boxed{New York}", "It is New York")]
        [True, True, False]
    """
    return AnswerReward(marked_or_all, plain_text, lambda gold, answer: gold == answer, "a text")


def numeric_reward(*, absolute_tolerance: float = 0.0, relative_tolerance: float = 0.0) -> AnswerReward:
    r"""The answer is a number close enough to the gold: `|a - g| <= max(absolute, relative |g|)`, in exact arithmetic.

    Read are integers (thousands may be marked by commas), decimals, fractions (`1/2`, `\frac{1}{2}`) and scientific
    notation (`1.5e6`, `1.5 \times 10^6`). Anything beside the number, a unit or a percent sign, makes it no number.

    Args:
        absolute_tolerance: In the units of the gold. With both at 0 only equal numbers are equal.
        relative_tolerance: As a share of the gold.

    Raises:
        ConfigError: A tolerance is negative or not finite.

    Example:
        >>> reward = numeric_reward(relative_tolerance=0.01)
        >>> [reward.grade(text, "200").correct for text in ("202", "202.1", r"<answer>2e2</answer>", "about 200")]
        [True, False, True, False]
    """
    for name, tolerance in (("absolute_tolerance", absolute_tolerance), ("relative_tolerance", relative_tolerance)):
        if not 0 <= tolerance < float("inf"):
            raise ConfigError(f"{name} must be 0 or more, and finite, got {tolerance!r}.")
    # As written: the double nearest to 0.3 is below it, and an answer that is off by 0.3 would be refused.
    absolute, relative = Fraction(repr(float(absolute_tolerance))), Fraction(repr(float(relative_tolerance)))

    def agree(gold: Fraction, answer: Fraction) -> bool:
        return abs(gold - answer) <= max(absolute, relative * abs(gold))

    return AnswerReward(marked_or_all, number, agree, "a number")


def choice_reward(choices: str = "ABCDE") -> AnswerReward:
    r"""The answer is the letter of the gold.

    A box, `<answer>` or completion that is a letter and nothing else, in parentheses or not, in either case; else the
    last `answer: B` or `answer is (B)`; else `(B)` where no other letter stands in parentheses.

    Args:
        choices: The letters there are.

    Raises:
        ConfigError: They are not two or more different capital letters.

    Example:
        >>> reward = choice_reward("ABCD")
        >>> [reward.grade(text, "B").correct for text in ("(b)", "The answer is B.", "Not (A). It is B", "(A) or (B)")]
        [True, True, False, False]
    """
    if len(choices) < 2 or len(set(choices)) < len(choices) or not set(choices) <= set(ascii_uppercase):
        raise ConfigError(f"reward.choices must be two or more different capital letters, got {choices!r}.")

    def read(answer: str) -> str | None:
        match = _LETTER.fullmatch(answer.strip())
        letter = match["letter"].upper() if match else ""
        return letter if letter and letter in choices else None

    def find(spoken: str) -> Found | None:
        answer, rule = marked_or_all(spoken) or ("", "")
        if rule != "whole" or (len(answer) <= MAX_ANSWER_CHARS and read(answer) is not None):
            return (answer, rule) if rule else None
        stated = [match["letter"] for match in _ANSWER_IS.finditer(spoken)]
        if stated:
            return stated[-1], "answer_is"
        named = {match["letter"] for match in _PARENTHESES.finditer(spoken)}
        return (named.pop(), "parentheses") if len(named) == 1 else None

    expected = f"one of the letters {', '.join(choices)}"
    return AnswerReward(find, read, lambda gold, answer: gold == answer, expected)


def marked_or_all(spoken: str) -> Found | None:
    r"""Find the content of the last complete box or answer tag; without one, everything.

    Args:
        spoken: A completion without its thought.

    Returns:
        The answer, stripped, and the rule: `boxed`, `answer_tag` or `whole`; None where there is no text at all.

    Example:
        >>> marked_or_all(r"\boxed{1} or <answer> 2 </answer>"), marked_or_all(" 3 "), marked_or_all(" ")
        (('2', 'answer_tag'), ('3', 'whole'), None)
    """
    marked = [(*found, rule) for found, rule in ((last_boxed(spoken), "boxed"), (last_tagged(spoken), "answer_tag"))
              if found is not None]  # fmt: skip
    _, answer, rule = max(marked) if marked else (0, spoken, "whole")
    answer = answer.strip()
    return (answer, rule) if answer or marked else None


def plain_text(text: str) -> str | None:
    """The text in composed Unicode, white space as single spaces, without a full stop at its end; None if empty.

    Example:
        >>> plain_text("  Paris,   France. ")
        'Paris, France'
    """
    words = " ".join(unicodedata.normalize("NFC", text).split())
    return words.removesuffix(".").rstrip() or None


def number(text: str) -> Fraction | None:
    r"""Read a number that stands alone.

    Example:
        >>> number("1,200"), number("-3/4"), number(r"1.5 \times 10^{-2}"), number("3 m")
        (Fraction(1200, 1), Fraction(-3, 4), Fraction(3, 200), None)
    """
    plain = tidy(text) if len(text) <= MAX_ANSWER_CHARS else ""
    match = _POWER.fullmatch(plain)
    if match is None:
        return as_fraction(plain)
    digits, power = as_fraction(match["digits"]), int(match["power"])
    return None if digits is None or abs(power) > MAX_EXPONENT else digits * Fraction(10) ** power
