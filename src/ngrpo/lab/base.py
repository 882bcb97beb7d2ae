"""Warm start of the tiny base model: supervised, from scratch, in about a minute on one CPU core.

`build_base` writes a genuine Hugging Face checkpoint folder; `cached_base` builds it once and finds it again. It trains
on one thread: the same recipe gives the same weights, bit for bit, and for matrices this small a second thread gains
little on a quiet machine and loses several times as much on a busy one.
"""

import hashlib
import json
import math
import os
import platform
import secrets
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ngrpo
from ngrpo import worlds
from ngrpo.errors import ConfigError, RunFolderError
from ngrpo.lab.tokenizer import character_tokenizer
from ngrpo.policy import no_progress_bars, one_thread
from ngrpo.train.schedule import learning_rate

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

OnStep = Callable[[int, int, float], None]

# Raised when the code below would make other weights from the same recipe: it is part of the cache's key.
RECIPE_VERSION = 1

# Twice what a prompt and its completion need, so that a template around the prompt still fits.
MAX_POSITIONS = 64

ARCHITECTURE = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": MAX_POSITIONS,
    "tie_word_embeddings": True,
}

WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0
FINAL_LR_FRAC = 0.1
WARMUP_DIVISOR = 20  # a twentieth of the steps

NUM_STEPS = 1000

# The reported final loss is the mean over this many last steps: one step alone is noisy.
FINAL_LOSS_STEPS = 20


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights. Its hash is the name of a cached base.

    Attributes:
        world: Name of the tiny world.
        world_version: Its version: other rows make another model.
        seed: Seed of the rows and of the initial weights.
        num_steps: Optimiser steps.
        rows_per_step: Worked problems per optimiser step, all different draws.
        lr: Peak learning rate of AdamW: linear warm-up, then cosine down to a tenth of it.
        recipe_version: Version of the code that follows the recipe.
    """

    world: str
    world_version: int
    seed: int
    num_steps: int
    rows_per_step: int
    lr: float
    recipe_version: int = RECIPE_VERSION

    def key(self) -> str:
        """Hash the recipe and the architecture, as 12 hexadecimal digits."""
        text = json.dumps({"recipe": asdict(self), "architecture": ARCHITECTURE}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def build_base(
    folder: str | Path,
    *,
    world: str = "countdown",
    seed: int = 0,
    num_steps: int = NUM_STEPS,
    rows_per_step: int = 128,
    lr: float = 2e-3,
    on_step: OnStep | None = None,
) -> Path:
    """Train a base model on a world's `warm` split and write it as a Hugging Face checkpoint folder.

    A Qwen2 of 108,352 parameters (countdown) learns from scratch, in float32, to complete prompts with the gold and the
    end-of-sequence token; prompts themselves carry no loss. The folder appears whole or not at all: it is written
    beside and then renamed.

    Args:
        folder: Where to write. Must not exist, or be empty.
        world: Name of the tiny world.
        seed: Seed of the rows and of the initial weights, at least 0.
        num_steps: Optimiser steps. Fewer give a weaker base.
        rows_per_step: Worked problems per optimiser step.
        lr: Peak learning rate of AdamW: linear warm-up, then cosine down to a tenth of it.
        on_step: Called after each step with its number from 1, `num_steps` and the loss in nats per token.

    Returns:
        The folder: weights, configurations, tokenizer, and `base.json` with the recipe, versions, final loss and time.

    Raises:
        DataError: There is no such world.
        ConfigError: A number is out of range.
        RunFolderError: The folder exists and is not empty, or cannot be made.
    """
    recipe = _checked_recipe(
        world=world,
        seed=seed,
        num_steps=num_steps,
        rows_per_step=rows_per_step,
        lr=lr,
    )
    folder = Path(folder)
    _require_free(folder)
    _build(folder, recipe, on_step)
    return folder


def cached_base(
    *,
    world: str = "countdown",
    seed: int = 0,
    num_steps: int = NUM_STEPS,
    rows_per_step: int = 128,
    lr: float = 2e-3,
    on_step: OnStep | None = None,
) -> tuple[Path, bool]:
    """Find the base model of a recipe in the cache, or build it there.

    Two processes that build the same base at once both train; the first to finish is kept.

    Args:
        world: As in `build_base`, like all that follow.
        seed: Seed of the rows and of the initial weights.
        num_steps: Optimiser steps.
        rows_per_step: Worked problems per optimiser step.
        lr: Peak learning rate.
        on_step: Called after each step; not at all when the base was cached.

    Returns:
        The folder, and whether it was there already.

    Raises:
        DataError: There is no such world.
        ConfigError: A number is out of range.
        RunFolderError: The cache cannot be written.
    """
    recipe = _checked_recipe(
        world=world,
        seed=seed,
        num_steps=num_steps,
        rows_per_step=rows_per_step,
        lr=lr,
    )
    folder = cache_folder() / f"{world}-{recipe.key()}"
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


def cache_folder() -> Path:
    """Where bases are cached: `$NGRPO_CACHE`, else `$XDG_CACHE_HOME/ngrpo`, else `~/.cache/ngrpo`, below it `bases`."""
    own = os.environ.get("NGRPO_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME")
    root = Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "ngrpo"
    return root / "bases"


def _checked_recipe(*, world: str, seed: int, num_steps: int, rows_per_step: int, lr: float) -> Recipe:
    """Check the numbers and look up the world, before anything heavy is imported."""
    for name, value, least in (("num_steps", num_steps, 1), ("rows_per_step", rows_per_step, 1), ("seed", seed, 0)):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}.")
    if not (math.isfinite(lr) and lr > 0):
        raise ConfigError(f"lr must be a finite number above 0, got {lr}.")
    version = worlds.get(world).version
    return Recipe(
        world=world,
        world_version=version,
        seed=seed,
        num_steps=num_steps,
        rows_per_step=rows_per_step,
        lr=lr,
    )


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
    world = worlds.get(recipe.world)
    start_s = time.perf_counter()
    tokenizer = character_tokenizer(world.alphabet, max_tokens=MAX_POSITIONS)
    model = _new_model(tokenizer, recipe.seed)
    rows = world.problems("warm", recipe.num_steps * recipe.rows_per_step, recipe.seed)
    with one_thread():
        losses = _train(model, tokenizer, rows, recipe, on_step)
    last_losses = losses[-FINAL_LOSS_STEPS:]
    record = {
        "recipe": asdict(recipe),
        "architecture": ARCHITECTURE,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "final_loss_nats": sum(last_losses) / len(last_losses),
        "wall_s": round(time.perf_counter() - start_s, 2),
        "versions": _versions(),
    }
    _write(folder, model, tokenizer, record)


def _new_model(tokenizer: "Qwen2Tokenizer", seed: int) -> "Qwen2ForCausalLM":
    """Make a Qwen2 with random weights, leaving the caller's random state as it was."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        **ARCHITECTURE,
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


