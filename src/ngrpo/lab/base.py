"""Base models of the tiny worlds, each made from scratch in about a minute on one CPU core.

`build_base` writes a genuine Hugging Face checkpoint folder; `cached_base` builds it once and finds it again. How each
is made is in `lab.setups`; worlds with the same warm start share one base.
"""

import hashlib
import json
import math
import os
import platform
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ngrpo
from ngrpo import worlds
from ngrpo.errors import ConfigError, RunFolderError
from ngrpo.lab import base_statistics, setups
from ngrpo.lab.setups import WarmStart
from ngrpo.lab.tokenizer import character_tokenizer
from ngrpo.lab.warm_start import MAX_POSITIONS, OnStep, architecture, new_model, train
from ngrpo.policy import no_progress_bars, one_thread
from ngrpo.record import write_json

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

# Raised when `lab.warm_start` would make other weights from the same recipe: it is part of the cache's key.
RECIPE_VERSION = 1

NUM_STEPS = setups.get("countdown").warm_start.num_steps

# The reported final loss is the mean over this many last steps: one step alone is noisy.
FINAL_LOSS_STEPS = 20


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights. Its hash is the name of a cached base.

    Attributes:
        warm_start: What is shown, how often, and how wide the model is.
        world_version: Version of the world whose demonstrations are shown: others make another model.
        seed: Seed of the demonstrations and of the initial weights.
        recipe_version: Version of the code that follows the recipe.
    """

    warm_start: WarmStart
    world_version: int
    seed: int
    recipe_version: int = RECIPE_VERSION

    def key(self) -> str:
        """Hash the recipe and the architecture, as 12 hexadecimal digits."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """JSON-safe; the width is told by the architecture."""
        settings = asdict(self.warm_start) | {
            "world_version": self.world_version,
            "seed": self.seed,
            "recipe_version": self.recipe_version,
        }
        return {"architecture": architecture(settings.pop("hidden_size")), "recipe": settings}


def build_base(
    folder: str | Path,
    *,
    world: str = "countdown",
    seed: int = 0,
    num_steps: int | None = None,
    rows_per_step: int | None = None,
    lr: float | None = None,
    on_step: OnStep | None = None,
) -> Path:
    """Train a base model on what its world shows it, and write it as a Hugging Face checkpoint folder.

    A Qwen2 of 108,352 parameters (countdown) learns from scratch, in float32, to complete prompts with what is
    demonstrated and the end-of-sequence token; prompts themselves carry no loss. What came out is measured and compared
    with `Setup.expected`. The folder appears whole or not at all: it is written beside and then renamed.

    Args:
        folder: Where to write. Must not exist, or be empty.
        world: Name of the tiny world.
        seed: Seed of the demonstrations and of the initial weights, at least 0.
        num_steps: Optimiser steps. Fewer give a weaker base. Default of this and of what follows: the world's setup.
        rows_per_step: Demonstrations per optimiser step.
        lr: Peak learning rate of AdamW: linear warm-up, then cosine down to a tenth of it.
        on_step: Called after each step with its number from 1, the number of steps and the loss in nats per token.

    Returns:
        The folder: weights, configurations, tokenizer, and `base.json` with the recipe, versions, final loss, time, and
        statistics in each world that the base serves.

    Raises:
        DataError: There is no such world.
        ConfigError: A number is out of range.
        RunFolderError: The folder exists and is not empty, or cannot be made.
        MissingExtraError: The world is made by a package that is not installed.
    """
    recipe = _checked_recipe(world, seed=seed, num_steps=num_steps, rows_per_step=rows_per_step, lr=lr)
    folder = Path(folder)
    _require_free(folder)
    _build(folder, recipe, on_step)
    return folder


def cached_base(
    *,
    world: str = "countdown",
    seed: int = 0,
    num_steps: int | None = None,
    rows_per_step: int | None = None,
    lr: float | None = None,
    on_step: OnStep | None = None,
) -> tuple[Path, bool]:
    """Find the base model of a recipe in the cache, or build it there.

    Two processes that build the same base at once both train; the first to finish is kept.

    Args:
        world: As in `build_base`, like all that follow.
        seed: Seed of the demonstrations and of the initial weights.
        num_steps: Optimiser steps.
        rows_per_step: Demonstrations per optimiser step.
        lr: Peak learning rate.
        on_step: Called after each step; not at all when the base was cached.

    Returns:
        The folder, and whether it was there already.

    Raises:
        DataError: There is no such world.
        ConfigError: A number is out of range.
        RunFolderError: The cache cannot be written.
        MissingExtraError: The world is made by a package that is not installed.
    """
    recipe = _checked_recipe(world, seed=seed, num_steps=num_steps, rows_per_step=rows_per_step, lr=lr)
    folder = cache_folder() / f"{recipe.warm_start.world}-{recipe.key()}"
    if (folder / "base.json").exists():
        return folder, True
    _require_free(folder)
    try:
        _build(folder, recipe, on_step)
    except RunFolderError:
        # Another process finished the same recipe first: its folder is as good, and may be in use by now.
        if not (folder / "base.json").exists():
            raise
    return folder, False


def read_statistics(folder: Path, world: str) -> dict[str, float]:
    """What a base model is like in a world; measured, and written down, where that was not done when it was built.

    Args:
        folder: Of a base model.
        world: Name of a world that it serves.

    Returns:
        As `base_statistics.measure`.
    """
    record = json.loads((folder / "base.json").read_text(encoding="utf-8"))
    known = record.setdefault("statistics", {})
    if world not in known:
        known[world] = base_statistics.measure(folder, world)
        write_json(folder / "base.json", record)
    return known[world]


def cache_folder() -> Path:
    """Where bases are cached: `$NGRPO_CACHE`, else `$XDG_CACHE_HOME/ngrpo`, else `~/.cache/ngrpo`, below it `bases`."""
    own = os.environ.get("NGRPO_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME")
    root = Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "ngrpo"
    return root / "bases"


def _checked_recipe(world: str, *, seed: int, **changes: float | None) -> Recipe:
    """Check the numbers and look up the world, before anything heavy is imported."""
    worlds.get(world)
    own = setups.get(world).warm_start
    warm_start = replace(own, **{name: value for name, value in changes.items() if value is not None})
    for name, value, least in (
        ("num_steps", warm_start.num_steps, 1),
        ("rows_per_step", warm_start.rows_per_step, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}.")
    if not (math.isfinite(warm_start.lr) and warm_start.lr > 0):
        raise ConfigError(f"lr must be a finite number above 0, got {warm_start.lr}.")
    return Recipe(warm_start, worlds.get(warm_start.world).version, seed)


def _require_free(folder: Path) -> None:
    """Refuse, before training, a folder that could not be written after it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder} exists and is not an empty folder. Choose another folder or remove it.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{folder.parent} cannot be made: {error.strerror}. Choose another folder.") from error
    if not os.access(folder.parent, os.W_OK):
        raise RunFolderError(f"{folder.parent} is not writable. Choose another folder or change its permissions.")


