r"""Spelling of answers: everything that TeX writes in several ways and that never changes what is meant.

After `tidy` there is one way to write a fraction, a piece of plain text, a space, a degree, a minus.
"""

import re

_SYMBOLS = {
    "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u2010": "-", "\u2011": "-",
    "\u00d7": "\\times ", "\u00f7": "\\div ", "\u00b7": "\\cdot ", "\u22c5": "\\cdot ", "\u2217": "*",
    "\u03c0": "\\pi ", "\u03b8": "\\theta ", "\u03b1": "\\alpha ", "\u03b2": "\\beta ",
    "\u221e": "\\infty ", "\u2264": "\\le ", "\u2265": "\\ge ", "\u2260": "\\ne ", "\u2248": "\\approx ",
    "\u222a": "\\cup ", "\u2229": "\\cap ", "\u2208": "\\in ", "\u2205": "\\emptyset ", "\u00b1": "\\pm ",
    "\u221a": "\\sqrt ", "\u00b0": "^\\circ ", "\u00ba": "^\\circ ", "\u02da": "^\\circ ",
    "\u27e8": "\\langle ", "\u27e9": "\\rangle ",
    "\u211d": "\\mathbb{R} ",
    "\u00bd": "\\frac{1}{2}", "\u00bc": "\\frac{1}{4}", "\u00be": "\\frac{3}{4}",
    "\u2153": "\\frac{1}{3}", "\u2154": "\\frac{2}{3}",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2002": " ", "\u2003": " ", "\u3000": " ",
    "\u200b": "", "\ufeff": "", "\u2060": "",
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\uff0c": ",",
}  # fmt: skip
_UNICODE = str.maketrans(_SYMBOLS)
_RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+")
_RAISED_DIGITS = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b", "0123456789-")

_RENAMED = {
    "dfrac": "\\frac", "tfrac": "\\frac", "cfrac": "\\frac", "leq": "\\le", "leqslant": "\\le", "geq": "\\ge",
    "geqslant": "\\ge", "neq": "\\ne", "lt": "<", "gt": ">", "varnothing": "\\emptyset", "degree": "^\\circ",
    "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "vert": "|", "lvert": "|", "rvert": "|",
    "mid": "|", "colon": ":", "dots": "\\ldots", "cdots": "\\ldots", "dotsc": "\\ldots", "bar": "\\overline",
    "dbinom": "\\binom", "tbinom": "\\binom", "ast": "*", "land": "\\wedge", "to": "\\rightarrow", "percent": "\\%",
    "nobreakspace": " ", "quad": " ", "qquad": " ", "enspace": " ", "thinspace": " ", "space": " ",
    "degrees": "^\\circ", "dollar": "\\$", "textdollar": "\\$", "textdegree": "^\\circ", "textpercent": "\\%",
}  # fmt: skip
_DROPPED = frozenset(
    re.findall(
        r"\w+",
        "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle "
        "textstyle scriptstyle limits mathstrut strut rm bf it sf tt cal bm negthinspace",
    )
)
_TEXTS = frozenset(
    re.findall(
        r"\w+",
        "text textbf textrm textit textsf texttt textnormal textup mbox hbox mathrm mathbf mathit mathsf "
        "mathtt mathnormal operatorname boldsymbol",
    )
)
_COMMAND = re.compile(r"\\([a-zA-Z]+|.)", re.DOTALL)
_SPACE_MARKS = frozenset(",;:> \n\t")
_WRAPPERS = frozenset("()[]!")

_MARKED_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\!,|\\,|\\ |\\;|\\:)(?:\\!|\s)*(?=\d{3}(?!\d))")
_BRACED_SIGN = re.compile(r"(?<![\^_A-Za-z])\{([:=<>+-])\}")
_PHANTOM = re.compile(r"\\[hv]?phantom\s*(?:\{[^{}]*\}|[^{}\\])")
_TEXT_SPACE = re.compile(r"\\text\s*\{\s*([^{}]*?)\s*\}")
# After a number a letter is a unit, and stays marked as text.
_ONE_LETTER = re.compile(r"(?<![0-9})°|/])\\text\{([A-Za-z]|[0-9.,+-]+)\}")
_CIRC = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))")
_IDLE_SPACE = re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])")
_SPACES = re.compile(r"\s+")
_TRAILING = " \t\r\n\f\v.,;\\"


