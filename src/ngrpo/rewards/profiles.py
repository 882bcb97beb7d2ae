"""Profiles of the verifier: which text counts as the answer, and what is let pass where people differ.

`docs/verifier.md` shows them side by side.
"""

from dataclasses import dataclass

from ngrpo.errors import ConfigError

# The longest gold of MATH has 159 characters. Longer "answers" are degenerate text, and cost the most to parse.
MAX_ANSWER_CHARS = 512


@dataclass(frozen=True, slots=True)
class Profile:
    r"""One way to read and to compare answers.

    Attributes:
        name: What `get` finds it by.
        rules: Rules of extraction, by priority: the first that finds something decides, even when that is empty.
            `boxed` (last complete box outside of thought), `answer_tag`, `answer_is`, `last_number`.
        follows_paper: Extraction and comparison go by the rules of the paper's code; the fields below are not used.
        decimal_digits: A decimal written with at least so many significant digits is taken for the fraction or the
            irrational number that it agrees with to its last place; None for never.
        ignores_case: Words, and single letters that are the whole answer, are compared without case.
        ignores_repeats: The list `1, 1, 2` is `1, 2`.
        ignores_notation: A tuple is a vector, a bare list a tuple in the same order, an inequality an interval, 25\%
            is 0.25, `four` is 4; a base and the half of the day may be left out. `docs/verifier.md` has all of it.
        reads_more: Where there is no answer outside of thought, what stands in it is read; `\fbox` is a box.
    """

    name: str
    rules: tuple[str, ...]
    follows_paper: bool = False
    decimal_digits: int | None = None
    ignores_case: bool = False
    ignores_repeats: bool = False
    ignores_notation: bool = False
    reads_more: bool = False


_PROFILES = {
    profile.name: profile
    for profile in (
        Profile("strict", rules=("boxed",)),
        Profile(
            "lenient",
            rules=("boxed", "answer_tag", "answer_is", "last_number"),
            decimal_digits=6,
            ignores_case=True,
            ignores_repeats=True,
            ignores_notation=True,
            reads_more=True,
        ),
        Profile("paper", rules=("boxed", "answer_is", "last_number"), follows_paper=True),
    )
}


def get(name: str) -> Profile:
    """Find a profile.

    Args:
        name: `strict`, `lenient` or `paper`.

    Raises:
        ConfigError: There is no such profile.

    Example:
        >>> get("strict").rules
        ('boxed',)
    """
    if name not in _PROFILES:
        raise ConfigError(f"there is no verifier profile {name!r}. Choose one of {', '.join(_PROFILES)}.")
    return _PROFILES[name]


def names() -> list[str]:
    """List the profiles.

    Example:
        >>> names()
        ['strict', 'lenient', 'paper']
    """
    return list(_PROFILES)
