"""Figures as files for a paper: PNG and SVG, on white, with dark text, of a fixed width."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ngrpo.errors import RunFolderError
from ngrpo.report.model import Report

WIDTH_PIXELS = 560
"""Of the chart without its axes' titles: about a column and a half of print at 96 pixels per inch."""

SCALE = 3.0
"""Pixels of a PNG per pixel of the chart: 288 per inch."""

PAPER: Mapping[str, Any] = {
    "background": "#ffffff",
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {"gridColor": "#e6e6e6", "domainColor": "#666666", "tickColor": "#666666", "labelFontSize": 12,
             "titleFontSize": 13, "titleFontWeight": "normal"},
    "legend": {"labelFontSize": 12, "titleFontSize": 12},
}  # fmt: skip


def export_figures(report: Report, folder: Path, *, width: int = WIDTH_PIXELS) -> list[Path]:
    """Writes every figure of a report as `ID.svg` and `ID.png`, one after the other.

    Args:
        report: From `build_report`.
        folder: Made when missing; files of the same names are replaced.
        width: Of the charts, in pixels.

    Returns:
        The files.

    Raises:
        RunFolderError: The folder cannot be written.
    """
    import vl_convert

    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for section in report.sections:
            for figure in section.figures:
                svg = vl_convert.vegalite_to_svg(for_paper(figure.spec, width=width))
                for path, content in (
                    (folder / f"{figure.id}.svg", svg.encode()),
                    (folder / f"{figure.id}.png", vl_convert.svg_to_png(svg, scale=SCALE)),
                ):
                    path.write_bytes(content)
                    written.append(path)
    except OSError as error:
        raise RunFolderError(f"cannot write figures into {folder}: {error.strerror}. Choose another folder.") from error
    return written


def for_paper(spec: Mapping[str, Any], *, width: int = WIDTH_PIXELS) -> dict[str, Any]:
    """A specification of a fixed width on white.

    Args:
        spec: Of a `Figure`.
        width: In pixels.
    """
    changed = {**spec, "width": width, "background": "#ffffff", "config": dict(PAPER)}
    changed["autosize"] = {"type": "pad"}
    return changed