def tidy(text: str) -> str:
    r"""Write an answer in the one way that the rest of the verifier reads.

    Taken away: spaces (but not those between two letters or digits), sizes of delimiters, dollar signs around
    formulas, marks between thousands that are marks beyond doubt (`1{,}000`, `5,\!525`), a full stop at the end.
    Renamed: `\dfrac` to `\frac`, `\mbox` and its like to `\text`, Unicode symbols to commands, `^\circ` to the sign.

    Args:
        text: The content of a box, or a gold.

    Returns:
        A string; two answers whose strings are equal and not empty are the same answer.

    Example:
        >>> tidy(r" \left( \dfrac{1}{2} , 3 \right). ")
        '(\\frac{1}{2},3)'
        >>> tidy(r"30^{\circ}"), tidy("1 2"), tidy(r"\mbox{ cm }")
        ('30°', '1 2', '\\text{cm}')
    """
    if text.isalnum() and text.isascii():
        return text
    if not text.isascii():
        text = _RAISED.sub(lambda raised: f"^{{{raised[0].translate(_RAISED_DIGITS)}}}", text.translate(_UNICODE))
    if "\\" in text:
        text = _PHANTOM.sub("", _MARKED_THOUSANDS.sub("", text.replace("\\left.", " ").replace("\\right.", " ")))
        text = _COMMAND.sub(_rename, text)
        text = _TEXT_SPACE.sub(r"\\text{\1}", text)
        text = _CIRC.sub("°", text)
    elif "{,}" in text:
        text = _MARKED_THOUSANDS.sub("", text)
    if "{" in text:
        text = _BRACED_SIGN.sub(r"\1", text)
    text = text.replace("$", "").replace("~", " ").replace("\x01", "\\$")
    text = _SPACES.sub(" ", text.strip().rstrip(_TRAILING))
    text = _IDLE_SPACE.sub("", text)
    return _unwrap(_ONE_LETTER.sub(_bare, text) if "\\text" in text else text)


def _bare(match: re.Match[str]) -> str:
    before = match.string[match.start() - 1 : match.start()]
    return f" {match[1]}" if before.isalpha() else match[1]


def _rename(match: re.Match[str]) -> str:
    name = match[1]
    if name in _DROPPED:
        return " "
    if name in _TEXTS:
        return "\\text"
    if name in _SPACE_MARKS:
        return " "
    if name in _WRAPPERS:
        return ""
    if name == "$":
        return "\x01"
    return _RENAMED.get(name, match[0])


def _unwrap(text: str) -> str:
    """Take off braces that hold everything."""
    while text.startswith("{") and closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def closing(text: str, start: int) -> int:
    r"""Find the brace that closes the one at `start`, or -1.

    Example:
        >>> closing(r"{a{b}\}}c", 0)
        7
    """
    depth, at = 0, start
    while at < len(text):
        symbol = text[at]
        if symbol == "\\":
            at += 1
        elif symbol == "{":
            depth += 1
        elif symbol == "}":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return -1


_TAKES = {"frac": 2, "binom": 2, "sqrt": 1, "overline": 1}
_TAKER = re.compile(r"\\(frac|binom|sqrt|overline)(?![a-zA-Z])\s*(\[[^\[\]]*\])?")


def brace_arguments(text: str) -> str:
    r"""Write the braces that TeX lets one leave out: `\frac12`, `\frac\pi 2`, `\sqrt2`, `x^10`, `x_1`.

    Args:
        text: A tidied answer.

    Example:
        >>> brace_arguments(r"\frac\pi2+\sqrt3x^10")
        '\\frac{\\pi}{2}+\\sqrt{3}x^{10}'
    """
    if "\\" in text:
        pieces, at = [], 0
        while (taker := _TAKER.search(text, at)) is not None:
            pieces += [text[at : taker.start()], f"\\{taker[1]}{taker[2] or ''}"]
            at = taker.end()
            for _ in range(_TAKES[taker[1]]):
                argument, at = _argument(text, at)
                pieces.append(f"{{{argument}}}")
        text = "".join([*pieces, text[at:]])
    return _SCRIPT.sub(r"\1{\2}", text)


_SCRIPT = re.compile(r"([\^_])\s*(-?[0-9]+(?:\.[0-9]+)?|[A-Za-z])")


def _argument(text: str, at: int) -> tuple[str, int]:
    while text[at : at + 1] == " ":
        at += 1
    if text[at : at + 1] == "{":
        end = closing(text, at)
        end = len(text) if end < 0 else end
        return brace_arguments(text[at + 1 : end]), end + 1
    if (command := _COMMAND.match(text, at)) is not None:
        pieces, at = [command[0]], command.end()
        for _ in range(_TAKES.get(command[1], 0)):
            inner, at = _argument(text, at)
            pieces.append(f"{{{inner}}}")
        return "".join(pieces), at
    return text[at : at + 1], at + 1
