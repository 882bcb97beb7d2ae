"""From the name of a source to its rows."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ngrpo import worlds
from ngrpo.data.files import read_json_lines, read_parquet
from ngrpo.data.rows import Row, Rows, number_rows
from ngrpo.errors import ConfigError, DataError
from ngrpo.rewards.reasoning_gym import open_task

_FORMS = "a .parquet or .jsonl file, a folder, hub:org/name, world:countdown or gym:chain_sum"

# Tasks that iterate over sets: items differ between processes unless PYTHONHASHSEED is set (reasoning-gym 0.1.25).
HASH_SEEDED_TASKS = frozenset(
    {"codeio", "isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"}
)
_warned_tasks: set[str] = set()


def read_rows(
    source: str,
    *,
    split: str = "train",
    subset: str | None = None,
    limit: int | None = None,
    size: int = 1000,
    seed: int = 0,
    params: Mapping[str, Any] | None = None,
) -> Rows:
    """Read the rows of a source.

    Args:
        source: A .parquet file, a file of JSON lines (.jsonl, .json), a folder that `datasets` can load or has saved,
            `hub:org/name` (the only form that uses the network), `world:countdown`, or `gym:task`.
        split: Split of a folder, a hub data set or a world.
        subset: Configuration of a folder or a hub data set.
        limit: Keep only the first rows.
        size: Rows to generate, for `world:` and `gym:`.
        seed: Seed of generated rows.
        params: Parameters of a `gym:` task.

    Returns:
        The rows, at least one.

    Raises:
        DataError: The source is missing, unreadable, unreachable or empty.
        ConfigError: The form of the source is unknown, a setting does not apply to it, or the gym task or its
            parameters are unknown.
        MissingExtraError: A `gym:` source without reasoning-gym.
    """
    _check_settings(source, subset=subset, params=params)
    kind, _, rest = source.partition(":")
    if kind == "gym":
        found = _read_gym(rest, size=size, seed=seed, params=params or {})
    elif kind == "world":
        found = _read_world(rest, split=split, size=size, seed=seed)
    elif kind == "hub":
        found = _read_hub(rest, split=split, subset=subset)
    else:
        found = _read_path(source, split=split, subset=subset, limit=limit)
    if not found.rows:
        raise DataError(f"{source} has no rows.")
    if limit is None or limit >= len(found.rows):
        return found
    return Rows(source, found.name, found.rows[:limit], found.columns, found.num_dropped, found.needs_gold)


def _check_settings(source: str, *, subset: str | None, params: Mapping[str, Any] | None) -> None:
    if params and not source.startswith("gym:"):
        raise ConfigError(f"data.params are parameters of a gym: task, but data.source is {source!r}. Remove them.")
    path = Path(source).expanduser()
    if subset is not None and not source.startswith("hub:") and not path.is_dir():
        raise ConfigError(f"data.subset is for folders and hub data sets, but data.source is {source!r}. Remove it.")


def _read_path(source: str, *, split: str, subset: str | None, limit: int | None) -> Rows:
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path, source, split=split, subset=subset)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        rows, columns = read_parquet(path, source, limit)
    elif suffix in (".jsonl", ".json"):
        rows, columns = read_json_lines(path, source, limit)
    elif path.exists():
        raise ConfigError(f"data.source = {source!r} is a file of unknown kind. A source is {_FORMS}.")
    else:
        raise DataError(f"data.source = {source!r}: there is no such file or folder. A source is {_FORMS}.")
    return Rows(source, path.stem, rows, columns)


def _read_folder(path: Path, source: str, *, split: str, subset: str | None) -> Rows:
    import datasets

    try:
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            loaded = datasets.load_from_disk(str(path))
        else:
            # Absolute, because a folder called "json" or "csv" would be taken for a loader of that name.
            loaded = _without_progress_bars(str(path.resolve()), subset)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise DataError(f"the folder {source} cannot be loaded as data: {_reason(error)}.") from error
    return _from_datasets(loaded, source, path.resolve().name, split)


def _read_hub(name: str, *, split: str, subset: str | None) -> Rows:
    import datasets

    source = f"hub:{name}"
    try:
        loaded = _without_progress_bars(name, subset)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(f"{source}: the hub has no such public data set: {_reason(error)}.") from error
    except (ConnectionError, TimeoutError) as error:
        raise DataError(
            f"{source} cannot be reached: {_reason(error)}. Check the network, or download the data set and give its "
            "folder or file as data.source."
        ) from error
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise DataError(f"{source} cannot be loaded: {_reason(error)}.") from error
    return _from_datasets(loaded, source, name, split)


def _without_progress_bars(path: str, subset: str | None) -> Any:
    import datasets

    were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(path, name=subset)
    finally:
        if not were_off:
            datasets.enable_progress_bars()


def _from_datasets(loaded: Any, source: str, name: str, split: str) -> Rows:
    if isinstance(loaded, dict):  # a DatasetDict; a data set that was saved by itself has no splits
        if split not in loaded:
            raise DataError(f"{source} has no split {split!r} (data.split). Its splits are: {', '.join(loaded)}.")
        loaded = loaded[split]
    return Rows(source, name, number_rows(loaded.to_list()), tuple(loaded.column_names))


def _read_world(name: str, *, split: str, size: int, seed: int) -> Rows:
    records = [dict(row) for row in worlds.get(name).problems(split, size, seed)]
    return Rows(f"world:{name}", name, number_rows(records), ("id", "prompt", "gold"))


def _read_gym(task: str, *, size: int, seed: int, params: Mapping[str, Any]) -> Rows:
    dataset = open_task(task, params=params, seed=seed, size=size)
    if task in HASH_SEEDED_TASKS and os.environ.get("PYTHONHASHSEED", "random") == "random":
        _warn_of_hash_seed(task)
    rows: list[Row] = []
    seen: set[str] = set()
    for index in range(size):
        try:
            entry = dataset[index]
        except (ValueError, RuntimeError, IndexError, AssertionError) as error:
            raise DataError(f"gym:{task} could not make row {index + 1} of {size}: {_reason(error)}.") from error
        # Small configurations repeat themselves: two digits have only so many sums.
        if entry["question"] not in seen:
            seen.add(entry["question"])
            rows.append(Row(index + 1, {"id": f"{task}/{seed}/{index}", **entry}))
    repeated = {"repeated question": size - len(rows)} if len(rows) < size else {}
    return Rows(f"gym:{task}", task, tuple(rows), ("id", "question", "answer", "metadata"), repeated, needs_gold=False)


def _warn_of_hash_seed(task: str) -> None:
    if task not in _warned_tasks:
        _warned_tasks.add(task)
        warnings.warn(
            f"the rows of gym task {task!r} depend on PYTHONHASHSEED, which is not set: another process, a resumed run "
            "included, gets other rows from the same seed. Start with PYTHONHASHSEED=0.",
            stacklevel=2,
        )


def _reason(error: BaseException) -> str:
    """Say the first line of an error, and of what caused it where `datasets` hides that."""
    cause = error.__cause__ or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
