"""Samples that exist already, judged by our verifier into an evaluation folder; no model is needed.

They come from an evaluation folder of ours (to be judged again under another profile) or from a file of another
program. They are judged and written in the order of their file: what a run that was cut off has written is its start.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ngrpo.data import PromptSet
from ngrpo.data.foreign import read_foreign
from ngrpo.errors import DataError
from ngrpo.evaluate.counts import decoded_blocks, read_counts, read_problems
from ngrpo.evaluate.folder import SAMPLES, STRATA, EvaluationSettings, note_resumption, open_folder, write_problems
from ngrpo.evaluate.runner import OnProgress, Place, sample_bar, sample_row, write_summary
from ngrpo.evaluate.summary import MAX_NAMED, Summary, check_complete
from ngrpo.record import append_lines, iterate_jsonl
from ngrpo.rewards import Reward
from ngrpo.types import Completion, Prompt

CHUNK_ROWS = 1024
"""Samples judged before they are written."""


@dataclass(frozen=True, slots=True)
class Given:
    """One sample that was made before.

    Attributes:
        prompt: Id of its prompt.
        completion: Its text.
        sample: Its number among the samples of its prompt; None to number them in the order of the file.
        made_by: What is known of how it was made: `finish_reason`, `tokens`, `entropy_nats`.
    """

    prompt: str
    completion: str
    sample: int | None = None
    made_by: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Survey:
    """What there is to be judged.

    Attributes:
        prompts: In the order of the data, or of first appearance.
        num_samples: Samples of each, by id.
        read: Reads the samples from their start.
    """

    prompts: PromptSet
    num_samples: Mapping[str, int]
    read: Callable[[], Iterator[Given]]

    @property
    def even_num_samples(self) -> int | None:
        """Samples of every prompt, where all have as many."""
        sizes = set(self.num_samples.values())
        return sizes.pop() if len(sizes) == 1 else None


def survey_folder(folder: Path) -> Survey:
    """Sees that an evaluation folder of ours is complete.

    Raises:
        RunFolderError: It holds no evaluation, or a line cannot be read.
        DataError: Samples are missing, there twice, or of other prompts; they are named.
    """
    counts = read_counts(folder)
    check_complete(counts)
    prompts = [_from_problem(problem, folder) for problem in read_problems(folder)]
    name, fingerprint = counts.settings["data"], counts.settings["fingerprint"]
    return Survey(
        prompts=PromptSet(tuple(prompts), name, {}, fingerprint),
        num_samples=dict(zip(counts.prompt_ids, counts.num_samples.tolist(), strict=True)),
        read=lambda: _own_samples(folder / SAMPLES),
    )


def survey_file(path: Path, prompts: PromptSet | None) -> Survey:
    """Goes once through a file of samples from elsewhere and sees that they can be judged.

    Args:
        path: As for `read_foreign`.
        prompts: Where golds come from, and which prompts there must be; None to take both from the file.

    Raises:
        DataError: The file is none of samples, has a prompt that the data have not, or none of one that they have.
    """
    known = {} if prompts is None else {prompt.id: prompt for prompt in prompts.prompts}
    found: dict[str, Prompt] = dict(known)
    num_samples = dict.fromkeys(known, 0)
    for given in read_foreign(path):
        if prompts is None and given.prompt not in found:
            columns = {name: value for name in ("level", "subject") if (value := getattr(given, name)) is not None}
            found[given.prompt] = Prompt(
                given.prompt, given.problem, (), given.gold, given.place, columns, given.problem
            )
        elif given.prompt not in found:
            raise DataError(
                f"{given.place}: prompt {given.prompt!r} is not in the data {prompts.name}. Give the --data that these "
                "samples are of, or none: then golds are taken from the file."
            )
        num_samples[given.prompt] = num_samples.get(given.prompt, 0) + 1
    if missing := [name for name, number in num_samples.items() if not number]:
        more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
        raise DataError(
            f"{path} has no sample of {len(missing)} of the {len(found)} prompts of {prompts.name}: "
            f"{', '.join(map(repr, missing[:MAX_NAMED]))}{more}. Without them it would be a mean over other prompts."
        )
    if prompts is None:
        prompts = PromptSet(tuple(found.values()), path.stem, {}, _fingerprint(found.values()))
    return Survey(prompts, num_samples, lambda: _foreign_samples(path))


def check_golds(prompts: PromptSet, reward: Reward) -> None:
    """Refuses golds that nothing can match, before anything is judged.

    Raises:
        DataError: There are some; they are named.
    """
    reasons = reward.check_golds([prompt.gold for prompt in prompts.prompts])
    bad = [(prompt, reason) for prompt, reason in zip(prompts.prompts, reasons, strict=True) if reason]
    if bad:
        named = "; ".join(f"{prompt.source}, prompt {prompt.id!r}: {reason}" for prompt, reason in bad[:MAX_NAMED])
        more = f"; and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
        raise DataError(
            f"{len(bad)} of {len(prompts)} golds cannot be matched: {named}{more}. Mend them, or give --data with the "
            "right ones."
        )


def grade(
    folder: Path,
    settings: EvaluationSettings,
    surveyed: Survey,
    reward: Reward,
    *,
    on_progress: OnProgress | None = None,
) -> Summary:
    """Judges samples into an evaluation folder, or goes on with that.

    Args:
        folder: The evaluation folder to write.
        settings: What it holds.
        surveyed: The samples.
        reward: Judges.
        on_progress: Called with the number of samples judged since the last call, those found on disk first; left out,
            a bar is shown.

    Raises:
        RunFolderError: As for `evaluate`.
        DataError: What is in the folder are not the first of these samples, or a gold cannot be matched.
    """
    check_golds(surveyed.prompts, reward)
    with open_folder(folder, settings):
        write_problems(folder, surveyed.prompts.prompts)
        prompts = {prompt.id: prompt for prompt in surveyed.prompts.prompts}
        numbered = _numbered(surveyed.read())
        num_done = _pass_over(folder / SAMPLES, numbered)
        total = sum(surveyed.num_samples.values())
        if 0 < num_done < total:
            note_resumption(folder)
        with sample_bar(total, num_done, on_progress) as advance:
            while chunk := list(islice(numbered, CHUNK_ROWS)):
                _grade_chunk(folder / SAMPLES, chunk, prompts, reward)
                advance(len(chunk))
        return write_summary(folder, settings.ks)


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _from_problem(problem: Mapping[str, Any], folder: Path) -> Prompt:
    columns = {name: problem[name] for name in STRATA if name in problem}
    text = problem.get("problem", "")
    return Prompt(problem["prompt"], text, (), problem.get("gold", ""), str(folder), columns, text)


def _own_samples(path: Path) -> Iterator[Given]:
    for number, row in iterate_jsonl(path):
        if not isinstance(row.get("completion"), str):
            raise DataError(f"line {number} of {path} has no completion. Remove that line and sample it again.")
        made_by = {name: row.get(name) for name in _MADE_BY}
        yield Given(row["prompt"], row["completion"], row["sample"], made_by)


def _foreign_samples(path: Path) -> Iterator[Given]:
    for given in read_foreign(path):
        yield Given(
            given.prompt,
            given.completion,
            made_by={**_MADE_BY, "tokens": given.tokens, "finish_reason": given.finish_reason},
        )


_MADE_BY = {"finish_reason": None, "tokens": None, "entropy_nats": None}


def _numbered(samples: Iterable[Given]) -> Iterator[tuple[int, Given]]:
    counts: dict[str, int] = {}
    for given in samples:
        count = counts[given.prompt] = counts.get(given.prompt, 0) + 1
        yield (count - 1 if given.sample is None else given.sample), given


def _pass_over(path: Path, numbered: Iterator[tuple[int, Given]]) -> int:
    """Passes over the samples that are judged already; returns how many they are."""
    num_done = 0
    for first_number, rows in decoded_blocks(path, Place):
        for line, row in enumerate(rows, start=first_number):
            number, given = next(numbered, (None, None))
            if given is None or (row.prompt, row.sample) != (given.prompt, number):
                there = "nothing more" if given is None else f"sample {number} of prompt {given.prompt!r}"
                raise DataError(
                    f"line {line} of {path} is sample {row.sample} of prompt {row.prompt!r}; the samples to be judged "
                    f"have {there} at that place. Remove that line and all after it, or give another --out."
                )
            num_done += 1
    return num_done


def _grade_chunk(path: Path, chunk: list[tuple[int, Given]], prompts: Mapping[str, Prompt], reward: Reward) -> None:
    asked = [prompts[given.prompt] for _, given in chunk]
    outcomes = reward(asked, [_completion(given) for _, given in chunk])
    append_lines(
        path,
        (
            {**sample_row(prompt, number, given.completion, outcome), **given.made_by}
            for (number, given), prompt, outcome in zip(chunk, asked, outcomes, strict=True)
        ),
    )


def _completion(given: Given) -> Completion:
    """The sample as rewards take it: of its tokens only their number is known, if that."""
    num_tokens = given.made_by.get("tokens") or 0
    reason = "length" if given.made_by.get("finish_reason") == "length" else "eos"
    return Completion((0,) * num_tokens, (), given.completion, reason)


def _fingerprint(prompts: Iterable[Prompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        for text in (prompt.id, prompt.problem, prompt.gold):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
