"""`ngrpo compare`: two evaluations of the same problems, and which differences are established."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ngrpo.errors import ConfigError

if TYPE_CHECKING:
    from ngrpo.evaluate.compare import Comparison, Problem
    from ngrpo.stats import Interval


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A folder that ngrpo eval wrote.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one, of the same problems.")],
    shared: Annotated[
        bool, typer.Option("--shared", help="Where the problems differ, compare those that both have.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw both pass@k curves and their difference.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Problems listed of those that changed side; --json has all.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every problem that changed side.")] = False,
) -> None:
    """Compare two evaluations problem by problem: A minus B with paired intervals, wins and losses, what changed.

    A and B are folders that `ngrpo eval` wrote, or folders that hold one of these per data set. A difference whose
    95 % interval contains zero is not established. What differs besides the model (data, prompt, temperature, samples,
    verifier) is told first. How often the intervals hold the truth was measured: docs/statistics.md.

    For example:

    `ngrpo compare evals/trained evals/base`

    `ngrpo compare evals/trained evals/base --plot trained_and_base.png`

    `ngrpo compare evals/trained evals/base --shared --json > comparison.json`
    """
    from ngrpo.evaluate.compare import compare_folders

    if plot is not None and (plot.suffix.lower() != ".png" or not plot.absolute().parent.is_dir()):
        raise ConfigError(f"--plot {plot} must name a .png file in a folder that exists.")
    comparisons = compare_folders(first, second, only_shared=shared)
    if as_json:
        typer.echo(json.dumps([comparison.as_dict() for comparison in comparisons], indent=2))
    else:
        for comparison in comparisons:
            print_comparison(comparison, show=show)
    if plot is not None:
        from ngrpo.evaluate.compare_figure import draw_comparison

        draw_comparison(plot, comparisons, (str(first), str(second)))
        typer.echo(f"wrote {plot}", err=as_json)


def print_comparison(comparison: "Comparison", *, show: int) -> None:
    """Prints what was found on one data set.

    Args:
        comparison: From `evaluate.compare`.
        show: How many problems of each changed side are listed.
    """
    typer.echo(f"{comparison.data}: {comparison.num_problems} problems")
    for letter, folder, model, samples in zip(
        "AB", comparison.folders, comparison.models, comparison.num_samples, strict=True
    ):
        typer.echo(f"  {letter}  {folder}  ({model}, {samples} samples per problem)")
    if any(comparison.num_only):
        only_first, only_second = comparison.num_only
        typer.echo(f"  left out: {only_first} problems that only A has, {only_second} that only B has")
    if comparison.differing:
        typer.echo("  besides the model A and B DIFFER in:")
        for sentence in comparison.differing:
            typer.echo(f"    {sentence}")
    table = Table("%", "A", "B", "A - B", "95 % interval", "", box=None, pad_edge=False)
    for column in table.columns[1:4]:
        column.justify = "right"
    for name, value in comparison.quantities.items():
        label = f"Pass@k AUC, k = 1..{comparison.ks[-1]}" if name == "auc" else name
        better = "A is better" if value.difference.low > 0 else "B is better"
        means = (f"{100 * value.first.estimate:.1f}", f"{100 * value.second.estimate:.1f}")
        table.add_row(
            label,
            *means,
            f"{100 * value.difference.estimate:+.1f}",
            _ends(value.difference),
            better if value.is_established else "not established",
        )
    Console().print(table)
    typer.echo(
        "Each line is a 95 % interval by itself: of twenty lines one may leave out the truth.\n"
        f"Share of correct samples, problem by problem: A higher on {comparison.wins}, equal on {comparison.ties}, "
        f"lower on {comparison.losses} (exact two-sided sign test, p = {comparison.sign_test_p:.2g})."
    )
    _print_changed("A solved and B never did", comparison.only_first_solved, show)
    _print_changed("B solved and A never did", comparison.only_second_solved, show)


def _ends(value: "Interval") -> str:
    return f"{100 * value.low:+.1f} to {100 * value.high:+.1f}"


def _print_changed(what: str, problems: Sequence["Problem"], show: int) -> None:
    typer.echo(f"Problems that {what}: {len(problems)}")
    # The most often solved first: those are the least likely to be luck.
    for problem in sorted(problems, key=lambda found: -max(found.num_correct))[:show]:
        shares = [f"{c}/{n}" for c, n in zip(problem.num_correct, problem.num_samples, strict=True)]
        gold = problem.gold if len(problem.gold) <= 40 else problem.gold[:39] + "…"
        typer.echo(f"  {problem.prompt!r}  A {shares[0]}  B {shares[1]}  gold {gold!r}")
    if len(problems) > show:
        typer.echo(f"  and {len(problems) - show} more (--show, --json)")
