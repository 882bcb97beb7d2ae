r"""Comparing two answers that were taken apart: which parts belong together, and what may be left out.

The leaves are compared by an `Algebra`: exactly when they are plain numbers (`ngrpo.rewards.exact`, which gives up on
anything else), or by computer algebra (`ngrpo.rewards.comparison`, in a worker process). Both see the same structure,
so they cannot differ in it.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Protocol

from ngrpo.rewards.profiles import Profile
from ngrpo.rewards.rational import as_fraction, is_decimal, significant_digits
from ngrpo.rewards.structure import Form, is_name, read
from ngrpo.rewards.tidy import tidy

_DAY_HALVES = ("am", "pm")
_COLLECTIONS = ("list", "set")
_SET_KINDS = ("tuple", "union", "value")
_NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        re.findall(
            r"\w+",
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
            "sixteen seventeen eighteen nineteen twenty",
        )
    )
}
_NOTHING = frozenset(
    ["no solution", "no solutions", "no real solution", "no real solutions", "none", "empty", "empty set"]
)
_EMPTY = Form("value", "\\emptyset")
_DOTS = re.compile(r"([+-]?[0-9]*\.[0-9]*?)([0-9])\2\2+(?:\\ldots|\.\.\.|…)")
_SCIENTIFIC = re.compile(r"([+-]?[0-9]+(?:\.[0-9]+)?)[eE]([+-]?[0-9]{1,3})")
_MIN_GOLD_DIGITS = 3


class Undecided(Exception):
    """Exact arithmetic on plain numbers does not settle this: a signal, not an error."""


class Algebra(Protocol):
    """How leaves are compared."""

    def same(self, gold: str, answer: str) -> bool:
        """Whether two leaves are equal."""
        ...

    def rounds_to(self, exact: str, decimal: str, *, truncation: bool) -> bool:
        """Whether a value, rounded to the places of a decimal, is that decimal."""
        ...

    def proportional(self, gold: tuple[str, str], answer: tuple[str, str], *, positive: bool) -> bool:
        """Whether two differences of sides are the same up to a factor."""
        ...

    def same_sets(self, gold: Form, answer: Form) -> bool:
        """Whether unions of intervals are the same set."""
        ...


def rounds_to(value: Fraction, decimal: str, *, truncation: bool) -> bool:
    """Tell whether a value, rounded to as many places as a decimal has, is that decimal.

    Args:
        value: The exact value.
        decimal: Digits with a point.
        truncation: Whether cutting off the further digits will do as well.

    Example:
        >>> rounds_to(Fraction(2, 3), "0.667", truncation=False), rounds_to(Fraction(2, 3), "0.666", truncation=True)
        (True, True)
    """
    unit = Fraction(1, 10 ** len(decimal.partition(".")[2]))
    error = abs(Fraction(decimal) - value)
    return error * 2 <= unit or (truncation and error < unit and abs(Fraction(decimal)) < abs(value))


class Matcher:
    """Compares forms by a profile.

    Args:
        profile: What is let pass.
        algebra: How leaves are compared.

    Example:
        >>> from ngrpo.rewards import profiles
        >>> from ngrpo.rewards.exact import ExactAlgebra
        >>> Matcher(profiles.get("strict"), ExactAlgebra()).match(read("1, 2"), read("2, 1"))
        True
    """

    def __init__(self, profile: Profile, algebra: Algebra) -> None:
        self._profile, self._algebra = profile, algebra

    def match(self, gold: Form, answer: Form) -> bool:
        """Tell whether an answer is the gold.

        Args:
            gold: The gold, taken apart.
            answer: The answer, taken apart.

        Raises:
            Undecided: By an exact algebra only.
        """
        if self._profile.ignores_notation:
            gold, answer = self._loosened(gold), self._loosened(answer)
        if gold.kind != "based" and answer.kind != "based" and not self._units_agree(gold.unit, answer.unit):
            return False
        if gold.kind == "relation" or answer.kind == "relation":
            return self._match_relations(gold, answer)
        if gold.kind == "percent" or answer.kind == "percent":
            return self._match_percent(gold, answer)
        if gold.kind in _COLLECTIONS or answer.kind in _COLLECTIONS:
            return self._match_collections(gold, answer)
        if gold.kind == answer.kind:
            return self._match_alike(gold, answer)
        return self._match_unlike(gold, answer)

    def _units_agree(self, gold: str, answer: str) -> bool:
        if not self._profile.ignores_notation and (gold in _DAY_HALVES) != (answer in _DAY_HALVES):
            return False
        return gold == answer or "" in (gold, answer) or "?" in gold + answer

    def _match_alike(self, gold: Form, answer: Form) -> bool:  # noqa: PLR0911  one return per kind
        match gold.kind:
            case "value":
                return self._match_values(gold.text, answer.text)
            case "words":
                return gold.text == answer.text or (self._profile.ignores_case and _folded(gold) == _folded(answer))
            case "based":
                digits = (gold.text, answer.text)
                if self._profile.ignores_case:
                    digits = (gold.text.upper(), answer.text.upper())
                return gold.unit == answer.unit and digits[0].lstrip("0") == digits[1].lstrip("0")
            case "time" | "builder":
                return gold.text == answer.text
            case "tuple" | "angle" | "matrix":
                return gold.text == answer.text and self._match_in_order(gold.parts, answer.parts)
            case "union":
                return self._match_unions(gold, answer)
            case "ratio":
                return self._match_ratios(gold, answer)
        raise AssertionError(gold.kind)

    def _match_unlike(self, gold: Form, answer: Form) -> bool:  # noqa: PLR0911  one return per kind
        kinds = (gold.kind, answer.kind)
        if "value" in kinds and ("matrix" in kinds):
            return self._algebra.same(_source(gold), _source(answer))
        if all(kind in _SET_KINDS for kind in kinds) and (_is_set(gold) and _is_set(answer)):
            return self._algebra.same_sets(gold, answer)
        if not self._profile.ignores_notation:
            return False
        if kinds == ("based", "value"):
            return gold.text == answer.text
        if kinds in (("ratio", "value"), ("value", "ratio")):
            ratio, value = (gold, answer) if kinds[0] == "ratio" else (answer, gold)
            return len(ratio.parts) == 2 and self._algebra.same(_quotient(ratio), value.text)
        if kinds == ("time", "ratio"):
            return gold.text.split(" ")[0] == ":".join(part.text for part in answer.parts)
        if all(kind in ("tuple", "angle", "matrix") for kind in kinds):
            return _is_vector(gold) and _is_vector(answer) and self._match_in_order(gold.parts, answer.parts)
        return False

    def _match_values(self, gold: str, answer: str) -> bool:
        if self._algebra.same(gold, answer):
            return True
        profile = self._profile
        if profile.ignores_case and len(gold) == len(answer) == 1 and gold.casefold() == answer.casefold():
            return True
        if profile.decimal_digits is None:
            return False
        if is_decimal(answer) and not is_decimal(gold) and significant_digits(answer) >= profile.decimal_digits:
            return self._algebra.rounds_to(gold, answer, truncation=True)
        enough = profile.decimal_digits if as_fraction(answer) is None else _MIN_GOLD_DIGITS
        if is_decimal(gold) and significant_digits(gold) >= enough and not _is_shorter(answer, gold):
            return self._algebra.rounds_to(answer, gold, truncation=False)
        return False

    def _match_percent(self, gold: Form, answer: Form) -> bool:
        inner = [form.parts[0] if form.kind == "percent" else form for form in (gold, answer)]
        if self.match(*inner):
            return True
        if not self._profile.ignores_notation or gold.kind == answer.kind:
            return False
        if any(form.kind != "value" for form in inner):
            return False
        shares = [
            _share(form.text) if whole.kind == "percent" else form.text
            for form, whole in zip(inner, (gold, answer), strict=True)
        ]
        return self._match_values(*shares)

    def _match_collections(self, gold: Form, answer: Form) -> bool:
        if self._profile.ignores_notation and "tuple" in (gold.kind, answer.kind):
            if "set" in (gold.kind, answer.kind) or "[" in gold.text + answer.text or "]" in gold.text + answer.text:
                return False
            return self._match_in_order(gold.parts, answer.parts)
        if gold.kind not in _COLLECTIONS or answer.kind not in _COLLECTIONS:
            lone, many = (gold, answer) if answer.kind in _COLLECTIONS else (answer, gold)
            if lone.kind == "value" and "," in lone.text and many.kind == "list":  # 1,234 may have been 1, 234
                lone = Form("list", parts=tuple(Form("value", part) for part in lone.text.split(",")))
            elif many.kind == "set" or self._profile.ignores_repeats:
                lone = Form("list", parts=(lone,))
            else:
                return False
            gold, answer = (lone, many) if many is answer else (many, lone)
        return self._match_in_any_order(gold.parts, answer.parts)

    def _match_in_order(self, gold: Sequence[Form], answer: Sequence[Form]) -> bool:
        if len(gold) != len(answer):
            return False
        undecided = False
        for one, other in zip(gold, answer, strict=True):
            try:
                if not self.match(one, other):
                    return False
            except Undecided:
                undecided = True
        if undecided:
            raise Undecided
        return True

    def _match_in_any_order(self, gold: Sequence[Form], answer: Sequence[Form]) -> bool:
        if self._profile.ignores_repeats:
            gold, answer = self._distinct(gold), self._distinct(answer)
        if len(gold) != len(answer):
            return False
        left = list(answer)
        for one in gold:
            found = next((at for at, other in enumerate(left) if self.match(one, other)), None)
            if found is None:
                return False
            del left[found]
        return True

    def _distinct(self, parts: Sequence[Form]) -> list[Form]:
        kept: list[Form] = []
        for part in parts:
            if not any(self.match(other, part) for other in kept):
                kept.append(part)
        return kept

    def _match_unions(self, gold: Form, answer: Form) -> bool:
        try:
            if len(gold.parts) == len(answer.parts) and self._match_in_any_order(gold.parts, answer.parts):
                return True
        except Undecided:
            pass
        return self._algebra.same_sets(gold, answer)

    def _match_ratios(self, gold: Form, answer: Form) -> bool:
        if self._match_in_order(gold.parts, answer.parts):
            return True
        if not self._profile.ignores_notation or len(gold.parts) != len(answer.parts):
            return False
        return all(self._algebra.same(_quotient(gold, at), _quotient(answer, at)) for at in range(1, len(gold.parts)))

    def _match_relations(self, gold: Form, answer: Form) -> bool:
        if gold.kind != "relation" or answer.kind != "relation":
            whole, other = (gold, answer) if gold.kind == "relation" else (answer, gold)
            if set(whole.text.split()) == {"="}:
                return self._match_named(whole, other, gold_is_whole=whole is gold)
            if self._profile.ignores_notation and other.kind in ("tuple", "union"):
                interval = _as_interval(whole)
                return interval is not None and self._match_alike(
                    *((interval, other) if whole is gold else (other, interval))
                )
            return False
        if gold.text == answer.text:
            if self._is_same_chain(gold, answer):
                return True
            if len(gold.parts) == 2:
                sides = [(form.parts[0], form.parts[1]) for form in (gold, answer)]
                if all(part.kind == "value" for side in sides for part in side):
                    texts = [(side[0].text, side[1].text) for side in sides]
                    return self._algebra.proportional(*texts, positive=gold.text not in ("=", "\\ne"))
        return False

    def _is_same_chain(self, gold: Form, answer: Form) -> bool:
        orders = [answer.parts]
        if set(gold.text.split()) <= {"=", "\\ne"}:
            orders.append(answer.parts[::-1])
        for parts in orders:
            try:
                if self._match_in_order(gold.parts, parts):
                    return True
            except Undecided:
                if gold.text != "=":
                    raise
        return False

    def _match_named(self, equation: Form, other: Form, *, gold_is_whole: bool) -> bool:
        """`x = 5` is 5, and `2 + 3 = 5` is; of a chain every member must be."""
        first = equation.parts[0]
        terms = equation.parts
        if _names_something(first):
            terms = terms[1:]
        elif any(part.kind == "value" and re.search("[a-z]", _TEX_WORD.sub("", part.text)) for part in terms):
            return False  # an equation in variables is no value
        return all(self.match(term, other) if gold_is_whole else self.match(other, term) for term in terms)

    def _loosened(self, form: Form) -> Form:  # noqa: PLR0911  one return per kind
        """Read what only a lenient reader would understand."""
        if form.kind == "words":
            folded = _folded(form)
            if folded in _NUMBER_WORDS:
                return Form("value", _NUMBER_WORDS[folded])
            return _EMPTY if folded in _NOTHING else form
        if form.kind != "value":
            return form
        if "\\text{" in form.text and not _HEDGE.search(form.text):
            ratio = re.sub(r"\\text\{to\}", ":", form.text)
            said = re.sub(r"\\text\{[^{}]*\}", " ", ratio)
            return replace(read(tidy(said)), unit=form.unit) if tidy(said) else form
        dotted = _DOTS.fullmatch(form.text)
        if dotted is not None:
            return Form("value", f"{dotted[1]}\\overline{{{dotted[2]}}}", unit=form.unit)
        power = _SCIENTIFIC.fullmatch(form.text)
        if power is not None:
            value = Fraction(power[1]) * Fraction(10) ** int(power[2])
            return Form("value", f"{value.numerator}/{value.denominator}", unit=form.unit)
        return form


# With these the sentence around a number says something else than the number.
_HEDGE = re.compile(
    r"\b(?:not|no|never|neither|nor|except|than|least|most|over|under|above|below|about|around|approximately|nearly|"
    r"almost|between|roughly)\b|n't",
    re.IGNORECASE,
)
_TEX_WORD = re.compile(r"\\[a-zA-Z]+|\\text\{[^{}]*\}")


def _share(percentage: str) -> str:
    value = as_fraction(percentage)
    return f"\\frac{{{percentage}}}{{100}}" if value is None else str(value / 100)


def _folded(form: Form) -> str:
    return form.text.casefold().rstrip(".")


def _names_something(left: Form) -> bool:
    if left.kind == "tuple":
        return all(part.kind == "value" and is_name(part.text) for part in left.parts)
    return left.kind == "words" or (left.kind == "value" and is_name(left.text))


def _is_set(form: Form) -> bool:
    if form.kind == "value":
        return "\\setminus" in form.text or form.text in (
            "\\mathbb{R}",
            "\\mathbf{R}",
            "\\emptyset",
            "\\{\\}",
            "\\{0\\}",
        )
    return form.kind == "union" or len(form.parts) == 2


def _is_vector(form: Form) -> bool:
    return form.text.endswith("x1") if form.kind == "matrix" else form.text in ("", "()")


def _is_shorter(answer: str, gold: str) -> bool:
    """A decimal with fewer digits than the gold, or as many, is another number."""
    return is_decimal(answer) and significant_digits(answer) <= significant_digits(gold)


def _quotient(ratio: Form, at: int = 1) -> str:
    over, under = as_fraction(ratio.parts[0].text), as_fraction(ratio.parts[at].text)
    if over is not None and under:
        return str(over / under)
    return f"\\frac{{{ratio.parts[0].text}}}{{{ratio.parts[at].text}}}"


def _source(form: Form) -> str:
    """A matrix as TeX again."""
    if form.kind != "matrix":
        return form.text
    width = int(form.text.partition("x")[2])
    cells = [part.text for part in form.parts]
    rows = ["&".join(cells[at : at + width]) for at in range(0, len(cells), width)]
    return "\\begin{pmatrix}" + "\\\\".join(rows) + "\\end{pmatrix}"


def _as_interval(relation: Form) -> Form | None:
    r"""`2 < x \le 5` as `(2, 5]`."""
    signs, parts = relation.text.split(), relation.parts
    if not set(signs) <= {"<", "\\le"} or any(part.kind != "value" for part in parts):
        return None
    if len(parts) == 2 and is_name(parts[0].text):
        signs, parts = ["<", *signs], (Form("value", "-\\infty"), *parts)
    elif len(parts) == 2 and is_name(parts[1].text):
        signs, parts = [*signs, "<"], (*parts, Form("value", "\\infty"))
    if len(parts) != 3 or not is_name(parts[1].text):
        return None
    brackets = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
    return Form("tuple", brackets, (parts[0], parts[2]))
