"""From a source to prompts that a model can be trained or evaluated on."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ngrpo.data.judge import (
    BadRow,
    CheckGolds,
    Columns,
    Draft,
    describe_bad_row,
    find_columns,
    judge_row,
    refuse_golds,
)
from ngrpo.data.presets import about
from ngrpo.data.rows import Row, Rows
from ngrpo.data.sources import read_rows
from ngrpo.data.templates import Template, make_template
from ngrpo.errors import DataError
from ngrpo.types import Prompt

# Bad rows named in full in one message.
MAX_NAMED_ROWS = 5


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The usable rows of a source.

    Attributes:
        prompts: In the order of the source.
        name: A short name of the source.
        num_dropped: Rows left out, by reason; empty when none was.
        fingerprint: SHA-256 over ids, texts and golds: equal on all machines exactly when these are equal.
    """

    prompts: tuple[Prompt, ...]
    name: str
    num_dropped: Mapping[str, int] = field(default_factory=dict)
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.prompts)


def load_prompts(
    source: str,
    tokenizer: Any,
    *,
    split: str = "train",
    subset: str | None = None,
    prompt_column: str | None = None,
    gold_column: str | None = None,
    id_column: str | None = None,
    template: str = "auto",
    system_prompt: str | None = None,
    on_bad_row: Literal["error", "drop"] = "error",
    max_prompt_tokens: int | None = None,
    limit: int | None = None,
    size: int = 1000,
    seed: int = 0,
    params: Mapping[str, Any] | None = None,
    check_golds: CheckGolds | None = None,
) -> PromptSet:
    """Read a source, put its problems into the template, encode them, and see that every row can be used.

    A row is bad when its gold is missing, empty, neither text nor number, or refused by `check_golds`; when its
    prompt is missing, empty or not text; when its id is missing; or when its prompt has too many tokens. Numbers as
    golds become text (27.0 becomes `27`).

    Args:
        source: See `read_rows`, as for split, subset, limit, size, seed and params.
        tokenizer: The model's tokenizer (transformers).
        split: Split of a folder, a hub data set or a world.
        subset: Configuration of a folder or a hub data set.
        prompt_column: Column of the problem. Default: the first of prompt, problem, question that exists.
        gold_column: Column of the reference answer. Default: the first of gold, answer, solution that exists.
        id_column: Column of a unique id. Default: `id` where it exists, else the row number.
        template: See `make_template`.
        system_prompt: System message of a chat template.
        on_bad_row: `error` raises and names the bad rows; `drop` leaves them out and counts them.
        max_prompt_tokens: Longest prompt allowed, in tokens.
        limit: Use only the first rows.
        size: Rows to generate.
        seed: Seed of generated rows.
        params: Parameters of a `gym:` task.
        check_golds: Says of each gold why it can never be matched, or None; `check_golds` of the reward.

    Returns:
        The prompts, at least one.

    Raises:
        DataError: The source cannot be read, has bad rows under `error` or nothing but bad rows, lacks a column, or
            has an id twice.
        ConfigError: The template or another setting is wrong.
        MissingExtraError: The source needs an extra that is not installed.
    """
    shape = make_template(template, tokenizer, system_prompt)
    found = read_rows(
        source,
        split=split,
        subset=subset,
        limit=limit,
        size=size,
        seed=seed,
        params=params,
        prompt_column=prompt_column,
        gold_column=gold_column,
    )
    if about(source) is not None:  # its rows have one form, whatever the copy's columns were called
        prompt_column, gold_column = "problem", "answer"
    columns = find_columns(found, prompt_column=prompt_column, gold_column=gold_column, id_column=id_column)
    judged = refuse_golds([judge_row(row, columns, found.needs_gold) for row in found.rows], columns, check_golds)
    drafts = [draft for draft in judged if isinstance(draft, Draft)]
    problems = [problem for problem in judged if isinstance(problem, BadRow)]
    _check_ids_unique(found, drafts, columns)

    prompts: list[Prompt] = []
    texts = shape.render([draft.text for draft in drafts]) if drafts else []
    for draft, text, token_ids in zip(drafts, texts, encode_texts(tokenizer, shape, texts), strict=True):
        problem = _judge_length(draft.row, columns.prompt, len(token_ids), max_prompt_tokens)
        if problem is not None:
            problems.append(problem)
            continue
        place = f"{source} row {draft.row.number}"
        prompts.append(Prompt(draft.id, text, token_ids, draft.gold, place, draft.row.columns, draft.text))
    if problems and (on_bad_row == "error" or not prompts):
        raise DataError(_describe_problems(found, problems, columns, can_drop=bool(prompts)))
    dropped = Counter(found.num_dropped) + Counter(problem.reason for problem in problems)
    return PromptSet(tuple(prompts), found.name, dict(dropped), _fingerprint(prompts))


