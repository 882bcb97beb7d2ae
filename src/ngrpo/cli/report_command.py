"""`ngrpo report`: run, evaluation and experiment folders as one page."""

import os
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ngrpo.errors import ConfigError

if TYPE_CHECKING:
    from ngrpo.report.model import Report


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Run, evaluation or experiment folders, or census files.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The page. Default: report.html in the first folder, or here."),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write every figure as PNG and SVG too, for a paper.")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write one page about runs and experiments: curves, pass@k, groups, mechanisms, samples, configurations.

    The page is one HTML file that needs no network and no server. What is missing, damaged or not comparable is told
    here and at the top of the page; the rest is reported. Runs of TRL or verl that wrote a census, a JSONL file of
    groups, can be given as files: docs/report.md has its columns.

    For example:

    `ngrpo report runs/objectives --open`

    `ngrpo report runs/a runs/b --out a_and_b.html --export figures`
    """
    from ngrpo.record import late_bars
    from ngrpo.report.build import build_report
    from ngrpo.report.page import MAX_BYTES, render

    page = out or _default_page(folders)
    _check(page, export)
    with late_bars() as on_progress:
        built = build_report(folders, on_progress)
    _print_contents(built)
    text = render(built).encode()
    _write(page, text)
    if export is not None:
        from ngrpo.report.export import export_figures

        files = export_figures(built, export)
        typer.echo(f"figures: {len(files)} files in {export}")
    too_large = (
        "" if len(text) < MAX_BYTES else f", more than {MAX_BYTES / 1e6:g} MB: report fewer runs for a lighter one"
    )
    typer.echo(f"page: {page} ({len(text) / 1e6:.1f} MB{too_large})")
    if open_page and not webbrowser.open(page.resolve().as_uri()):
        typer.echo("No browser could be opened; open the page by hand.", err=True)


def _default_page(folders: Sequence[Path]) -> Path:
    first = folders[0]
    return (first if first.is_dir() and os.access(first, os.W_OK) else Path()) / "report.html"


def _check(page: Path, export: Path | None) -> None:
    """Refuses what could not be written, before anything is read."""
    if page.suffix.lower() not in {".html", ".htm"} or not page.absolute().parent.is_dir():
        raise ConfigError(f"--out {page} must name an .html file in a folder that exists.")
    if page.is_dir():
        raise ConfigError(f"--out {page} is a folder. Name a file.")
    if export is not None and export.exists() and not export.is_dir():
        raise ConfigError(f"--export {export} is a file. Name a folder.")


def _print_contents(built: "Report") -> None:
    from ngrpo.report.page_parts import shown

    typer.echo(shown(f"{built.title}\n{built.subtitle}"))
    num_figures = sum(len(section.figures) for section in built.sections)
    num_tables = sum(len(section.tables) for section in built.sections)
    typer.echo(
        ", ".join(
            f"{count} {word}{'s' * (count != 1)}"
            for count, word in (
                (num_figures, "figure"),
                (num_tables, "table"),
                (len(built.groups), "sampled group"),
                (len(built.configurations), "configuration"),
            )
        )
    )
    for notice in built.notices:
        typer.echo(shown(f"note: {notice}"))


def _write(page: Path, text: bytes) -> None:
    """Whole or not at all: an older page stays until the new one is on disk."""
    temporary = page.with_name(page.name + ".tmp")
    temporary.write_bytes(text)
    temporary.replace(page)
