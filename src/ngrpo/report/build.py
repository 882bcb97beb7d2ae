"""Paths in, a `Report` out."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from ngrpo import __version__
from ngrpo.report.advantage import advantage_figures
from ngrpo.report.arms import Arm, arms_of
from ngrpo.report.census import census_figure
from ngrpo.report.configurations import configurations
from ngrpo.report.curves import GENERATION, LEARNING, UPDATES, curve_figures, points_per_curve
from ngrpo.report.effects import effect_figures
from ngrpo.report.fields import or_tell
from ngrpo.report.gradients import BATCHES_TEXT, gradient_figures
from ngrpo.report.groups import sampled_groups
from ngrpo.report.model import Report, Section
from ngrpo.report.pass_at_k import pass_at_k_figures
from ngrpo.report.read import read
from ngrpo.report.records import Comparison, Notices
from ngrpo.report.results_tables import results_tables, runs_table
from ngrpo.report.sensitivity import grid_figures

Read = TypeVar("Read")
Read = TypeVar("Read")
OnProgress = Callable[[str, float], None]


def build_report(paths: Sequence[Path], on_progress: OnProgress = lambda stage, share: None) -> Report:
    """Reads everything below the paths, and draws it.

    What is damaged, missing or not comparable is named in `Report.notices`; the rest is reported.

    Args:
        paths: Run, evaluation and experiment folders, parents of them, and census files, in any mixture.
        on_progress: Told the stage and the share of it that is done.

    Raises:
        RunFolderError: Nothing at all could be read; it says of each path why.
    """
    notices = Notices()
    comparisons = [(comparison, arms_of(comparison)) for comparison in read(paths, notices, on_progress)]
    num_metrics = len((*LEARNING, *GENERATION, *UPDATES)) + 3
    max_points = points_per_curve(num_metrics * sum(len(arms) for _, arms in comparisons))
    sections: list[Section] = []
    for place, (comparison, arms) in enumerate(comparisons):
        on_progress("drawing", place / len(comparisons))
        head = f"{comparison.title}: " if len(comparisons) > 1 else ""
        sections += _sections(comparison, arms, head, max_points, notices)
    on_progress("drawing", 1.0)
    all_arms = [arm for _, arms in comparisons for arm in arms]
    groups = or_tell(partial(sampled_groups, all_arms, notices), "The groups sampled in training", notices) or ()
    num_runs = sum(len(comparison.runs) for comparison, _ in comparisons)
    runs = f"{num_runs} run{'s' * (num_runs != 1)} from " if num_runs else "From "
    return Report(
        title=" and ".join(comparison.title for comparison, _ in comparisons[:3]) + " ..." * (len(comparisons) > 3),
        subtitle=f"{runs}{', '.join(map(str, paths[:4]))}{' and others' * (len(paths) > 4)}; ngrpo {__version__}, "
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
        notices=notices.shown(),
        sections=tuple(sections),
        groups=groups,
        configurations=configurations(comparisons),
    )


def _sections(
    comparison: Comparison, arms: Sequence[Arm], head: str, max_points: int, notices: Notices
) -> Iterator[Section]:
    """What there is to show of a comparison, results first; what cannot be drawn is told and left out."""
    prefix = comparison.id

    def drawn(what: str, draw: Callable[[], Read]) -> Read | None:
        return or_tell(draw, f"{comparison.title}: {what}", notices)

    yield from _results(comparison, arms, head, notices)
    for name, title, plans in (
        ("learning", "Learning", LEARNING),
        ("generation", "What the policy writes", GENERATION),
        ("updates", "Updates", UPDATES),
    ):
        figures = drawn(title, partial(curve_figures, prefix, arms, plans, max_points, notices))
        if name == "learning" and (
            census := drawn("the census of groups", partial(census_figure, prefix, arms, max_points, notices))
        ):
            yield Section(f"{prefix}-groups", f"{head}Groups", _GROUPS_TEXT, figures=(census,))
        if figures:
            yield Section(f"{prefix}-{name}", f"{head}{title}", figures=tuple(figures))
    if figures := drawn("advantages", partial(advantage_figures, prefix, arms, notices)):
        yield Section(f"{prefix}-advantages", f"{head}What the methods do", figures=tuple(figures))
    if any(run.series or run.evaluation for run in comparison.runs) and (
        table := drawn("the table of runs", partial(runs_table, arms))
    ):
        yield Section(f"{prefix}-runs", f"{head}Runs", _design(comparison), tables=(table,))


def _results(comparison: Comparison, arms: Sequence[Arm], head: str, notices: Notices) -> Iterator[Section]:
    """Held-out results: pass@k, the experiment's tables, effects, grids, gradients."""
    prefix, experiment = comparison.id, comparison.experiment
    results = experiment.results if experiment else {}

    def drawn(what: str, draw: Callable[[], Read]) -> Read | None:
        return or_tell(draw, f"{comparison.title}: {what}", notices)

    tables = drawn("results.json", partial(results_tables, results, notices)) or []
    figures, own_tables = drawn(
        "pass@k", partial(pass_at_k_figures, prefix, arms, notices, has_tables=bool(tables))
    ) or ([], [])
    if figures or tables or own_tables:
        yield Section(
            f"{prefix}-results", f"{head}Results", _ONE_SEED if _has_one_seed(arms) else (), tuple(figures),
            (*tables, *own_tables),
        )  # fmt: skip
    effects = drawn("effects in results.json", partial(effect_figures, prefix, results, notices)) or []
    effects += drawn("grid in results.json", partial(grid_figures, prefix, results, notices)) or []
    if effects:
        yield Section(f"{prefix}-mechanisms", f"{head}Mechanisms", figures=tuple(effects))
    gradients = experiment.gradients if experiment else {}
    if gradients and (found := drawn("gradients.json", partial(gradient_figures, prefix, gradients, notices))):
        figures, tables = found
        yield Section(f"{prefix}-gradients", f"{head}Gradients", BATCHES_TEXT, tuple(figures), tuple(tables))


def _has_one_seed(arms: Sequence[Arm]) -> bool:
    return bool(arms) and all(len(arm.runs) == 1 for arm in arms)


def _design(comparison: Comparison) -> tuple[str, ...]:
    """What the experiment held equal."""
    held = comparison.experiment.description.get("held_equal") if comparison.experiment else None
    lines = [str(line) for line in held] if isinstance(held, list) else []
    return (f"Held equal in all arms: {'; '.join(lines)}.",) if lines else ()


_ONE_SEED = (
    "There is one run of each arm. Intervals are over prompts only: they do not say what another seed would give, so "
    "no difference here is one between methods.",
)
_GROUPS_TEXT = (
    "A group is the completions of one prompt. GRPO learns from mixed groups only: where all are wrong, or all are "
    "right, its advantages are zero.",
)
