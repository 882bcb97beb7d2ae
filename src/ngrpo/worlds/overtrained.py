"""The overtrained world: countdown with so few training problems that a run goes over them again and again.

Everything is countdown's, its base model and held-out rows included, but the split `train`: of each seed it has
`NUM_TRAIN_PROBLEMS` rows and no more, all different problems. What a model learns of them it can learn by heart.
"""

from dataclasses import replace

from ngrpo.worlds.countdown import COUNTDOWN, generate_rows
from ngrpo.worlds.world import Row, require_distinct

NUM_TRAIN_PROBLEMS = 128
"""At 32 prompts per step, four steps go over all of them once."""


def generate(split: str, size: int, seed: int) -> list[Row]:
    """Make the first `size` rows of a split; see `World.problems`.

    Raises:
        DataError: More rows were asked for than the split has different problems.
    """
    if split != "train":
        return COUNTDOWN.problems(split, size, seed)
    require_distinct("overtrained", split, size, NUM_TRAIN_PROBLEMS)
    return generate_rows(split, size, seed, are_distinct=True)


OVERTRAINED = replace(COUNTDOWN, name="overtrained", version=1, generate=generate)
