r"""Judging answers to mathematics problems: `\boxed{...}` against a gold.

What counts as the answer is strict: the last complete `\boxed{...}` outside of `<think>...</think>`, at most
`MAX_ANSWER_CHARS` long. No box, no answer. Equal strings and equal exact numbers are settled on the spot; everything
else goes to math-verify in a worker process with a deadline. No text is ever executed.

Decided where people differ: `50\%` equals both 50 and 0.5; `[1,2]` is not `(1,2)`; lists of numbers may come in any
order; a decimal equals a fraction only when it does exactly (0.3333 is not 1/3), but an irrational gold is matched by
a decimal that agrees to 6 places; degrees and units may be left out.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

from ngrpo.errors import DataError
from ngrpo.rewards.exact import as_fraction, is_wording, normalise
from ngrpo.rewards.extract import last_boxed, outside_thought
from ngrpo.rewards.worker import Worker
from ngrpo.types import Completion, Outcome, Prompt

# The longest gold of MATH has 159 characters. Longer "answers" are degenerate text, and cost the most to parse.
MAX_ANSWER_CHARS = 512

DEFAULT_TIMEOUT_S = 10.0


class MathReward:
    r"""Value 1.0 for a right `\boxed{...}`, else 0.0. See the module for what is right.

    Args:
        timeout_s: Wall-clock seconds math-verify may take over one answer; past it the outcome is a `timeout`.

    Example:
        >>> reward = MathReward()
        >>> reward.grade(r"So it is \boxed{\frac{1}{2}}.", "0.5").correct
        True
        >>> reward.close()
    """

    def __init__(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._worker = Worker(make_comparison, deadline_s=timeout_s)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Outcome]:
        """Judge each completion against the gold of its prompt."""
        outcomes = []
        for prompt, completion in zip(prompts, completions, strict=True):
            reason = self.check_gold(prompt.gold)
            if reason is not None:
                raise DataError(f"{prompt.source or 'prompt ' + prompt.id}: {reason}. Mend or leave out that row.")
            outcomes.append(self.grade(completion.text, prompt.gold))
        return outcomes

    def grade(self, completion_text: str, gold_text: str) -> Outcome:
        r"""Judge one text.

        Args:
            completion_text: What the model wrote, whatever it is.
            gold_text: The reference answer: bare (`\frac{1}{2}`), or a solution that boxes it or ends in `#### 5`.

        Returns:
            The outcome. Kind `unparsed` without a usable box, `timeout` and `error` when math-verify failed.

        Raises:
            DataError: The gold is empty, or too long to be an answer.
        """
        reason = self.check_gold(gold_text)
        if reason is not None:
            raise DataError(f"{reason}: {gold_text[:80]!r}. There is nothing to compare answers with.")
        answer, complaint = extract_answer(completion_text)
        if answer is None:
            return Outcome(value=0.0, correct=False, kind="unparsed", detail=complaint)
        return self._compare(final_answer(gold_text), answer)

    def check_gold(self, gold: str) -> str | None:
        """Say why no answer could match this gold, or None."""
        answer = final_answer(gold)
        if not normalise(answer):
            return "the gold is empty"
        if len(answer) > MAX_ANSWER_CHARS:
            return f"the gold has {len(answer)} characters and at most {MAX_ANSWER_CHARS} are compared"
        return None

    def close(self) -> None:
        """End the worker process, if one runs."""
        self._worker.close()

    def _compare(self, gold: str, answer: str) -> Outcome:
        plain_gold, plain_answer = normalise(gold), normalise(answer)
        if plain_gold == plain_answer:
            return _judged(True, answer, "equal strings")
        gold_value, answer_value = as_fraction(plain_gold), as_fraction(plain_answer)
        if gold_value is not None and answer_value is not None:
            return _judged(gold_value == answer_value, answer, "compared as exact numbers")
        if is_wording(gold):
            return _judged(plain_gold.casefold() == plain_answer.casefold(), answer, "compared as words")
        reply = self._worker.call(gold, answer)
        if reply.status == "ok":
            return _judged(reply.value == "equal", answer, f"math-verify: {reply.value}")
        kind = "timeout" if reply.status == "timeout" else "error"
        return Outcome(value=0.0, correct=False, kind=kind, extracted=answer, detail=reply.detail)


def grade(completion_text: str, gold_text: str) -> Outcome:
    r"""Judge one text with a worker that all callers share; see `MathReward.grade`.

    Args:
        completion_text: What the model wrote.
        gold_text: The reference answer.

    Returns:
        The outcome, within about 10 seconds at the worst.

    Raises:
        DataError: The gold is empty, or too long to be an answer.

    Example:
        >>> grade(r"Thus \boxed{1,024}", "1024").correct
        True
        >>> grade("Thus 1024", "1024").kind
        'unparsed'
    """
    return _shared_reward().grade(completion_text, gold_text)


@lru_cache(maxsize=1)
def _shared_reward() -> MathReward:
    return MathReward()  # its worker is killed when this interpreter ends


def extract_answer(completion_text: str) -> tuple[str | None, str]:
    r"""Find the answer in a completion.

    Args:
        completion_text: What the model wrote.

    Returns:
        The content of the last complete `\boxed{...}` outside of thought, and an empty string; or None and why there
        is no answer.

    Example:
        >>> extract_answer(r"\boxed{3} is wrong, it is \boxed{ 4 }")
        ('4', '')
        >>> extract_answer("4")
        (None, 'no complete \\boxed{...}')
    """
    spoken = outside_thought(completion_text)
    if spoken is None:
        return None, "<think> is not closed"
    found = last_boxed(spoken)
    if found is None:
        return None, r"no complete \boxed{...}"
    answer = found[1].strip()
    if len(answer) > MAX_ANSWER_CHARS:
        return None, f"the box holds {len(answer)} characters, more than {MAX_ANSWER_CHARS}"
    return (answer, "") if normalise(answer) else (None, "the box is empty")


def final_answer(gold_text: str) -> str:
    r"""Take the answer out of a gold that is a whole solution; a gold that is bare comes back as it is.

    Args:
        gold_text: The gold of a row.

    Returns:
        The content of its last `\boxed{...}`, else what follows its last `####` (the form of GSM8K), else all of it.

    Example:
        >>> final_answer("2 + 3 = 5.\n#### 5"), final_answer(r"so \boxed{5}"), final_answer(" 5 ")
        ('5', '5', '5')
    """
    boxed = last_boxed(gold_text)
    return (boxed[1] if boxed else gold_text.rpartition("####")[2]).strip()


def make_comparison() -> Callable[[str, str], str]:
    r"""Import math-verify and return its comparison. Runs in the worker.

    Only what stands in the box is parsed, as LaTeX: left to itself, math-verify takes any number it can find when
    the box does not parse. Its own time limits are off, because they need signals; the worker is killed instead.

    Returns:
        A function of gold and answer: `equal`, `different`, `the gold does not parse`, `the answer does not parse`.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(text: str) -> list:
        return parse(
            f"\\boxed{{{text}}}",
            config,
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,
        )

    def compare(gold: str, answer: str) -> str:
        parsed_gold = read(gold)
        if not parsed_gold:
            return "the gold does not parse"
        parsed_answer = read(answer)
        if not parsed_answer:
            return "the answer does not parse"
        return "equal" if verify(parsed_gold, parsed_answer, timeout_seconds=None) else "different"

    compare("\\frac{1}{2}", "x + 1")  # the first parse builds tables: 0.2 s that no answer should pay for
    return compare


def _judged(correct: bool, answer: str, detail: str) -> Outcome:
    return Outcome(value=float(correct), correct=correct, extracted=answer, detail=detail)
