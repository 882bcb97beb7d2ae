r"""Formulas as math-verify's parser reads them rightly.

The grammar leaves some things open or reads them otherwise than people do: `\frac12`, decimals (as floating point),
`3\frac12` (as a product), `3 4` (as a sum), `\cos 60^\circ` (in radians).
"""

import re

from ngrpo.rewards.rational import as_fraction
from ngrpo.rewards.tidy import brace_arguments

_DECIMAL = re.compile(r"(?<![\w.])([0-9]*)\.([0-9]+)(?![0-9.])|(?<=[A-Za-z}])(\.[0-9]+)")
_TRAILING_POINT = re.compile(r"([0-9])\.(?![0-9])")
# In TeX 2e3 is a product with Euler's number.
_EXPONENT_MARK = re.compile(r"(?<=[0-9])(?=[eE][+-]?[0-9])")
_DEGREES = re.compile(r"([0-9]+|\\frac\{[^{}]*\}\{[^{}]*\})\s?°")
_MIXED = re.compile(r"(?<![\w^_.{}\\])([0-9]+) ?\\frac\{([0-9]+)\}\{([0-9]+)\}")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_FUNCTION_NAME = re.compile(
    r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sqrt|sin|cos|tan|cot|sec|csc|log|ln|exp|pi)(?![A-Za-z])"
)
_THOUSANDS = re.compile(r"(?<![0-9,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_DIGITS_APART = re.compile(r"[0-9] [0-9]")
_CALLED_ROOT = re.compile(r"\\sqrt\s?\(([^()]*)\)")
_SPACE = re.compile(r"(?<![0-9]) | (?![0-9])")
_CHOOSE = re.compile(r"\{?([^{}\\]*)\\choose(?![a-zA-Z]) ?([^{}\\]*)\}?")
_MAX_EXACT_DIGITS = 300
_TOWER = re.compile(r"\b([0-9]+)\^\{([0-9]+)\^\{?([0-9]+)\}?")
_HUGE = re.compile(r"\^\{-?[0-9]{6,}|[0-9]{6,}\)?!|(?:[0-9]{2,}|[7-9])!\)+!|\^\{[^{}]*!")
_MAX_EXPONENT = 100_000


class UnreadableError(ValueError):
    """A leaf that the parser would read wrongly."""


def for_parser(leaf: str) -> str:
    r"""Rewrite a leaf for the parser.

    Args:
        leaf: A formula, tidied.

    Returns:
        TeX without anything that the parser reads otherwise than people do.

    Raises:
        UnreadableError: It holds such a thing, and what is meant cannot be told.

    Example:
        >>> for_parser(r"1.5x"), for_parser(r"\frac12"), for_parser(r"3\frac12"), for_parser(r"\cos 60°")
        ('\\frac{15}{10}x', '\\frac{1}{2}', '\\frac{7}{2}', '\\cos \\frac{60\\pi}{180}')
    """
    value = as_fraction(leaf)
    if value is not None:
        whole = (
            str(abs(value)) if value.denominator == 1 else f"\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
        )
        return f"-{whole}" if value < 0 else whole
    leaf = _FUNCTION_NAME.sub(r"\\\1 ", _TEXT.sub(_plain, leaf))
    leaf = _CHOOSE.sub(r"\\binom{\1}{\2}", leaf)
    leaf = _CALLED_ROOT.sub(r"\\sqrt{\1}", leaf)
    leaf = brace_arguments(_THOUSANDS.sub(lambda number: number[0].replace(",", ""), leaf))
    _refuse_huge(leaf)
    leaf = _EXPONENT_MARK.sub(r"\\cdot ", leaf)
    leaf = _DECIMAL.sub(_over_ten, _TRAILING_POINT.sub(r"\1", leaf))
    leaf = _MIXED.sub(_sum, _DEGREES.sub(_in_radians, leaf))
    if _DIGITS_APART.search(leaf) or "°" in leaf or "\\%" in leaf or "=" in leaf:
        raise UnreadableError(leaf)
    return leaf.replace("**", "^").replace("*", "\\cdot ")


def _refuse_huge(leaf: str) -> None:
    """Numbers that nobody can write out are compared as strings: computing them takes the whole deadline."""
    towers = (int(tower[2][:9]) ** min(int(tower[3][:9]), 64) for tower in _TOWER.finditer(leaf))
    if _HUGE.search(leaf) or any(exponent > _MAX_EXPONENT for exponent in towers):
        raise UnreadableError(leaf)


def squeezed(leaf: str) -> str:
    """Take away all spaces and braces around one letter: what is compared when nothing can be parsed."""
    return _SPACE.sub("", re.sub(r"\{(.)\}", r"\1", brace_arguments(leaf)))


def _plain(match: re.Match[str]) -> str:
    if len(match[1]) > 1:
        raise UnreadableError(match[0])
    return match[1]


def _over_ten(match: re.Match[str]) -> str:
    if match[3]:
        raise UnreadableError(match[0])
    whole, places = match[1] or "0", match[2]
    if len(whole) + len(places) > _MAX_EXACT_DIGITS:
        raise UnreadableError(match[0])
    return f"\\frac{{{int(whole + places)}}}{{{10 ** len(places)}}}"


def _in_radians(match: re.Match[str]) -> str:
    return f"\\frac{{{match[1]}\\pi}}{{180}}"


def _sum(match: re.Match[str]) -> str:
    whole, over, under = int(match[1]), int(match[2]), int(match[3])
    return match[0] if over >= under else f"\\frac{{{whole * under + over}}}{{{under}}}"
