r"""The answers that the paper's code finds and accepts, so that its numbers can be compared.

Facts from `utils.py` and `grader.py` of the reference repository: where the answer is (a box whether or not it closes,
"he answer is", the last number anywhere), what is struck out of it, and what then counts as equal (100 times and a
hundredth of the number; a relative tolerance of 1e-4; brackets of any kind).

Left out on purpose: nothing is evaluated as Python; an empty answer is never right; answers of more than
`profiles.MAX_ANSWER_CHARS` characters are refused, because the reference needs minutes for them; parsing is done by
math-verify's parser, so what the reference's two parsers misread (the right side of an equation for all of it, say) is
read rightly; there is no limit of one second by the clock on the wall. Golds always go through the extraction, as the
reference does for MATH: for AIME it compares them raw, so that `336^\circ` cannot be met there.
"""

import math
import re
from collections.abc import Callable

_NUMBER = re.compile(r"-?[0-9]*\.?[0-9]+")
_LAST_TEXT = re.compile(r"\\text\{[^\n]*?\}$")
_BOXED_TEXT = re.compile(r"\\mbox\{[^\n]*?\}")
_BOXED_WORD = re.compile(r"\\mbox\{([^{}]*)\}")
_ROOT = re.compile(r"\\sqrt(\w+)")
_ZEROS = re.compile(r"(?<=[0-9])\.0+(?![0-9])")
RELATIVE_TOLERANCE = 1e-4
_BRACKETED = re.compile(r"[(\[].+[)\]]")
_MATRIX = re.compile(r"\\begin\{[pb]matrix\}(.*)\\end\{[pb]matrix\}", re.DOTALL)
_PAIR_IN_BRACES = re.compile(r"\{.*,.*\}")
# As the reference strikes them out, and in its order.
_STRUCK_EARLY = ("\n", "\\!", "\\ ")
_STRUCK_LATE = ("^{\\circ}", "^\\circ", "\\$", "$", "\\text", "x\\in", "\\%", "%")

Symbolic = Callable[[str, str], bool]


def find_answer(text: str) -> tuple[str, str]:
    r"""Find the answer as the reference does, without anything struck out of it.

    Args:
        text: A completion.

    Returns:
        The rule (`boxed`, `answer_is`, `last_number`) and the answer; the answer is empty when there is none.

    Example:
        >>> find_answer(r"\boxed{3} or so, 7"), find_answer("The answer is 7."), find_answer("2 + 3 makes 5")
        (('boxed', '3'), ('answer_is', '7'), ('last_number', '5'))
    """
    if "boxed" in text:
        rule, answer = "boxed", _boxed(text.rpartition("boxed")[2])
    elif "he answer is" in text:
        rule, answer = "answer_is", text.rpartition("he answer is")[2].strip()
    else:
        numbers = _NUMBER.findall(text.replace(",", ""))
        rule, answer = "last_number", numbers[-1] if numbers else ""
    answer = answer.partition("\n")[0]
    return rule, answer.removeprefix(":").removesuffix(".").removesuffix("/")


def _boxed(rest: str) -> str:
    if not rest.startswith("{"):
        return rest.partition("$")[0].strip()
    depth = 0
    for at, symbol in enumerate(rest):
        depth += (symbol == "{") - (symbol == "}")
        if depth == 0:
            return rest[1:at]
    return rest[1:]


def strike_out(answer: str) -> str:
    r"""Write an answer as the reference compares it.

    Args:
        answer: What `find_answer` returned.

    Example:
        >>> strike_out(r"x = \dfrac12"), strike_out(r"5.00 \text{ cm}"), strike_out("3/4"), strike_out(r"\mbox{four}")
        ('\\frac{1}{2}', '5', '\\frac{3}{4}', '')
    """
    text = answer.strip().replace("\n", "").rstrip(".")
    for mark in _STRUCK_EARLY:
        text = text.replace(mark, "")
    text = text.replace("\\\\", "\\").replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    text = text.replace("\\left", "").replace("\\right", "")
    text = _LAST_TEXT.sub("", text).strip() or text
    for mark in _STRUCK_LATE:
        text = text.replace(mark, "")
    text = text.replace(" .", " 0.").replace("{.", "{0.").replace("\\cdot", "").replace("infinity", "\\infty")
    if "\\infty" not in text:
        text = text.replace("inf", "\\infty")
    text = _BOXED_TEXT.sub("", text.replace("and", "").replace("\\mathbf", ""))
    if "j" in text and "i" not in text:
        text = text.replace("j", "i")
    text = _ZEROS.sub("", text)
    text = f"0{text}" if text.startswith(".") else text
    left, equals, right = text.partition("=")
    if equals and "=" not in right and len(left) <= 2:
        text = right
    return _as_fractions(_ROOT.sub(r"\\sqrt{\1}", text).replace(" ", ""))


def readable(answer: str) -> str:
    r"""Strike out, but not everything: the reference leaves nothing of `\mbox{four}`, as of any other word.

    Example:
        >>> readable(r"\mbox{four}"), readable("")
        ('four', '')
    """
    return strike_out(answer) or strike_out(_BOXED_WORD.sub(r"\1", answer))


