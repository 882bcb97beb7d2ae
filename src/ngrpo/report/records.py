"""What was read, before any of it is drawn: runs, their evaluations, experiments, and what is wrong with them.

Axes: T recorded steps, P prompts, K values of k.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_NOTICES = 60
"""Most notices of a report; it says how many more there are."""


class Notices:
    """Sentences for the top of the page, each once, in the order they came."""

    def __init__(self) -> None:
        self._sentences: dict[str, None] = {}

    def add(self, sentence: str) -> None:
        """Adds a sentence."""
        self._sentences.setdefault(sentence)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sentences)

    def __len__(self) -> int:
        return len(self._sentences)

    def shown(self) -> tuple[str, ...]:
        """The first `MAX_NOTICES`, and how many were left out."""
        told = list(self._sentences)
        rest = len(told) - MAX_NOTICES
        return tuple(told if rest <= 0 else [*told[:MAX_NOTICES], f"{rest} more such notices were left out."])


@dataclass(frozen=True, eq=False)
class Series:
    """One metric of one run.

    Attributes:
        steps: [T] rollout steps, rising.
        values: [T] finite.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Samples of held-out prompts, counted.

    Attributes:
        folder: Where it was read.
        settings: Of `eval.json`.
        prompt_ids: In the order of the data.
        num_samples: [P], each at least 1.
        num_correct: [P].
        entropy_nats: Mean per sampled token; None where it is not known.
    """

    folder: Path
    settings: Mapping[str, Any]
    prompt_ids: tuple[str, ...]
    num_samples: NDArray[np.int64]
    num_correct: NDArray[np.int64]
    entropy_nats: float | None


@dataclass(frozen=True, eq=False)
class Exact:
    """Exact pass@k of a world that can be scored.

    Attributes:
        ks: [K] rising.
        prompt_ids: In the order of the rows.
        pass_at_k: [P, K] in [0, 1].
    """

    ks: tuple[int, ...]
    prompt_ids: tuple[str, ...]
    pass_at_k: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Run:
    """A trained run, or a model that was only evaluated.

    Attributes:
        name: Unique in the report.
        arm: What it is a seed of.
        role: `method`, `control`, or `base`, which was not trained.
        folder: Where it was read; of a census file, that file.
        objective: Name in the catalog; empty where it is not known.
        params: The objective's parameters.
        seed: None where it is not known.
        group_size: Completions in a group; None where it is not known.
        num_steps: Planned rollout steps; None where it is not known.
        data: Name of the training prompts.
        fingerprint: Of the training prompts; empty where it is not known.
        series: By metric name, as in `record.metrics`.
        evaluation: Of the trained model; None where there is none that can be read.
        exact: None where there is none.
        config: As `run.json` has it, nested.
        command: The command line that made it, as it would be typed.
        groups: Rows as in groups.jsonl, a bounded choice, where `folder` is a census file.
    """

    name: str
    arm: str
    role: str
    folder: Path
    objective: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    group_size: int | None = None
    num_steps: int | None = None
    data: str = ""
    fingerprint: str = ""
    series: Mapping[str, Series] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    exact: Exact | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    groups: tuple[Mapping[str, Any], ...] = ()

    @property
    def last_step(self) -> int:
        """Rollout steps done, as far as they are recorded."""
        return max((int(series.steps[-1]) for series in self.series.values() if len(series.steps)), default=0)


@dataclass(frozen=True, eq=False)
class Experiment:
    """An experiment folder, apart from its runs.

    Attributes:
        folder: Where it was read.
        kind: `objectives`, `ablation`, `sensitivity`, `gradients`, `quickstart`.
        description: `experiment.json`.
        results: `results.json`; empty where there is none yet.
        gradients: `gradients.json`; empty where there is none.
    """

    folder: Path
    kind: str
    description: Mapping[str, Any]
    results: Mapping[str, Any] = field(default_factory=dict)
    gradients: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs that may be drawn together: of one experiment, or of the same data.

    Attributes:
        id: For anchors and file names; unique.
        title: What they have in common.
        runs: In the order they were found.
        experiment: None where they are of none.
    """

    id: str
    title: str
    runs: tuple[Run, ...]
    experiment: Experiment | None = None
