"""The nouns of the package: prompts, completions, outcomes and groups. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["eos", "length"]
OutcomeKind = Literal["scored", "unparsed", "abstained", "timeout", "error"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of a data set, ready to be sampled from.

    Attributes:
        id: Stable within its data set; what results of different runs are paired by.
        text: What the model reads, after the template.
        token_ids: `text` as the model's tokenizer encodes it.
        gold: The reference answer, as text.
        source: Where it came from, for messages: `data/math.jsonl row 173`.
        columns: The whole source row, for the user's own reward function.
        problem: What `text` was before the template: the problem as its source has it.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    gold: str
    source: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer.

    Attributes:
        token_ids: Sampled tokens; the end-of-sequence token is included when it was sampled.
        logprobs: Log-probability (nats) of each token under the distribution it was sampled from.
        text: `token_ids` decoded, special tokens left out.
        finish_reason: `eos`, or `length` when the token limit cut it off.
        entropy_nats: Mean over its tokens of the entropy of the distribution sampled from.
        is_anchor: Not sampled: a given solution that a method put in. `logprobs` are its author's.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason
    entropy_nats: float = 0.0
    is_anchor: bool = False

    @property
    def is_truncated(self) -> bool:
        """Whether the token limit cut this completion off."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a verifier said of one completion.

    Attributes:
        value: The reward that is optimised.
        correct: The verifier's label. A label, never `value == 1`.
        kind: `scored`; `unparsed` (no answer found: wrong); `abstained` (declined to answer: wrong, but told apart);
            `timeout` and `error` (the verifier failed).
        extracted: The answer that was judged, when one was found.
        rule: How it was found: the name of an extraction rule, where the verifier has several.
        normal_form: The answer as the verifier understands it; answers with equal normal forms are votes for the same.
        detail: Why, for people who read records.
        parts: What `value` is the sum of, by name, where it is a sum.
        judged_s: Processor seconds a worker process spent on it; 0 where none was needed. No part of the verdict.
    """

    value: float
    correct: bool
    kind: OutcomeKind = "scored"
    extracted: str | None = None
    rule: str = ""
    normal_form: str | None = None
    detail: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    judged_s: float = field(default=0.0, compare=False)

    @property
    def is_failure(self) -> bool:
        """Whether the verifier failed: then nobody knows whether the completion is right."""
        return self.kind in ("timeout", "error")


@dataclass(frozen=True, slots=True)
class Group:
    """The completions of one occurrence of a prompt, with their outcomes. Groups are atomic: moved and cut whole.

    Attributes:
        prompt: What was asked.
        completions: Every completion of this occurrence of the prompt.
        outcomes: One per completion, in the same order.
    """

    prompt: Prompt
    completions: tuple[Completion, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def num_correct(self) -> int:
        """How many completions the verifier labelled correct."""
        return sum(outcome.correct for outcome in self.outcomes)

    @property
    def num_failures(self) -> int:
        """How many completions the verifier failed on."""
        return sum(outcome.is_failure for outcome in self.outcomes)
