"""What every reward looks like to the code that uses it."""

from collections.abc import Sequence
from typing import Protocol

from ngrpo.types import Completion, Outcome, Prompt


class Reward(Protocol):
    """Judges completions against their prompts.

    What a model wrote never makes a reward raise; it only decides the outcome. What the user wrote (a gold, a
    function) does raise, as one of `ngrpo.errors`.

    A reward may have an attribute `judges_elsewhere`. Where it is true, the work is done in other processes, an outcome
    depends on nothing but its prompt and completion, and any thread may call: then completions are judged in whatever
    batches they come while others are still sampled. Without it a reward is called from the thread that samples.
    """

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Outcome]:
        """Judge a batch.

        Args:
            prompts: One per completion; the same prompt may come many times.
            completions: What was answered.

        Returns:
            One outcome per completion, in the same order.
        """
        ...

    def check_golds(self, golds: Sequence[str]) -> list[str | None]:
        """Say of each gold why it can never be matched, or None when it can. Called once with all, before training."""
        ...

    def close(self) -> None:
        """End whatever processes the reward holds. It may be called again, and starts them again when used."""
        ...


def judges_elsewhere(reward: Reward) -> bool:
    """Whether a reward says that it may be called while others are sampled; see `Reward`."""
    return getattr(reward, "judges_elsewhere", False)
