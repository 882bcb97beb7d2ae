"""The whole story in minutes: a base model from scratch, GRPO and NGRPO from it side by side, pass@k of all of them.

Everything but the mechanism is held equal: prompts and their order, random numbers, optimiser, learning rate, warm-up,
updates per step, token-mean aggregation, no KL, no entropy bonus, no refill. What differs is NGRPO's: the virtual
reward in each group's statistics, the asymmetric clip, and that all-right groups are left out of the loss.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ngrpo.config import RunConfig, load_config
from ngrpo.data import load_prompts
from ngrpo.errors import Interrupted, RunFolderError
from ngrpo.evaluate import EvaluationSettings, evaluate
from ngrpo.lab.base import NUM_STEPS, cached_base
from ngrpo.lab.figures import draw_quickstart
from ngrpo.lab.parallel import Report, Task, run_tasks
from ngrpo.lab.results import Row, compare, read_row
from ngrpo.policy import load_policy, load_tokenizer, weights_fingerprint
from ngrpo.record import console, progress_bar, write_json
from ngrpo.rewards import WorldReward
from ngrpo.rollout import NativeEngine
from ngrpo.stats import Interval, k_grid
from ngrpo.train import assemble, train
from ngrpo.train.checkpoint import newest_checkpoint

METHODS = ("grpo", "ngrpo")
SHARP_TEMPERATURE = 0.6
"""Of the base's second evaluation: how much of a gain is only sharper sampling."""


@dataclass(frozen=True)
class QuickstartSettings:
    """How large the quickstart is.

    Attributes:
        folder: Where everything goes.
        num_steps: Rollout steps of each run.
        num_seeds: Runs per method.
        num_prompts: Held-out prompts evaluated.
        num_samples: Samples of each.
        max_k: Largest k of pass@k; at most `num_samples`.
        num_processes: Runs side by side.
        base_steps: Warm-start steps of the base model.
    """

    folder: Path
    num_steps: int = 80
    num_seeds: int = 3
    num_prompts: int = 128
    num_samples: int = 128
    max_k: int = 64
    num_processes: int = 2
    base_steps: int = NUM_STEPS


@dataclass(frozen=True)
class _Job:
    """One model to evaluate, trained first where `config` is given."""

    name: str
    model: str
    temperature: float
    config: RunConfig | None
    settings: QuickstartSettings


def quickstart(settings: QuickstartSettings) -> list[Row]:
    """Runs what is not on disk yet, and draws the figure.

    Args:
        settings: How large; another size needs another folder.

    Returns:
        One row per line of the table: base, sharper base, then each method over its seeds.

    Raises:
        RunFolderError: The folder holds a quickstart of another size.
        Interrupted: Asked to stop; everything was saved and the same command goes on.
    """
    started = time.perf_counter()
    open_folder(settings)
    base = find_base(settings)
    jobs = plan(settings, str(base))
    totals = {"train": settings.num_steps * settings.num_seeds * len(METHODS), "evaluate": 0}
    totals["evaluate"] = len(jobs) * settings.num_prompts * settings.num_samples
    with progress_bar() as progress:
        bars = {
            "train": progress.add_task("train", total=totals["train"], unit="step", note=f"{len(METHODS)} methods"),
            "evaluate": progress.add_task("evaluate", total=totals["evaluate"], unit="sample", note=""),
        }
        try:
            run_tasks(
                [Task(job.name, run_job, job) for job in jobs],
                num_processes=settings.num_processes,
                report=lambda counter, count: progress.advance(bars[counter], count),
            )
        except Interrupted:
            raise Interrupted(
                f"stopped; every run below {settings.folder} saved its last finished step and every finished sample. "
                "The same command goes on from there."
            ) from None
    rows = [
        read_row("base", [settings.folder / "base" / "eval"]),
        read_row(f"base at T={SHARP_TEMPERATURE:g}", [settings.folder / "base_sharp" / "eval"]),
        *(read_row(method, [settings.folder / f"{method}_seed{seed}" / "eval" for seed in range(settings.num_seeds)])
          for method in METHODS),
    ]  # fmt: skip
    write_json(
        settings.folder / "quickstart.json",
        {
            "settings": size_of(settings),
            "rows": [row.as_dict() for row in rows],
            "differences": {
                title: {name: asdict(interval) for name, interval in values.items()}
                for title, values in differences(rows).items()
            },
            "wall_s": round(time.perf_counter() - started, 1),
        },
    )
    runs = {method: [settings.folder / f"{method}_seed{seed}" for seed in range(settings.num_seeds)]
            for method in METHODS}  # fmt: skip
    draw_quickstart(settings.folder / "quickstart.png", rows, runs)
    return rows


