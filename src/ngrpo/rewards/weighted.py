"""A judge's value and weighted terms, added up; what each contributed stays on record, and so does the label."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ngrpo.rewards.function import RowFailure
from ngrpo.rewards.protocol import Reward, judges_elsewhere
from ngrpo.rewards.shaping import LengthTerm, RegexTerm, Term, TextTerm
from ngrpo.types import Completion, Outcome, Prompt

JUDGE = "judge"
"""Name of the judge's own part of a value."""


@dataclass(frozen=True, slots=True)
class WeightedTerm:
    """A term and its weight.

    Attributes:
        name: Of its part in `Outcome.parts`.
        weight: What it is multiplied with, in reward units.
        term: Gives the numbers.
    """

    name: str
    weight: float
    term: Term

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the most it can add."""
        ends = (self.weight * self.term.low + 0.0, self.weight * self.term.high + 0.0)  # 0, not -0
        return min(ends), max(ends)


class ShapedReward:
    """Another reward's verdicts with terms added to their values: `value = judge + sum(weight * term)`.

    `Outcome.parts` has the judge's value and each `weight * term`; `value` is their sum, rounded once. The label
    `correct` and the kind stay the judge's. Where the judge failed (`timeout`, `error`) its outcome stays as it is;
    where a term fails the kind becomes `error`: the value is not known.

    Args:
        inner: Judges.
        terms: Are added.

    Example:
        >>> from ngrpo.rewards import WorldReward
        >>> from ngrpo.rewards.shaping import make_term
        >>> judge = WorldReward(lambda prompt, answer: Outcome(value=1.0, correct=True))
        >>> length = make_term("length", {"budget_tokens": 2, "span_tokens": 4})
        >>> reward = ShapedReward(judge, [WeightedTerm("length", 0.5, length)])
        >>> outcome = reward([Prompt("0", "?", (), "x")], [Completion((7, 7, 7), (), "abc", "eos")])[0]
        >>> outcome.value, outcome.correct, outcome.parts
        (0.875, True, {'judge': 1.0, 'length': -0.125})
    """

    def __init__(self, inner: Reward, terms: Sequence[WeightedTerm]) -> None:
        self.inner = inner
        self._terms = list(terms)
        # Any other term may look at the whole batch, and may not be meant for threads.
        are_own = all(isinstance(each.term, TextTerm | RegexTerm | LengthTerm) for each in self._terms)
        self.judges_elsewhere = judges_elsewhere(inner) and are_own

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Outcome]:
        """Judge a batch; see `Reward`."""
        outcomes = list(self.inner(prompts, completions))
        known = [index for index, outcome in enumerate(outcomes) if not outcome.is_failure]
        judged = [outcomes[index] for index in known]
        own_prompts, own_completions = [prompts[index] for index in known], [completions[index] for index in known]
        columns = [each.term(own_prompts, own_completions, judged) for each in self._terms]
        for place, index in enumerate(known):
            outcomes[index] = self._sum(outcomes[index], [column[place] for column in columns])
        return outcomes

    def _sum(self, outcome: Outcome, values: Sequence[float | RowFailure]) -> Outcome:
        parts = {JUDGE: outcome.value}
        for each, value in zip(self._terms, values, strict=True):
            if isinstance(value, RowFailure):
                return replace(outcome, kind="error", detail=f"shaping {each.name}: {value.detail}")
            parts[each.name] = each.weight * value
        return replace(outcome, value=math.fsum(parts.values()), parts=parts)

    def check_golds(self, golds: Sequence[str]) -> list[str | None]:
        """As the reward that judges."""
        return self.inner.check_golds(golds)

    def close(self) -> None:
        """Ends what the reward that judges holds."""
        self.inner.close()


def part_names(names: Sequence[str]) -> list[str]:
    """Names for the parts that terms contribute: no two alike, and none with a path in it.

    Args:
        names: Of the terms, as a run file has them.

    Example:
        >>> part_names(["length", "my/terms.py:brief", "regex", "regex"])
        ['length', 'brief', 'regex', 'regex_2']
    """
    found: list[str] = []
    for name in names:
        base = name.rpartition(":")[2]
        count = 1
        while (own := base if count == 1 else f"{base}_{count}") in [*found, JUDGE]:
            count += 1
        found.append(own)
    return found
