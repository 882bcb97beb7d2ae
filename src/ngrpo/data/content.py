r"""What the rows of a data set say, apart from how they are laid out: keys, bare golds, fingerprints.

Two copies of a data set rarely agree byte for byte: one has its rows in another order, breaks lines elsewhere, or
writes 27 as 27.0. What is compared here is the text of a problem with its white space evened out, and its final answer.
"""

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from ngrpo.rewards.math import final_answer

_WHOLE_DECIMAL = re.compile(r"([+-]?\d+)\.0+")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")


def number_as_text(value: Any) -> Any:
    """Write a number out in full, without an exponent; NaN counts as missing. Everything else comes back as it is.

    Example:
        >>> number_as_text(27.0), number_as_text(1e-7), number_as_text("27.0"), number_as_text(float("nan"))
        ('27', '0.0000001', '27.0', None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return value
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return None if math.isnan(value) else value
    return str(int(value)) if value == int(value) else format(Decimal(str(value)), "f")


def even_text(text: str) -> str:
    r"""The text with every run of white space as one space, and characters composed (Unicode NFC).

    Example:
        >>> even_text(" What is\n $1 +  1$? ")
        'What is $1 + 1$?'
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def loose_key(text: str) -> str:
    r"""What is left of a problem without white space and case: equal for copies that differ in these only.

    Example:
        >>> loose_key("Find $x$ ,\nplease.") == loose_key("find $X$, please.")
        True
    """
    return "".join(text.split()).casefold()


def problem_key(text: str) -> str:
    r"""Ten hexadecimal digits that name a problem by its text, on any machine and in any order of rows.

    Example:
        >>> problem_key("What is 1+1?") == problem_key("What  is\n1+1? ")
        True
    """
    return _digest(even_text(text))[:10]


def bare_gold(gold: str) -> str:
    r"""The final answer in a gold: what a solution boxes, or what follows its `####`; a bare gold is itself.

    Args:
        gold: A reference answer, or a whole solution.

    Example:
        >>> bare_gold(r"Thus $x = \boxed 2$."), bare_gold("2 * 500\n#### 1,000"), bare_gold("2"), bare_gold("2.0")
        ('2', '1000', '2', '2')
    """
    answer = final_answer(gold)
    if "####" in gold and _THOUSANDS.fullmatch(answer):  # GSM8K has numbers only, where a comma is no list
        answer = answer.replace(",", "")
    return _WHOLE_DECIMAL.sub(r"\1", answer) if _WHOLE_DECIMAL.fullmatch(answer) else answer


def fingerprint(texts: Iterable[tuple[str, ...]]) -> str:
    """One digest over the rows of a data set, the same for any order of them.

    Args:
        texts: Per row, the texts that count; white space is evened out first.

    Returns:
        SHA-256 over the sorted digests of the rows, in hexadecimal.

    Example:
        >>> fingerprint([("1+1?", "2"), ("1+2?", "3")]) == fingerprint([("1+2? ", "3"), ("1+1?", "2")])
        True
        >>> fingerprint([("1+1?", "2")]) == fingerprint([("1+1?2", "")])
        False
    """
    return _digest(*sorted(_digest(*map(even_text, row)) for row in texts))


def _digest(*texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)  # the length first: ("ab", "c") is not ("a", "bc")
    return digest.hexdigest()
