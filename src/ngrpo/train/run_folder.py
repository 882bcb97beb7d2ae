"""The run folder: started once, held by one process, taken up only under the same settings and data."""

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ngrpo.config import RunConfig, diff, resolved
from ngrpo.data import PromptSet
from ngrpo.errors import CheckpointError, MissingExtraError, RunFolderError
from ngrpo.record import (
    Listener,
    Recorder,
    TensorBoardListener,
    WandbListener,
    console,
    keep_lines,
    provenance,
    write_json,
)
from ngrpo.train.checkpoint import TrainerState

FREE_TO_CHANGE = (
    "run.dir",
    "run.name",
    "train.num_steps",
    "checkpoint.",
    "record.",
    "reward.max_failed_frac",
    "reward.num_workers",
    "reward.timeout_s",
    "rollout.max_rows",
    "rollout.cache_gib",
    "update.max_microbatch_tokens",
    "update.packing_window",
)
"""Settings a resumed run may change (its folder may have been moved). None changes what was done already; the last
four change what comes by rounding only, `train.num_steps` where a schedule ends at it, and `reward.timeout_s` what
the judge gets done."""


_WANTED = "Name the folder of a run; without --resume, `ngrpo train` starts one."


def folder_of(config: RunConfig) -> Path:
    """The run folder that the settings name."""
    return Path(os.path.expanduser(config.run.dir)) / config.run.name


def check_extras(config: RunConfig) -> None:
    """Finds out what is not installed before anything is loaded.

    Raises:
        MissingExtraError: A setting needs an extra.
    """
    needs = {"wandb": ("wandb", "record.wandb", config.record.wandb != "off"),
             "peft": ("lora", "model.lora", config.model.lora is not None)}  # fmt: skip
    for module, (extra, setting, is_needed) in needs.items():
        if is_needed and importlib.util.find_spec(module) is None:
            raise MissingExtraError(f'{setting} needs {module}: pip install "ngrpo[{extra}]".')


def start_folder(folder: Path) -> None:
    """Makes a new, empty run folder.

    Raises:
        RunFolderError: It holds something already, or cannot be written.
    """
    try:
        is_taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if not is_taken:
            folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise RunFolderError(f"cannot make the run folder {folder}: {reason}. Choose another run.dir.") from error
    if is_taken:
        raise RunFolderError(
            f"{folder} exists already. Go on with that run (--resume), or choose another run.name or run.dir."
        )
    if not os.access(folder, os.W_OK):
        raise RunFolderError(f"the run folder {folder} cannot be written to. Choose another run.dir.")


def read_run_file(folder: Path) -> dict[str, Any]:
    """What `run.json` of a run folder says.

    Raises:
        RunFolderError: There is no run in the folder.
    """
    try:
        described = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        missing = {"config", "data", "dropped_rows", "resumed"} - described.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise RunFolderError(f"{folder} holds no run: its run.json cannot be read ({error}). {_WANTED}") from error
    if missing:
        raise RunFolderError(f"{folder} holds no run: its run.json lacks {', '.join(sorted(missing))}. {_WANTED}")
    return described


def check_same_settings(described: Mapping[str, Any], config: RunConfig, folder: Path) -> None:
    """Refuses to go on with a run under other settings.

    Args:
        described: What `run.json` says.
        config: The settings now.
        folder: The run folder, for the message.

    Raises:
        CheckpointError: The settings differ; the message shows where.
    """
    changes = diff(described["config"], resolved(config))
    forbidden = [(key, was, now) for key, was, now in changes if not key.startswith(FREE_TO_CHANGE)]
    if forbidden:
        lines = "\n".join(f"  {key}: {_shown(was)} -> {_shown(now)}" for key, was, now in forbidden)
        free = ", ".join(f"{key}*" if key.endswith(".") else key for key in FREE_TO_CHANGE)
        raise CheckpointError(
            f"the run in {folder} was started with other settings:\n{lines}\n"
            f"Give the same settings to go on with it, or another run.name to start anew. What may change: {free}."
        )


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)


def check_same_data(described: Mapping[str, Any], prompts: PromptSet, folder: Path) -> None:
    """Refuses to go on with a run on other prompts.

    Args:
        described: What `run.json` says.
        prompts: The prompts now.
        folder: The run folder, for the message.

    Raises:
        CheckpointError: They are not those the run was started with.
    """
    then, now = described["data"], data_facts(prompts)
    if then["fingerprint"] != now["fingerprint"]:
        raise CheckpointError(
            f"the prompts are not those the run in {folder} was started with ({then['num_prompts']} then, "
            f"{now['num_prompts']} now, fingerprints differ). Restore the data, or start a new run."
        )


def data_facts(prompts: PromptSet) -> dict[str, Any]:
    """What `run.json` keeps of the prompts."""
    return {"name": prompts.name, "num_prompts": len(prompts), "fingerprint": prompts.fingerprint}


def write_run_file(
    folder: Path, config: RunConfig, prompts: PromptSet, state: TrainerState, described: Mapping[str, Any] | None
) -> None:
    """Writes what the run is made of, before its first step.

    A first start keeps its provenance; each resume adds its own.

    Args:
        folder: The run folder.
        config: The settings now.
        prompts: The training prompts.
        state: Where the run is.
        described: What `run.json` said so far, where the run is resumed.
    """
    facts = {"config": resolved(config), "data": data_facts(prompts), "dropped_rows": dict(prompts.num_dropped)}
    if described is None:
        written = {**facts, **provenance(), "resumed": []}
    else:
        written = {**described, **facts, "resumed": [*described["resumed"], {"step": state.step, **provenance()}]}
    write_json(folder / "run.json", written)


def forget_unsaved(recorder: Recorder, state: TrainerState) -> None:
    """Drops the records of what was done after the checkpoint: it is done again.

    Args:
        recorder: Of the run folder.
        state: Where the checkpoint left the run; a fresh one where there is none.

    Raises:
        RunFolderError: The records cannot be read.
    """
    metrics = recorder.folder / "metrics.jsonl"
    try:
        dropped = recorder.forget_after(state.step)
        # The checkpoint may be older than the validation of its own step.
        dropped += keep_lines(
            metrics, lambda row: row["step"] <= state.validated_step or "validation/pass_at_1" not in row
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"the records (*.jsonl) in {recorder.folder} cannot be read: {error!r}. Remove the damaged lines."
        ) from error
    if dropped:
        console().print(f"dropped {dropped} lines of metrics that are newer than the checkpoint: they are made again.")


def make_listeners(folder: Path, config: RunConfig, state: TrainerState) -> list[Listener]:
    """TensorBoard and W&B, as asked for."""
    listeners: list[Listener] = []
    if config.record.tensorboard:
        listeners.append(TensorBoardListener(folder / "tensorboard", first_step=state.step))
    if config.record.wandb != "off":
        listeners.append(
            WandbListener(
                folder,
                project=config.record.wandb_project,
                name=config.run.name,
                mode=config.record.wandb,
                config=resolved(config),
            )
        )
    return listeners
