"""Main effects and interactions of a full two-level factorial, with intervals over seeds and prompts. Numpy only.

Axes: S seeds, P prompts, M quantities.

Every factor has two levels, low (False) and high (True), and every combination of levels is a cell that was run with
the same seeds and evaluated on the same prompts. The effect of a set of factors is one contrast of the cells:

    effect = mean of the cells in which an even number of these factors is low - mean of the other cells

Of one factor this is the mean at its high level minus the mean at its low level, over all levels of the others: its
main effect. Of two it is half the difference of differences: half of what the effect of one is larger by at the high
level of the other than at its low level. Of three it is half of what the interaction of two is larger by at the high
level of the third. All are in the units of the quantity, and all have the same standard error.

What factors do together in a cell is their main effects and interactions summed, each halved, with the sign of the
contrast, around the mean of all cells: nothing is lost, and a table without interactions is additive.

Contrasts are linear. So each is taken seed by seed and prompt by prompt first, which pairs the cells, and its interval
afterwards.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from ngrpo.errors import DataError
from ngrpo.stats import Interval, bootstrap_interval, crossed_interval

Levels = tuple[bool, ...]
"""A cell: for each factor in turn whether it is at its high level."""


def factorial_effects(
    cells: Mapping[Levels, NDArray[np.float64]], factors: Sequence[str]
) -> dict[tuple[str, ...], Interval]:
    """Every main effect and interaction, with 95 % intervals over seeds and prompts; of one seed, over prompts.

    Args:
        cells: [S, P, M] values of every cell; axis 0 are the same seeds and axis 1 the same prompts in all of them.
        factors: Names, in the order of the levels.

    Returns:
        By factors, main effects first: the effect with its interval, [M] each, in the units of the values.

    Raises:
        DataError: A cell is missing, or two have other seeds, prompts or quantities.

    Example:
        >>> cells = {(False,): np.zeros((1, 1, 1)), (True,): np.full((1, 1, 1), 2.0)}
        >>> factorial_effects(cells, ["clip"])[("clip",)].estimate
        array([2.])
    """
    _check(cells, factors)
    found = {}
    for order in range(1, len(factors) + 1):
        for chosen in combinations(range(len(factors)), order):
            values = contrast(cells, chosen)
            names = tuple(factors[place] for place in chosen)
            found[names] = bootstrap_interval(values[0]) if len(values) == 1 else crossed_interval(values)
    return found


def contrast(cells: Mapping[Levels, NDArray[np.float64]], chosen: Sequence[int]) -> NDArray[np.float64]:
    """The effect of some factors seed by seed and prompt by prompt: [S, P, M].

    Args:
        cells: All cells of a factorial, as in `factorial_effects`.
        chosen: Which of the factors, by their place.

    Example:
        >>> cells = {(a, b): np.array([[[float(a and b)]]]) for a in (False, True) for b in (False, True)}
        >>> contrast(cells, [0]).item(), contrast(cells, [0, 1]).item()     # 1/2 - 0, and ((1 - 0) - (0 - 0)) / 2
        (0.5, 0.5)
    """
    rest = {levels: cells[levels] for levels in sorted(cells)}
    # From the last factor to the first, so that the places of the others stay. All differences come before any mean:
    # cells that are equal then cancel exactly, and an effect that cannot be is zero and not a rounding.
    for place in sorted(chosen, reverse=True):
        low, high = (at_level(rest, place, is_high=level) for level in (False, True))
        rest = {levels: high[levels] - low[levels] for levels in high}
    return sum(rest.values()) / len(rest) / 2 ** (len(chosen) - 1)


def at_level(
    cells: Mapping[Levels, NDArray[np.float64]], place: int, *, is_high: bool
) -> dict[Levels, NDArray[np.float64]]:
    """The smaller factorial of the other factors, among the cells in which one factor is at one level.

    Args:
        cells: All cells of a factorial, as in `factorial_effects`.
        place: Of the factor that is held.
        is_high: At which level.

    Example:
        >>> cells = {(a, b): np.array([[[float(a and b)]]]) for a in (False, True) for b in (False, True)}
        >>> [contrast(at_level(cells, 0, is_high=level), [0]).item() for level in (False, True)]
        [0.0, 1.0]
    """
    return {
        levels[:place] + levels[place + 1 :]: values for levels, values in cells.items() if levels[place] is is_high
    }


def _check(cells: Mapping[Levels, NDArray[np.float64]], factors: Sequence[str]) -> None:
    """Refuses what is no full factorial of comparable cells."""
    needed = set(product((False, True), repeat=len(factors)))
    if not factors or set(cells) != needed:
        named = "; ".join(
            ", ".join(f"{factor} {'high' if high else 'low'}" for factor, high in zip(factors, levels, strict=True))
            for levels in sorted(needed - set(cells))
        )
        raise DataError(
            f"a full factorial of {len(factors)} factors has {len(needed)} cells, got {len(cells)}. Missing: "
            f"{named or 'none; there are others'}. Run these arms too."
        )
    shapes = {values.shape for values in cells.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 3:
        raise DataError(
            f"cells must all be [seeds, prompts, quantities] of the same sizes, got {sorted(map(list, shapes))}. "
            "Evaluate every run on the same prompts."
        )
