"""The tiny worlds: task generators with exact checkers and splits that share nothing.

Standard library only, but for the worlds of reasoning-gym, which import it when they are asked for rows.
"""

from ngrpo.errors import DataError
from ngrpo.worlds.countdown import COUNTDOWN
from ngrpo.worlds.gym_chain_sum import GYM_CHAIN_SUMS
from ngrpo.worlds.misconception import MISCONCEPTIONS
from ngrpo.worlds.overtrained import OVERTRAINED
from ngrpo.worlds.world import Demonstration, Row, World

__all__ = ["Demonstration", "Row", "World", "get", "names"]

_WORLDS = {world.name: world for world in (COUNTDOWN, *MISCONCEPTIONS, OVERTRAINED, *GYM_CHAIN_SUMS)}


def names() -> list[str]:
    """List the worlds by name.

    Example:
        >>> "countdown" in names()
        True
    """
    return sorted(_WORLDS)


def get(name: str) -> World:
    """Find a world by its name.

    Args:
        name: One of `names()`.

    Returns:
        The world: a frozen record of its generator, checker and limits.

    Raises:
        DataError: There is no such world.

    Example:
        >>> world = get("countdown")
        >>> row = world.problems("test", 1, 0)[0]
        >>> world.check(row["prompt"], row["gold"]).correct
        True
    """
    if name not in _WORLDS:
        raise DataError(f"there is no world {name!r}. The worlds are: {', '.join(names())}.")
    return _WORLDS[name]
