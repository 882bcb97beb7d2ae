"""Sample, grade, write as it goes. What is on disk is never sampled again.

Samples are written as they are judged, in no order: which sample a line is, it says itself.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ngrpo.data import PromptSet
from ngrpo.errors import ConfigError, DataError
from ngrpo.evaluate.counts import decoded_blocks, read_counts, stranger
from ngrpo.evaluate.folder import (
    SAMPLES,
    SUMMARY,
    EvaluationSettings,
    note_resumption,
    open_folder,
    read_described,
    write_problems,
)
from ngrpo.evaluate.summary import Summary, summarise
from ngrpo.record import append_lines, progress_bar, write_json
from ngrpo.rewards import Reward
from ngrpo.rollout import Engine, SampleRequest, Sampling, random_key
from ngrpo.rollout.engine import EVALUATION
from ngrpo.rollout.grading import sample_and_judge
from ngrpo.types import Completion, Outcome, Prompt

OnProgress = Callable[[int], None]

CHUNK_TOKENS = 1 << 22
"""Tokens that the samples of one call of the engine may come to, for each process that it samples with; at some 70
bytes each, they bound the memory."""

MOST_FILLS = 32
"""Most batches of `max_rows` in one call of the engine: only at its end does a batch run empty."""


class Place(msgspec.Struct, gc=False):
    """Which sample a line of `samples.jsonl` is."""

    prompt: str
    sample: Annotated[int, msgspec.Meta(ge=0)]


def check_ks(ks: Sequence[int], num_samples: int) -> None:
    """Refuses grids that the samples cannot answer.

    Raises:
        ConfigError: k above the number of samples, below 1, or not rising.
    """
    check_grid(ks)
    if ks[-1] > num_samples:
        raise ConfigError(
            f"pass@{ks[-1]} needs at least {ks[-1]} samples per prompt, got --samples {num_samples}. "
            "Sample more, or lower --ks: a smaller mean over other prompts would be another number."
        )


def check_grid(ks: Sequence[int]) -> None:
    """Refuses what is no grid of k.

    Raises:
        ConfigError: It is empty, does not rise, or has numbers below 1.
    """
    if not ks or any(k < 1 for k in ks) or list(ks) != sorted(set(ks)):
        raise ConfigError(f"--ks {','.join(map(str, ks))} must be rising whole numbers from 1 on.")


def evaluate(
    folder: Path,
    settings: EvaluationSettings,
    prompts: PromptSet,
    make_engine: Callable[[], Engine],
    reward: Reward,
    *,
    max_rows: int = 512,
    on_progress: OnProgress | None = None,
) -> Summary:
    """Evaluates, or goes on with an evaluation that was cut off.

    Args:
        folder: Gets `eval.json`, `problems.jsonl`, `samples.jsonl` (appended to as it goes) and `summary.json`.
        settings: What is evaluated; an existing folder must hold the same.
        prompts: The prompts.
        make_engine: Called only when samples are missing.
        reward: Judges.
        max_rows: Completions that the engine decodes at the same time. A reward that is asked between samplings gets
            so many at once.
        on_progress: Called with the number of completions written since the last call, those found on disk first;
            perhaps from another thread. Left out, a bar is shown.

    Raises:
        ConfigError: The ks do not fit the samples.
        RunFolderError: The folder holds another evaluation, cannot be written, is in use, or has a line that is no
            sample.
        DataError: A sample on disk is there twice, or is none of this evaluation.
    """
    assert settings.num_samples is not None, "an evaluation that samples says how often"
    check_ks(settings.ks, settings.num_samples)
    with open_folder(folder, settings):
        return finish(folder, settings, prompts, make_engine, reward, max_rows=max_rows, on_progress=on_progress)


def finish(
    folder: Path,
    settings: EvaluationSettings,
    prompts: PromptSet,
    make_engine: Callable[[], Engine],
    reward: Reward,
    *,
    max_rows: int = 512,
    num_workers: int = 1,
    on_progress: OnProgress | None = None,
) -> Summary:
    """Samples what is missing in a folder that `open_folder` holds, and summarises; see `evaluate`.

    `num_workers` processes of the engine decode `max_rows` completions each: it is given so many times as much at once.
    """
    write_problems(folder, prompts.prompts)
    is_done = find_done(folder, settings, prompts)
    num_done, total = int(is_done.sum()), is_done.size
    with sample_bar(total, num_done, on_progress) as advance:
        if num_done < total:
            if num_done:
                note_resumption(folder)
            sampler = _Sampler(folder, settings, make_engine(), reward, max_rows, advance)
            missing = missing_requests(settings, prompts, is_done)
            num_fills = min(CHUNK_TOKENS // (max_rows * settings.max_completion_tokens), MOST_FILLS)
            while chunk := list(islice(missing, num_workers * max_rows * max(1, num_fills))):
                sampler.add(chunk)
    return write_summary(folder, settings.ks)


def write_summary(folder: Path, ks: Sequence[int]) -> Summary:
    """Summarises a complete evaluation folder into `summary.json`, with the settings and versions of its `eval.json`.

    Args:
        folder: The evaluation.
        ks: As for `summarise`.

    Raises:
        DataError: Samples are missing, there twice, or of other prompts.
        ConfigError: A prompt has fewer samples than k.
        RunFolderError: A line cannot be read.
    """
    summary = summarise(read_counts(folder), ks)
    write_json(folder / SUMMARY, {**read_described(folder), **summary.as_dict()})
    return summary


def find_done(folder: Path, settings: EvaluationSettings, prompts: PromptSet) -> NDArray[np.bool_]:
    """Which samples are on disk: [P, samples].

    Raises:
        DataError: A sample on disk is there twice, or is none of this evaluation.
        RunFolderError: A line is no sample.
    """
    path = folder / SAMPLES
    place_of = {prompt.id: place for place, prompt in enumerate(prompts.prompts)}
    assert len(place_of) == len(prompts), "ids of prompts differ: load_prompts sees to it"
    is_done = np.zeros((len(prompts), settings.num_samples), dtype=bool)
    for first_number, rows in decoded_blocks(path, Place):
        for number, row in enumerate(rows, start=first_number):
            place = place_of.get(row.prompt)
            if place is None or row.sample >= settings.num_samples or is_done[place, row.sample]:
                raise DataError(stranger(path, number, row.prompt, row.sample))
            is_done[place, row.sample] = True
    return is_done


def missing_requests(
    settings: EvaluationSettings, prompts: PromptSet, is_done: NDArray[np.bool_]
) -> Iterator[tuple[int, SampleRequest]]:
    """What is not on disk yet: pairs of sample number and request, prompts in order of length.

    Args:
        settings: Of the evaluation.
        prompts: Its prompts.
        is_done: [P, samples] what there is.
    """
    by_length = sorted(range(len(prompts)), key=lambda place: len(prompts.prompts[place].token_ids))
    for place in by_length:
        for sample in np.flatnonzero(~is_done[place]).tolist():
            key = random_key(seed=settings.seed, stream=EVALUATION, step=0, occurrence=place, sample=sample)
            yield sample, SampleRequest(prompts.prompts[place], key)


@contextmanager
def sample_bar(total: int, num_done: int, on_progress: OnProgress | None) -> Iterator[OnProgress]:
    """Where samples are counted: by the caller's `on_progress`, or by a bar where there is none."""
    if on_progress is not None:
        on_progress(num_done)
        yield on_progress
        return
    with progress_bar() as progress:
        bar = progress.add_task("eval", total=total, completed=num_done, unit="sample", note="")
        yield partial(progress.advance, bar)


