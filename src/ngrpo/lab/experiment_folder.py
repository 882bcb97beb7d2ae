"""`experiment.json`: what a folder's experiment is, so that it is never taken for another."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ngrpo.errors import RunFolderError
from ngrpo.lab.arms import run_name
from ngrpo.lab.plan import Arm, Plan
from ngrpo.policy import weights_fingerprint
from ngrpo.record import console, provenance, write_json

EXPERIMENT = "experiment.json"


def runs_folder(folder: Path) -> Path:
    """Where the run folders of an experiment are."""
    return folder / "runs"


def open_experiment(folder: Path, plan: Plan, command: Sequence[str], *, audit: Mapping[str, Any]) -> None:
    """Makes the folder and writes `experiment.json`, or checks that what it holds is this plan.

    Args:
        folder: The experiment folder.
        plan: What it holds, or is to hold.
        command: The command line.
        audit: Counts of the split audit.

    Raises:
        RunFolderError: It holds another plan, or cannot be used. Every difference is named.
    """
    described = _plain(
        {
            "kind": plan.kind,
            "world": plan.setup.world,
            "command": list(command),
            "settings": settings_of(plan),
            "held_equal": plan.held_equal,
            "audit": audit,
            "runs": [*_base_runs(plan), *(run_of(plan, arm, seed) for arm in plan.arms for seed in plan.seeds)],
        }
    )
    try:
        runs_folder(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be used: {error!r}. Give another --folder.") from error
    old = _read(folder)
    if old is None:
        write_json(folder / EXPERIMENT, {**described, "versions": provenance()})
        return
    _refuse_another(folder, old, described, ("kind", "world", "settings", "held_equal", "runs"))
    tell_other_versions(old.get("versions", {}), provenance())


def check_before_search(folder: Path, plan: Plan) -> None:
    """Refuses the folder of another experiment before learning rates are searched for, which takes long.

    Args:
        folder: The experiment folder; may not exist yet.
        plan: What it is to hold, but for the rates.

    Raises:
        RunFolderError: Its experiment is of another kind, world or size, or chose no rates.
    """
    old = _read(folder)
    if old is not None:
        chosen = old.get("settings", {}).get("learning_rates", {"to be": "chosen"})
        settings = {**settings_of(plan), "learning_rates": chosen}
        described = _plain({"kind": plan.kind, "world": plan.setup.world, "settings": settings})
        _refuse_another(folder, old, described, tuple(described))


def keep_base(folder: Path, base: str) -> None:
    """Writes into `experiment.json` which weights everything starts from, or checks that they are still the same.

    Args:
        folder: The experiment folder.
        base: Folder of the base model.

    Raises:
        RunFolderError: They are not.
    """
    described = _read(folder) or {}
    weights = weights_fingerprint(base)
    if "base_weights" not in described:
        write_json(folder / EXPERIMENT, {**described, "base_weights": weights})
    elif described["base_weights"] != weights:
        raise RunFolderError(
            f"{folder} was begun from other weights than those in {base} (base_weights: "
            f"{described['base_weights']} -> {weights}). Give another --folder, or bring the former base back."
        )


def tell_other_versions(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Says where an experiment is gone on with by other versions than it was begun with: numbers may differ a little.

    Args:
        old: From `record.provenance`, as it was.
        new: As it is.
    """
    before, now = ({"ngrpo": each.get("ngrpo"), "torch": each.get("packages", {}).get("torch")} for each in (old, new))
    changed = ", ".join(f"{name} {before[name]} -> {now[name]}" for name in now if before[name] != now[name])
    if changed:
        console().print(f"gone on with by other versions than it was begun with: {changed}", soft_wrap=True)


def _read(folder: Path) -> dict[str, Any] | None:
    """`experiment.json`, or None where there is none."""
    path = folder / EXPERIMENT
    try:
        if not path.exists():
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError(f"{path} is no JSON object")
    except (OSError, ValueError, TypeError) as error:
        raise RunFolderError(f"{folder} cannot be used: {error!r}. Give another --folder.") from error
    return found


def _refuse_another(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], keys: Sequence[str]) -> None:
    changed = [line for key in keys for line in differences(old.get(key, _ABSENT), new[key], key)]
    if changed:
        lines = "\n".join(f"  {line}" for line in changed[:MAX_NAMED])
        more = f"\n  and {len(changed) - MAX_NAMED} more" * (len(changed) > MAX_NAMED)
        raise RunFolderError(
            f"{folder} holds another experiment:\n{lines}{more}\nGive another --folder, or the same settings to go on "
            "with it."
        )


def _plain(value: Any) -> Any:
    """As it is after a round through JSON."""
    return json.loads(json.dumps(value))


MAX_NAMED = 12
"""Differences named in one message."""


def settings_of(plan: Plan) -> dict[str, Any]:
    """What decides the numbers, beside the arms: sizes, base model, seeds."""
    setup = asdict(plan.setup)
    del setup["expected"]  # says what the base must be like, and changes no number
    return {
        **setup,
        "num_seeds": plan.num_seeds,
        "model": plan.model,
        "sharp_temperatures": list(plan.sharp_temperatures),
        # Not where they are: what is in them decides.
        "plugins": [
            {Path(path).name: hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]} for path in plan.plugins
        ],
        "split": plan.split,
        "first_seed": plan.first_seed,
        "is_exact": plan.is_exact,
        "base_steps": plan.base_steps,
        **plan.notes,
    }


def run_of(plan: Plan, arm: Arm, seed: int) -> dict[str, Any]:
    """The entry of one run."""
    name = run_name(arm, seed)
    return {
        "name": name,
        "arm": arm.name,
        "role": arm.role,
        "factors": dict(arm.factors),
        "seed": seed,
        "objective": arm.objective,
        "params": dict(arm.params),
        "overrides": list(arm.overrides),
        "folder": f"runs/{name}",
    }


def shown_temperatures(plan: Plan) -> tuple[float, ...]:
    """Of the base, besides 1 and the chosen one, highest first: all where there was a choice."""
    return tuple(sorted(plan.sharp_temperatures, reverse=True)) if len(plan.sharp_temperatures) > 1 else ()


def base_name(temperature: float) -> str:
    """Name of the run folder of the base at a temperature.

    Example:
        >>> base_name(0.6)
        'base_T0.6'
    """
    return f"base_T{temperature:g}"


def _base_runs(plan: Plan) -> Iterator[dict[str, Any]]:
    names = ["base", "base_sharp", *(base_name(temperature) for temperature in shown_temperatures(plan))]
    for name in names:
        yield {"name": name, "arm": name, "role": "base", "factors": {}, "seed": None, "objective": None,
               "params": {}, "overrides": [], "folder": f"runs/{name}"}  # fmt: skip


def differences(old: Any, new: Any, place: str) -> Iterator[str]:
    """Where two JSON values differ, one line each: `settings.num_steps: 3 -> 4`.

    Example:
        >>> list(differences({"a": 1, "b": [1, 2]}, {"a": 1, "b": [1, 3], "c": 0}, "settings"))
        ['settings.b[1]: 2 -> 3', 'settings.c: not set -> 0']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{place}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{place}[{index}]")
    elif isinstance(old, list) and isinstance(new, list) and place == "runs":
        yield f"{place}: {len(old)} runs -> {len(new)} runs"
    elif old != new:
        yield f"{place}: {_shown(old)} -> {_shown(new)}"


_ABSENT = object()


def _shown(value: Any) -> str:
    return "not set" if value is _ABSENT else json.dumps(value)