def open_folder(settings: QuickstartSettings) -> None:
    """Makes the folder, or checks that what it holds has this size.

    Raises:
        RunFolderError: It holds a quickstart of another size, or cannot be made.
    """
    described, size = settings.folder / "size.json", size_of(settings)
    try:
        settings.folder.mkdir(parents=True, exist_ok=True)
        old = json.loads(described.read_text(encoding="utf-8")) if described.exists() else size
        write_json(described, old)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{settings.folder} cannot be used: {error}. Give another --folder.") from error
    if changed := [f"{key}: {old.get(key)} -> {size[key]}" for key in size if old.get(key) != size[key]]:
        raise RunFolderError(
            f"{settings.folder} holds a quickstart of another size ({', '.join(changed)}). Give another --folder, or "
            "the same size to go on with it."
        )


def size_of(settings: QuickstartSettings) -> dict[str, Any]:
    """What decides the numbers: everything but the place and the number of processes."""
    size = asdict(settings)
    del size["folder"], size["num_processes"]
    return size


def find_base(settings: QuickstartSettings) -> Path:
    """The base model, from the cache where it is there; says which."""
    with progress_bar() as progress:
        bar = progress.add_task("base model", total=settings.base_steps, unit="step", note="")
        folder, was_cached = cached_base(
            num_steps=settings.base_steps,
            on_step=lambda step, _, loss: progress.update(bar, completed=step, note=f"loss {loss:.3f}"),
        )
        if was_cached:
            progress.remove_task(bar)
    console().print(f"base model: {'cached, reused' if was_cached else 'built'} ({folder})", soft_wrap=True)
    return folder


def plan(settings: QuickstartSettings, base: str) -> list[_Job]:
    """Every model to be evaluated, the longest work first."""
    trained = [
        _Job(f"{method}_seed{seed}", base, 1.0, run_config(settings, base, method, seed), settings)
        for seed in range(settings.num_seeds)
        for method in METHODS
    ]
    return [
        *trained,
        _Job("base", base, 1.0, None, settings),
        _Job("base_sharp", base, SHARP_TEMPERATURE, None, settings),
    ]


def run_config(settings: QuickstartSettings, base: str, method: str, seed: int) -> RunConfig:
    """One run: the `tiny` preset with everything held equal but the method and the seed."""
    return load_config(
        "tiny",
        [
            f"run.name={method}_seed{seed}",
            f"run.dir={settings.folder}",
            f"run.seed={seed}",
            f"model.path={base}",
            f"objective.name={method}",
            'objective.params.aggregation="token_mean"',
            "refill.max_batches=1",
            f"train.num_steps={settings.num_steps}",
            f"optim.warmup_steps={min(5, settings.num_steps - 1)}",
            "record.tensorboard=false",
        ],
    )


def run_job(report: Report, job: _Job) -> None:
    """Trains (or goes on training) where asked to, then evaluates what is not evaluated yet."""
    folder = job.settings.folder / job.name
    model = job.model
    if job.config is not None:
        checkpoint = newest_checkpoint(folder / "checkpoints")
        step = _Counter(report, "train")
        if checkpoint is None or checkpoint.name != f"step_{job.settings.num_steps:06d}":
            run = assemble(job.config, resume=(folder / "run.json").exists())
            try:
                train(run, on_step=step)
            finally:
                run.close()
        step(job.settings.num_steps)
        model = str(folder / "checkpoints" / f"step_{job.settings.num_steps:06d}")
    evaluate_on_test(model, folder / "eval", job.temperature, job.settings, report)


