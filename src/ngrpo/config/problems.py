"""What is wrong with a configuration, in sentences: what, what was got, where, and what to do."""

import contextlib
import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time
from typing import Any

from pydantic.fields import FieldInfo

from ngrpo.config.fields import accepts, choices_of, field_table, is_open_table, item_of, section_of, type_in_words
from ngrpo.config.literals import parse_literal, to_literal

COMMAND_LINE = "the command line"
_MAX_SHOWN_CHARS = 80

# What other trainers call our settings; a nearest spelling would not find them.
_NAMES_ELSEWHERE = {
    "batch_size": "rollout.num_prompts_per_step",
    "train_batch_size": "rollout.num_prompts_per_step",
    "group_size": "rollout.num_samples_per_prompt",
    "num_generations": "rollout.num_samples_per_prompt",
    "n": "rollout.num_samples_per_prompt",
    "max_new_tokens": "rollout.max_completion_tokens",
    "max_completion_length": "rollout.max_completion_tokens",
    "max_response_length": "rollout.max_completion_tokens",
    "max_prompt_length": "data.max_prompt_tokens",
    "learning_rate": "optim.lr",
    "max_steps": "train.num_steps",
    "steps": "train.num_steps",
    "grad_clip": "update.max_grad_norm",
    "model_name": "model.path",
    "dataset": "data.source",
    "clip_low": "objective.params.clip_low",
    "clip_high": "objective.params.clip_high",
    "num_virtual": "objective.params.num_virtual",
    "kl_coef": "objective.params.kl_coef",
    "entropy_coef": "objective.params.entropy_coef",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: File, preset or `COMMAND_LINE`.
        key: Dotted key; empty where it is about no single one.
        message: One or two sentences, the key included.
    """

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def unknown_key(where: str, key: str, got: Any) -> Problem:
    """There is no such key: names the nearest one, else what its section has."""
    message = f"there is no setting {key} (got {shown(got)}). "
    if near := nearest_key(key):
        return Problem(where, key, f"{message}Did you mean {near}?")
    section = next((part for part in _enclosing(key) if part in field_table()), "")
    siblings = ", ".join(name.rpartition(".")[2] for name in field_table() if name.rpartition(".")[0] == section)
    place = f"Settings of {section}" if section else "Sections"
    return Problem(where, key, f"{message}{place}: {siblings}.")


def missing_key(where: str, key: str) -> Problem:
    """A required key is not there: says what it is and how to give it."""
    doc = field_table()[key].description
    section, _, name = key.rpartition(".")
    message = f"{key} is required and not given ({doc.rstrip('.')}). Add {name} = ... to [{section}], or {key}=... "
    return Problem(where, key, f"{message}on the command line.")


def wrong_value(where: str, key: str, got: Any) -> Problem:
    """A value is of the wrong type or out of bounds: says what the key takes."""
    info = field_table()[key]
    message = f"{key} must be {type_in_words(info)}, got {shown(got)}."
    return Problem(where, key, f"{message}{_advice(key, info, got)}")


def wrong_item(where: str, key: str, index: int, name: str, item: Any) -> Problem:
    """One table of a list of tables lacks a setting, has one too many, or one of a wrong value.

    Args:
        where: File, preset or `COMMAND_LINE`.
        key: Of the list.
        index: Place of the table in it, from 0.
        name: The setting of the table; empty where the item is no table.
        item: The table as it is.
    """
    section = item_of(field_table()[key])
    assert section is not None, "only lists of tables have items"
    settings = section.model_fields
    place = f"item {index + 1} of {key}"
    if not isinstance(item, dict):
        return Problem(where, key, f"{place} must be a table with {', '.join(settings)}, got {shown(item)}.")
    if name not in settings:
        near = difflib.get_close_matches(name, settings, n=1, cutoff=0.5)
        advice = f"Did you mean {near[0]}?" if near else f"It may have: {', '.join(settings)}."
        return Problem(where, key, f"{place} has no setting {name} (got {shown(item[name])}). {advice}")
    if name not in item:
        return Problem(where, key, f"{place} lacks {name} ({(settings[name].description or '').rstrip('.')}). Add it.")
    words = type_in_words(settings[name])
    return Problem(where, key, f"{name} in {place} must be {words}, got {shown(item[name])}.")


def unusable_values(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, str, str]]:
    """Finds values that no setting can have and that would not survive a JSON file.

    Yields:
        Key, value, what is wrong and what to do, for numbers that are not finite, dates, and text that is not Unicode.
    """
    for name, value in tree.items():
        key = prefix + name
        if isinstance(value, dict):
            yield from unusable_values(value, f"{key}.")
        elif isinstance(value, list):
            items = unusable_values({str(index): item for index, item in enumerate(value)})
            yield from ((key, value, wrong, advice) for _, _, wrong, advice in items)
        elif isinstance(value, float) and not math.isfinite(value):
            yield key, value, "must be finite", "Write an ordinary number."
        elif isinstance(value, date | time):
            yield key, value, "must not be a date or a time", "Quote it to make it text."
        elif isinstance(value, str) and not _is_unicode(value):
            yield key, value, "must be Unicode text", "Type it again."


def nearest_key(key: str) -> str | None:
    """The key somebody may have meant, or None.

    Example:
        >>> nearest_key("optim.learning_rate"), nearest_key("rollout.temprature"), nearest_key("objective.ddof")
        ('optim.lr', 'rollout.temperature', 'objective.params.ddof')
    """
    known = list(field_table())
    section, _, name = key.rpartition(".")
    siblings = [other for other in known if other.rpartition(".")[0] == section]
    if near := difflib.get_close_matches(key, siblings, n=1, cutoff=0.8):
        return near[0]
    if name in _NAMES_ELSEWHERE:
        return _NAMES_ELSEWHERE[name]
    if section == "objective":
        return f"objective.params.{name}"
    elsewhere = [other for other in known if other.rpartition(".")[2] == name]
    near = elsewhere or difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    return near[0] if near else None


def shown(value: Any) -> str:
    """A value as one would write it, cut where it is long."""
    text = repr(value) if isinstance(value, str) and not _is_unicode(value) else to_literal(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."


def _advice(key: str, info: FieldInfo, got: Any) -> str:
    """What to write instead, where that can be told from what was written."""
    if section := section_of(info):
        settings = {name: field for name, field in section.model_fields.items() if section_of(field) is None}
        for name, field in settings.items():
            if accepts(field, got):
                return f" Did you mean {key}.{name}?"
        return f" Make it a table: [{key}] in a file, {key}.{next(iter(settings))}=... on the command line."
    if is_open_table(info):
        return f" Make it a table: [{key}] in a file, {key}.KEY=... on the command line."
    for candidate in _readings(info, got):
        if accepts(info, candidate):
            return f" Write {to_literal(candidate)}."
    return ""


def _readings(info: FieldInfo, got: Any) -> Iterator[Any]:
    """What a value may have been meant as."""
    if isinstance(got, str):
        yield parse_literal(got)
        yield from difflib.get_close_matches(got.lower(), choices_of(info), n=1)
        yield parse_literal(got.lower())
        with contextlib.suppress(ValueError):
            yield float(got)
    elif isinstance(got, float) and got.is_integer():
        yield int(got)
    elif not isinstance(got, dict | list):
        yield to_literal(got)
    yield [got]


def _enclosing(key: str) -> Iterator[str]:
    """The tables a key lies in, innermost first."""
    while "." in key:
        key = key.rpartition(".")[0]
        yield key


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
