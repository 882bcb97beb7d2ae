r"""Exact values of plain numbers, without computer algebra.

Four golds in five of MATH, and all of AIME and AMC, are integers, fractions or decimals; comparing those needs
microseconds, no library and no tolerance.
"""

import re
from fractions import Fraction

_NUMBER = r"[+-]?(?:(?:[0-9]{1,3}(?:[, ][0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_PLAIN = re.compile(_NUMBER)
_RATIO = re.compile(rf"(?P<over>{_NUMBER})/(?P<under>{_NUMBER})")
_FRAC = re.compile(rf"(?P<sign>[+-]?)(?P<whole>[0-9]+)?\\frac ?(?:\{{(?P<over>{_NUMBER})\}}|(?P<over1>[0-9])) ?"
                   rf"(?:\{{(?P<under>{_NUMBER})\}}|(?P<under1>[0-9]))")  # fmt: skip
_SLASHED = re.compile(r"(?P<sign>[+-]?)(?P<whole>[0-9]+) (?P<over>[0-9]+)/(?P<under>[0-9]+)")
_REPEATING = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]*)\.(?P<fixed>[0-9]*)\\overline ?(?:\{(?P<period>[0-9]+)\}|(?P<period1>[0-9]))"
)
_DECIMAL = re.compile(r"[+-]?([0-9]*)\.([0-9]+)")

# int() refuses longer ones; nobody's answer is that long either.
_MAX_DIGITS = 4000


def as_fraction(text: str) -> Fraction | None:
    r"""Read a plain number exactly.

    Args:
        text: A tidied answer.

    Returns:
        Its value when it is an integer (thousands may be marked by commas or spaces), a decimal, a repeating decimal,
        `a/b`, `\frac{a}{b}`, `\frac12` or a mixed number with a proper fraction; None for anything else.

    Example:
        >>> as_fraction("1,234.50"), as_fraction(r"-1\frac{1}{2}"), as_fraction(r"0.\overline{3}"), as_fraction("1,23")
        (Fraction(2469, 2), Fraction(-3, 2), Fraction(1, 3), None)
    """
    if len(text) > _MAX_DIGITS:
        return None
    if _PLAIN.fullmatch(text):
        return _number(text)
    if "\\overline" in text:
        return _repeating(text)
    match = _RATIO.fullmatch(text)
    if match is not None:
        over, under = _number(match["over"]), _number(match["under"])
        return over / under if under else None
    match = _FRAC.fullmatch(text)
    if match is not None:
        return _mixed(match, match["over"] or match["over1"], match["under"] or match["under1"])
    match = _SLASHED.fullmatch(text)
    return None if match is None else _mixed(match, match["over"], match["under"])


def is_decimal(text: str) -> bool:
    """Tell whether a number is written with a decimal point.

    Example:
        >>> is_decimal("0.5"), is_decimal("1/2")
        (True, False)
    """
    return _DECIMAL.fullmatch(text) is not None


def significant_digits(decimal: str) -> int:
    """Count the digits of a decimal from its first that is not zero.

    Example:
        >>> significant_digits("0.0333"), significant_digits("3.14")
        (3, 3)
    """
    return len(decimal.lstrip("+-").replace(".", "").lstrip("0"))


def _mixed(match: re.Match[str], over_text: str, under_text: str) -> Fraction | None:
    over, under = _number(over_text), _number(under_text)
    if not under:
        return None
    value = over / under
    if match["whole"]:
        # 2\frac{3}{2} is a product, if anything.
        if not (over_text.isdigit() and under_text.isdigit() and over < under):
            return None
        value += int(match["whole"])
    return -value if match["sign"] == "-" else value


def _repeating(text: str) -> Fraction | None:
    match = _REPEATING.fullmatch(text)
    if match is None:
        return None
    fixed, period = match["fixed"], match["period"] or match["period1"]
    start = Fraction(f"{match['whole'] or '0'}.{fixed or '0'}")
    value = start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return -value if match["sign"] == "-" else value


def _number(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").removesuffix("."))
