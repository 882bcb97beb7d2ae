"""Verdicts as people and as programs read them."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from ngrpo.errors import ConfigError
from ngrpo.rewards import MathReward
from ngrpo.rewards.extract import last_boxed
from ngrpo.rewards.math import final_answer
from ngrpo.types import Outcome

COLOURS = {"correct": "green", "wrong": "red"}


def boxed(answer: str) -> str:
    r"""Put a bare answer into the box of a completion.

    Raises:
        ConfigError: Its braces do not balance, so that no box can hold it.

    Example:
        >>> boxed("0.5")
        '\\boxed{0.5}'
    """
    completion = f"\\boxed{{{answer}}}"
    found = last_boxed(completion)
    if found is None or (found[1] != answer and "\\boxed" not in answer):
        raise ConfigError(
            f"the answer {cut(answer, 60)!r} has braces that do not balance: no box can hold it. Give the whole text "
            "as a completion."
        )
    return completion


class GoldForms:
    """Normal forms of golds: what the verifier makes of a gold when it is the answer. Remembers the latest."""

    max_remembered = 20_000

    def __init__(self, reward: MathReward) -> None:
        self._reward = reward
        self._forms: dict[str, str | None] = {}

    def of(self, golds: Sequence[str]) -> list[str | None]:
        """Normal forms; None where the verifier has none."""
        missing = list({gold: None for gold in golds if gold not in self._forms})
        if len(self._forms) + len(missing) > self.max_remembered:
            self._forms.clear()
            missing = list(dict.fromkeys(golds))
        outcomes = self._reward.grade_pairs([(f"\\boxed{{{final_answer(gold)}}}", gold) for gold in missing])
        self._forms.update(zip(missing, (outcome.normal_form for outcome in outcomes), strict=True))
        return [self._forms[gold] for gold in golds]


def as_row(outcome: Outcome, gold_form: str | None) -> dict[str, Any]:
    """A verdict as JSON has it."""
    return {
        "correct": outcome.correct,
        "kind": outcome.kind,
        "extracted": outcome.extracted,
        "rule": outcome.rule,
        "normal_form": outcome.normal_form,
        "gold_normal_form": gold_form,
        "detail": outcome.detail,
        "time_ms": round(1000 * outcome.judged_s, 3),
    }


def verdict(row: Mapping[str, Any]) -> Text:
    """One word: correct, wrong, or the kind of a verdict that is neither."""
    word = ("correct" if row["correct"] else "wrong") if row["kind"] == "scored" else row["kind"]
    return Text(word, style=COLOURS.get(word, "yellow"))


def cut(text: str | None, width: int = 40, *, keep_end: bool = False) -> str:
    r"""Make text fit one line of a terminal: control characters and the like spelled out, the rest left away.

    Args:
        text: Any text; None is shown as a dash.
        width: Characters at most.
        keep_end: Leave away the beginning and not the end.

    Example:
        >>> cut("a\tb\nc"), cut("\x1b[2J\u202e"), cut("1234567", 5), cut("1234567", 5, keep_end=True), cut(None)
        ('a b c', '\\x1b[2J\\u202e', '1234…', '…4567', '-')
    """
    if text is None:
        return "-"
    # A long completion need not be spelled out as a whole.
    some = text[-4 * width :] if keep_end else text[: 4 * width]
    line = "".join(_spelled(character) for character in " ".join(some.split()))
    if len(line) <= width and len(some) == len(text):
        return line
    return f"…{line[-(width - 1) :]}" if keep_end else f"{line[: width - 1]}…"


def _spelled(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")
