"""Judging by the user's own function, from a file of the user's."""

import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ngrpo.errors import RewardError
from ngrpo.rewards.worker import describe
from ngrpo.types import Completion, Outcome, Prompt

ARGUMENTS = ("prompts", "completions", "golds", "rows")
"""What a reward function is called with."""


@dataclass(frozen=True, slots=True)
class RowFailure:
    """What came of one row instead of a score.

    Attributes:
        detail: What was raised, and where in the user's file; or what else went wrong.
    """

    detail: str


class BatchFunction:
    """A function of the user's that takes a whole batch; where that raises, one row after the other, to find the row.

    Args:
        function: Called with lists as keyword arguments: those of `ARGUMENTS`, and `more`.
        name: What to call it in messages, with what it is for: `reward function f.py:score`.
        more: Names of further lists that it gets.

    Raises:
        RewardError: When made: the function does not take those arguments. When called: it raised for every row, or
            returned something else than a list with one result per completion.
    """

    def __init__(self, function: Callable[..., Any], *, name: str, more: Sequence[str] = ()) -> None:
        self._function = function
        self.name = name
        names = (*ARGUMENTS, *more)
        try:
            inspect.signature(function).bind(**{name: [] for name in names})
        except TypeError as error:
            raise RewardError(
                f"{name} cannot be called with the keyword arguments {', '.join(names)}: {error}. Take all of them, or "
                "those you need and **kwargs."
            ) from error
        except ValueError:  # written in C: its signature cannot be read, calling it will tell
            pass

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], **more: Sequence[Any]
    ) -> list[Any | RowFailure]:
        """What the function returned for each completion, unread, or how it failed.

        Args:
            prompts: One per completion.
            completions: What was answered.
            **more: The further lists.
        """
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts and {len(completions)} completions: one of each is needed")
        if not prompts:
            return []
        try:
            results = self._call(prompts, completions, **more)
        except Exception:  # noqa: BLE001  user code may raise anything; the rows are told apart below
            return self._row_by_row(prompts, completions, **more)
        return self._listed(results, prompts)

    def _call(self, prompts: Sequence[Prompt], completions: Sequence[Completion], **more: Sequence[Any]) -> Any:
        result = self._function(
            prompts=[prompt.text for prompt in prompts],
            completions=[completion.text for completion in completions],
            golds=[prompt.gold for prompt in prompts],
            rows=[dict(prompt.columns) for prompt in prompts],
            **{name: list(values) for name, values in more.items()},
        )
        return list(result) if isinstance(result, Iterable) else result  # a generator raises while it is read

    def _row_by_row(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], **more: Sequence[Any]
    ) -> list[Any | RowFailure]:
        found: list[Any | RowFailure] = []
        first_error: Exception | None = None
        for index, prompt in enumerate(prompts):
            own = {name: [values[index]] for name, values in more.items()}
            try:
                results = self._call([prompt], [completions[index]], **own)
            except Exception as error:  # noqa: BLE001  user code may raise anything
                first_error = first_error or error
                found.append(RowFailure(f"{describe(error)}{_line_of(error)}"))
            else:
                found += self._listed(results, [prompt])
        failures = [each for each in found if isinstance(each, RowFailure)]
        if len(failures) == len(found):
            raise RewardError(
                f"{self.name} raised for each of {len(found)} rows, first for {place_of(prompts[0])}: "
                f"{failures[0].detail}. Mend the function."
            ) from first_error
        return found

    def _listed(self, results: Any, prompts: Sequence[Prompt]) -> list[Any]:
        if not isinstance(results, list):
            raise RewardError(f"{self.name} returned {short(results)} and not a list with one score per completion.")
        if len(results) != len(prompts):
            raise RewardError(
                f"{self.name} returned {len(results)} scores for {len(prompts)} completions, the first of "
                f"{place_of(prompts[0])}. Return one score per completion, in the same order."
            )
        return results


