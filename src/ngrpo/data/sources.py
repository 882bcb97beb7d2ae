"""From the name of a source to its rows."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ngrpo import worlds
from ngrpo.data.files import read_json_lines, read_parquet
from ngrpo.data.judge import find_columns
from ngrpo.data.presets import DataPreset, about, names
from ngrpo.data.published import as_published
from ngrpo.data.rows import Row, Rows, number_rows
from ngrpo.errors import ConfigError, DataError
from ngrpo.rewards.reasoning_gym import open_task

_FORMS = (
    "a .parquet or .jsonl file, a folder, hub:org/name, world:countdown, gym:chain_sum, or a published set from the "
    f"hub (NAME) or from a file (NAME:FILE), NAME being one of {', '.join(names())}"
)

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
    prompt_column: str | None = None,
    gold_column: str | None = None,
) -> Rows:
    """Read the rows of a source.

    Args:
        source: A .parquet file, a file of JSON lines (.jsonl, .json), a folder that `datasets` can load or has saved,
            `hub:org/name`, `world:countdown`, `gym:task`, or a published set (`ngrpo.data.presets`): `NAME` from the
            hub, `NAME:FILE` from a file or folder. Only `hub:` and `NAME` use the network.
        split: Split of a folder, a hub data set or a world.
        subset: Configuration of a folder or a hub data set.
        limit: Keep only the first rows.
        size: Rows to generate, for `world:` and `gym:`.
        seed: Seed of generated rows.
        params: Parameters of a `gym:` task.
        prompt_column: For a published set: the copy's column of the problem, where it has an unusual name.
        gold_column: The same for the answer or solution.

    Returns:
        The rows, at least one.

    Raises:
        DataError: The source is missing, unreadable, unreachable or empty, or not the published set it is said to be.
        ConfigError: The form of the source is unknown, a setting does not apply to it, or the gym task or its
            parameters are unknown.
        MissingExtraError: A `gym:` source without reasoning-gym.
    """
    _check_settings(source, split=split, subset=subset, params=params)
    kind, _, rest = source.partition(":")
    preset = about(source)
    if preset is not None:
        found = _read_preset(preset, rest, source, prompt_column, gold_column)
    elif kind == "gym":
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


def _check_settings(source: str, *, split: str, subset: str | None, params: Mapping[str, Any] | None) -> None:
    if params and not source.startswith("gym:"):
        raise ConfigError(f"data.params are parameters of a gym: task, but data.source is {source!r}. Remove them.")
    preset, path = about(source), Path(source).expanduser()
    if preset is not None and (subset is not None or split not in ("train", preset.split)):  # train: the default
        raise ConfigError(
            f"data.source = {source!r} names a published set, which is one split already; data.split = {split!r} and "
            f"data.subset = {subset!r} do not apply. Remove them. The sets are: {', '.join(names())}."
        )
    if preset is not None and source == preset.name and path.exists():
        raise ConfigError(
            f"data.source = {source!r} is the name of a published set, and of something in the current folder. Write "
            f"./{source} for that, {source}:./{source} for the set read from it, or hub:{preset.hub} for the hub's."
        )
    if subset is not None and not source.startswith("hub:") and not path.is_dir():
        raise ConfigError(f"data.subset is for folders and hub data sets, but data.source is {source!r}. Remove it.")


def _read_preset(
    preset: DataPreset, file: str, source: str, prompt_column: str | None, gold_column: str | None
) -> Rows:
    if file:
        found = _read_path(file, split=preset.split, subset=None, limit=None)
    else:
        found = _read_subsets(preset)
        prompt_column, gold_column = prompt_column or preset.prompt_column, gold_column or preset.gold_column
    columns = find_columns(found, prompt_column=prompt_column, gold_column=gold_column)
    named = Rows(source, preset.name, found.rows, found.columns)
    return as_published(preset, named, columns.prompt, columns.gold)


def _read_subsets(preset: DataPreset) -> Rows:
    parts = [_read_hub(preset.hub, split=preset.split, subset=subset) for subset in preset.subsets]
    records = [row.columns for part in parts for row in part.rows]
    columns = dict.fromkeys(name for part in parts for name in part.columns)
    return Rows(f"hub:{preset.hub}", preset.name, number_rows(records), tuple(columns))


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
            "folder or file as data.source (NAME:FILE for a published set)."
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