def _check_ids_unique(found: Rows, drafts: Sequence[Draft], columns: Columns) -> None:
    first_rows: dict[str, int] = {}
    for draft in drafts:
        first = first_rows.setdefault(draft.id, draft.row.number)
        if first != draft.row.number:
            raise DataError(
                f"{found.source}: rows {first} and {draft.row.number} have the same {columns.id!r}: {draft.id!r}. "
                "Results are paired by id, so it must be unique: name another column in data.id_column."
            )


def encode_texts(tokenizer: Any, shape: Template, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of texts that a model is to go on with.

    Args:
        tokenizer: The model's.
        shape: The template they were rendered by: it says whether the tokenizer is to add its special tokens.
        texts: Whole prompts.
    """
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=not shape.has_special_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # the tokenizer's own length warning; lengths are checked against the settings instead
    )["input_ids"]
    if shape.has_special_tokens:
        return [tuple(ids) for ids in encoded]
    return [_without_extra_marks(ids, text, tokenizer) for ids, text in zip(encoded, texts, strict=True)]


def _without_extra_marks(token_ids: Sequence[int], text: str, tokenizer: Any) -> tuple[int, ...]:
    """Undo two things a tokenizer may do: open a text twice that opens itself, and close a text meant to go on."""
    bos_id, eos_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    start = 1 if bos_id is not None and list(token_ids[:2]) == [bos_id, bos_id] else 0
    closed = eos_id is not None and len(token_ids) > start and token_ids[-1] == eos_id
    if closed and not text.endswith(tokenizer.eos_token):
        return tuple(token_ids[start:-1])
    return tuple(token_ids[start:])


def _judge_length(row: Row, column: str, num_tokens: int, max_prompt_tokens: int | None) -> BadRow | None:
    if num_tokens == 0:
        return BadRow(row, column, "the prompt is empty", "it has no tokens")
    if max_prompt_tokens is not None and num_tokens > max_prompt_tokens:
        detail = f"it has {num_tokens} tokens and data.max_prompt_tokens is {max_prompt_tokens}"
        return BadRow(row, column, "the prompt is too long", detail)
    return None


def _describe_problems(found: Rows, problems: list[BadRow], columns: Columns, *, can_drop: bool) -> str:
    problems = sorted(problems, key=lambda problem: problem.row.number)
    named = "; ".join(describe_bad_row(problem, columns.id) for problem in problems[:MAX_NAMED_ROWS])
    more = f"; and {len(problems) - MAX_NAMED_ROWS} more" if len(problems) > MAX_NAMED_ROWS else ""
    if can_drop:
        head = f"{len(problems)} of {len(found.rows)} rows cannot be used"
        advice = 'Mend them, or leave them out with data.on_bad_row = "drop".'
    else:
        head = f"none of its {len(found.rows)} rows can be used"
        advice = "See that data.prompt_column and data.gold_column name the right columns."
    return f"{found.source}: {head}: {named}{more}. {advice}"


def _fingerprint(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        for text in (prompt.id, prompt.text, prompt.gold):
            data = text.encode("utf-8", "surrogatepass")
            # The length first: ("ab", "c") and ("a", "bc") are different data.
            digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
