r"""The exact path: what plain rational numbers, words and structure settle without computer algebra.

It takes microseconds in the calling process, and only ever says what the full path would say.
"""

from fractions import Fraction

from ngrpo.rewards.matching import Matcher, Undecided, rounds_to
from ngrpo.rewards.profiles import Profile
from ngrpo.rewards.rational import as_fraction
from ngrpo.rewards.structure import Form, read


def settle(gold: str, answer: str, profile: Profile) -> bool | None:
    """Compare two answers, if that takes no computer algebra.

    Args:
        gold: The gold, tidied, not empty.
        answer: The answer, tidied.
        profile: What is let pass.

    Returns:
        Whether they are equal; None when only the full path can tell.

    Example:
        >>> from ngrpo.rewards import profiles
        >>> strict = profiles.get("strict")
        >>> settle("1/2", "0.5", strict), settle("(1,2)", "(1,3)", strict), settle("x+1", "1+x", strict)
        (True, False, None)
    """
    if gold == answer:
        return True
    gold_value, answer_value = as_fraction(gold), as_fraction(answer)
    if gold_value is not None and gold_value == answer_value:
        return True
    if gold_value is not None and answer_value is not None and profile.decimal_digits is None:
        return False
    try:
        return Matcher(profile, ExactAlgebra()).match(read(gold), read(answer))
    except Undecided:
        return None


class ExactAlgebra:
    """Plain rational numbers only; raises `Undecided` for everything else."""

    def same(self, gold: str, answer: str) -> bool:
        """Compare two numbers."""
        return gold == answer or _known(gold) == _known(answer)

    def rounds_to(self, exact: str, decimal: str, *, truncation: bool) -> bool:
        """Round a number."""
        return rounds_to(_known(exact), decimal, truncation=truncation)

    def proportional(self, gold: tuple[str, str], answer: tuple[str, str], *, positive: bool) -> bool:
        """Leave equations to the full path."""
        raise Undecided

    def same_sets(self, gold: Form, answer: Form) -> bool:
        """Leave unions to the full path."""
        raise Undecided


def _known(text: str) -> Fraction:
    value = as_fraction(text)
    if value is None:
        raise Undecided
    return value
