"""One run of an experiment, in a process of its own: trained where it has to be, evaluated, gone on with.

A run that fails by itself (numbers that are not finite, nothing to learn, a reward that fails) leaves `failed.json` in
its folder, and the others go on. The same command tries again what may go well the next time: a reward that failed.
"""

import json
import runpy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ngrpo import worlds
from ngrpo.config import Data, RunConfig
from ngrpo.config import Reward as RewardSettings
from ngrpo.errors import NothingToLearnError, NumericsError, RewardError
from ngrpo.evaluate import EvaluationSettings, evaluate
from ngrpo.evaluate.folder import SUMMARY
from ngrpo.lab.exact import score_answers, write_exact
from ngrpo.lab.parallel import Report
from ngrpo.lab.results import EXACT
from ngrpo.policy import load_policy, load_tokenizer, weights_fingerprint
from ngrpo.record import write_json
from ngrpo.rollout import NativeEngine
from ngrpo.stats import k_grid
from ngrpo.train import assemble, train
from ngrpo.train.assemble import load_data, prompt_room

FAILED = "failed.json"
EVAL = "eval"

MAX_ROWS = 512
"""Completions decoded at the same time in an evaluation."""

SETTLED_FAILURES = (NumericsError, NothingToLearnError)
"""What would come again: runs are deterministic, but for how a judge fails (deadlines, workers that die)."""

OWN_FAILURES = (*SETTLED_FAILURES, RewardError)
"""What ends one run and says nothing of the others."""


@dataclass(frozen=True)
class Evaluation:
    """How a model is evaluated; the same for every model that is compared.

    Attributes:
        data: The held-out prompts.
        num_samples: Samples of each.
        max_k: Largest k of pass@k, at most `num_samples`.
        max_completion_tokens: Longest completion.
        temperature: Sampling temperature.
        is_exact: Whether pass@k is also scored exactly, where the data are a world that can write its answers down.
    """

    data: Data
    num_samples: int
    max_k: int
    max_completion_tokens: int
    temperature: float = 1.0
    is_exact: bool = True

    @property
    def answers(self) -> Callable[[str], tuple[str, ...]] | None:
        """Prompt text to every right answer; None where they are not to be scored."""
        kind, _, name = self.data.source.partition(":")
        return worlds.get(name).answers if self.is_exact and kind == "world" else None


@dataclass(frozen=True)
class Job:
    """One run folder to be filled.

    Attributes:
        folder: The run folder.
        model: Folder of the model that is evaluated, where nothing is trained.
        config: The run to be trained, where one is.
        evaluation: How the result is evaluated; None where it is not.
        plugins: Files that register methods, which the process has to run first.
    """

    folder: Path
    model: str
    config: RunConfig | None
    evaluation: Evaluation | None
    plugins: tuple[str, ...] = ()

    @property
    def num_steps(self) -> int:
        """Rollout steps of training."""
        return self.config.train.num_steps if self.config else 0

    @property
    def num_samples(self) -> int:
        """Samples of the evaluation."""
        return self.evaluation.data.size * self.evaluation.num_samples if self.evaluation else 0


def run_job(report: Report, job: Job) -> None:
    """Does what of a job is not on disk yet.

    Args:
        report: Told of rollout steps under `train` and of samples under `evaluate`, those found on disk included.
        job: What to do.

    Raises:
        Interrupted: Asked to stop while training; the state was saved.
    """
    trained, evaluated = Counter(report, "train"), Counter(report, "evaluate")
    register(job.plugins)
    if not is_settled(job):
        (job.folder / FAILED).unlink(missing_ok=True)
        try:
            model = train_job(job, trained) if job.config else job.model
            if job.evaluation is not None:
                evaluate_job(model, job, evaluated)
        except OWN_FAILURES as error:
            write_json(job.folder / FAILED, told(error))
    trained(job.num_steps)
    evaluated(job.num_samples)


def is_settled(job: Job) -> bool:
    """Whether everything of a job is on disk, or that it failed and would fail again."""
    is_trained = job.config is None or trained_model(job).is_dir()
    return (is_trained and is_evaluated(job)) or would_fail_again(job.folder)


def is_evaluated(job: Job) -> bool:
    """Whether the evaluation is on disk, where there is to be one."""
    if job.evaluation is None:
        return True
    is_scored = job.evaluation.answers is None or (job.folder / EXACT).is_file()
    return is_scored and (job.folder / EVAL / SUMMARY).is_file()


