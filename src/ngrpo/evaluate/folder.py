"""The evaluation folder: what is in it, who may work in it, and that it holds one evaluation only.

`eval.json` says what is evaluated and with what; `problems.jsonl` has one line per prompt and decides what a mean is
taken over; `samples.jsonl` one line per completion, appended to as they come; `summary.json` the numbers.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ngrpo.errors import RunFolderError
from ngrpo.record import console, hold_folder, mend_tail, provenance, write_json, write_lines
from ngrpo.types import Prompt

SETTINGS, PROBLEMS, SAMPLES, SUMMARY = "eval.json", "problems.jsonl", "samples.jsonl", "summary.json"

STRATA = ("level", "subject", "type", "category", "difficulty")
"""Columns of a data set that results are also reported by."""

_NOT_IDENTITY = ("ks", "notes", "source", "graded_from")
"""More ks over the same samples is the same evaluation, read again. Notes and paths change no number: what the data
are, and the file that was graded, the fingerprint says."""


@dataclass(frozen=True)
class EvaluationSettings:
    """What an evaluation is; another setting is another evaluation.

    None stands for what is not known of samples that were made elsewhere.

    Attributes:
        model: Folder or name of the model.
        data: Name of the prompts.
        fingerprint: Of the prompts.
        num_prompts: How many.
        num_samples: Completions per prompt.
        ks: For which k pass@k is reported; rising. Empty: the grid of powers of two up to the number of samples.
        temperature: Sampling temperature.
        top_p: Nucleus mass.
        top_k: Likeliest tokens kept; 0 keeps all.
        max_completion_tokens: Longest completion.
        seed: Of the samples.
        reward: Name of the reward.
        engine: Name of the engine.
        precision: Arithmetic, as `model.precision` of a run file.
        weights: From `policy.weights_fingerprint`: a folder that was trained on since is another model.
        judge: Everything else that decides a verdict: the reward section of a run file.
        template: How problems became prompts.
        source: Where the prompts come from, as `data.source` has it.
        graded_from: The file of samples that was graded, where none were made.
        samples_fingerprint: Of that file.
        notes: What a reader of the numbers should know of the data.
    """

    model: str
    data: str
    fingerprint: str
    num_prompts: int | None
    num_samples: int | None
    ks: tuple[int, ...]
    temperature: float | None
    top_p: float | None
    top_k: int | None
    max_completion_tokens: int | None
    seed: int | None
    reward: str
    engine: str
    precision: str = "auto"
    weights: str = ""
    judge: Mapping[str, Any] = field(default_factory=dict)
    template: str = ""
    source: str = ""
    graded_from: str = ""
    samples_fingerprint: str = ""
    notes: tuple[str, ...] = ()


@contextmanager
def open_folder(folder: Path, settings: EvaluationSettings) -> Iterator[None]:
    """Makes the evaluation folder, or checks that it holds this very evaluation, and keeps others out of it.

    A last line that a kill tore is dropped, with a note. A folder that has no sample yet holds nothing: a command that
    was mended (the name of a model at a server) begins there anew.

    Args:
        folder: The folder.
        settings: What it holds or is to hold.

    Raises:
        RunFolderError: It holds something else, cannot be written, or another process is at work in it.
    """
    described = folder / SETTINGS
    check_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = hold_folder(folder, advice="give another --out")
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        wanted = json.loads(json.dumps(asdict(settings)))
        try:
            if not described.exists() or _is_empty(folder):
                write_json(described, {"settings": wanted, **provenance()})
            else:
                old = read_described(folder)
                check_same(folder, old["settings"], wanted)
                if old["settings"] != wanted:
                    write_json(described, {**old, "settings": wanted})
            if num_bytes := mend_tail(folder / SAMPLES):
                torn = f"{folder / SAMPLES}: dropped {num_bytes} bytes of a last line that was never finished."
                console().print(torn, markup=False, soft_wrap=True)
        except OSError as error:
            raise _unwritable(folder, error) from error
        yield
    finally:
        os.close(lock)


def _is_empty(folder: Path) -> bool:
    """Whether nothing was sampled or summarised there."""
    samples = folder / SAMPLES
    return not ((folder / SUMMARY).exists() or (samples.exists() and samples.stat().st_size))


def check_free(folder: Path) -> None:
    """Refuses a folder of something else.

    Raises:
        RunFolderError: It has files and none of them is `eval.json`.
    """
    try:
        # A file still being written when a first try was killed is no reason to refuse.
        if folder.exists() and not (folder / SETTINGS).exists():
            if all(path.suffix == ".tmp" for path in folder.iterdir()):
                return
            raise RunFolderError(f"{folder} exists and holds no evaluation. Give another --out.")
    except OSError as error:
        raise _unwritable(folder, error) from error


def check_same(folder: Path, old: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses to go on with an evaluation under other settings.

    Args:
        folder: For the message.
        old: Settings on disk.
        wanted: Settings now.

    Raises:
        RunFolderError: They differ; every difference is named.
    """
    changed = [key for key in wanted if key not in _NOT_IDENTITY and old.get(key) != wanted[key]]
    if changed:
        lines = "\n".join(f"  {key}: {old.get(key)!r} -> {wanted[key]!r}" for key in changed)
        raise RunFolderError(
            f"{folder} holds another evaluation:\n{lines}\nGive another --out, or the same settings to go on."
        )


def note_resumption(folder: Path) -> None:
    """Writes into `eval.json` that samples are added by another process: its versions may be others."""
    described = read_described(folder)
    write_json(folder / SETTINGS, {**described, "resumed": [*described.get("resumed", []), provenance()]})


def read_described(folder: Path) -> dict[str, Any]:
    """What `eval.json` says: `settings`, and under which versions, machine and command samples were made.

    Args:
        folder: An evaluation folder.

    Raises:
        RunFolderError: There is none, or it cannot be read.
    """
    described = folder / SETTINGS
    if not described.is_file():
        raise RunFolderError(
            f"{folder} holds no evaluation: it has no {SETTINGS}. Give a folder that ngrpo eval wrote."
        )
    try:
        read = json.loads(described.read_text(encoding="utf-8"))
        return {**read, "settings": dict(read["settings"])}
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{described} cannot be read ({error!r}). Give another --out.") from error


def write_problems(folder: Path, prompts: Sequence[Prompt]) -> None:
    """Writes `problems.jsonl`: one line per prompt, in the order of the data.

    Args:
        folder: An evaluation folder.
        prompts: All prompts of the evaluation.
    """
    write_lines(folder / PROBLEMS, (problem_row(prompt) for prompt in prompts))


def problem_row(prompt: Prompt) -> dict[str, Any]:
    """What is kept of a prompt beside its samples: `prompt` (its id), gold, problem, and the strata it has."""
    strata = {name: str(value) for name in STRATA if isinstance(value := prompt.columns.get(name), str | int)}
    return {"prompt": prompt.id, "gold": prompt.gold, "problem": prompt.problem, **strata}


def _unwritable(folder: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"cannot write the evaluation folder {folder}: {error.strerror}. Give another --out.")
