"""Answers that are equal to a gold by construction, and answers that are not, made from the text alone.

A mutation equals its gold only by accident, and the accidents are known: zero has no sign, one to any power is one,
0! = 1!, a zero numerator hides its denominator, a digit below both bases is the same number in both, binomials are
symmetric and sines periodic, and the exponent of a unit belongs to the unit. Such mutations are not made. Every other
single change of a digit, a sign or an exponent in a term moves the value of that term alone.
"""

import re
from collections.abc import Callable, Iterator
from fractions import Fraction

FRACTION = re.compile(r"(-?)\\[dt]?frac\{(-?)(\d+)\}\{(\d+)\}")
INTEGER = re.compile(r"-?\d+")
GROUPED = re.compile(r"-?\d{1,3}(?:(?:,\\!\s*|\{,\}|,)\d{3})+")
TEXT = r"\\(?:text|mbox|mathrm|textbf|textrm)\s*\{[^{}]*\}"
TOKEN = re.compile(
    rf"{TEXT}|\\(?:begin|end|hspace|phantom)\{{[^{{}}]*\}}|\\[A-Za-z]+|\\.|[0-9A-F]+(?=_)|[A-Za-z]+"
    r"|\d+(?:(?:,\\!\s*|\{,\}|,)\d{3}(?!\d))*(?:\.\d+)?|\s+|.",
    re.DOTALL,
)


def rational(gold: str) -> Fraction | None:
    """The value of a gold that is one integer or one fraction of two, and nothing else."""
    if INTEGER.fullmatch(gold):
        return Fraction(int(gold))
    match = FRACTION.fullmatch(gold)
    if match is None or int(match[4]) == 0:
        return None
    return Fraction(int(match[3]), int(match[4])) * (-1 if match[1] else 1) * (-1 if match[2] else 1)


def proper(gold: str) -> Fraction | None:
    """As `rational`, for a fraction that is no integer."""
    value = rational(gold)
    return value if value is not None and value.denominator > 1 else None


def fraction_style(gold: str) -> str | None:
    return re.sub(r"\\([dt]?)frac", lambda found: r"\frac" if found[1] else r"\dfrac", gold) if "frac" in gold else None


def slash(gold: str) -> str | None:
    value = proper(gold)
    return None if value is None else f"{value.numerator}/{value.denominator}"


def scaled(gold: str) -> str | None:
    value = proper(gold)
    return None if value is None else rf"\frac{{{3 * value.numerator}}}{{{3 * value.denominator}}}"


def decimal(gold: str) -> str | None:
    value = rational(gold)
    if value is None or (value.denominator == 1 and abs(value) >= 1000):
        return None
    for places in range(1, 7):
        tens = value * 10**places
        if tens.denominator == 1:
            digits = f"{abs(tens.numerator):0{places + 1}d}"
            return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    return None


def mixed(gold: str) -> str | None:
    value = proper(gold)
    if value is None or abs(value) < 1:
        return None
    whole, rest = divmod(abs(value.numerator), value.denominator)
    return rf"{'-' if value < 0 else ''}{whole}\frac{{{rest}}}{{{value.denominator}}}"


def shorthand(gold: str) -> str | None:
    short = re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2", gold)
    return short if short != gold else None


def thousands(gold: str) -> str | None:
    if GROUPED.fullmatch(gold):
        return re.sub(r"[^\d-]", "", gold)
    return f"{int(gold):,}".replace(",", r",\!") if INTEGER.fullmatch(gold) and abs(int(gold)) >= 1000 else None


def spaces(gold: str) -> str:
    """As a person would set them: around signs between terms, after commas."""
    text, before = "", ""
    for token in TOKEN.findall(gold):
        is_between = token in "=<>+" or (token == "-" and before and before not in "=<>+-,([{^_")
        text += f" {token} " if is_between or token == "," else token
        before = before if token.isspace() else token
    return " ".join(text.split()).replace(" ,", ",")


def loose_spaces(gold: str) -> str:
    """Wherever TeX allows."""
    return " ".join(token for token in TOKEN.findall(gold) if not token.isspace())


def text_command(gold: str) -> str | None:
    if r"\text{" not in gold and r"\mbox{" not in gold:
        return None
    return re.sub(r"\\(text|mbox)\{", lambda found: r"\mbox{" if found[1] == "text" else r"\text{", gold)


def split_top(text: str, separator: str) -> list[str]:
    """Parts between separators outside of all brackets; commas between groups of thousands do not count."""
    parts, depth = [""], 0
    for token in TOKEN.findall(text):
        depth += (token in "([{" or token == r"\{") - (token in ")]}" or token == r"\}")
        if token == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return parts


def order(gold: str) -> str | None:
    opened = re.fullmatch(r"(\\left)?\\\{(.*?)(\\right)?\\\}", gold, re.DOTALL)
    before, inner, after = (r"\{", opened[2], r"\}") if opened else ("", gold, "")
    parts = [part.strip() for part in split_top(re.sub(r"\\text\{ (?:or|and) \}", ",", inner), ",")]
    if len(parts) < 2 or r"\text" in inner.replace(r"\text{ or }", "") or not all(parts) or GROUPED.fullmatch(gold):
        return None
    return f"{before}{', '.join(reversed(parts))}{after}"


def sum_order(gold: str) -> str | None:
    if re.search(r"\.$|[,=<>:_%]|\\(?:le|ge|cup|in|pm|text|mbox|begin)(?![a-hj-z])", gold):
        return None
    first, *rest = split_top(gold, "+")
    if not rest or not first.strip() or not rest[0].strip():
        return None
    first = first.strip()
    return "+".join(part.strip() for part in rest) + (first if first.startswith("-") else f"+{first}")


