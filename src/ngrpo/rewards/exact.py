r"""Comparing answers without computer algebra: as strings, and as exact rational numbers.

Four golds in five of MATH, and all of AIME and AMC, are integers, fractions or decimals; comparing those needs
microseconds, no library and no tolerance.
"""

import re
from fractions import Fraction

_MINUS_SIGN = "\u2212"  # the typographic minus
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mbox|mathrm|mathbf)\s*\{([^{}]*)\}")
_FRACTION_COMMAND = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_DELIMITER_SIZE = re.compile(r"\\(?:left|right)(?![a-zA-Z])\.?|\\displaystyle(?![a-zA-Z])|(?<!\\)\\!|\\?\$")
_THIN_SPACE = re.compile(r"(?<!\\)\\[,;: ]|\\q?quad(?![a-zA-Z])|~")
_DEGREE = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree|°)$")
_IDLE_SPACE = re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])")
_SPACES = re.compile(r"\s+")

_NUMBER = r"[+-]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_PLAIN = re.compile(_NUMBER)
_RATIO = re.compile(rf"(?P<over>{_NUMBER})/(?P<under>{_NUMBER})")
_FRAC = re.compile(rf"(?P<sign>[+-]?)\\frac(?:\{{(?P<over>{_NUMBER})\}}|(?P<over1>[0-9]))\s*"
                   rf"(?:\{{(?P<under>{_NUMBER})\}}|(?P<under1>[0-9]))")  # fmt: skip
_WORDS = re.compile(r"[A-Za-z]{3,}(?: [A-Za-z]+)*")
_MARKED_WORDS = re.compile(r"\\(?:text|mbox)\s*\{\s*[A-Za-z]{2,}(?: [A-Za-z]+)*\s*\.?\s*\}")


def normalise(text: str) -> str:
    r"""Take away what never changes the meaning of an answer.

    That is: spaces (not those between two letters or digits), sizes of delimiters, `\dfrac` for `\frac`, the commands
    around plain text, dollar and degree signs, a full stop at the end, the typographic minus. Letters keep their case.

    Args:
        text: The content of a box, or a gold.

    Returns:
        A string; two answers whose strings are equal and not empty are the same answer.

    Example:
        >>> normalise(r" \left( \dfrac{1}{2} , 3 \right). ")
        '(\\frac{1}{2},3)'
        >>> normalise("1 2")
        '1 2'
    """
    if text.isalnum() and text.isascii():
        return text
    text = text.replace(_MINUS_SIGN, "-").replace("\\%", "%")
    text = _FRACTION_COMMAND.sub(r"\\frac", _TEXT.sub(r"\1", text))
    text = _THIN_SPACE.sub(" ", _DELIMITER_SIZE.sub("", text))
    text = _DEGREE.sub("", text.strip().removesuffix(".").strip())
    return _IDLE_SPACE.sub("", _SPACES.sub(" ", text))


def as_fraction(text: str) -> Fraction | None:
    r"""Read a plain number exactly.

    Args:
        text: A normalised answer.

    Returns:
        Its value when it is an integer (thousands may be marked by commas), a decimal, `a/b`, `\frac{a}{b}` or
        `\frac12`; None for anything else, mixed numbers and division by zero included.

    Example:
        >>> as_fraction("1,234.50"), as_fraction(r"-\frac{1}{2}"), as_fraction("1,23")
        (Fraction(2469, 2), Fraction(-1, 2), None)
    """
    if _PLAIN.fullmatch(text):
        return _number(text)
    match = _RATIO.fullmatch(text)
    if match is not None:
        over, under, sign = _number(match["over"]), _number(match["under"]), 1
    elif (match := _FRAC.fullmatch(text)) is not None:
        over, under = _number(match["over"] or match["over1"]), _number(match["under"] or match["under1"])
        sign = -1 if match["sign"] == "-" else 1
    else:
        return None
    return sign * over / under if under else None


def is_wording(gold: str) -> bool:
    r"""Tell whether a gold is words rather than mathematics: `\text{no}`, `Saturday`, but neither `xy` nor `\text{A}`.

    A computer algebra system reads a word as a product of letters, for which `seat` and `east` are the same.

    Example:
        >>> is_wording(r"\mbox{four}"), is_wording("east"), is_wording("xy"), is_wording("3x")
        (True, True, False, False)
    """
    gold = gold.strip()
    return _MARKED_WORDS.fullmatch(gold) is not None or _WORDS.fullmatch(gold) is not None


def _number(text: str) -> Fraction:
    return Fraction(text.replace(",", "").removesuffix("."))
