r"""Finding the answer in what a model wrote. Strict: the last complete marker outside of thought, or nothing.

Nothing here falls back to "the last number somewhere": a model would learn to list numbers.
"""

import re

# A box after a stray backslash (`\\boxed{5}`, as in doubly escaped text) is a box.
_TOKEN = re.compile(r"\\boxed\s*\{|\\(?!\\boxed).|[{}]", re.DOTALL)
_TAG = re.compile(r"</?answer>")


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