class FunctionReward:
    """Outcomes from a function of a whole batch.

    The function is called with four lists as keyword arguments: `prompts` (texts, with the template), `completions`
    (texts), `golds` (texts) and `rows` (the source rows, as dicts). It returns a list with one score per completion:
    a number, or a pair of number and label `(score, correct)`. It runs in this process, without a deadline.

    Args:
        function: The function.
        name: What to call it in messages.
        correct_at: A score from here upwards is labelled correct, where the function gives no label.

    Raises:
        RewardError: When made: the function does not take those arguments. When called: the function returned
            something else than it should, or raised for every row of a batch. A function that raises for some rows
            only gives these the kind `error` and the value 0.

    Example:
        >>> def brevity(completions, **_):
        ...     return [1.0 / (1 + len(text)) for text in completions]
        >>> reward = FunctionReward(brevity, name="brevity")
        >>> reward([Prompt("0", "?", (), "x")], [Completion((), (), "abc", "eos")])[0].value
        0.25
    """

    def __init__(self, function: Callable[..., Any], *, name: str, correct_at: float = 1.0) -> None:
        self._function = BatchFunction(function, name=f"reward function {name}")
        self._correct_at = correct_at

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Outcome]:
        """Call the function on the batch; where that raises, on each row by itself, to find the row."""
        results = self._function(prompts, completions)
        return [self._read(result, prompt) for result, prompt in zip(results, prompts, strict=True)]

    def check_golds(self, golds: Sequence[str]) -> list[str | None]:
        """Every gold is fine: what it means is the function's business."""
        return [None] * len(golds)

    def close(self) -> None:
        """Nothing is held."""

    def _read(self, result: Any, prompt: Prompt) -> Outcome:
        if isinstance(result, RowFailure):
            return Outcome(value=0.0, correct=False, kind="error", detail=result.detail)
        is_pair = isinstance(result, (tuple, list)) and len(result) == 2
        value = as_number(result[0] if is_pair else result)
        label = as_number(result[1]) if is_pair else None
        if value is None or (is_pair and label not in (0.0, 1.0)):
            raise RewardError(
                f"{self._function.name} returned {short(result)} for {place_of(prompt)}. A score is a finite number, "
                "or a pair of a finite number and True or False."
            )
        return Outcome(value=value, correct=bool(label) if is_pair else value >= self._correct_at)


def load_function(spec: str, *, correct_at: float = 1.0) -> FunctionReward:
    """Load a reward function from a file.

    Args:
        spec: `path/to/file.py:name`, the path relative to the current folder. Modules beside the file can be imported
            by it while it is loaded.
        correct_at: A score from here upwards is labelled correct, where the function gives no label.

    Returns:
        The reward.

    Raises:
        RewardError: There is no such file or function, the file cannot be imported, or the function does not take
            the arguments it will get.
    """
    return FunctionReward(import_function(spec, "reward.name"), name=spec, correct_at=correct_at)


def import_function(spec: str, setting: str) -> Callable[..., Any]:
    """Import one function from a file.

    Args:
        spec: `path/to/file.py:name`, as for `load_function`.
        setting: What named it, for messages: `reward.name`.

    Returns:
        What goes by that name in the file.

    Raises:
        RewardError: There is no such file or function, or the file cannot be imported.
    """
    path_text, colon, name = spec.rpartition(":")
    if not colon or not path_text.endswith(".py") or not name.isidentifier():
        raise RewardError(f"{setting} = {spec!r} does not name a function. Write it as path/to/file.py:function.")
    path = Path(path_text).expanduser()
    if not path.is_file():
        raise RewardError(f"{setting} = {spec!r}: there is no file {path_text}.")
    module = _import_file(path, f"{setting} = {spec!r}")
    if not hasattr(module, name):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise RewardError(
            f"{path_text} has no function {name!r}. It has: {', '.join(functions) or 'no functions at all'}."
        )
    function = getattr(module, name)
    if not callable(function):
        raise RewardError(f"{name!r} in {path_text} is {short(function)}, which cannot be called.")
    return function


def _import_file(path: Path, place: str) -> Any:
    module_name = f"ngrpo_user_reward_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module  # dataclasses and pickle look it up there
    try:
        with _importable(path.parent):
            module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # user code may raise anything
        del sys.modules[module_name]
        raise RewardError(f"{place}: importing {path} failed: {describe(error)}{_line_of(error)}.") from error
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def as_number(value: Any) -> float | None:
    """Turn a number of Python, numpy or torch into a float; None for anything that is not a finite number."""
    if isinstance(value, str) or not hasattr(value, "__float__"):
        return None
    try:
        number = float(value)
    except Exception:  # noqa: BLE001  an array of several numbers, a huge integer, a class of the user's
        return None
    return number if math.isfinite(number) else None


def place_of(prompt: Prompt) -> str:
    """Where a prompt came from, for messages."""
    return f"{prompt.source} (id {prompt.id})" if prompt.source else f"prompt {prompt.id}"


def short(value: Any) -> str:
    """A value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _line_of(error: BaseException) -> str:
    """Say where in the user's code an exception came from."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" ({Path(trace.tb_frame.f_code.co_filename).name} line {trace.tb_lineno})" if trace is not None else ""