def told(error: Exception) -> dict[str, str]:
    """What `failed.json` keeps of an error."""
    return {"error": type(error).__name__, "message": str(error)}


def failure_of(folder: Path) -> str | None:
    """Why a run failed, in one line; None for one that did not."""
    described = folder / FAILED
    if not described.is_file():
        return None
    failure = json.loads(described.read_text(encoding="utf-8"))
    return " ".join(f"{failure['error']}: {failure['message']}".split())


def would_fail_again(folder: Path) -> bool:
    """Whether a run failed of what another attempt does not change."""
    failure = failure_of(folder)
    return failure is not None and failure.startswith(tuple(f"{each.__name__}:" for each in SETTLED_FAILURES))


def failed_runs(folder: Path) -> list[str]:
    """Every run of an experiment that failed, one line each: its folder, and why.

    Args:
        folder: The experiment folder, with those of the search for learning rates and of lengthened runs in it.
    """
    found = sorted(path.parent for depth in ("*/*", "*/*/*") for path in folder.glob(f"{depth}/{FAILED}"))
    return [f"{place.relative_to(folder)} failed. {failure_of(place)}" for place in found]


def trained_model(job: Job) -> Path:
    """The checkpoint that training ends with."""
    return job.folder / "checkpoints" / f"step_{job.num_steps:06d}"


def train_job(job: Job, on_step: "Counter") -> str:
    """Trains, or goes on from the newest checkpoint.

    Returns:
        The model that came out.

    Raises:
        NgrpoError: As `train.train`.
    """
    assert job.config is not None
    if not trained_model(job).is_dir():
        can_resume = (job.folder / "run.json").is_file()
        if not can_resume:  # killed before there was anything to go on from
            shutil.rmtree(job.folder, ignore_errors=True)
        run = assemble(job.config, resume=can_resume)
        try:
            train(run, on_step=on_step)
        finally:
            run.close()
    return str(trained_model(job))


def evaluate_job(model: str, job: Job, on_sample: "Counter") -> None:
    """Samples and judges what is not on disk yet; by the checker of the data, whatever the run was trained with."""
    evaluation = job.evaluation
    assert evaluation is not None
    tokenizer = load_tokenizer(model)
    judge = RewardSettings()
    limit = evaluation.max_completion_tokens
    room = prompt_room(model, limit, "rollout.max_completion_tokens")
    prompts, reward = load_data(evaluation.data, judge, tokenizer, room)
    settings = EvaluationSettings(
        model=model,
        data=prompts.name,
        fingerprint=prompts.fingerprint,
        num_prompts=len(prompts),
        num_samples=evaluation.num_samples,
        ks=tuple(k_grid(evaluation.max_k)),
        temperature=evaluation.temperature,
        top_p=1.0,
        top_k=0,
        max_completion_tokens=limit,
        seed=0,
        reward=evaluation.data.source.partition(":")[0],
        engine="native",
        weights=weights_fingerprint(model),
    )
    try:
        evaluate(
            job.folder / EVAL,
            settings,
            prompts,
            lambda: NativeEngine(load_policy(model, tokenizer, device="cpu"), max_rows=MAX_ROWS),
            reward,
            max_rows=MAX_ROWS,
            on_progress=on_sample.add,
        )
    finally:
        reward.close()
    if evaluation.answers is not None and not (job.folder / EXACT).is_file():
        exact = score_answers(
            load_policy(model, tokenizer, device="cpu"),
            prompts.prompts,
            evaluation.answers,
            ks=settings.ks,
            temperature=evaluation.temperature,
            max_completion_tokens=limit,
        )
        write_exact(job.folder / EXACT, exact)


@cache  # once in each process
def register(plugins: tuple[str, ...]) -> None:
    """Runs the files that register methods; the command line has done so, a new process has not."""
    for path in plugins:
        runpy.run_path(path, run_name=f"ngrpo_plugin_{Path(path).stem}")


class Counter:
    """Turns "so far" into "since the last call"."""

    def __init__(self, report: Report, name: str) -> None:
        self.report, self.name, self.last = report, name, 0

    def __call__(self, so_far: int) -> None:
        """Counts up to so many."""
        self.report(self.name, so_far - self.last)
        self.last = so_far

    def add(self, count: int) -> None:
        """Counts so many more."""
        self(self.last + count)