def _as_fractions(text: str) -> str:
    first, *rest = text.split("\\frac")
    pieces = [first]
    for piece in rest:
        if piece.startswith("{"):
            pieces.append(piece)
        elif len(piece) < 2:
            return text
        else:
            under = piece[1:] if piece[1] == "{" else f"{{{piece[1]}}}{piece[2:]}"
            pieces.append(f"{{{piece[0]}}}{under}")
    text = "\\frac".join(pieces)
    over, slash, under = text.partition("/")
    plain = all("sqrt" in part or (part != "" and part == str(_integer(part))) for part in (over, under))
    return f"\\frac{{{over}}}{{{under}}}" if slash and "/" not in under and plain else text


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch("-?[0-9]{1,1000}", text) else None


def as_number(text: str) -> float | None:
    r"""Read a number as the reference does: commas go, a percent sign divides by 100.

    Example:
        >>> as_number("1,2"), as_number("50%"), as_number("x")
        (12.0, 0.5, None)
    """
    text = text.replace(",", "")
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(text[:-1].removesuffix("\\")) / 100 if text.endswith("%") else None
    except ValueError:
        return None


def are_equal(answer: str, gold: str, symbolic: Symbolic) -> bool:
    """Compare as the reference does.

    Args:
        answer: The answer, with everything struck out.
        gold: The gold, likewise.
        symbolic: What compares two formulas.

    Returns:
        The verdict of the reference, apart from what the module says is left out.

    Example:
        >>> are_equal("0.7", "70", lambda *_: False), are_equal("12346", "12345", lambda *_: False)
        (True, True)
    """
    if answer == gold:
        return True
    number, expected = as_number(answer), as_number(gold)
    if number is not None and expected is not None:
        return any(_is_close(number, each) for each in (expected / 100, expected, expected * 100))
    if not answer:
        return False
    answer, gold = answer.strip(), gold.strip()
    if "pmatrix" in answer and "pmatrix" not in gold:
        gold = _as_matrices(gold)
    if _without_brackets(answer, gold) or _in_parts(answer, gold, symbolic):
        return True
    verdict = _equations(answer, gold, symbolic)
    return verdict or symbolic(answer, gold)


def _is_close(number: float, expected: float) -> bool:
    return math.isclose(expected, number, rel_tol=RELATIVE_TOLERANCE)


def _as_matrices(gold: str) -> str:
    found = [pair.strip("{}").replace(",", "\\") for pair in _PAIR_IN_BRACES.findall(gold)]
    return ", ".join(f"\\begin{{pmatrix}}{pair}\\end{{pmatrix}}" for pair in found)


def _without_brackets(answer: str, gold: str) -> bool:
    if (answer.startswith("[") and answer.endswith("]") and not gold.startswith("(")) or (
        answer.startswith("(") and answer.endswith(")") and not gold.startswith("[")
    ):
        answer, gold = answer.strip("[]()"), gold.strip("[]()")
    for mark in "{}()":
        answer, gold = answer.replace(mark, ""), gold.replace(mark, "")
    return answer.lower() == gold.lower()


def _in_parts(answer: str, gold: str, symbolic: Symbolic) -> bool:
    if _BRACKETED.match(answer) and _BRACKETED.match(gold):
        parts = answer[1:-1].split(","), gold[1:-1].split(",")
        # With one part each the reference compares what is inside, and goes on if that differs.
        if len(parts[0]) == len(parts[1]) and _all_equal(*parts, symbolic):
            return True
    matrices = _MATRIX.fullmatch(answer), _MATRIX.fullmatch(gold)
    if None in matrices:
        return False
    rows = [[row.strip() for row in matrix[1].split("\\\\") if row.strip()] for matrix in matrices]
    cells = [[row.split("&") for row in side] for side in rows]
    return len(cells[0]) == len(cells[1]) and all(
        len(one) == len(other) and _all_equal(one, other, symbolic) for one, other in zip(*cells, strict=True)
    )


def _all_equal(answers: list[str], golds: list[str], symbolic: Symbolic) -> bool:
    return all(are_equal(one, other, symbolic) for one, other in zip(answers, golds, strict=True))


def _equations(answer: str, gold: str, symbolic: Symbolic) -> bool:
    sides = [side.strip() for side in answer.split("=")], [side.strip() for side in gold.split("=")]
    counts = tuple(map(len, sides))
    if counts == (2, 2):
        one, other = (f"{left} - ({right})" for left, right in sides)
        return symbolic(one, other) or symbolic(f"-({one})", other)
    if counts == (2, 1) and len(sides[0][0]) <= 2:
        return are_equal(sides[0][1], gold, symbolic)
    if counts == (1, 2) and len(sides[1][0]) <= 2:
        return are_equal(answer, sides[1][1], symbolic)
    return False


def settle(answer: str, gold: str) -> bool | None:
    """Compare as far as that takes no computer algebra; None where it does."""
    asked = False

    def give_up(*_: str) -> bool:
        nonlocal asked
        asked = True
        return False

    verdict = are_equal(answer, gold, give_up)
    return None if asked and not verdict else verdict
