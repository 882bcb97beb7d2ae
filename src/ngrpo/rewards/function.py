"""Judging by the user's own function, from a file of the user's."""

import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ngrpo.errors import RewardError
from ngrpo.rewards.worker import describe
from ngrpo.types import Completion, Outcome, Prompt

_SIGNATURE = "prompts, completions, golds, rows"


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
        self._function = function
        self._name = name
        self._correct_at = correct_at
        try:
            inspect.signature(function).bind(prompts=[], completions=[], golds=[], rows=[])
        except TypeError as error:
            raise RewardError(
                f"reward function {name} cannot be called with the keyword arguments {_SIGNATURE}: {error}. Take all "
                "four, or those you need and **kwargs."
            ) from error
        except ValueError:  # written in C: its signature cannot be read, calling it will tell
            pass

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Outcome]:
        """Call the function on the batch; where that raises, on each row by itself, to find the row."""
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts and {len(completions)} completions: one of each is needed")
        if not prompts:
            return []
        try:
            results = self._call(prompts, completions)
        except Exception:  # noqa: BLE001  user code may raise anything; the rows are told apart below
            return self._row_by_row(prompts, completions)
        return self._read(results, prompts)

    def check_gold(self, gold: str) -> None:
        """Every gold is fine: what it means is the function's business."""

    def close(self) -> None:
        """Nothing is held."""

    def _call(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Any:
        return self._function(
            prompts=[prompt.text for prompt in prompts],
            completions=[completion.text for completion in completions],
            golds=[prompt.gold for prompt in prompts],
            rows=[dict(prompt.columns) for prompt in prompts],
        )

    def _row_by_row(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        first_error: Exception | None = None
        for prompt, completion in zip(prompts, completions, strict=True):
            try:
                result = self._call([prompt], [completion])
            except Exception as error:  # noqa: BLE001  user code may raise anything
                first_error = first_error or error
                detail = f"{_place(prompt)}: {describe(error)}{_line_of(error)}"
                outcomes.append(Outcome(value=0.0, correct=False, kind="error", detail=detail))
            else:
                outcomes.extend(self._read(result, [prompt]))
        if first_error is not None and all(outcome.kind == "error" for outcome in outcomes):
            raise RewardError(
                f"reward function {self._name} raised for each of {len(outcomes)} rows, first for "
                f"{outcomes[0].detail}. Mend the function."
            ) from first_error
        return outcomes

    def _read(self, results: Any, prompts: Sequence[Prompt]) -> list[Outcome]:
        try:
            values = list(results)
        except TypeError:
            raise RewardError(
                f"reward function {self._name} returned {_short(results)} and not a list with one score per completion."
            ) from None
        if len(values) != len(prompts):
            raise RewardError(
                f"reward function {self._name} returned {len(values)} scores for {len(prompts)} completions, the first "
                f"of {_place(prompts[0])}. Return one score per completion, in the same order."
            )
        return [self._read_one(value, prompt) for value, prompt in zip(values, prompts, strict=True)]

    def _read_one(self, result: Any, prompt: Prompt) -> Outcome:
        is_pair = isinstance(result, (tuple, list)) and len(result) == 2
        value = _as_float(result[0] if is_pair else result)
        label = _as_float(result[1]) if is_pair else None
        if value is None or (is_pair and label not in (0.0, 1.0)):
            raise RewardError(
                f"reward function {self._name} returned {_short(result)} for {_place(prompt)}. A score is a finite "
                "number, or a pair of a finite number and True or False."
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
    path_text, colon, name = spec.rpartition(":")
    if not colon or not path_text.endswith(".py") or not name.isidentifier():
        raise RewardError(f"reward.name = {spec!r} does not name a function. Write it as path/to/file.py:function.")
    path = Path(path_text).expanduser()
    if not path.is_file():
        raise RewardError(f"reward.name = {spec!r}: there is no file {path_text}.")
    module = _import_file(path, spec)
    if not hasattr(module, name):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise RewardError(
            f"{path_text} has no function {name!r}. It has: {', '.join(functions) or 'no functions at all'}."
        )
    function = getattr(module, name)
    if not callable(function):
        raise RewardError(f"{name!r} in {path_text} is {_short(function)}, which cannot be called.")
    return FunctionReward(function, name=f"{path_text}:{name}", correct_at=correct_at)


def _import_file(path: Path, spec: str) -> Any:
    module_name = f"ngrpo_user_reward_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module  # dataclasses and pickle look it up there
    try:
        with _importable(path.parent):
            module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # user code may raise anything
        del sys.modules[module_name]
        raise RewardError(
            f"reward.name = {spec!r}: importing {path} failed: {describe(error)}{_line_of(error)}."
        ) from error
    return module


@contextmanager
def _importable(folder: Path) -> Any:
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _as_float(value: Any) -> float | None:
    """Turn a number of Python, numpy or torch into a float; None for anything that is not a finite number."""
    if isinstance(value, str) or not hasattr(value, "__float__"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # an array of several numbers, a huge integer
        return None
    return number if math.isfinite(number) else None


def _place(prompt: Prompt) -> str:
    return f"{prompt.source} (id {prompt.id})" if prompt.source else f"prompt {prompt.id}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _line_of(error: BaseException) -> str:
    """Say where in the user's code an exception came from."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" ({Path(trace.tb_frame.f_code.co_filename).name} line {trace.tb_lineno})" if trace is not None else ""
