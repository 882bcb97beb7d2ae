"""Samples that were made elsewhere: the files of other evaluators, one plain record per sample.

A format is recognised by the keys of its first row, never by its file name. Files are read a few rows at a time; what
is kept in memory is one small entry per problem.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ngrpo.data.content import number_as_text
from ngrpo.data.files import stream_json_lines, stream_parquet
from ngrpo.data.judge import GOLD_COLUMNS, PROMPT_COLUMNS
from ngrpo.data.rows import Row
from ngrpo.errors import DataError
from ngrpo.types import FinishReason

COMPLETION_COLUMNS = ("completion", "response", "output")
ID_COLUMNS = ("id", "prompt_id", "problem_id", "question_id")
SAMPLE_COLUMNS = ("sample", "sample_id", "generation_id")

# The numbers of a problem's samples are kept as the bits of one integer.
MAX_SAMPLE_NUMBER = 1_000_000
UNNUMBERED = -1

# The details of lighteval also hold the tokens of the prompt and log-probabilities: large, and of no use here.
_LIGHTEVAL_COLUMNS = ("doc", "model_response.text", "model_response.output_tokens")


class Place(NamedTuple):
    """Where something stands: a file, and a row from 1; of a file of JSON lines, the line."""

    source: str
    row: int

    def __str__(self) -> str:
        """As messages have it."""
        return f"{self.source} row {self.row}"


@dataclass(frozen=True, slots=True)
class ForeignSample:
    """One completion that somebody else sampled.

    Attributes:
        prompt: Id of the problem within its file, as text.
        sample: Number of the sample among those of the problem, from 0; where the file does not number them, their
            order in it.
        completion: What the model wrote, whole.
        gold: The reference answer: bare, or a solution that holds it.
        place: Where it stands, for messages: `samples_aime25.jsonl row 3`.
        problem: Text of the problem, or the prompt where the file has only that; empty where it has neither.
        level: Difficulty of the problem, where the file has it.
        subject: Its subject, where the file has it.
        tokens: Length of the completion, where the file has it.
        finish_reason: Why it ended, where the file has it.
    """

    prompt: str
    sample: int
    completion: str
    gold: str
    place: Place
    problem: str = ""
    level: str | None = None
    subject: str | None = None
    tokens: int | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class _Format:
    """A kind of file: how it is called, which keys give it away, and how one row becomes samples."""

    name: str
    keys: frozenset[str]
    read: Callable[[Row, Place], Iterator[ForeignSample]]


def format_of(path: Path | str) -> str:
    """Say whose samples a file holds.

    Args:
        path: A .jsonl or .parquet file.

    Returns:
        `lm-eval samples`, `lighteval details`, `NGRPO reference samples`, `ngrpo samples`, or
        `rows of completion and gold`.

    Raises:
        DataError: The file is missing, empty, unreadable, or of none of these formats: the message lists what it has
            and what is read.
    """
    row = next(_rows(Path(path)), None)
    if row is None:
        raise DataError(f"{path} has no rows.")
    return _recognise(row, str(path)).name


def read_foreign(path: Path | str) -> Iterator[ForeignSample]:
    """Read the samples of a file, each once, seeing that the samples of a problem belong together.

    Problems may have different numbers of samples; whoever needs equal ones has to look.

    Args:
        path: A file of one of the formats that `format_of` names.

    Yields:
        The samples in the order of the file, one at a time.

    Raises:
        DataError: As `format_of`; or a row lacks its completion, gold or id, a sample is there twice, or two
            samples under one id have different golds or problems. The message names row and problem.
    """
    seen: dict[str, tuple[int, int]] = {}
    for sample in read_samples(path):
        if not sample.gold:
            raise DataError(f"{sample.place}: problem {sample.prompt!r} has no gold. Give it one, or leave it out.")
        identity, numbers = seen.get(sample.prompt, (_identity(sample), 0))
        if identity != _identity(sample):
            raise DataError(
                f"{sample.place}: problem {sample.prompt!r} has another gold or another text than in an earlier row: "
                "two problems share this id. Split the file by data set, or give the problems ids of their own."
            )
        number = numbers.bit_length() if sample.sample == UNNUMBERED else sample.sample
        if numbers >> number & 1:
            raise DataError(
                f"{sample.place}: sample {sample.sample} of problem {sample.prompt!r} is there twice. Remove one of "
                "them: each would count as an attempt of its own."
            )
        seen[sample.prompt] = (identity, numbers | 1 << number)
        yield replace(sample, sample=number)


def read_samples(
    path: Path | str, *, completion_column: str | None = None, gold_column: str | None = None
) -> Iterator[ForeignSample]:
    """Read the samples of a file row by row, without asking whether they belong together.

    Args:
        path: A file of one of the formats that `format_of` names, or with the columns given.
        completion_column: Column of the completion, for a file of plain rows. Default: the first of completion,
            response, output that exists.
        gold_column: Column of the gold, likewise. Default: the first of gold, answer, solution that exists.

    Yields:
        The samples; `sample` is `UNNUMBERED` where the file does not number them, `gold` empty where it is missing.

    Raises:
        DataError: As `format_of`; or a row lacks its completion; or there is no such column.
    """
    path = Path(path)
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} has no rows.")
    if completion_column or gold_column:
        for column in (completion_column, gold_column):
            if column and column not in first.columns:
                raise DataError(f"{path} has no column {column!r}. Its columns are: {', '.join(first.columns)}.")
        form = replace(_PLAIN, read=_plain_reader(completion_column, gold_column))
    else:
        form = _recognise(first, str(path))
    chosen_filter = first.columns.get("filter")
    for row in chain((first,), rows):
        place = Place(str(path), row.number)
        if missing := form.keys - row.columns.keys():
            raise DataError(f"{place} lacks {', '.join(sorted(missing))}, which {form.name} have.")
        # lm-eval writes every sample once for each of its answer filters.
        if form is _LM_EVAL and row.columns.get("filter") != chosen_filter:
            continue
        yield from form.read(row, place)


def _rows(path: Path) -> Iterator[Row]:
    source = str(path)
    if path.is_dir():
        raise DataError(f"{source} is a folder: name one file of samples in it.")
    if not path.exists():
        raise DataError(f"there is no file {source}.")
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".json"):
        return stream_json_lines(path, source)
    if suffix != ".parquet":
        raise DataError(f"{source} is neither a .jsonl nor a .parquet file.")
    first = next(stream_parquet(path, source, batch_rows=1), None)
    if first is not None and _LIGHTEVAL.keys <= first.columns.keys():
        return stream_parquet(path, source, columns=_LIGHTEVAL_COLUMNS, batch_rows=1)  # a row holds all its samples
    return stream_parquet(path, source)


def _recognise(row: Row, source: str) -> _Format:
    for candidate in _FORMATS:
        if candidate.keys <= row.columns.keys():
            return candidate
    if _first_of(COMPLETION_COLUMNS, row.columns) and _first_of(GOLD_COLUMNS, row.columns):
        return _PLAIN
    known = "".join(f"{form.name} ({', '.join(sorted(form.keys))}); " for form in _FORMATS)
    raise DataError(
        f"{source} is of no format that is read. Its columns are: {', '.join(row.columns) or 'none'}. Read are: "
        f"{known}and plain rows with a completion ({' or '.join(COMPLETION_COLUMNS)}) and a gold "
        f"({' or '.join(GOLD_COLUMNS)}), better with an id, too."
    )


def _read_lm_eval(row: Row, place: Place) -> Iterator[ForeignSample]:
    """Read a line of `samples_TASK_DATE.jsonl`; `resps` has one list per request, one text per repeat in it."""
    columns = row.columns
    requests = columns["resps"]
    texts = requests[0] if isinstance(requests, list) and len(requests) == 1 else None
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"{place}: `resps` holds no generated text. Only tasks of lm-eval that generate (generate_until) can be "
            "graded again, not those that compare log-likelihoods of choices."
        )
    doc = columns["doc"] if isinstance(columns["doc"], dict) else {}
    for number, text in enumerate(texts):
        yield _sample(
            place,
            prompt=columns["doc_id"],
            sample=number,
            completion=text,
            gold=columns["target"],
            problem=_first_text(doc, ("problem", "question", "Problem", "Question")) or _lm_eval_prompt(columns),
            level=doc.get("level"),
            subject=doc.get("subject", doc.get("type")),
        )


def _lm_eval_prompt(columns: Mapping[str, Any]) -> str:
    try:
        prompt = columns["arguments"]["gen_args_0"]["arg_0"]
    except (KeyError, TypeError):
        return ""
    return prompt if isinstance(prompt, str) else ""


def _read_lighteval(row: Row, place: Place) -> Iterator[ForeignSample]:
    """Read a row of `details_TASK_DATE.parquet`: a `doc` and a `model_response` with all its texts."""
    doc, response = row.columns["doc"], row.columns["model_response"]
    texts = response.get("text") if isinstance(response, dict) else None
    if not isinstance(doc, dict) or not texts:
        raise DataError(
            f"{place}: `model_response` holds no generated text. Only generative tasks of lighteval can be graded "
            "again."
        )
    places = doc.get("gold_index")
    places = places if isinstance(places, list) else [places]
    choices = doc.get("choices") or []
    if len(places) != 1 or not isinstance(places[0], int) or not 0 <= places[0] < len(choices):
        raise DataError(f"{place}: problem {doc.get('id')!r} has not exactly one gold (doc.choices, doc.gold_index).")
    lengths = [len(tokens) for tokens in response.get("output_tokens") or []]
    specific = doc.get("specific") or {}
    for number, text in enumerate(texts):
        yield _sample(
            place,
            prompt=doc.get("id"),
            sample=number,
            completion=text,
            gold=choices[places[0]],
            problem=doc.get("original_query") or doc.get("query"),
            level=specific.get("level"),
            subject=specific.get("subject", specific.get("type")),
            tokens=lengths[number] if len(lengths) == len(texts) else None,
        )


def _read_reference(row: Row, place: Place) -> Iterator[ForeignSample]:
    """Read a line of the paper's `eval.py`. `gold_answer` is its own reading of `answer`, at times a wrong one."""
    columns = row.columns
    yield _sample(
        place,
        prompt=columns["question_id"],
        sample=columns["generation_id"],
        completion=columns["response"],
        gold=columns["answer"],
        problem=columns.get("question"),
    )


