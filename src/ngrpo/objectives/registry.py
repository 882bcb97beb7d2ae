"""Names to methods: registering, looking up, checking parameters, describing. The methods are in `catalog`."""

import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import isfinite
from typing import Any, Union, get_args, get_origin, get_type_hints

from ngrpo.errors import ConfigError
from ngrpo.objectives.aggregation import AGGREGATIONS
from ngrpo.objectives.filters import FILTERS
from ngrpo.objectives.objective import Objective
from ngrpo.objectives.regularisers import EntropyBonus, ReferenceKL

Builder = Callable[..., Objective]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a method.

    Attributes:
        name: What it is set by.
        type: Its type, as written.
        default: Its default; None for one that is required.
        is_required: Whether it must be given.
    """

    name: str
    type: str
    default: Any
    is_required: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.type}" if self.is_required else f"{self.name}: {self.type} = {self.default!r}"


@dataclass(frozen=True, slots=True)
class Description:
    """What the catalog says of a method.

    Attributes:
        name: Its name.
        summary: One line.
        source: The paper, with its arXiv id where it has one.
        parameters: Its own parameters, then those that every method takes.
        parts: Slot to part under the defaults; empty where a parameter is required.
    """

    name: str
    summary: str
    source: str
    parameters: tuple[Parameter, ...]
    parts: dict[str, str]

    def __str__(self) -> str:
        source = f" ({self.source})" if self.source else ""
        return f"{self.name}: {self.summary}{source} [{'; '.join(str(each) for each in self.parameters)}]"


@dataclass(frozen=True, slots=True)
class _Method:
    build: Builder
    summary: str
    source: str


_METHODS: dict[str, _Method] = {}


def _overrides(
    *,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
    aggregation: str | None = None,
    group_filter: str | None = None,
) -> Callable[[Objective], Objective]:
    """What every method takes besides its own parameters: slots replaced, here and nowhere else."""
    slots: dict[str, Any] = {}
    if aggregation is not None:
        slots["aggregation"] = _choice("aggregation", aggregation, AGGREGATIONS)
    if group_filter is not None:
        slots["group_filter"] = _choice("group_filter", group_filter, FILTERS)
    added = (ReferenceKL(kl_coef),) if kl_coef != 0 else ()
    added += (EntropyBonus(entropy_coef),) if entropy_coef != 0 else ()
    return lambda objective: replace(objective, regularisers=objective.regularisers + added, **slots)


def register(name: str, build: Builder | None = None, *, source: str = "") -> Any:
    """Add a method of one's own: a function from keyword parameters to an `Objective`.

    Every command then knows it by its name. The first line of its docstring is its summary; its parameters need type
    annotations, which are checked.

    Args:
        name: What it is called; not the name of another method.
        build: The function. Left out, `register` is a decorator.
        source: The paper, as in `arXiv 2509.18851`.

    Returns:
        The function.

    Raises:
        ConfigError: The name is taken, or a parameter of the function is `*args`, `**kwargs`, or one that every method
            takes already.

    Example:
        >>> from dataclasses import replace
        >>> from ngrpo import objectives
        >>> def half_is_even(batch):
        ...     return batch.rewards - 0.5
        >>> @objectives.register("even")
        ... def even():
        ...     '''Reward minus one half, whatever the group.'''
        ...     return replace(objectives.get("grpo"), advantage=half_is_even)
        >>> objectives.get("even").advantages([0, 1], groups=[0, 0])
        tensor([-0.5000,  0.5000])
    """
    if build is None:
        return lambda function: register(name, function, source=source)
    if name in _METHODS:
        raise ConfigError(f"an objective named {name!r} exists already. Register yours under another name.")
    taken = inspect.signature(_overrides).parameters
    for parameter in inspect.signature(build).parameters.values():
        if parameter.kind not in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise ConfigError(f"objective {name!r}: {parameter} cannot be checked. Name each parameter.")
        if parameter.name in taken:
            raise ConfigError(f"objective {name!r}: every method takes {parameter.name} already. Leave it out.")
    summary = (inspect.getdoc(build) or "").split("\n")[0]
    _METHODS[name] = _Method(build=build, summary=summary, source=source)
    return build


def names() -> list[str]:
    """Every method in the catalog, those of one's own included."""
    return list(_METHODS)


