"""Sample, grade, write as it goes. What is on disk is never sampled again."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ngrpo.data import PromptSet
from ngrpo.errors import ConfigError, DataError, RunFolderError
from ngrpo.evaluate.summary import Summary, summarise
from ngrpo.record import append_lines, keep_lines, progress_bar, provenance, read_jsonl, write_json
from ngrpo.rewards import Reward
from ngrpo.rollout import Engine, SampleRequest, Sampling, random_key
from ngrpo.rollout.engine import EVALUATION
from ngrpo.types import Completion, Outcome

OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class EvaluationSettings:
    """What an evaluation is; another setting is another evaluation.

    Attributes:
        model: Folder or name of the model.
        data: Name of the prompts.
        fingerprint: Of the prompts.
        num_prompts: How many.
        num_samples: Completions per prompt.
        ks: For which k pass@k is reported; rising.
        temperature: Sampling temperature.
        top_p: Nucleus mass.
        top_k: Likeliest tokens kept; 0 keeps all.
        max_completion_tokens: Longest completion.
        seed: Of the samples.
        reward: Name of the reward.
        engine: Name of the engine.
        precision: Arithmetic, as `model.precision` of a run file.
        weights: From `policy.weights_fingerprint`: a folder that was trained on since is another model.
    """

    model: str
    data: str
    fingerprint: str
    num_prompts: int
    num_samples: int
    ks: tuple[int, ...]
    temperature: float
    top_p: float
    top_k: int
    max_completion_tokens: int
    seed: int
    reward: str
    engine: str
    precision: str = "auto"
    weights: str = ""


def check_ks(ks: Sequence[int], num_samples: int) -> None:
    """Refuses grids that the samples cannot answer.

    Raises:
        ConfigError: k above the number of samples, below 1, or not rising.
    """
    if not ks or any(k < 1 for k in ks) or list(ks) != sorted(set(ks)):
        raise ConfigError(f"--ks {','.join(map(str, ks))} must be rising whole numbers from 1 on.")
    if ks[-1] > num_samples:
        raise ConfigError(
            f"pass@{ks[-1]} needs at least {ks[-1]} samples per prompt, got --samples {num_samples}. "
            "Sample more, or lower --ks: a smaller mean over other prompts would be another number."
        )


def evaluate(
    folder: Path,
    settings: EvaluationSettings,
    prompts: PromptSet,
    make_engine: Callable[[], Engine],
    reward: Reward,
    *,
    max_rows: int = 256,
    on_progress: OnProgress | None = None,
) -> Summary:
    """Evaluates, or goes on with an evaluation that was cut off.

    Args:
        folder: Gets `eval.json`, `samples.jsonl` (appended to as it goes) and `summary.json`.
        settings: What is evaluated; an existing folder must hold the same.
        prompts: The prompts.
        make_engine: Called only when samples are missing.
        reward: Judges.
        max_rows: Completions sampled before they are graded and written.
        on_progress: Called with the number of completions finished since the last call, those found on disk first; left
            out, a bar is shown.

    Raises:
        ConfigError: The ks do not fit the samples.
        RunFolderError: The folder holds another evaluation, cannot be written, or has a line that is not JSON.
        DataError: A sample on disk is there twice, or is none of this evaluation.
    """
    check_ks(settings.ks, settings.num_samples)
    open_folder(folder, settings)
    missing = missing_requests(folder, settings, prompts)
    total = settings.num_prompts * settings.num_samples
    with ExitStack() as stack:
        if on_progress is None:
            on_progress = stack.enter_context(_sample_bar(total, num_done=total - len(missing)))
        else:
            on_progress(total - len(missing))
        if missing:
            _sample_missing(
                folder, settings, missing, make_engine(), reward, max_rows=max_rows, on_progress=on_progress
            )
    summary = summarise(read_jsonl(folder / "samples.jsonl"), settings.ks, num_prompts=settings.num_prompts)
    write_json(folder / "summary.json", {"settings": asdict(settings), **summary.as_dict()})
    return summary


def open_folder(folder: Path, settings: EvaluationSettings) -> None:
    """Makes the evaluation folder, or checks that it holds this very evaluation; drops a torn last line.

    Raises:
        RunFolderError: It holds something else, or cannot be written.
    """
    described = folder / "eval.json"
    wanted = _json_safe(asdict(settings))
    try:
        if described.exists():
            old = _read_settings(described)
            # More ks over the same samples is the same evaluation, read again.
            changed = [key for key in wanted if key != "ks" and old.get(key) != wanted[key]]
            if changed:
                lines = "\n".join(f"  {key}: {old.get(key)!r} -> {wanted[key]!r}" for key in changed)
                raise RunFolderError(
                    f"{folder} holds another evaluation:\n{lines}\nGive another --out, or the same settings to go on."
                )
        # A file still being written when a first try was killed is no reason to refuse.
        elif folder.exists() and not all(path.suffix == ".tmp" for path in folder.iterdir()):
            raise RunFolderError(f"{folder} exists and holds no evaluation. Give another --out.")
        folder.mkdir(parents=True, exist_ok=True)
        keep_lines(folder / "samples.jsonl", lambda row: True)
        write_json(described, {"settings": wanted, **provenance()})
    except OSError as error:
        raise RunFolderError(
            f"cannot write the evaluation folder {folder}: {error.strerror}. Give another --out."
        ) from error


def missing_requests(folder: Path, settings: EvaluationSettings, prompts: PromptSet) -> list[tuple[int, SampleRequest]]:
    """What is not on disk yet: pairs of sample number and request, prompts in order of length.

    Raises:
        DataError: A sample on disk is there twice, or is none of this evaluation.
    """
    path = folder / "samples.jsonl"
    by_length = sorted(enumerate(prompts.prompts), key=lambda place_prompt: len(place_prompt[1].token_ids))
    wanted = {
        (prompt.id, sample): SampleRequest(
            prompt, random_key(seed=settings.seed, stream=EVALUATION, step=0, occurrence=place, sample=sample)
        )
        for place, prompt in by_length
        for sample in range(settings.num_samples)
    }
    assert len(wanted) == len(prompts) * settings.num_samples, "ids of prompts differ: load_prompts sees to it"
    for row in read_jsonl(path):
        key = (row.get("prompt"), row.get("sample"))
        if wanted.pop(key, None) is None:
            raise DataError(
                f"{path}: sample {key[1]!r} of prompt {key[0]!r} is there twice, or is none of this evaluation. "
                "Remove that line, or give another --out."
            )
    return [(sample, request) for (_, sample), request in wanted.items()]


@contextmanager
def _sample_bar(total: int, *, num_done: int) -> Iterator[OnProgress]:
    with progress_bar() as progress:
        bar = progress.add_task("eval", total=total, completed=num_done, unit="sample", note="")
        yield partial(progress.advance, bar)


def _sample_missing(
    folder: Path,
    settings: EvaluationSettings,
    missing: Sequence[tuple[int, SampleRequest]],
    engine: Engine,
    reward: Reward,
    *,
    max_rows: int,
    on_progress: OnProgress,
) -> None:
    sampling = Sampling(
        settings.max_completion_tokens, settings.temperature, top_p=settings.top_p, top_k=settings.top_k
    )
    for start in range(0, len(missing), max_rows):
        chunk = missing[start : start + max_rows]
        completions = engine.sample([request for _, request in chunk], sampling)
        outcomes = reward([request.prompt for _, request in chunk], completions)
        append_lines(
            folder / "samples.jsonl",
            (
                _row(request, sample, completion, outcome)
                for (sample, request), completion, outcome in zip(chunk, completions, outcomes, strict=True)
            ),
        )
        on_progress(len(chunk))


def _row(request: SampleRequest, sample: int, completion: Completion, outcome: Outcome) -> dict[str, Any]:
    return {
        "prompt": request.prompt.id,
        "sample": sample,
        "completion": completion.text,
        "gold": request.prompt.gold,
        "correct": outcome.correct,
        "value": outcome.value,
        "kind": outcome.kind,
        "extracted": outcome.extracted,
        "detail": outcome.detail,
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.token_ids),
        "entropy_nats": completion.entropy_nats,
    }


def _read_settings(described: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(described.read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{described} cannot be read ({error!r}). Give another --out.") from error


def _json_safe(settings: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings))
