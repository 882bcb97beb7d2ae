r"""Judging answers to mathematics problems against a gold, by a profile.

`strict`, the default: the answer is the last complete `\boxed{...}` outside of `<think>...</think>`, at most
`MAX_ANSWER_CHARS` long, and equality is exact. No box, no answer. `docs/verifier.md` has every profile and what each
accepts.

Plain numbers, words and structures of them are settled on the spot; everything else goes to math-verify's parser and
to sympy, in worker processes with a deadline. No text is ever executed.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ngrpo.errors import DataError
from ngrpo.rewards import exact, paper, profiles
from ngrpo.rewards.extract import Found, find_answer, last_boxed
from ngrpo.rewards.pool import Pool, Reply
from ngrpo.rewards.profiles import MAX_ANSWER_CHARS, Profile
from ngrpo.rewards.rational import as_fraction
from ngrpo.rewards.tidy import tidy
from ngrpo.types import Completion, Outcome, Prompt

DEFAULT_TIMEOUT_S = 10.0
MAX_CACHED = 20_000


class MathReward:
    r"""Value 1.0 for a right answer, else 0.0. See the module for what is right.

    Args:
        profile: `strict`, `lenient` or `paper`.
        timeout_s: Processor time that one comparison may take, in seconds; past it the outcome is a `timeout`.
        num_workers: Most worker processes; by default one per core that this process may use.
        use_exact_path: Off, everything goes to computer algebra: slower, with the same verdicts. For tests.

    Raises:
        ConfigError: There is no such profile.

    Example:
        >>> reward = MathReward()
        >>> reward.grade(r"So it is \boxed{\frac{1}{2}}.", "0.5").correct
        True
        >>> reward.close()
    """

    judges_elsewhere = True

    def __init__(
        self,
        profile: str = "strict",
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        num_workers: int | None = None,
        use_exact_path: bool = True,
    ) -> None:
        self.profile = profiles.get(profile)
        self._use_exact_path = use_exact_path
        self._pool = Pool(make_comparison, deadline_s=timeout_s, num_workers=num_workers)
        self._cache = _Cache(MAX_CACHED)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Outcome]:
        """Judge each completion against the gold of its prompt."""
        for prompt in prompts:
            reason = _fault_of_gold(prompt.gold)
            if reason is not None:
                raise DataError(f"{prompt.source or 'prompt ' + prompt.id}: {reason}. Mend or leave out that row.")
        pairs = zip(prompts, completions, strict=True)
        return self.grade_pairs([(completion.text, prompt.gold) for prompt, completion in pairs])

    def grade(self, completion_text: str, gold_text: str) -> Outcome:
        r"""Judge one text.

        Args:
            completion_text: What the model wrote, whatever it is.
            gold_text: The reference answer: bare (`\frac{1}{2}`), or a solution that boxes it or ends in `#### 5`.

        Returns:
            The outcome. Kind `unparsed` without a usable answer, `timeout` and `error` when the comparison failed.

        Raises:
            DataError: The gold is empty, too long to be an answer, or its braces do not close.
        """
        return self.grade_pairs([(completion_text, gold_text)])[0]

    def grade_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """Judge many texts: what the exact path settles here, the rest in the worker processes, each pair once.

        Args:
            pairs: Completion text and gold text.

        Returns:
            One outcome per pair, in order.

        Raises:
            DataError: As for `grade`.
        """
        outcomes: list[Outcome | None] = []
        waiting: dict[tuple[_Gold, Found], list[int]] = {}
        for at, (completion_text, gold_text) in enumerate(pairs):
            gold = _gold(gold_text, self.profile.follows_paper)
            if gold.fault is not None:
                raise DataError(f"{gold.fault}: {gold_text[:80]!r}. There is nothing to compare answers with.")
            found = find_answer(completion_text, self.profile)
            outcome = self._settle(gold, found)
            outcomes.append(outcome)
            if outcome is None:
                waiting.setdefault((gold, found), []).append(at)
        replies = self._pool.map([(gold.text, self._sent(found), self.profile.name) for gold, found in waiting])
        for ((gold, found), places), reply in zip(waiting.items(), replies, strict=True):
            outcome = self._outcome(gold, found, reply)
            if outcome.kind == "scored":
                self._cache.put((gold.text, found), outcome)
            for at in places:
                outcomes[at] = outcome
        return outcomes

    def check_golds(self, golds: Sequence[str]) -> list[str | None]:
        """Say of each gold why no answer could match it, or None.

        Empty ones are refused, too long ones, and ones whose braces do not close; and ones that cannot be evaluated
        within the deadline. A gold that math-verify cannot parse is not: it is compared as a string.
        """
        known = [_gold(text, self.profile.follows_paper) for text in golds]
        faults = [gold.fault for gold in known]
        if self.profile.follows_paper:
            return faults
        doubtful: dict[str, list[int]] = {}
        for at, gold in enumerate(known):
            if gold.fault is None and as_fraction(gold.plain) is None:
                doubtful.setdefault(gold.text, []).append(at)
        replies = self._pool.map([(text, None, self.profile.name) for text in doubtful])
        for places, reply in zip(doubtful.values(), replies, strict=True):
            for at in places:
                faults[at] = None if reply.status == "ok" else f"the gold cannot be evaluated: {reply.detail}"
        return faults

    def close(self) -> None:
        """End the worker processes, if any run."""
        self._pool.close()

    def _settle(self, gold: "_Gold", found: Found) -> Outcome | None:
        """Judge without a worker, or return None."""
        if found.answer is None:
            return Outcome(value=0.0, correct=False, kind="unparsed", rule=found.rule, detail=found.complaint)
        cached = self._cache.get((gold.text, found))
        if cached is not None or not self._use_exact_path:
            return cached
        plain = _plain(found.answer, self.profile)
        if self.profile.follows_paper:
            verdict = paper.settle(plain, gold.plain)
        else:
            verdict = exact.settle(gold.plain, plain, self.profile)
        if verdict is None:
            return None
        form = gold.normal_form if verdict else _normal_form(plain)
        return _judged(verdict, found, form, f"exact: {'equal' if verdict else 'different'}")

    def _sent(self, found: Found) -> str:
        return _plain(found.answer, self.profile) if self.profile.follows_paper else found.answer

    def _outcome(self, gold: "_Gold", found: Found, reply: Reply) -> Outcome:
        if reply.status != "ok":
            kind = "timeout" if reply.status == "timeout" else "error"
            return Outcome(0.0, False, kind, found.answer, found.rule, detail=reply.detail, judged_s=reply.seconds)
        verdict, form = reply.value
        correct = verdict.startswith("equal")
        judged = _judged(correct, found, gold.normal_form if correct else form, f"math-verify: {verdict}")
        return replace(judged, judged_s=reply.seconds)


def grade(completion_text: str, gold_text: str, profile: str = "strict") -> Outcome:
    r"""Judge one text with workers that all callers share; see `MathReward.grade`.

    Args:
        completion_text: What the model wrote.
        gold_text: The reference answer.
        profile: `strict`, `lenient` or `paper`.

    Returns:
        The outcome, after about 10 seconds of processor time at the worst.

    Raises:
        DataError: The gold is empty, too long to be an answer, or its braces do not close.
        ConfigError: There is no such profile.

    Example:
        >>> grade(r"Thus \boxed{1,024}", "1024").correct
        True
        >>> grade("Thus 1024", "1024").kind
        'unparsed'
        >>> grade("Thus 1024", "1024", "paper").rule
        'last_number'
    """
    return _shared_reward(profile).grade(completion_text, gold_text)


@lru_cache(maxsize=8)
def _shared_reward(profile: str) -> MathReward:
    return MathReward(profile)  # its workers are killed when this interpreter ends


def extract_answer(completion_text: str, profile: str = "strict") -> tuple[str | None, str]:
    r"""Find the answer in a completion.

    Args:
        completion_text: What the model wrote.
        profile: Whose rules to use.

    Returns:
        The answer and an empty string; or None and why there is no answer.

    Example:
        >>> extract_answer(r"\boxed{3} is wrong, it is \boxed{ 4 }")
        ('4', '')
        >>> extract_answer("4")
        (None, 'no complete \\boxed{...}')
    """
    found = find_answer(completion_text, profiles.get(profile))
    return found.answer, found.complaint


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


def make_comparison() -> Callable[..., Any]:
    """Make the function that the workers call; `ngrpo.rewards.comparison`, whose imports take a second."""
    from ngrpo.rewards import comparison

    return comparison.make_comparison()


@dataclass(frozen=True, slots=True)
class _Gold:
    """A gold as it is compared.

    Attributes:
        text: What the workers get.
        plain: The same, tidied.
        normal_form: What every right answer votes for.
        fault: Why no answer could match it.
    """

    text: str
    plain: str
    normal_form: str = ""
    fault: str | None = None


@lru_cache(maxsize=MAX_CACHED)
def _gold(gold_text: str, follows_paper: bool) -> _Gold:
    answer = final_answer(gold_text)
    fault = _fault_of_gold(gold_text)
    if fault is not None:
        return _Gold(answer, "", fault=fault)
    if follows_paper:
        answer = paper.readable(paper.find_answer(f"\\boxed{{{answer.strip()}}}")[1])
        return _Gold(answer, answer, answer)
    plain = tidy(answer)
    return _Gold(answer, plain, _normal_form(plain))


def _fault_of_gold(gold_text: str) -> str | None:
    answer = final_answer(gold_text)
    if len(answer) > MAX_ANSWER_CHARS:
        return f"the gold has {len(answer)} characters and at most {MAX_ANSWER_CHARS} are compared"
    if not tidy(answer):
        return "the gold is empty"
    braces = answer.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
    return "the braces of the gold do not close" if braces.count("{") != braces.count("}") else None


def _plain(answer: str, profile: Profile) -> str:
    return paper.readable(answer) if profile.follows_paper else tidy(answer)


def _normal_form(plain: str) -> str:
    value = as_fraction(plain)
    return plain if value is None else str(value)


def _judged(correct: bool, found: Found, form: str, detail: str) -> Outcome:
    return Outcome(float(correct), correct, "scored", found.answer, found.rule, form, detail)


class _Cache:
    """The last comparisons, by gold and answer. Safe to use from threads."""

    def __init__(self, size: int) -> None:
        self._size, self._lock = size, threading.Lock()
        self._outcomes: OrderedDict[tuple[str, Found], Outcome] = OrderedDict()

    def get(self, key: tuple[str, Found]) -> Outcome | None:
        with self._lock:
            if key in self._outcomes:
                self._outcomes.move_to_end(key)
            return self._outcomes.get(key)

    def put(self, key: tuple[str, Found], outcome: Outcome) -> None:
        with self._lock:
            self._outcomes[key] = outcome
            if len(self._outcomes) > self._size:
                self._outcomes.popitem(last=False)
