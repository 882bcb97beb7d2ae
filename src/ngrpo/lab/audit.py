"""The split audit: no problem of one split is among those of another, nor among what the base was shown.

Looked for before anything runs, whatever a world promises: a leak makes every number of an experiment worthless.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

from ngrpo import worlds
from ngrpo.config import Data
from ngrpo.errors import DataError
from ngrpo.lab.arms import splits_of
from ngrpo.lab.setups import Setup

MAX_DEMONSTRATIONS = 4096
"""Of what a base is shown so many are looked at, the first ones: to make them all takes most of a minute."""

Part = tuple[str, Sequence[str]]
"""A name for messages, and the prompts of it."""


def audit(setup: Setup, training: Sequence[Data] = ()) -> dict[str, Any]:
    """Looks at what a world's base is shown, and at the prompts of training, validation and test.

    Args:
        setup: Of the world, which says what another way of writing the same problem is.
        training: Prompts that arms train on where these are not the setup's own. They may share problems with each
            other, and with nothing else.

    Returns:
        For the record: rows and different problems of each part, and that they share none.

    Raises:
        DataError: A problem is in two of them; it is shown.
    """
    warm_start = setup.warm_start
    size = min(MAX_DEMONSTRATIONS, warm_start.num_steps * warm_start.rows_per_step)
    shown = worlds.get(warm_start.world).demonstrations(size, 0)
    base = (f"what the base is shown (the first {size})", [each.prompt for each in shown])
    own, *held_out = splits_of(setup)
    counts: dict[str, dict[str, int]] = {}
    for trained_on in {data.model_dump_json(): data for data in [own, *training]}.values():
        parts = [base, *map(_part, [trained_on, *held_out])]
        counts |= check_disjoint(parts, worlds.get(setup.world).canonical)
    return {"splits": counts, "num_shared": 0, "num_shared_with_train": 0}


def check_disjoint(parts: Sequence[Part], canonical: Callable[[str], str]) -> dict[str, dict[str, int]]:
    """Counts problems, and refuses two parts that have one in common.

    Args:
        parts: Names and prompts.
        canonical: `World.canonical`.

    Returns:
        Name to numbers of rows and of different problems.

    Raises:
        DataError: A problem is in two parts; it is shown as either has it.
    """
    found = [(name, {canonical(prompt): prompt for prompt in prompts}) for name, prompts in parts]
    for (one, problems), (other, others) in combinations(found, 2):
        if shared := problems.keys() & others.keys():
            key = min(shared)
            raise DataError(
                f"{len(shared)} of {len(others)} problems of {other} are among those of {one}: {others[key]!r} is "
                f"{problems[key]!r} there. What is measured on them is memory. Choose other data.split or data.seed."
            )
    return {
        name: {"num_rows": len(prompts), "num_problems": len(problems)}
        for (name, prompts), (_, problems) in zip(parts, found, strict=True)
    }


def _part(data: Data) -> Part:
    world = worlds.get(data.source.partition(":")[2])
    rows = world.problems(data.split, data.size, data.seed)
    return f"{data.source} {data.split} seed {data.seed}", [row["prompt"] for row in rows[: data.limit]]
