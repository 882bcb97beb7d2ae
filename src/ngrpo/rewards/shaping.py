r"""Terms that a reward may be shaped with: form, length, a function of the user's.

A term gives one number per completion, between its `low` and its `high`; `weighted.ShapedReward` adds them up. The
bounds are what lets a run be refused before it starts when the sum could exceed the reward that a method takes for the
best there is.
"""

import hashlib
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import regex

from ngrpo.errors import ConfigError, RewardError
from ngrpo.rewards.extract import last_boxed, outside_thought
from ngrpo.rewards.function import BatchFunction, RowFailure, as_number, import_function, place_of, short
from ngrpo.types import Completion, Outcome, Prompt

PATTERN_DEADLINE_S = 1.0
"""How long a pattern may be looked for in one completion; some take for ever over some texts."""


class Term(Protocol):
    """One number per completion.

    Attributes:
        low: The smallest it can be.
        high: The largest.
    """

    low: float
    high: float

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], outcomes: Sequence[Outcome]
    ) -> list[float | RowFailure]:
        """What each completion is worth by this term, or why it cannot be told; `outcomes` are the judge's."""
        ...


@dataclass(frozen=True, slots=True)
class TextTerm:
    """1 for a completion that has some form, 0 for any other.

    Attributes:
        has_form: Prompt and completion text in.
    """

    has_form: Callable[[str, str], bool]
    low: float = 0.0
    high: float = 1.0

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], outcomes: Sequence[Outcome]
    ) -> list[float | RowFailure]:
        """1 or 0 for each."""
        return [
            float(self.has_form(prompt.text, completion.text))
            for prompt, completion in zip(prompts, completions, strict=True)
        ]


def one_box() -> TextTerm:
    r"""1 for exactly one complete `\boxed{...}` outside of `<think>...</think>`."""
    return TextTerm(lambda prompt, text: has_one_box(text))


def think_tags() -> TextTerm:
    """1 for one `<think>...</think>` with something in it, at the very start, and something after it.

    Where the prompt ends in `<think>`, the completion starts inside.
    """
    return TextTerm(thinks_then_answers)


class RegexTerm:
    r"""1 for a completion in which a pattern is found, 0 for any other.

    Args:
        pattern: A regular expression, in the syntax of the `regex` package, which is that of `re` and more. It is
            found anywhere: `\A` and `\Z` tie it to start and end, `(?s)` lets a dot match line breaks.

    Raises:
        ConfigError: It is no regular expression.
    """

    low, high = 0.0, 1.0

    def __init__(self, pattern: str) -> None:
        try:
            self._pattern = regex.compile(pattern)
        except regex.error as error:
            raise ConfigError(f"pattern {pattern!r} is no regular expression: {error}.") from None

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], outcomes: Sequence[Outcome]
    ) -> list[float | RowFailure]:
        """1 or 0 for each; a failure where it took too long."""
        return [self._search(completion.text) for completion in completions]

    def _search(self, text: str) -> float | RowFailure:
        try:
            return float(self._pattern.search(text, timeout=PATTERN_DEADLINE_S) is not None)
        except TimeoutError:
            return RowFailure(f"the pattern took more than {PATTERN_DEADLINE_S:g} s over {len(text)} characters")


class LengthTerm:
    """A penalty that grows linearly: 0 up to `budget_tokens`, -1 from `budget_tokens + span_tokens` on.

    DAPO's soft punishment of long completions is the same for a budget of `max - buffer` and a span of `buffer`;
    `dapo` itself has it as its parameter `overlong_max_tokens`, and needs it once.

    Args:
        budget_tokens: Tokens that cost nothing, the end of sequence included.
        span_tokens: Tokens from there to the full penalty.

    Raises:
        ConfigError: One of them is too small.

    Example:
        >>> term = LengthTerm(budget_tokens=4, span_tokens=4)
        >>> [term.penalty(tokens) for tokens in (3, 4, 5, 8, 100)]
        [0.0, 0.0, -0.25, -1.0, -1.0]
    """

    low, high = -1.0, 0.0

    def __init__(self, budget_tokens: int, span_tokens: int) -> None:
        if budget_tokens < 0 or span_tokens < 1:
            raise ConfigError(
                f"budget_tokens must be 0 or more and span_tokens 1 or more, got {budget_tokens} and {span_tokens}."
            )
        self._budget_tokens, self._span_tokens = budget_tokens, span_tokens

    def penalty(self, num_tokens: int) -> float:
        """What a completion of so many tokens is worth, in [-1, 0]."""
        over = num_tokens - self._budget_tokens
        return -min(over / self._span_tokens, 1.0) if over > 0 else 0.0

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], outcomes: Sequence[Outcome]
    ) -> list[float | RowFailure]:
        """The penalty of each."""
        return [self.penalty(len(completion.token_ids)) for completion in completions]


class CoinTerm:
    """What makes the reward a coin, 0 or 1, whatever the judge says: a control.

    One coin for each sampled completion, so that no text is worth more than another in the long run: what training
    under it changes was not learned from answers. Thrown by what was sampled (tokens and their log-probabilities) and
    by how many equal completions came before in the batch: a run that is gone on with throws the same coins.

    Args:
        seed: Of the coins.

    Example:
        >>> prompts, completions = [Prompt("0", "?", (), "x")] * 64, [Completion((7,), (-0.5,), "a", "eos")] * 64
        >>> terms = CoinTerm(seed=0)(prompts, completions, [Outcome(value=1.0, correct=True)] * 64)
        >>> sorted({1.0 + term for term in terms})
        [0.0, 1.0]
    """

    low, high = -1.0, 1.0

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], outcomes: Sequence[Outcome]
    ) -> list[float | RowFailure]:
        """The coin, less what the judge gave."""
        seen: Counter[str] = Counter()
        terms: list[float | RowFailure] = []
        for prompt, completion, outcome in zip(prompts, completions, outcomes, strict=True):
            sampled = f"{self._seed} {prompt.id} {completion.token_ids} {completion.logprobs}"
            coin = hashlib.sha256(f"{sampled} {seen[sampled]}".encode()).digest()[0] & 1
            seen[sampled] += 1
            terms.append(coin - outcome.value)
        return terms


