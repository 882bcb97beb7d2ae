"""What can be set, told from the models: key, type in words, default, meaning. For help, docs and messages."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo

from ngrpo.config.literals import to_literal
from ngrpo.config.models import RunConfig, Section

_NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True, slots=True)
class FieldDoc:
    """One setting.

    Attributes:
        key: Dotted key: `optim.lr`.
        type: In words, bounds included: `a number, above 0`.
        required: Whether it must be given (for a key of an optional section: once that section is there).
        default: JSON-safe; None where nothing is set by default or the key is required.
        doc: One line on what it means, with its unit.
    """

    key: str
    type: str
    required: bool
    default: Any
    doc: str


def describe_fields() -> Iterator[FieldDoc]:
    """Describes every setting, in the order of the models.

    Yields:
        One record for each leaf key, those of optional sections included.

    Example:
        >>> next(field for field in describe_fields() if field.key == "optim.lr")
        FieldDoc(key='optim.lr', type='a number, above 0', required=False, default=1e-06, doc='Peak learning rate.')
    """
    for key, info in field_table().items():
        if section_of(info) is None:
            default = None if info.is_required() else info.get_default(call_default_factory=True)
            if isinstance(default, tuple):
                default = list(default)
            yield FieldDoc(key, type_in_words(info), info.is_required(), default, info.description or "")


@cache
def field_table() -> dict[str, FieldInfo]:
    """Maps every dotted key, of sections and of settings, to its pydantic field."""
    return dict(_walk(RunConfig, ""))


def _walk(model: type[Section], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, info in model.model_fields.items():
        yield prefix + name, info
        if section := section_of(info):
            yield from _walk(section, f"{prefix}{name}.")


def section_of(info: FieldInfo) -> type[Section] | None:
    """The section a field holds, optional or not; None for a setting."""
    is_union = get_origin(info.annotation) in (Union, UnionType)
    candidates = get_args(info.annotation) if is_union else (info.annotation,)
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, Section)), None)


def item_of(info: FieldInfo) -> type[Section] | None:
    """The section that a setting is a list of; None for any other setting."""
    items = get_args(info.annotation) if get_origin(info.annotation) is list else ()
    return next((kind for kind in items if isinstance(kind, type) and issubclass(kind, Section)), None)


def is_open_table(info: FieldInfo) -> bool:
    """Whether a field takes keys of the user's own, as `objective.params` does."""
    return get_origin(info.annotation) is dict


def required_leaves(key: str) -> list[str]:
    """The settings that must be given for `key`: itself, or those of the section it names."""
    section = section_of(field_table()[key])
    if section is None:
        return [key]
    names = [f"{key}.{name}" for name, info in section.model_fields.items() if info.is_required()]
    return [leaf for name in names for leaf in required_leaves(name)]


def accepts(info: FieldInfo, value: Any) -> bool:
    """Whether a setting would take this value."""
    kind = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    try:
        TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
    except ValueError:
        return False
    return True


def choices_of(info: FieldInfo) -> list[str]:
    """The words a setting chooses from, where it does."""
    kinds = (info.annotation, *get_args(info.annotation))
    return [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]


def type_in_words(info: FieldInfo) -> str:
    """Says what a field takes: `a whole number, at least 1`."""
    return _in_words(info.annotation, info.metadata)


def _in_words(annotation: Any, constraints: Iterable[Any] = ()) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        extras = [item for extra in arguments[1:] for item in getattr(extra, "metadata", [extra])]
        return _in_words(arguments[0], extras)
    if origin in (Union, UnionType):
        return ", or ".join(_in_words(item) for item in arguments if item is not NoneType)
    if origin is Literal:
        words = ", ".join(to_literal(word) for word in arguments)
        return words if len(arguments) == 1 else f"one of {words}"
    if origin is tuple:
        return f"a list of {len(arguments)}, each {_in_words(arguments[0])}"
    if origin is list:
        is_of_tables = isinstance(arguments[0], type) and issubclass(arguments[0], Section)
        keys = ", ".join(arguments[0].model_fields) if is_of_tables else ""
        return f"a list of tables with {keys}" if is_of_tables else f"a list, each {_in_words(arguments[0])}"
    bounds = [bound for constraint in constraints for bound in _bounds_in_words(constraint)]
    noun = _NOUNS.get(annotation, "a table")
    return f"{noun}, {' and '.join(bounds)}" if bounds else noun


def _bounds_in_words(constraint: Any) -> Iterator[str]:
    for name, words in _BOUNDS.items():
        if (limit := getattr(constraint, name, None)) is not None:
            yield f"{words} {limit:g}"
    if getattr(constraint, "min_length", None):
        yield "not empty"