class _Sampler:
    """Samples, judges and writes, all three at the same time where the reward lets it."""

    def __init__(
        self,
        folder: Path,
        settings: EvaluationSettings,
        engine: Engine,
        reward: Reward,
        max_rows: int,
        on_progress: OnProgress,
    ) -> None:
        self.path, self.engine, self.reward = folder / SAMPLES, engine, reward
        self.max_rows, self.on_progress = max_rows, on_progress
        self.sampling = Sampling(
            settings.max_completion_tokens, settings.temperature, top_p=settings.top_p, top_k=settings.top_k
        )

    def add(self, chunk: Sequence[tuple[int, SampleRequest]]) -> None:
        """Samples a chunk; it is on disk when this returns."""

        def write(indices: list[int], completions: list[Completion], outcomes: list[Outcome]) -> None:
            places = [chunk[index] for index in indices]
            append_lines(
                self.path,
                (
                    {
                        **sample_row(request.prompt, sample, completion.text, outcome),
                        **made_by(completion),
                    }
                    for (sample, request), completion, outcome in zip(places, completions, outcomes, strict=True)
                ),
            )
            self.on_progress(len(indices))

        requests = [request for _, request in chunk]
        sample_and_judge(self.engine, self.reward, requests, self.sampling, write, num_at_once=self.max_rows)


def sample_row(prompt: Prompt, sample: int, completion_text: str, outcome: Outcome) -> dict[str, Any]:
    """The part of a line of `samples.jsonl` that every sample has: which it is, its text and its verdict."""
    return {
        "prompt": prompt.id,
        "sample": sample,
        "completion": completion_text,
        "gold": prompt.gold,
        "correct": outcome.correct,
        "value": outcome.value,
        "kind": outcome.kind,
        "extracted": outcome.extracted,
        "rule": outcome.rule,
        "normal_form": outcome.normal_form,
        "detail": outcome.detail,
        **({"parts": dict(outcome.parts)} if outcome.parts else {}),
    }


def made_by(completion: Completion) -> dict[str, Any]:
    """The part of a line that is known of samples made here; servers do not say everything."""
    return {
        "finish_reason": completion.finish_reason,
        **({"tokens": len(completion.token_ids)} if completion.token_ids else {}),
        **({} if math.isnan(completion.entropy_nats) else {"entropy_nats": completion.entropy_nats}),
    }
