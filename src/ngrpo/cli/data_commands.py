"""`ngrpo data`: published sets by name, and one's own file looked over and converted."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ngrpo.data.convert import Report

app = typer.Typer(name="data", no_args_is_help=True, help="Published data sets, and your own file.")


@app.command("list")
def list_sets(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the published sets that have a name here: size, source, licence, and what to know of contamination.

    `NAME` reads a set from the hub, `NAME:FILE` from a file; both are checked. For example:

    `ngrpo data list`

    `ngrpo data list --json`
    """
    from dataclasses import asdict

    from ngrpo.data import presets

    sets = [presets.get(name) for name in presets.names()]
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in sets], indent=2))
        return
    table = Table("name", "problems", "hub", "what to know", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for each in sets:
        where = ", ".join(filter(None, (each.hub, *each.subsets, each.split)))
        told = f"{each.title}. {each.origin}. {each.note} Licence: {each.licence}."
        table.add_row(each.name, f"{each.num_problems:,}", escape(where), escape(told))
    Console(emoji=False).print(table)


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A .jsonl, .json, .csv, .tsv or .parquet file.")],
    to: Annotated[Path | None, typer.Option(help="Write the usable rows here: .parquet or .jsonl.")] = None,
    prompt_column: Annotated[
        str | None, typer.Option(help="Column of the problem. Default: prompt, problem or question.")
    ] = None,
    gold_column: Annotated[
        str | None, typer.Option(help="Column of the answer. Default: gold, answer or solution.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of a unique id. Default: id, else the row number.")] = (
        None
    ),
    against: Annotated[
        list[str] | None, typer.Option(help="Report problems that are in this FILE, NAME or NAME:FILE too.")
    ] = None,
    drop_bad_rows: Annotated[bool, typer.Option("--drop-bad-rows", help="Write without the rows that block.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --to.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Say everything that is wrong with a file, and write it as id, problem, answer (level, subject, solution).

    Without `--to` it only reports. Exit code 0: every row can be used, or the usable ones were written; 2: not.

    For example:

    `ngrpo data convert mine.csv`

    `ngrpo data convert mine.jsonl --to mine.parquet --gold-column target --drop-bad-rows`

    `ngrpo data convert train.jsonl --against math500:math500.parquet --against aime2025:aime2025.parquet`
    """
    from ngrpo.data.convert import check_output, inspect_file, write_records
    from ngrpo.errors import DataError
    from ngrpo.record import late_bars
    from ngrpo.rewards import MathReward

    if to is not None:
        check_output(to, file, overwrite=overwrite)
    reward = MathReward()
    try:
        with late_bars() as on_progress:
            report, records = inspect_file(
                file,
                check_golds=reward.check_golds,
                prompt_column=prompt_column,
                gold_column=gold_column,
                id_column=id_column,
                against=against or (),
                on_progress=on_progress,
            )
    finally:
        reward.close()
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        print_report(report)
    num_bad = report.num_rows - report.num_usable
    if num_bad and (to is None or not drop_bad_rows or not records):
        nothing = "" if to is None else f" Nothing was written to {to}."
        advice = "Mend them." if not records else "Mend them, or leave them out with --to FILE --drop-bad-rows."
        raise DataError(f"{file}: {num_bad} of {report.num_rows} rows cannot be used.{nothing} {advice}")
    if to is not None:
        write_records(to, records)
        typer.echo(f"wrote {to}: {len(records)} rows" + (f", {num_bad} left out" if num_bad else ""), err=as_json)


def print_report(report: "Report") -> None:
    """Prints what was found: what blocks first, each with its first examples."""
    ids = f"id from {report.id_column!r}" if report.id_column else "rows are numbered"
    typer.echo(
        f"{report.file}: {report.num_rows} rows, {report.num_usable} usable; problem from {report.prompt_column!r}, "
        f"gold from {report.gold_column!r}, {ids}"
    )
    for blocks, title in ((True, "cannot be used"), (False, "worth knowing")):
        findings = [finding for finding in report.findings if finding.blocks is blocks]
        if findings:
            typer.echo(f"\n{title}")
        for finding in findings:
            typer.echo(f"{finding.count:>7}  {finding.what}")
            for example in finding.examples:
                typer.echo(f"           {example}")
            if finding.count > len(finding.examples):
                typer.echo(f"           and {finding.count - len(finding.examples)} more")
    if not report.findings:
        typer.echo("nothing is wrong with it")