def stretching_brackets(gold: str) -> str | None:
    if r"\left" in gold or not re.fullmatch(r"[(\[][^()\[\]]*[)\]]", gold):
        return None
    return rf"\left{gold[0]} {gold[1:-1]} \right{gold[-1]}"


def matrix_brackets(gold: str) -> str | None:
    return gold.replace("{pmatrix}", "{bmatrix}") if "{pmatrix}" in gold else None


def minus_sign(gold: str) -> str | None:
    return gold.replace("-", "\u2212") if "-" in re.sub(TEXT, "", gold) and not re.search(TEXT, gold) else None


RENDERINGS: dict[str, Callable[[str], str | None]] = {
    "as it is": lambda gold: gold,
    "fraction style": fraction_style,
    "slash": slash,
    "scaled": scaled,
    "decimal": decimal,
    "mixed": mixed,
    "shorthand": shorthand,
    "thousands": thousands,
    "spaces": spaces,
    "loose spaces": loose_spaces,
    "text command": text_command,
    "order": order,
    "sum order": sum_order,
    "stretching brackets": stretching_brackets,
    "matrix brackets": matrix_brackets,
    "minus sign": minus_sign,
    "name": lambda gold: None if rational(gold) is None else f"x = {gold}",
    "unit": lambda gold: rf"{gold} \text{{ cm}}" if INTEGER.fullmatch(gold) else None,
    "display": lambda gold: rf"\displaystyle {gold}",
}
"""Each from a gold to the same answer written otherwise, or None where it does not apply."""


# --- Mutations: another answer, written much alike ------------------------------------------------------------------

NOT_A_DIGIT = re.compile(
    rf"{TEXT}\s*\^\s*\{{?\d+\}}?|\\[hv]space\{{[^{{}}]*\}}|\\\\\[[^\]]*\]"  # exponents of units, lengths
    r"|\\d?frac\s*\{?0\}?\s*\{?\d+\}?|\\d?binom.*|(?<!\d)[01]!"  # 0/3 = 0/4, symmetric binomials, 0! = 1!
    r"|(?<!\d)\d_\{?\d+\}?"  # 1 in base 7 is 1 in base 8
)
TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
OPENING = re.compile(r"(?:\\left\s*)?[(\[]|(?:\\left\s*)?\\\{|\\begin\{[a-z]*matrix\}|\\\$|\\!|\s+")
NO_SIGN = re.compile(r"\\text|\\mbox|\\pm|\\mp|\\emptyset|[A-Z(]|0+(?![\d.])|0*\.0*(?!\d)|0+\.0*(?!\d)")


def digit_places(gold: str) -> list[int]:
    """Where a digit stands whose change changes the value."""
    if TRIGONOMETRY.search(gold):
        return []
    hidden = {place for match in NOT_A_DIGIT.finditer(gold) for place in range(*match.span())}
    return [match.start() for match in re.finditer("[0-9]", gold) if match.start() not in hidden]


def last_digit(gold: str) -> str | None:
    places = digit_places(gold)
    if not places:
        return None
    at = places[-1]
    return f"{gold[:at]}{(int(gold[at]) + 1) % 10}{gold[at + 1 :]}"


def first_digit(gold: str) -> str | None:
    places = digit_places(gold)
    if not places:
        return None
    at = places[0]
    return f"{gold[:at]}{int(gold[at]) % 9 + 1}{gold[at + 1 :]}"


def leading_sign(gold: str) -> str | None:
    """The sign of the right side, of the first entry, or of the first term."""
    at = gold.rfind("=") + 1
    if at and re.fullmatch(r"\s*0?\s*", gold[at:]):
        if not re.search(r"\S\s*[+-]", gold[:at]):
            return None
        at = 0
    while opening := OPENING.match(gold, at):
        at = opening.end()
    if gold[at : at + 1] == "-":
        follows = gold[at + 1 :].lstrip()
        is_even_power = re.match(r"[^()]*\)\s*\^", follows) and gold[:at].endswith("(")
        return None if NO_SIGN.match(follows) or is_even_power else gold[:at] + gold[at + 1 :]
    return None if at == len(gold) or NO_SIGN.match(gold, at) or ":" in gold else f"{gold[:at]}-{gold[at:]}"


def inner_sign(gold: str) -> str | None:
    at = gold.find("+", 1)
    return None if at < 0 else f"{gold[:at]}-{gold[at + 1 :]}"


def exponent(gold: str) -> str | None:
    hidden = {place for match in NOT_A_DIGIT.finditer(gold) for place in range(*match.span())}
    for match in re.finditer(r"\^\s*(\{-?)?(\d+)", gold):
        is_of_one = re.search(r"(?<![\d.])[01]\s*$", gold[: match.start()])
        if match.start(2) not in hidden and not is_of_one:
            power = str(int(match[2]) + 1)
            return gold[: match.start(2)] + (power if match[1] else f"{{{power}}}") + gold[match.end(2) :]
    return None


MUTATIONS: dict[str, Callable[[str], str | None]] = {
    "last digit": last_digit,
    "first digit": first_digit,
    "leading sign": leading_sign,
    "inner sign": inner_sign,
    "exponent": exponent,
}
"""Each from a gold to an answer with another value, or None where it does not apply."""


def variants(gold: str, of: dict[str, Callable[[str], str | None]]) -> Iterator[tuple[str, str]]:
    """(name, text) of all that apply; a rendering that leaves the text alone is graded once, as it is."""
    for name, change in of.items():
        text = change(gold)
        if text is not None and (text != gold or name == "as it is"):
            yield name, text
