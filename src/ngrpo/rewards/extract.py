r"""Finding the answer in what a model wrote. Strict: the last complete box outside of thought, or nothing.

Only lenient profiles fall back to the last number somewhere: a model that is rewarded for that learns to list numbers.
"""

import re
from dataclasses import dataclass

from ngrpo.rewards import paper
from ngrpo.rewards.profiles import MAX_ANSWER_CHARS, Profile
from ngrpo.rewards.tidy import tidy

# A box after a stray backslash (`\\boxed{5}`, as in doubly escaped text) is a box. Without braces TeX boxes one token;
# a number or a letter is taken whole.
_BARE = r"\s*-?[0-9]+(?:\.[0-9]+)?(?![0-9A-Za-z.])|\s+[A-Za-z](?![0-9A-Za-z])|\s*-?[0-9]+(?:\.[0-9]+)?(?=\.(?![0-9]))"
_TOKEN = re.compile(rf"\\boxed\s*\{{|\\boxed(?P<bare>{_BARE})|\\(?!\\boxed).|[{{}}]", re.DOTALL)
_FRAMED = re.compile(r"\\fbox(?![a-zA-Z])")
_PHRASES = re.compile(r"\banswer(?: is\b|:)(?:\*\*)?:?", re.IGNORECASE)
_NUMBERS = re.compile(r"(?<![0-9.])-?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?")
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|\Z)|\Z")
_FORMULA = re.compile(r"\$+([^$\n]+)\$+|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_TAG = re.compile(r"</?answer>")


@dataclass(frozen=True, slots=True)
class Found:
    """An answer in a text, or why there is none.

    Attributes:
        rule: The rule that found it; empty when none did.
        answer: The answer; None when there is no usable one.
        complaint: Why not, otherwise.
    """

    rule: str
    answer: str | None
    complaint: str = ""


def find_answer(text: str, profile: Profile) -> Found:
    r"""Find the answer by the rules of a profile: the first rule that finds something decides.

    Args:
        text: A completion.
        profile: Whose rules to use.

    Returns:
        The answer and the rule. What a rule found but is empty, or longer than `MAX_ANSWER_CHARS`, is no answer.

    Example:
        >>> from ngrpo.rewards import profiles
        >>> find_answer(r"\boxed{3} is wrong, it is \boxed{ 4 }", profiles.get("strict"))
        Found(rule='boxed', answer='4', complaint='')
        >>> find_answer("The answer is 4.", profiles.get("lenient"))
        Found(rule='answer_is', answer='4', complaint='')
    """
    if profile.follows_paper:
        rule, answer = paper.find_answer(text)
        return _checked(rule, answer, is_empty=not paper.readable(answer[: MAX_ANSWER_CHARS + 1]))
    spoken = outside_thought(text)
    if spoken is not None and (found := _first(spoken, profile)) is not None:
        return found
    if profile.reads_more and (found := _first(text, profile)) is not None:
        return found
    missing = (
        r"no complete \boxed{...}" if len(profile.rules) == 1 else f"no answer by the rules {', '.join(profile.rules)}"
    )
    return Found("", None, "<think> is not closed" if spoken is None else missing)


def _first(text: str, profile: Profile) -> Found | None:
    finders = {
        "boxed": lambda text: last_boxed(_FRAMED.sub(r"\\boxed", text) if profile.reads_more else text),
        "answer_tag": last_tagged,
        "answer_is": last_phrase,
        "last_number": last_number,
    }
    for rule in profile.rules:
        if rule != "boxed" and "\\boxed" in text:
            return None  # a box that was begun and cut off
        found = finders[rule](text)
        if found is not None:
            answer = found[1].strip()
            is_empty = len(answer) <= MAX_ANSWER_CHARS and not tidy(answer)
            return _checked(rule, answer, is_empty=is_empty)
    return None


def _checked(rule: str, answer: str, *, is_empty: bool) -> Found:
    place = "box" if rule == "boxed" else "answer"
    if len(answer) > MAX_ANSWER_CHARS:
        return Found(rule, None, f"the {place} holds {len(answer)} characters, more than {MAX_ANSWER_CHARS}")
    return Found(rule, None, f"the {place} is empty") if is_empty else Found(rule, answer)


def last_phrase(text: str) -> tuple[int, str] | None:
    r"""Find what follows the last "answer is" or "answer:", up to the end of the sentence.

    Args:
        text: Any text.

    Returns:
        The offset and the answer: the first formula between dollars there, or else all of the sentence; None when the
        phrase does not occur.

    Example:
        >>> last_phrase("The answer is $x = 3.5$, I think.")
        (13, 'x = 3.5')
        >>> last_phrase("Answer: 3.5.")
        (7, '3.5')
    """
    start = -1
    for phrase in _PHRASES.finditer(text):
        start = phrase.end()
    if start < 0:
        return None
    rest = text[start : start + 4 * MAX_ANSWER_CHARS]
    line = rest.lstrip().partition("\n")[0]
    formula = _FORMULA.search(line)
    end = _SENTENCE_END.search(line)
    if formula is not None and formula.start() <= end.start():
        return start, next(group for group in formula.groups() if group is not None)
    return start, line[: end.start()].strip(" *")


def last_number(text: str) -> tuple[int, str] | None:
    """Find the last number, thousands marked by commas included.

    Example:
        >>> last_number("2 + 3 makes 5, or 5,000.0 in all.")
        (18, '5,000.0')
    """
    last = max(_NUMBERS.finditer(text), key=re.Match.start, default=None)
    return None if last is None else (last.start(), last[0])


def outside_thought(text: str) -> str | None:
    """Leave out what stands between `<think>` and `</think>`.

    Args:
        text: A completion.

    Returns:
        The rest, or None when the last `<think>` is not closed: then there is no answer yet. A `</think>` whose
        `<think>` is missing was opened by the prompt: everything before it is thought.

    Example:
        >>> outside_thought("<think>maybe 3</think>It is 4.")
        'It is 4.'
        >>> outside_thought("It is 4. <think>or 5") is None
        True
    """
    if "think>" not in text:
        return text
    *closed, rest = text.split("</think>")
    if "<think>" in rest:
        return None
    # A newline, so that what stood on both sides of a thought is not joined into one number.
    return "\n".join([*(part[: part.index("<think>")] for part in closed if "<think>" in part), rest]).lstrip("\n")


def last_boxed(text: str) -> tuple[int, str] | None:
    r"""Find the last complete `\boxed{...}`: the one that opens last among those whose braces close.

    Args:
        text: Any text; the cost is linear in its length.

    Returns:
        The offset of its content in `text`, and the content; None when there is none. `\{` and `\}` do not count
        as braces; `\fbox` and `\boxed 5` are not boxes.

    Example:
        >>> last_boxed(r"First \boxed{3}, no: \boxed{\{4\}}, or \boxed{5")
        (28, '\\{4\\}')
    """
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    # Nearly always the last box is complete: then nothing before it has to be read.
    return _last_complete(text, start) or _last_complete(text, 0)


def _last_complete(text: str, start: int) -> tuple[int, str] | None:
    opened: list[int] = []  # offset of the content for a box, -1 for any other brace
    begin, end = -1, -1
    for token in _TOKEN.finditer(text, start):
        symbol = token[0]
        if symbol == "{":
            opened.append(-1)
        elif symbol == "}":
            content = opened.pop() if opened else -1
            if content > begin:
                begin, end = content, token.start()
        elif token["bare"] is not None:
            if token.start("bare") > begin:
                begin, end = token.start("bare"), token.end()
        elif len(symbol) > 2:
            opened.append(token.end())
    return (begin, text[begin:end]) if begin >= 0 else None


def last_tagged(text: str) -> tuple[int, str] | None:
    """Find the last complete `<answer>...</answer>`.

    Args:
        text: Any text.

    Returns:
        The offset of its content in `text`, and the content; None when there is none.

    Example:
        >>> last_tagged("<answer>3</answer> no, <answer> 4 </answer> <answer>")
        (31, ' 4 ')
    """
    opened, found = -1, None
    for tag in _TAG.finditer(text):
        if tag[0] == "<answer>":
            opened = tag.end()
        elif opened >= 0:
            found, opened = (opened, text[opened : tag.start()]), -1
    return found