class FunctionTerm:
    """A function of the user's, called like a reward function and with the list `correct` besides: the judge's labels.

    Args:
        function: Returns one number per completion.
        name: What to call it in messages.
        low: The smallest number it may return.
        high: The largest.

    Raises:
        ConfigError: `low` is above `high`.
        RewardError: When made: the function does not take those arguments. When called: it returned something else
            than it should, or raised for every row. A row that it raises for is a failure of that row.
    """

    def __init__(self, function: Callable[..., Any], *, name: str, low: float = -1.0, high: float = 1.0) -> None:
        if not low <= high:
            raise ConfigError(f"low = {low:g} is above high = {high:g}: they are the bounds of what {name} returns.")
        self.low, self.high = float(low), float(high)
        self._function = BatchFunction(function, name=f"shaping function {name}", more=("correct",))

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], outcomes: Sequence[Outcome]
    ) -> list[float | RowFailure]:
        """What the function returned for each."""
        results = self._function(prompts, completions, correct=[outcome.correct for outcome in outcomes])
        return [self._read(result, prompt) for result, prompt in zip(results, prompts, strict=True)]

    def _read(self, result: Any, prompt: Prompt) -> float | RowFailure:
        if isinstance(result, RowFailure):
            return result
        value = as_number(result)
        if value is None or not self.low <= value <= self.high:
            raise RewardError(
                f"{self._function.name} returned {short(result)} for {place_of(prompt)}. A term is a finite number "
                f"from {self.low:g} to {self.high:g}: mend the function, or set params.low and params.high of the term."
            )
        return value


TERMS: dict[str, Callable[..., Term]] = {
    "one_box": one_box,
    "think_tags": think_tags,
    "regex": RegexTerm,
    "length": LengthTerm,
    "coin": CoinTerm,
}
"""The terms that have a name."""


def make_term(name: str, params: Mapping[str, Any]) -> Term:
    """Make a term from its settings.

    Args:
        name: One of `TERMS`, or `path/to/file.py:function`.
        params: Its parameters by name.

    Raises:
        ConfigError: No such term or parameter, or a value that cannot be.
        RewardError: The function cannot be loaded or used.

    Example:
        >>> make_term("length", {"budget_tokens": 100, "span_tokens": 50}).low
        -1.0
    """
    place = f"reward.shaping {name!r}"
    if ".py:" in name:
        make, known = FunctionTerm, {"low": float, "high": float}
        required: list[str] = []
    elif name in TERMS:
        make = TERMS[name]
        signature = inspect.signature(make).parameters
        known = {key: parameter.annotation for key, parameter in signature.items()}
        required = list(known)
    else:
        raise ConfigError(f"{place} is none of {', '.join(TERMS)}, or path/to/file.py:function. Choose one.")
    _check_params(place, params, known, required)
    arguments = {key: known[key](value) for key, value in params.items()}
    if make is FunctionTerm:
        arguments |= {"function": import_function(name, "the name in reward.shaping"), "name": name}
    try:
        return make(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def _check_params(place: str, params: Mapping[str, Any], known: Mapping[str, type], required: Sequence[str]) -> None:
    """See that the parameters are there, of their types, and no others."""
    unknown = [key for key in params if key not in known]
    if unknown:
        raise ConfigError(f"{place} has no parameter {unknown[0]!r}. It has: {', '.join(known) or 'none'}.")
    missing = [key for key in required if key not in params]
    if missing:
        raise ConfigError(f"{place} needs params.{missing[0]}. Its parameters: {', '.join(known)}.")
    nouns = {int: "a whole number", float: "a number", str: "text"}
    for key, value in params.items():
        takes = (int, float) if known[key] is float else (known[key],)
        if isinstance(value, bool) or not isinstance(value, takes):
            raise ConfigError(f"{place}: params.{key} must be {nouns[known[key]]}, got {value!r}.")


def has_one_box(text: str) -> bool:
    r"""Whether exactly one complete box is outside of thought; a box within a box makes two.

    Example:
        >>> [has_one_box(text) for text in (r"\boxed{5}", r"\boxed{4} \boxed{5}", r"\boxed{\boxed{5}}", "5")]
        [True, False, False, False]
    """
    spoken = outside_thought(text)
    found = last_boxed(spoken) if spoken is not None else None
    if found is None:
        return False
    before, _, after = spoken[: found[0]].rpartition("\\boxed")
    return last_boxed(before + after + spoken[found[0] :]) is None  # without the word this box is none any more


def thinks_then_answers(prompt_text: str, text: str) -> bool:
    """Whether a completion is one thought in tags and then something; see `think_tags`.

    Example:
        >>> thinks_then_answers("2+2?", "<think>easy</think>4"), thinks_then_answers("2+2? <think>", "easy</think>4")
        (True, True)
        >>> thinks_then_answers("2+2?", "<think></think>4"), thinks_then_answers("2+2?", "4 <think>sure</think>")
        (False, False)
    """
    text = text.strip()
    if prompt_text.rstrip().endswith("<think>"):
        text = "<think>" + text
    if not text.startswith("<think>") or text.count("<think>") != 1 or text.count("</think>") != 1:
        return False
    thought, _, answer = text.removeprefix("<think>").partition("</think>")
    return bool(thought.strip() and answer.strip())
