"""Judging by the checker of a tiny world."""

from collections.abc import Callable, Sequence

from ngrpo.types import Completion, Outcome, Prompt


class WorldReward:
    """The outcome that a world's checker gives.

    Args:
        check: Prompt text and completion text in, outcome out; `check` of a world.

    Example:
        >>> reward = WorldReward(lambda prompt, answer: Outcome(value=1.0, correct=True))
        >>> prompt = Prompt(id="0", text="1,2=3:", token_ids=(), gold="1+2")
        >>> reward([prompt], [Completion((), (), "1+2", "eos")])[0].correct
        True
    """

    def __init__(self, check: Callable[[str, str], Outcome]) -> None:
        self._check = check

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Outcome]:
        """Judge each completion against the prompt as the world wrote it, without the template around it."""
        return [
            self._check(prompt.columns.get("prompt", prompt.text), completion.text)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    def check_golds(self, golds: Sequence[str]) -> list[str | None]:
        """Every gold is fine: the checker reads the prompt, not the gold."""
        return [None] * len(golds)

    def close(self) -> None:
        """Nothing is held."""
