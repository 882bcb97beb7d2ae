r"""The full path: leaves of an answer as sympy expressions, compared exactly. Runs in a worker process.

The text of a model is only ever given to math-verify's LaTeX parser, which is a grammar (ANTLR) whose rules build sympy
objects. Of what evaluates Python, one thing is reached from it: `sympy.Number` gives a number to `sympify`, and so to
`parse_expr`. That is a token which the grammar calls a number, digits and nothing else; a test holds it to that.
`parse_expr` is called by the parser for its `variables` argument too, which stays unused.

Equality is decided without tolerance. Rational numbers are compared as such. Other numbers are compared at 120
significant digits each, relative to their size, so that tiny ones differ as well; formulas at points where two of them
that differ cannot agree but by a miracle.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig

from ngrpo.rewards import paper, profiles
from ngrpo.rewards.leaves import for_parser, squeezed
from ngrpo.rewards.matching import Matcher, rounds_to
from ngrpo.rewards.structure import Form, read
from ngrpo.rewards.tidy import tidy

_CONVERSION = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)
_DIGITS = 120
_AGREEMENT = sympy.Rational(1, 10**100)
_FORMULA_DIGITS = 40
_FORMULA_AGREEMENT = sympy.Rational(1, 10**25)
_MIN_POINTS = 3
_WORD = re.compile(r"\{?[A-Za-z]{3,}\}?")  # its letters are no factors
_MAX_DEGREE, _MAX_OPERATIONS = 12, 60
# Where formulas are compared: of both signs, small and large, no value special.
_POINTS = [
    [sympy.Rational(number, 997) for number in row]
    for row in (
        (1361, 2711, 613, 3001, 4127, 1847, 2243, 929),
        (373, 1151, 2593, 709, 1693, 3181, 557, 2039),
        (-829, 1979, -2357, 1283, -491, 2749, -3413, 1103),
        (3217, -1423, 881, -2657, 1759, -587, 2099, -3529),
        (-2129, -643, -1567, -2971, -887, -1213, -3739, -419),
        (5147, 6359, 4783, 7591, 5693, 6911, 4409, 7103),
    )
]


def make_comparison() -> Callable[..., Any]:
    r"""Make the function that a worker process calls, and warm it up.

    Returns:
        A function of gold, answer and profile name. With an answer: `[verdict, normal form of the answer]`, the
        verdict being `equal`, `different`, or either followed by ` as strings` where one of them could not be parsed.
        With None for the answer: an empty string when the gold can be parsed, else why it is compared as a string.

    Example:
        >>> compare = make_comparison()
        >>> compare(r"2\sqrt{2}", r"\sqrt 8", "strict")[0], compare("x+1", "x+2", "strict")[0]
        ('equal', 'different')
    """
    _compare("\\frac{\\sqrt{3}}{2}", "x+1", "strict")  # the first parse builds tables: 0.2 s that no answer should pay
    return _compare


def _compare(gold: str, answer: str | None, profile_name: str) -> Any:
    profile = profiles.get(profile_name)
    if profile.follows_paper:
        return ["equal" if paper.are_equal(answer, gold, _close_formulas) else "different", answer]
    algebra = SympyAlgebra()
    gold_form = read(tidy(gold))
    if answer is None:
        for leaf in _leaves(gold_form):
            parse(leaf)
        return ""
    answer_form = read(tidy(answer))
    verdict = "equal" if Matcher(profile, algebra).match(gold_form, answer_form) else "different"
    return [verdict + (" as strings" if algebra.used_strings else ""), normal_form(answer_form)]


class SympyAlgebra:
    """Compares leaves with sympy; the `Algebra` of the full path.

    Attributes:
        used_strings: Whether some leaf could not be parsed, so that letters were compared.
    """

    def __init__(self) -> None:
        self.used_strings = False

    def same(self, gold: str, answer: str) -> bool:
        """Compare two leaves."""
        one, other = parse(gold), parse(answer)
        if one is None or other is None:
            self.used_strings = True
            return squeezed(gold) == squeezed(answer)
        return same_objects(one, other)

    def rounds_to(self, exact: str, decimal: str, *, truncation: bool) -> bool:
        """Round a real number."""
        value = parse(exact)
        if not isinstance(value, sympy.Expr) or value.free_symbols:
            return False
        value = sympy.N(value, 50)
        if not (isinstance(value, sympy.Float) and value.is_finite):
            return False
        return rounds_to(Fraction(str(value)), decimal, truncation=truncation)

    def proportional(self, gold: tuple[str, str], answer: tuple[str, str], *, positive: bool) -> bool:
        """Compare equations or inequalities."""
        sides = [parse(text) for text in (*gold, *answer)]
        if any(not isinstance(side, sympy.Expr) for side in sides):
            self.used_strings = self.used_strings or None in sides
            return tuple(map(squeezed, gold)) == tuple(map(squeezed, answer))
        return _proportional(sides[0] - sides[1], sides[2] - sides[3], positive=positive)

    def same_sets(self, gold: Form, answer: Form) -> bool:
        """Compare unions of intervals."""
        one, other = _as_set(gold), _as_set(answer)
        if one is None or other is None:
            return False
        return one == other or one.symmetric_difference(other) == sympy.EmptySet


@lru_cache(maxsize=2000)
def parse(leaf: str) -> Any:
    r"""Parse a leaf.

    Args:
        leaf: A formula, tidied.

    Returns:
        A sympy object, or None when math-verify's parser does not read all of it.

    Example:
        >>> parse(r"\frac\pi2"), parse("1.50"), parse(r"\frac{")
        (pi/2, 3/2, None)
    """
    try:
        parsed = latex2sympy(
            for_parser(leaf),
            is_real=True,
            convert_degrees=False,
            normalization_config=None,
            conversion_config=_CONVERSION,
        )
        if isinstance(parsed, sympy.MatrixBase):
            return sympy.ImmutableMatrix(parsed.applyfunc(_finished))
        return _finished(parsed) if isinstance(parsed, sympy.Basic) else None
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  the parser raises plain exceptions, and whatever sympy does on odd input
        return None


def _finished(parsed: Any) -> Any:
    imaginary = {symbol: sympy.I for symbol in parsed.free_symbols if symbol.name in ("i", "\\iota")}
    return parsed.xreplace(imaginary).doit() if imaginary else parsed.doit()


def same_objects(one: Any, other: Any) -> bool:  # noqa: PLR0911  one return per kind
    """Tell whether two parsed leaves are equal, without tolerance."""
    matrices = [isinstance(each, sympy.MatrixBase) for each in (one, other)]
    if any(matrices):
        return all(matrices) and one.shape == other.shape and all(map(same_objects, one.flat(), other.flat()))
    if one.has(sympy.nan, sympy.zoo) or other.has(sympy.nan, sympy.zoo):
        return False
    if one == other:
        return True
    if not (isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr)):
        return False
    if (one.is_Rational and other.is_Rational) or one.is_infinite or other.is_infinite:
        return False
    if one.free_symbols or other.free_symbols:
        return _same_formulas(one, other)
    return _same_numbers(one, other)


def _same_numbers(one: sympy.Expr, other: sympy.Expr) -> bool:
    values = [sympy.N(each, _DIGITS) for each in (one, other)]
    if not all(value.is_number and value.is_finite for value in values):
        return False
    size = max(abs(value) for value in values)
    # Less precise than asked for: something cancels, so that the number may be zero.
    if size < _AGREEMENT:
        return sympy.simplify(one - other) == 0
    return bool(abs(values[0] - values[1]) <= size * _AGREEMENT)


def _same_formulas(one: sympy.Expr, other: sympy.Expr) -> bool:
    compared = 0
    for values in _values([one, other]):
        if abs(values[0] - values[1]) > _FORMULA_AGREEMENT * max(1, abs(values[0])):
            return False
        compared += 1
    return compared >= _MIN_POINTS or sympy.simplify(one - other) == 0


def _values(expressions: Sequence[sympy.Expr]) -> Iterator[list[sympy.Expr]]:
    """Yield the values of expressions at each point where all have one."""
    symbols = sorted(set().union(*(each.free_symbols for each in expressions)), key=str)
    for point in _POINTS:
        place = {symbol: point[at % 8] + at // 8 for at, symbol in enumerate(symbols)}
        values = [sympy.N(each.xreplace(place), _FORMULA_DIGITS) for each in expressions]
        if all(value.is_number and value.is_finite for value in values):
            yield values


def _proportional(gold: sympy.Expr, answer: sympy.Expr, *, positive: bool) -> bool:
    factor = None
    compared = 0
    for one, other in _values([gold, answer]):
        if abs(one) < _FORMULA_AGREEMENT or abs(other) < _FORMULA_AGREEMENT:
            if (abs(one) < _FORMULA_AGREEMENT) != (abs(other) < _FORMULA_AGREEMENT):
                return False
            continue
        ratio = one / other
        factor = ratio if factor is None else factor
        if abs(ratio - factor) > _FORMULA_AGREEMENT * abs(factor):
            return False
        compared += 1
    return compared >= _MIN_POINTS and (not positive or bool(sympy.re(factor) > 0))


def _as_set(form: Form) -> sympy.Set | None:
    if form.kind == "union":
        sets = [_as_set(part) for part in form.parts]
        return None if None in sets else sympy.Union(*sets)
    if form.kind == "set":
        members = [parse(part.text) for part in form.parts]
        return sympy.FiniteSet(*members) if all(isinstance(each, sympy.Expr) for each in members) else None
    if form.kind == "tuple" and len(form.parts) == 2:
        ends = [parse(part.text) for part in form.parts]
        if any(not isinstance(end, sympy.Expr) or end.is_extended_real is not True for end in ends):
            return None
        return sympy.Interval(*ends, left_open=form.text[0] == "(", right_open=form.text[1] == ")")
    parsed = sympy.EmptySet if form.text == "\\{\\}" else parse(form.text)
    return parsed if isinstance(parsed, sympy.Set) else None


def normal_form(form: Form) -> str:  # noqa: PLR0911  one return per kind
    """Write an answer as the verifier understands it; equal answers of one shape are written the same."""
    parts = [normal_form(part) for part in form.parts]
    match form.kind:
        case "value":
            return _leaf_form(form.text)
        case "list" | "set":
            return "{" + ", ".join(sorted(parts)) + "}"
        case "union":
            return " U ".join(sorted(parts))
        case "tuple":
            return form.text[0] + ", ".join(parts) + form.text[1]
        case "percent":
            return f"{parts[0]}%"
        case "based":
            return f"{form.text}_{form.unit}"
        case "words":
            return form.text
        case "relation":
            signs = [*form.text.split(), ""]
            return " ".join(item for pair in zip(parts, signs, strict=True) for item in pair).strip()
    return f"{form.text}[{', '.join(parts)}]" if parts else form.text


def _leaf_form(text: str) -> str:
    parsed = parse(text)
    if parsed is None:
        return squeezed(text)
    if isinstance(parsed, sympy.Expr) and _is_small(parsed):
        parsed = sympy.expand(parsed)
    try:
        written = str(parsed)
    except ValueError:  # an integer of more digits than Python writes
        return squeezed(text)
    return written if len(written) <= profiles.MAX_ANSWER_CHARS else squeezed(text)


def _is_small(expression: sympy.Expr) -> bool:
    """Whether it can be multiplied out at no cost to speak of."""
    powers = (abs(power.exp) for power in expression.atoms(sympy.Pow) if power.exp.is_Integer)
    return sum(powers) <= _MAX_DEGREE and sympy.count_ops(expression) < _MAX_OPERATIONS


def _close_formulas(answer: str, gold: str) -> bool:
    """What the paper's code means to do with formulas: equal, or numbers within its tolerance."""
    one, other = parse(tidy(answer)), parse(tidy(gold))
    if one is None or other is None or any(_WORD.fullmatch(text) for text in (answer, gold)):
        return False
    if same_objects(one, other):
        return True
    if isinstance(one, sympy.MatrixBase) and isinstance(other, sympy.MatrixBase):
        return one.shape == other.shape and all(
            _close(*pair, sympy.Rational(1, 2000), 0) for pair in zip(one.flat(), other.flat(), strict=True)
        )
    return _close(one, other, 0, paper.RELATIVE_TOLERANCE)


def _close(one: Any, other: Any, absolute: float, relative: float) -> bool:
    if any(not isinstance(each, sympy.Expr) or each.free_symbols for each in (one, other)):
        return False
    values = [sympy.N(each, 30) for each in (one, other)]
    if not all(value.is_extended_real and value.is_finite for value in values):
        return False
    size = max(abs(value) for value in values)
    return bool(abs(values[0] - values[1]) <= max(absolute, relative * size))


def _leaves(form: Form) -> list[str]:
    own = [form.text] if form.kind == "value" else []
    return own + [leaf for part in form.parts for leaf in _leaves(part)]