def _build(folder: Path, recipe: Recipe, on_step: OnStep | None) -> None:
    warm_start = recipe.warm_start
    world = worlds.get(warm_start.world)
    start_s = time.perf_counter()
    shown = world.demonstrations(warm_start.num_steps * warm_start.rows_per_step, recipe.seed)
    tokenizer = character_tokenizer(world.alphabet, max_tokens=MAX_POSITIONS)
    model = new_model(tokenizer, recipe.seed, hidden_size=warm_start.hidden_size)
    with one_thread():
        losses = train(model, tokenizer, shown, warm_start, on_step)
    last_losses = losses[-FINAL_LOSS_STEPS:]
    record = recipe.as_dict() | {
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "final_loss_nats": sum(last_losses) / len(last_losses),
        "wall_s": round(time.perf_counter() - start_s, 2),
        "versions": _versions(),
    }
    served = [setup for setup in map(setups.get, setups.names()) if setup.warm_start.world == warm_start.world]
    _write(folder, model, tokenizer, record, [setup.world for setup in served])
    for setup in served:
        if setup.warm_start == warm_start:  # one that was made otherwise is meant to be different
            base_statistics.warn_of_drift(setup.world, read_statistics(folder, setup.world), setup.expected)


def _versions() -> dict[str, str]:
    import tokenizers
    import torch
    import transformers

    return {
        "ngrpo": ngrpo.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }


def _write(
    folder: Path,
    model: "Qwen2ForCausalLM",
    tokenizer: "Qwen2Tokenizer",
    record: dict[str, Any],
    measured_in: Sequence[str] = (),
) -> None:
    """Write everything beside the folder, then rename: a folder of that name is always whole."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with no_progress_bars():
            model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        record["statistics"] = {world: base_statistics.measure(aside, world) for world in measured_in}
        (aside / "base.json").write_text(json.dumps(record, indent=2) + "\n")
        aside.rename(folder)
    except OSError as error:
        raise RunFolderError(f"the base could not be written to {folder}: {error}. Choose another folder.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