def evaluate_on_test(
    model: str, folder: Path, temperature: float, settings: QuickstartSettings, report: Report
) -> None:
    """Samples the held-out prompts, the same for every model."""
    from ngrpo import worlds

    world = worlds.get("countdown")
    tokenizer = load_tokenizer(model)
    prompts = load_prompts("world:countdown", tokenizer, split="test", size=settings.num_prompts)
    evaluation = EvaluationSettings(
        model=model,
        data=prompts.name,
        fingerprint=prompts.fingerprint,
        num_prompts=len(prompts),
        num_samples=settings.num_samples,
        ks=tuple(k_grid(settings.max_k)),
        temperature=temperature,
        top_p=1.0,
        top_k=0,
        max_completion_tokens=world.max_completion_tokens,
        seed=0,
        reward="world",
        engine="native",
        weights=weights_fingerprint(model),
    )
    rows = 512
    evaluate(
        folder,
        evaluation,
        prompts,
        lambda: NativeEngine(load_policy(model, tokenizer, device="cpu"), max_rows=rows),
        WorldReward(world.check),
        max_rows=rows,
        on_progress=lambda count: report("evaluate", count),
    )


class _Counter:
    """Turns "so far" into "since the last call"."""

    def __init__(self, report: Report, name: str) -> None:
        self.report, self.name, self.last = report, name, 0

    def __call__(self, so_far: int) -> None:
        self.report(self.name, so_far - self.last)
        self.last = so_far


def held_equal() -> Sequence[str]:
    """What the comparison held equal, for whoever reads the table."""
    return (
        "same base, prompts, prompt order and random numbers per seed",
        "AdamW at 1e-4 with 5 steps of warm-up, 4 updates per step, steps taken on zero gradients too",
        "token-mean aggregation, no KL, no entropy bonus, no refill",
    )


def as_table(rows: Sequence[Row]) -> Any:
    """The table that is printed: one column per model, narrow enough for 80 characters."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("percent")
    for row in rows:
        table.add_column(row.name, justify="right")
    for name in rows[0].values:
        label = f"groups {name}" if name.startswith(("all", "mixed")) else name
        table.add_row(label, *(_cell(row.values[name], scale=100, digits=1) for row in rows))
    table.add_row("entropy, nats", *(_cell(row.entropy_nats, scale=1, digits=2) for row in rows))
    table.add_row("seeds", *(f"{row.num_seeds}" for row in rows))
    table.add_row("prompts", *(f"{row.num_prompts}" for row in rows))
    table.add_row("samples of each", *(f"{row.num_samples}" for row in rows))
    return table


def differences(rows: Sequence[Row]) -> dict[str, dict[str, Interval]]:
    """The comparisons that the quickstart is about: the methods with each other, and with the base.

    Args:
        rows: As `quickstart` returns them.
    """
    base, sharp, grpo, ngrpo = rows
    pairs = ((ngrpo, grpo), (grpo, base), (ngrpo, base), (grpo, sharp), (ngrpo, sharp))
    return {f"{one.name} - {other.name}": compare(one, other) for one, other in pairs}


def as_difference_table(found: dict[str, dict[str, Interval]]) -> Any:
    """Differences in points, with a star where the interval excludes zero."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("points")
    names = [name for name in next(iter(found.values())) if name != "pass@8"]  # four columns would not fit
    for name in names:
        table.add_column(name, justify="right")
    for title, values in found.items():
        cells = []
        for value in (values[name] for name in names):
            star = "*" if value.low > 0 or value.high < 0 else " "
            cells.append(f"{100 * value.estimate:+.1f}{star} [dim]{100 * value.low:+.1f}..{100 * value.high:+.1f}[/]")
        table.add_row(title, *cells)
    return table


def _cell(value: Interval, *, scale: float, digits: int) -> str:
    estimate, low, high = (f"{scale * number:.{digits}f}" for number in (value.estimate, value.low, value.high))
    return f"{estimate} [dim]{low}-{high}[/]"
