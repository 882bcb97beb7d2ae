"""A third verdict: right, wrong, and declined to answer."""

from collections.abc import Sequence
from dataclasses import replace

from ngrpo.rewards.protocol import Reward, judges_elsewhere
from ngrpo.types import Completion, Outcome, Prompt


class AbstentionReward:
    """Another reward's verdicts, with wrong completions that decline to answer told apart as `abstained`.

    Their value and label stay what they were. A right answer is right, whatever else it says, and where the other
    reward failed (`timeout`, `error`) nobody knows what it is.

    Args:
        inner: Judges.
        phrases: A completion that contains one of these, in upper or lower case, declines to answer.

    Example:
        >>> from ngrpo.rewards import WorldReward
        >>> judge = WorldReward(lambda prompt, answer: Outcome(value=0.0, correct=False))
        >>> reward = AbstentionReward(judge, ["I don't know"])
        >>> prompt = Prompt(id="0", text="1,2=3:", token_ids=(), gold="1+2")
        >>> [reward([prompt], [Completion((), (), text, "eos")])[0].kind for text in ("Well, i DON'T know.", "2")]
        ['abstained', 'scored']
    """

    def __init__(self, inner: Reward, phrases: Sequence[str]) -> None:
        self.inner, self.judges_elsewhere = inner, judges_elsewhere(inner)
        self._phrases = [phrase.casefold() for phrase in phrases]

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Outcome]:
        """Judge a batch; see `Reward`."""
        outcomes = self.inner(prompts, completions)
        return [
            replace(outcome, kind="abstained")
            if not (outcome.correct or outcome.is_failure) and self._declines(completion.text)
            else outcome
            for outcome, completion in zip(outcomes, completions, strict=True)
        ]

    def _declines(self, text: str) -> bool:
        folded = text.casefold()
        return any(phrase in folded for phrase in self._phrases)

    def check_golds(self, golds: Sequence[str]) -> list[str | None]:
        """As the reward that judges."""
        return self.inner.check_golds(golds)

    def close(self) -> None:
        """Ends what the reward that judges holds."""
        self.inner.close()