def _read_own(row: Row, place: Place) -> Iterator[ForeignSample]:
    """Read a line of the `samples.jsonl` of an evaluation folder."""
    columns = row.columns
    yield _sample(
        place,
        prompt=columns["prompt"],
        sample=columns["sample"],
        completion=columns["completion"],
        gold=columns["gold"],
        tokens=columns.get("tokens"),
        finish_reason=columns.get("finish_reason"),
    )


def _plain_reader(
    completion_column: str | None = None, gold_column: str | None = None
) -> Callable[[Row, Place], Iterator[ForeignSample]]:
    """Make a reader of rows with a completion and a gold.

    The samples of a problem are found by its id, else by its text; without either, each row is a problem of its own.
    """
    completions = (completion_column,) if completion_column else COMPLETION_COLUMNS
    golds = (gold_column,) if gold_column else GOLD_COLUMNS

    def read(row: Row, place: Place) -> Iterator[ForeignSample]:
        columns = row.columns
        id_column = _first_of(ID_COLUMNS, columns)
        problem = _first_text(columns, PROMPT_COLUMNS)
        sample_column = _first_of(SAMPLE_COLUMNS, columns)
        yield _sample(
            place,
            prompt=columns[id_column] if id_column else problem or row.number,
            sample=columns[sample_column] if sample_column else None,
            completion=_value(completions, columns, "completion", place),
            gold=_value(golds, columns, "gold", place),
            problem=problem,
            level=columns.get("level"),
            subject=columns.get("subject", columns.get("type")),
            tokens=columns.get("tokens"),
            finish_reason=columns.get("finish_reason"),
        )

    return read


