"""What virtual rewards do to advantages, in numbers: no training is needed to see it.

`results.json` of a sensitivity experiment has the list that `advantage_table` returns, as `advantages`.
"""

from typing import Any

from ngrpo import objectives

NUM_VIRTUALS = (1, 2, 4)
VIRTUAL_REWARDS, LOW_VIRTUAL_REWARDS = (1.0, 2.0, 4.0), (0.25, 0.5)
"""In multiples of the best reward of the task; the low ones only where they are asked for."""


def advantage_table(group_size: int, *, below_maximum: bool = False) -> list[dict[str, Any]]:
    """What virtual rewards do to advantages, without any training: for every number of correct completions.

    With k virtual rewards of v among G rewards of 0 and 1, of which c are 1, the mean is (c + k v) / (G + k). So

    - all wrong (c = 0): the numerator -k v / (G + k) and the standard deviation are both proportional to v, and their
      quotient does not depend on it: however much a virtual completion is worth, failing wholly weighs the same;
    - mixed: it depends on v, as the distance between 0 and 1 shrinks against the distance to v;
    - a correct completion is worth less than the mean, and is pushed DOWN, where c > G - k (v - 1): at k = 1, v = 4,
      G = 8 from six correct ones on, at k = v = 4 always.

    Args:
        group_size: Completions in the group, G.
        below_maximum: Whether virtual rewards below 1 are there too.

    Returns:
        By number and value of virtual rewards, GRPO (no virtual one) first: `num_virtual`, `virtual_reward` (None for
        GRPO), `group_size`, `wrong` and `correct` (for 0, 1, ... correct completions; None where there is no such
        completion), `kept` (whether the group enters the update), `punished_from` (fewest correct completions of a
        kept group in which these have a negative advantage; None for none).

    Example:
        >>> grpo, ngrpo, twice, *_ = advantage_table(8)
        >>> [round(each["wrong"][0], 4) for each in (grpo, ngrpo, twice)]     # all wrong
        [0.0, -0.3333, -0.3333]
        >>> [round(each["correct"][7], 2) for each in (grpo, ngrpo, twice)]    # one wrong
        [0.35, 0.33, 0.0]
    """
    cells: list[tuple[int, float | None]] = [(0, None)]
    rewards = (*LOW_VIRTUAL_REWARDS, *VIRTUAL_REWARDS) if below_maximum else VIRTUAL_REWARDS
    cells += [(number, reward) for number in NUM_VIRTUALS for reward in rewards]
    found = []
    for number, reward in cells:
        params: dict[str, Any] = {"num_virtual": number}
        if reward is not None:
            params |= {"virtual_reward": reward, "virtual_below_best": reward < 1.0}
        curve = objectives.sweep({"ngrpo": params}, group_size)["ngrpo"]
        pairs = zip(curve["correct"], curve["kept"], strict=True)
        punished = (count for count, (value, kept) in enumerate(pairs) if kept and value is not None and value < 0)
        found.append(
            {
                "num_virtual": number,
                "virtual_reward": reward,
                "group_size": group_size,
                **{key: curve[key] for key in ("wrong", "correct", "kept")},
                "punished_from": next(punished, None),
            }
        )
    return found
