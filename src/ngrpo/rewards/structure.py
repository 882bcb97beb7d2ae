r"""What an answer is made of: a number or formula, or a list, interval, matrix, equation, ... of such.

Only strings are looked at. The formulas themselves (the leaves) are compared elsewhere: exactly when they are plain
numbers, by computer algebra otherwise.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ngrpo.rewards.tidy import closing, tidy
from ngrpo.rewards.units import split_unit


@dataclass(frozen=True, slots=True)
class Form:
    """An answer taken apart.

    Attributes:
        kind: `value` (a leaf), `words`, `percent`, `based` (digits and the base), `time`, `list`, `set`, `tuple` (or
            interval: `text` has the brackets), `union`, `matrix` (`text` has its shape), `relation` (`text` has its
            signs), `ratio`, `builder` (a set by its property).
        text: The leaf, or what is said above.
        parts: What it is made of.
        unit: Unit behind it: empty when there is none, `?` for one that is not known.
    """

    kind: str
    text: str = ""
    parts: tuple["Form", ...] = ()
    unit: str = ""


_LIST_MARK = re.compile(r"\\text\{\s*,?\s*(?:and|or)\s*,?\s*\}|\\(?:wedge|vee|lor)(?![a-zA-Z])"
                        r"|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")  # fmt: skip
_WORDS = re.compile(r"(?=.*[A-Za-z]{3})[A-Za-z][A-Za-z0-9 ,.'&!?-]*")
_SHORT_WORDS = frozenset(
    re.findall(r"\w+", "all any odd one two six ten yes may jun jul red sun mon tue wed thu fri sat")
)
_FUNCTIONS = frozenset(
    re.findall(r"\w+", "sin cos tan cot sec csc log exp sinh cosh tanh arcsin arccos arctan sqrt frac")
)
_CHOICE = re.compile(r"(?:\\text\{)?\(([A-Za-z])\)\}?|\\text\{([A-Za-z])\.?\}")
_TIME = re.compile(r"([0-9]{1,2}(?::[0-9]{2}){1,2})\s*([ap])\.?\s?m\.?", re.IGNORECASE)
_BASED = re.compile(
    r"\(?(-?[0-9][0-9A-Za-z]*(?:\.[0-9A-Fa-f]+)?|[A-Za-z][0-9A-Fa-f]*[0-9][0-9A-Fa-f]*|[A-Fa-f]+)\)?"
    r"_(?:\{([^{}]*(?:\{[^{}]*\})?)\}|([0-9]))"
)
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
          "eleven": 11, "twelve": 12, "sixteen": 16}  # fmt: skip
_MATRIX = re.compile(r"\\begin\{(?:p|b|B|v|V|small)?(?:matrix|array)\}")
_ANY_MATRIX = re.compile(r"\\begin\{((?:[pbvV]|small)?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_ROW_END = re.compile(r"\\\\(?:\[[^\[\]]*\])?|\\cr(?![a-zA-Z])")
_SIGN = re.compile(r"\\(?:le|ge|ne|approx|in|equiv|sim)(?![a-zA-Z])|<=|>=|!=|[=<>]")
_SIGN_NAMES = {"<=": "\\le", ">=": "\\ge", "!=": "\\ne", "\\equiv": "\\equiv"}
_NAME = re.compile(r"(?:\\(?:alpha|beta|gamma|theta|phi|lambda|mu|omega|angle|triangle)\s?|[A-Za-z])"
                   r"(?:_(?:\{[^{}]*\}|[0-9A-Za-z]))?'?"
                   r"(?:\([A-Za-z](?:,[A-Za-z])*\)|\([0-9]+\))?|\\text\{[A-Za-z ]+\}"
                   r"|\\angle ?[A-Z]{1,3}|[A-Z]{2,3}")  # fmt: skip
_THOUSANDS = re.compile(r"(?:[+-]?\\\$)?[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?(?:[^0-9,][^,;]*)?")
_MONTH_DAY = re.compile(
    r"\\text\{((?:jan|feb|mar|apr|may|june?|july?|aug|sep|oct|nov|dec)[a-z]*\.?)\}([0-9]{1,2})", re.IGNORECASE
)
_OPENING, _CLOSING = "([", ")]"
_SENTENCE = re.compile(r"\\text\{[^{}]*[A-Za-z]{2}[^{}]*\}")
_MEMBER = re.compile(r"([^<>=]{1,20}?)\s*\\in(?![a-zA-Z])\s*(.+)", re.DOTALL)


@lru_cache(maxsize=4096)
def read(text: str) -> Form:
    r"""Take an answer apart.

    Args:
        text: The content of a box, or a gold, tidied.

    Example:
        >>> read(tidy(r"\left[1, \infty\right)")).kind, read("x=5").kind, read("1,234").kind, read("1, 2").kind
        ('tuple', 'relation', 'value', 'list')
    """
    return _whole(text, 0)


def is_name(text: str) -> bool:
    r"""Tell whether a left side is a mere name: `x`, `a_1`, `f(x)`, `\angle ABC`, `\text{Area}`.

    Example:
        >>> is_name("f(x)"), is_name("2x")
        (True, False)
    """
    return _NAME.fullmatch(text) is not None


def _whole(text: str, depth: int) -> Form:  # noqa: PLR0911  one return per kind
    if text.isascii() and text.isdigit():
        return Form("value", text)
    if depth > 8:
        return Form("value", text)
    simple = _wording(text) or _timed_or_based(text)
    if simple is not None:
        return simple
    if "\\pm" in text or "\\mp" in text:
        return _both_signs(text, depth)
    members = _split_list(text)
    if len(members) > 1 and not (_THOUSANDS.fullmatch(text) and not _LIST_MARK.search(text)):
        return Form("list", parts=tuple(_whole(tidy(member), depth + 1) for member in members))
    if (member := _MEMBER.fullmatch(text)) is not None and is_name(member[1]):
        return _whole(tidy(member[2]), depth + 1)
    related = _relation(text, depth)
    return _single(text, depth) if related is None else related


def _single(text: str, depth: int) -> Form:  # noqa: PLR0911  one return per kind
    """Read what is neither a list nor a relation."""
    sets = _split(text, "\\cup")
    if len(sets) > 1:
        return Form("union", parts=tuple(_whole(tidy(part), depth + 1) for part in sets))
    enclosed = _enclosed(text, depth) or _matrix(text, depth)
    if enclosed is not None:
        return enclosed
    if text.endswith("\\%") or text.endswith("%"):
        return Form("percent", parts=(_whole(tidy(text.removesuffix("%").removesuffix("\\")), depth + 1),))
    rest, unit = split_unit(text)
    if unit == "percent":
        return Form("percent", parts=(_whole(tidy(rest), depth + 1),))
    if rest and unit and not (unit == "degree" and _has_function(rest)):
        inner = _whole(tidy(rest), depth + 1)
        return Form(inner.kind, inner.text, inner.parts, unit)
    if ":" in text:
        terms = _split(text, ":")
        if len(terms) > 1 and all(terms):
            return Form("ratio", parts=tuple(_whole(tidy(term), depth + 1) for term in terms))
    return Form("value", text)


def _has_function(text: str) -> bool:
    return re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text) is not None


def _wording(text: str) -> Form | None:  # noqa: PLR0911  one return per kind
    choice = _CHOICE.fullmatch(text)
    if choice is not None:
        return Form("value", choice[1] or choice[2])
    if text.startswith("\\text{") and closing(text, 5) == len(text) - 1:
        inner = tidy(text[6:-1])
        if _timed_or_based(inner) is not None:
            return _timed_or_based(inner)
        if _WORDS.fullmatch(inner) and not _is_letters(inner):
            return Form("words", " ".join(inner.split()))
        return _whole(inner, 1) if "\\" not in inner and inner else None
    if (date := _MONTH_DAY.fullmatch(text)) is not None:
        return Form("words", f"{date[1]} {date[2]}")
    if _WORDS.fullmatch(text) and "_" not in text and _is_prose(text):
        return Form("words", " ".join(text.split()))
    return None


def _is_letters(text: str) -> bool:
    """`A, B` and `A,C,F` are lists of letters, not words."""
    return all(len(part.strip()) == 1 for part in text.split(","))


def _is_prose(text: str) -> bool:
    """Words without any mark that they are; `abc` is a product."""
    words = text.replace(",", " ").split()
    first = words[0].rstrip(".").casefold()
    if not all(word.rstrip(".").isalpha() or word.isdigit() for word in words) or first in _FUNCTIONS:
        return False
    return len(first) > 3 or first in _SHORT_WORDS


def _timed_or_based(text: str) -> Form | None:
    time = _TIME.fullmatch(text.replace("\\text{", "").replace("}", "")) if ":" in text else None
    if time is not None:
        return Form("time", f"{time[1].lstrip('0')} {time[2].lower()}m")
    based = _BASED.fullmatch(re.sub(r"\\text\{([0-9A-Za-z]+)\}", r"\1", text)) if "_" in text else None
    if based is None:
        return None
    base = _base(based[2] or based[3])
    is_plain = based[1].lstrip("-").replace(".", "").isdigit() or (base is not None and base > 10)
    return Form("based", based[1], unit=str(base)) if base is not None and is_plain else None


def _base(text: str) -> int | None:
    text = text.replace("\\text", "").strip("{}() ").removeprefix("base").strip()
    if text.isdigit() and text.isascii() and len(text) < 4:
        return int(text)
    return _BASES.get(text.casefold())


def _both_signs(text: str, depth: int) -> Form:
    r"""`a \pm b` is the list of both; all signs of one answer go together."""
    over = re.sub(r"\\pm(?![a-zA-Z])", "+", text)
    under = re.sub(r"\\pm(?![a-zA-Z])", "-", text)
    members = [re.sub(r"\\mp(?![a-zA-Z])", "-", over), re.sub(r"\\mp(?![a-zA-Z])", "+", under)]
    if "\\pm" in members[0] or "\\mp" in members[0]:
        return Form("value", text)
    name = ""
    parts = []
    for member in members:
        form = _whole(tidy(member), depth + 1)
        if (
            form.kind == "relation"
            and form.text == "="
            and form.parts[0].kind == "value"
            and is_name(form.parts[0].text)
        ):
            name, form = form.parts[0].text, form.parts[1]
        # A list or a set that has the sign in one of its members: all members, of both.
        parts += form.parts if form.kind in ("list", "set") else [form]
    unique = tuple(dict.fromkeys(parts))
    both = Form("list", parts=unique)
    return Form("relation", "=", (Form("value", name), both)) if name else both


def _split_list(text: str) -> list[str]:
    if _LIST_MARK.search(text):
        text = _LIST_MARK.sub(",", text)
    if "," not in text and ";" not in text:
        return [text]
    return [member for member in (part.strip() for part in _split(text, ",", ";")) if member]


def _relation(text: str, depth: int) -> Form | None:
    if not _SIGN.search(text):
        return None
    terms, signs, start, level = [], [], 0, 0
    for at, symbol in _levels(text):
        level = symbol
        found = _SIGN.match(text, at) if level == 0 and at >= start else None
        if found is not None:
            terms.append(text[start:at].strip())
            signs.append(_SIGN_NAMES.get(found[0], found[0]))
            start = found.end()
    terms.append(text[start:].strip())
    if not signs:
        return None
    if signs[0] in ("=", "\\approx") and not terms[0]:
        return _whole(tidy(text[_SIGN.match(text).end() :]), depth + 1)
    if "\\approx" in signs:  # what is said to be about the same is not part of the answer
        cut = signs.index("\\approx")
        terms, signs = terms[: cut + 1], signs[:cut]
        if not signs:
            return _whole(tidy(terms[0]), depth + 1)
    if not all(terms) or "\\in" in signs:
        return Form("value", text)
    if all(sign in (">", "\\ge") for sign in signs):
        terms, signs = terms[::-1], ["<" if sign == ">" else "\\le" for sign in signs[::-1]]
    return Form("relation", " ".join(signs), tuple(_whole(tidy(term), depth + 1) for term in terms))


def _enclosed(text: str, depth: int) -> Form | None:
    for opening, ending, kind in (("\\{", "\\}", "set"), ("\\langle", "\\rangle", "angle")):
        if text.startswith(opening) and text.endswith(ending) and len(text) > len(opening) + len(ending):
            inner = text[len(opening) : -len(ending)]
            if opening not in inner:
                if kind == "set" and ("|" in inner or ":" in inner):
                    return Form("builder", text.replace(":", "|").replace(" ", ""))
                return _members(kind, "", inner, depth)
    if len(text) < 2 or text[0] not in _OPENING or text[-1] not in _CLOSING or not _closes_at_end(text):
        return None
    inner = text[1:-1]
    if len(_split(inner, ",", ";")) > 1:
        return _members("tuple", text[0] + text[-1], inner, depth)
    return _whole(tidy(inner), depth + 1) if text[0] == "(" and text[-1] == ")" and inner else None


def _members(kind: str, brackets: str, inner: str, depth: int) -> Form:
    parts = _split(inner, ",", ";")
    if kind == "set" and ("\\pm" in inner):
        signed = _both_signs(inner, depth)
        return Form("set", parts=signed.parts) if signed.kind == "list" else signed
    return Form(kind, brackets, tuple(_whole(tidy(part), depth + 1) for part in parts))


def _matrix(text: str, depth: int) -> Form | None:
    if not text.startswith("\\begin{"):
        return None
    found = _ANY_MATRIX.fullmatch(text)
    if found is None or "\\begin" in found[2] or found[1][0] in "vV":
        return None
    rows = [row.split("&") for row in _ROW_END.split(found[2]) if row.strip()]
    if not rows or len({len(row) for row in rows}) > 1:
        return None
    cells = tuple(_whole(tidy(cell), depth + 1) for row in rows for cell in row)
    return Form("matrix", f"{len(rows)}x{len(rows[0])}", cells)


def _levels(text: str) -> Iterator[tuple[int, int]]:
    r"""Yield every offset with the depth of brackets there; `\{` and `\begin` count. Brackets need not match."""
    depth, at = 0, 0
    while at < len(text):
        symbol = text[at]
        if symbol == "\\":
            following = text[at + 1 : at + 2]
            if following == "{" or text.startswith(("\\begin{", "\\langle"), at):
                yield at, depth
                depth += 1
            elif following == "}" or text.startswith(("\\end{", "\\rangle"), at):
                depth = max(depth - 1, 0)
                yield at, depth
            else:
                yield at, depth
            at += 2
            continue
        if symbol in "([{":
            yield at, depth
            depth += 1
        elif symbol in ")]}":
            depth = max(depth - 1, 0)
            yield at, depth
        else:
            yield at, depth
        at += 1


def _split(text: str, *marks: str) -> list[str]:
    """Split at marks that stand outside of all brackets."""
    if not any(mark in text for mark in marks):
        return [text]
    parts, start = [], 0
    for at, depth in _levels(text):
        if depth == 0 and at >= start and text.startswith(marks, at):
            parts.append(text[start:at].strip())
            start = at + max(len(mark) for mark in marks if text.startswith(mark, at))
    return [*parts, text[start:].strip()]


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that opens first closes last."""
    return all(depth > 0 or at in (0, len(text) - 1) for at, depth in _levels(text))