def _value(names: Sequence[str], columns: Mapping[str, Any], what: str, place: Place) -> Any:
    column = _first_of(names, columns)
    if column is None:
        raise DataError(f"{place} has no {what} ({' or '.join(names)}). Its columns are: {', '.join(columns)}.")
    return columns[column]


def _sample(place: Place, *, prompt: Any, sample: Any, completion: Any, gold: Any, **more: Any) -> ForeignSample:
    """Check what came out of a file and put it into its type; a number as id or gold becomes text.

    Sample None: the file does not number them.
    """
    prompt_id = _as_text(prompt)
    if not prompt_id:
        raise DataError(f"{place} has no id of its problem (got {prompt!r}).")
    if not isinstance(completion, str):
        raise DataError(f"{place}, problem {prompt_id!r}: the completion must be text, got {completion!r:.60}.")
    gold_text = _as_text(gold)
    if not gold_text and gold is not None and not isinstance(gold, str):
        raise DataError(f"{place}, problem {prompt_id!r}: the gold must be text or a number, got {gold!r:.60}.")
    if sample is not None and (not isinstance(sample, int) or not 0 <= sample <= MAX_SAMPLE_NUMBER):
        raise DataError(
            f"{place}, problem {prompt_id!r}: the number of the sample must be a whole number from 0 to "
            f"{MAX_SAMPLE_NUMBER}, got {sample!r:.60}."
        )
    tokens, finish_reason, problem = more.get("tokens"), more.get("finish_reason"), more.get("problem")
    return ForeignSample(
        prompt=prompt_id,
        sample=UNNUMBERED if sample is None else sample,
        completion=completion,
        gold=gold_text,
        place=place,
        problem=problem if isinstance(problem, str) else "",
        level=_as_text(more.get("level")) or None,
        subject=_as_text(more.get("subject")) or None,
        tokens=tokens if isinstance(tokens, int) else None,
        finish_reason={"eos": "eos", "stop": "eos", "length": "length"}.get(str(finish_reason)),
    )


def _as_text(value: Any) -> str:
    """Text as it is, a number written out; everything else, and blank text, is empty."""
    text = number_as_text(value)
    return text if isinstance(text, str) and text.strip() else ""


def _first_of(names: Sequence[str], columns: Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in columns), None)


def _first_text(columns: Mapping[str, Any], names: Sequence[str]) -> str:
    return next((columns[name] for name in names if isinstance(columns.get(name), str)), "")


def _identity(sample: ForeignSample) -> int:
    return hash((sample.gold, sample.problem))


_LM_EVAL = _Format("lm-eval samples", frozenset({"doc_id", "doc", "target", "resps"}), _read_lm_eval)
_LIGHTEVAL = _Format("lighteval details", frozenset({"doc", "model_response"}), _read_lighteval)
_PLAIN = _Format("rows of completion and gold", frozenset(), _plain_reader())
_FORMATS = (
    _LM_EVAL,
    _LIGHTEVAL,
    _Format(
        "NGRPO reference samples", frozenset({"question_id", "generation_id", "response", "answer"}), _read_reference
    ),
    _Format("ngrpo samples", frozenset({"prompt", "sample", "completion", "gold"}), _read_own),
)
