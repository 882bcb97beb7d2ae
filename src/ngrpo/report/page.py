"""A report as one HTML file that opens from disk: style, scripts, charts' library and data inside, no network.

The page forbids itself everything but its own scripts (by their hashes) in a Content-Security-Policy, so that nothing a
model wrote can run and nothing is fetched. Without JavaScript its text, tables and descriptions stand.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from string import Template
from typing import Any

from ngrpo import __version__
from ngrpo.report.model import Report, SampledGroup
from ngrpo.report.page_parts import inert, inert_json, paragraphs, prose, section_part, shown

MAX_BYTES = 5_000_000
"""A page is smaller; sampled groups are left out, evenly over the run, where it would not be."""

_SCRIPTS = ("elements.js", "theme.js", "charts.js", "groups.js", "configurations.js", "contents.js", "start.js")


def render(report: Report) -> str:
    """The page of a report.

    Args:
        report: What is to be shown. Texts in it may be anything; nothing in them is read as HTML.

    Returns:
        The whole HTML file, under `MAX_BYTES` unless figures, tables and configurations alone exceed it.
    """
    template, parts = Template(_file("page.html")), _parts(report)
    room = MAX_BYTES - len(template.substitute(parts, groups="").encode())
    return template.substitute(parts, groups=_groups(report.groups, room))


def _parts(report: Report) -> dict[str, str]:
    """What stands where in the template, but for the groups, which take the room that is left."""
    early, script, charts = _file("early.js"), "".join(map(_file, _SCRIPTS)), _charts_library()
    has_figures = any(section.figures for section in report.sections)
    style = _file("page.css")
    return {
        "policy": _policy(style, [early, script, charts]),
        "version": inert(__version__),
        "title": inert(report.title),
        "subtitle": prose(report.subtitle),
        "style": style,
        "early": early,
        "contents": _contents(report),
        "notices": _notices(report.notices),
        "sections": "\n".join(map(section_part, report.sections)) or "<p>Nothing could be read.</p>",
        "configurations": _configurations(report),
        "licences": inert(_file("licences.txt")),
        "charts": f'<script type="module">{charts}</script>' if has_figures else "",
        "script": script,
    }


@cache
def _file(name: str) -> str:
    return (resources.files("ngrpo.report") / "page" / name).read_text(encoding="utf-8")


@cache
def _charts_library() -> str:
    """Vega, Vega-Lite and Vega-Embed from the installed wheel (0.9 MB).

    Vega and Vega-Lite alone are 0.6 MB, but their expressions need `eval`, which the page forbids itself; Vega-Embed
    brings the interpreter, and the tooltips.
    """
    import vl_convert

    library: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return library.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(style: str, scripts: Sequence[str]) -> str:
    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    allowed = " ".join(map(digest, scripts))
    return (
        f"default-src 'none'; script-src {allowed}; style-src {digest(style)}; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _contents(report: Report) -> str:
    entries = [(section.id, section.title) for section in report.sections]
    if report.groups:
        entries.append(("page-groups", "Sampled groups"))
    if report.configurations:
        entries.append(("page-configurations", "Configurations"))
    return "".join(f'<li><a href="#{inert(name)}">{prose(title)}</a></li>' for name, title in entries)


def _notices(notices: Sequence[str]) -> str:
    if not notices:
        return ""
    items = "".join(f"<li>{prose(notice)}</li>" for notice in notices)
    return f"""<section id="page-notices" class="notices" aria-labelledby="page-notices-head">
<h2 id="page-notices-head">What is missing or not comparable</h2><ul>{items}</ul></section>"""


def _configurations(report: Report) -> str:
    if not report.configurations:
        return ""
    runs = "\n".join(
        f'<details class="configuration"><summary>{inert(name)}</summary><pre class="text" tabindex="0" role="region" '
        f'aria-label="Configuration of {inert(name)}">{inert(text)}</pre></details>'
        for name, text in report.configurations.items()
    )
    return Template(_file("configurations.html")).substitute(runs=runs)


def _groups(groups: Sequence[SampledGroup], room: int) -> str:
    """The browser of groups: all of them, or every second, third, ... as fits into `room` bytes; at least one."""
    rows = [inert_json(_group_row(group)) for group in groups]
    part = ""
    for stride in range(1, len(rows) + 1):
        told = [] if stride == 1 else [f"One group in {stride} is kept here, so that the page stays under 5 MB."]
        data = f"[{','.join(rows[::stride])}]"
        part = Template(_file("groups.html")).substitute(told=paragraphs(told), data=data)
        if len(part.encode()) <= room:
            break
    return part


def _group_row(group: SampledGroup) -> dict[str, Any]:
    return {
        "run": shown(group.run),
        "step": group.step,
        "prompt": shown(group.prompt),
        "gold": shown(group.gold),
        "kind": group.kind,
        "completions": [None if text is None else shown(text) for text in group.completions],
        "rewards": [_short(value) for value in group.rewards],
        "correct": list(group.correct),
        "advantages": {shown(name): [_short(value) for value in values] for name, values in group.advantages.items()},
    }


def _short(value: float) -> float:
    """Four digits: what is shown has three."""
    return float(f"{value:.4g}")