def _train(
    model: "Qwen2ForCausalLM",
    tokenizer: "Qwen2Tokenizer",
    rows: list[worlds.Row],
    recipe: Recipe,
    on_step: OnStep | None,
) -> list[float]:
    """Train on each row once, in their order, and return the loss of every step, in nats per token."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=WEIGHT_DECAY, fused=True)
    model.train()
    losses = []
    for step in range(recipe.num_steps):
        step_rows = rows[step * recipe.rows_per_step : (step + 1) * recipe.rows_per_step]
        num_tokens = sum(len(row["gold"]) + 1 for row in step_rows)
        loss_sum = 0.0
        for input_ids, is_target in _batches(step_rows, tokenizer):
            batch_loss = _loss_sum(model, input_ids, is_target)
            (batch_loss / num_tokens).backward()
            loss_sum += batch_loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                step,
                peak=recipe.lr,
                num_steps=recipe.num_steps,
                warmup_steps=recipe.num_steps // WARMUP_DIVISOR,
                schedule="cosine",
                min_lr_frac=FINAL_LR_FRAC,
            )
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss_sum / num_tokens)
        if on_step is not None:
            on_step(step + 1, recipe.num_steps, losses[-1])
    model.eval()
    return losses


def _batches(rows: list[worlds.Row], tokenizer: "Qwen2Tokenizer") -> list[tuple["torch.Tensor", "torch.Tensor"]]:
    """Cut rows into right-padded batches by the length of their gold, which leaves next to no padding.

    Returns:
        For each length: token ids [N, T] and the mask [N, T] of the tokens that are learned.
    """
    import torch

    vocabulary = tokenizer.get_vocab()  # one token per character: a look-up is all that encoding does
    rows_by_length = defaultdict(list)
    for row in rows:
        rows_by_length[len(row["gold"])].append(row)
    batches = []
    for _, alike in sorted(rows_by_length.items()):
        texts = [row["prompt"] + row["gold"] for row in alike]
        ids = [[vocabulary[character] for character in text] + [tokenizer.eos_token_id] for text in texts]
        width = max(map(len, ids))
        input_ids = torch.tensor([row_ids + [tokenizer.pad_token_id] * (width - len(row_ids)) for row_ids in ids])
        first = torch.tensor([len(row["prompt"]) for row in alike])[:, None]
        end = torch.tensor([len(row_ids) for row_ids in ids])[:, None]
        position = torch.arange(width)
        is_target = (first <= position) & (position < end)
        batches.append((input_ids, is_target))
    return batches


def _loss_sum(model: "Qwen2ForCausalLM", input_ids: "torch.Tensor", is_target: "torch.Tensor") -> "torch.Tensor":
    """Sum of -log p over the target tokens.

    No attention mask: padding is on the right, where causal attention never sees it, and without a mask tensor
    the fused causal kernel runs.
    """
    import torch

    hidden = model.model(input_ids=input_ids, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][is_target[:, 1:]])
    return torch.nn.functional.cross_entropy(logits, input_ids[:, 1:][is_target[:, 1:]], reduction="sum")


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


def _write(folder: Path, model: "Qwen2ForCausalLM", tokenizer: "Qwen2Tokenizer", record: dict[str, Any]) -> None:
    """Write everything beside the folder, then rename: a folder of that name is always whole."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with no_progress_bars():
            model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        (aside / "base.json").write_text(json.dumps(record, indent=2) + "\n")
        aside.rename(folder)
    except OSError as error:
        raise RunFolderError(f"the base could not be written to {folder}: {error}. Choose another folder.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