def get(name: str, **params: Any) -> Objective:
    """A method of the catalog.

    Args:
        name: One of `names()`.
        **params: Its parameters, and those every method takes: `kl_coef` (weight of a k3 divergence, in nats, from a
            reference model), `entropy_coef` (weight of an entropy bonus), `aggregation` (`token_mean`,
            `seq_mean_token_mean`, `seq_mean_token_sum`), `group_filter` (`keep_all`, `keep_mixed`,
            `drop_all_correct`, `drop_all_wrong`).

    Returns:
        The objective.

    Raises:
        ConfigError: The method or a parameter is unknown, missing, of the wrong type or out of range.

    Example:
        >>> from ngrpo import objectives
        >>> objectives.get("ngrpo", num_virtual=2).advantages([1, 0, 0, 0], groups=[0, 0, 0, 0])
        tensor([ 0.9129, -0.9129, -0.9129, -0.9129])
    """
    method = _method(name)
    own = inspect.signature(method.build).parameters
    general = inspect.signature(_overrides).parameters
    for key in params:
        if key not in own and key not in general:
            raise ConfigError(f"{name} has no parameter {key!r}.{_nearest(key, [*own, *general])}")
    missing = [key for key, parameter in own.items() if parameter.default is parameter.empty and key not in params]
    if missing:
        needed = " and ".join(str(each) for each in describe(name).parameters if each.name in missing)
        raise ConfigError(f"{name} needs a value for {needed}, which has no default: get({name!r}, {missing[0]}=...).")
    hints = {**get_type_hints(_overrides), **get_type_hints(method.build)}
    for key, value in params.items():
        _check_type(f"{key} of {name}", value, hints.get(key, Any))
    override = _overrides(**{key: value for key, value in params.items() if key in general})
    objective = method.build(**{key: value for key, value in params.items() if key in own})
    if not isinstance(objective, Objective):
        raise ConfigError(f"{name} was registered with a function that returned {objective!r}, not an Objective.")
    return override(replace(objective, name=name))


def describe(name: str) -> Description:
    """What the catalog says of a method.

    Args:
        name: One of `names()`.

    Returns:
        Its description; `str()` of it is one line.

    Raises:
        ConfigError: The method is unknown.

    Example:
        >>> from ngrpo import objectives
        >>> objectives.describe("dr_grpo").parameters[0]
        Parameter(name='budget_tokens', type='int', default=3000, is_required=False)
    """
    method = _method(name)
    parameters = _parameters(method.build) + _parameters(_overrides)
    is_complete = not any(parameter.is_required for parameter in parameters)
    parts = get(name).parts() if is_complete else {}
    return Description(name, method.summary, method.source, parameters, parts)


def _method(name: str) -> _Method:
    if name not in _METHODS:
        raise ConfigError(f"no objective is named {name!r}.{_nearest(name, names())}")
    return _METHODS[name]


def _parameters(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    found = []
    for parameter in inspect.signature(function).parameters.values():
        is_required = parameter.default is parameter.empty
        type_text = inspect.formatannotation(Any if parameter.annotation is parameter.empty else parameter.annotation)
        found.append(Parameter(parameter.name, type_text, None if is_required else parameter.default, is_required))
    return tuple(found)


def _choice(parameter: str, value: str, choices: dict[str, Any]) -> Any:
    if value not in choices:
        raise ConfigError(f"{parameter} {value!r} is unknown.{_nearest(value, list(choices))}")
    return choices[value]


def _nearest(given: str, valid: list[str]) -> str:
    """The end of a message about an unknown name: the closest one, and all of them."""
    close = get_close_matches(str(given), valid, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"{guess} There are: {', '.join(valid)}."


def _check_type(what: str, value: Any, annotation: Any) -> None:
    """Refuse a value that the annotation does not allow, and numbers that are not finite."""
    if not _fits(value, annotation):
        type_text = inspect.formatannotation(annotation)
        raise ConfigError(f"{what} must be {type_text}, got {value!r} ({type(value).__name__}).")
    if isinstance(value, float) and not isfinite(value):
        raise ConfigError(f"{what} must be finite, got {value!r}.")


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of an annotated type. An int will do for a float; a bool for neither."""
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_fits(value, each) for each in get_args(annotation))
    if annotation in (int, float):
        return isinstance(value, int if annotation is int else (int, float)) and not isinstance(value, bool)
    return not isinstance(annotation, type) or isinstance(value, annotation)
