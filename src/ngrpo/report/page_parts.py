"""Pieces of the page as HTML: figures, tables, sections. Every text passes through `inert`."""

import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ngrpo.report.model import Figure, Section, Table

_NUMBER = re.compile(
    r"[-+\u2212]?\.?\d|$"
)  # what a number, also one with its interval, begins with; nothing is one too


def _visible_characters() -> dict[int, str]:
    # Control characters as their pictures; direction overrides and invisible characters by name; C1 controls have
    # neither, and half a surrogate pair cannot be encoded at all.
    table = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
    table |= dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000)), "\ufffd") | {0x7F: "\u2421"}
    named = (0x61C, 0x200B, 0x200E, 0x200F, *range(0x2028, 0x202F), 0x2060, *range(0x2066, 0x206A), 0xFEFF)
    return table | {code: f"⟨U+{code:04X}⟩" for code in named}


_VISIBLE = _visible_characters()


def shown(text: str) -> str:
    r"""A text in which every character shows: what would steer a terminal or turn the line round is named instead.

    Example:
        >>> shown("a\x1b[31m\r\nb\u202ec")
        'a␛[31m\nb⟨U+202E⟩c'
    """
    return text.replace("\r\n", "\n").translate(_VISIBLE)


def inert(text: Any) -> str:
    """Any text as HTML that shows it, in content and in quoted attributes.

    Example:
        >>> inert('<b title="x">')
        '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(shown(str(text)))


def prose(text: str) -> str:
    """Plain text of our own as HTML, with names between backticks set as code.

    Example:
        >>> prose("`kl_nats` < 1")
        '<code>kl_nats</code> &lt; 1'
    """
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", inert(text))


def inert_json(value: Any) -> str:
    r"""A value as JSON for a `script` element: nothing in it can end the element, and what JSON lacks is null.

    Example:
        >>> inert_json({"x": "</script>", "y": float("nan")})
        '{"x":"\\u003c/script\\u003e","y":null}'
    """
    text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 is escaped already
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def paragraphs(texts: Iterable[str]) -> str:
    """Each text as a paragraph."""
    return "\n".join(f"<p>{prose(text)}</p>" for text in texts)


def _is_words(value: Any) -> bool:
    return value is not None and not _NUMBER.match(str(value))


def _cell(value: Any) -> str:
    # Closing tags of cells and rows may be left out in HTML; forty tables of hundreds of rows are smaller by a third.
    return f"<td{' class=t' if _is_words(value) else ''}>{'' if value is None else inert(value)}"


def _head(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Heads stand over their cells: to the left where most of these are words."""
    words = [sum(_is_words(row[place]) for row in rows) > len(rows) / 2 for place in range(len(columns))]
    heads = zip(columns, words, strict=True)
    return "".join(f'<th scope="col"{" class=t" if is_words else ""}>{prose(name)}' for name, is_words in heads)


def _scrolling(table: str, label: str, *, is_tall: bool = False) -> str:
    """A table in a box of its own that scrolls, by keyboard too, so that the page need not."""
    kind = "scroll tall" if is_tall else "scroll"
    return f'<div class="{kind}" role="region" tabindex="0" aria-label="{inert(label)}">{table}</div>'


def data_table(figure: Figure) -> str:
    """The numbers behind a chart, or nothing where it has none."""
    if not figure.columns:
        return ""
    head = _head(figure.columns, figure.rows)
    body = "\n".join("<tr>" + "".join(map(_cell, row)) for row in figure.rows)
    table = f"<table><thead><tr>{head}</thead><tbody>{body}</tbody></table>"
    scrolling = _scrolling(table, f"Data of: {figure.title}", is_tall=True)
    return f"<details><summary>Data</summary>{scrolling}</details>"


def result_table(table: Table) -> str:
    """A table of results: the first column names the row."""
    rows = [f'<tr><th scope="row">{prose(row[0])}</th>' + "".join(map(_cell, row[1:])) for row in table.rows if row]
    head = _head(table.columns, table.rows)
    body = f"<table><thead><tr>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
    caption = f'<p class="table-caption">{prose(table.caption)}</p>' if table.caption else ""
    return f"<h3>{prose(table.title)}</h3>{_scrolling(body, table.title)}{caption}"


def figure_part(figure: Figure) -> str:
    """A chart's place with its title, caption, description and numbers; the page's script draws it."""
    name = inert(figure.id)
    return f"""<figure id="{name}" aria-labelledby="{name}-title">
<h3 id="{name}-title">{prose(figure.title)}</h3>
<div class="chart" role="img" aria-labelledby="{name}-title" aria-describedby="{name}-description"></div>
<figcaption><p>{prose(figure.caption)}</p>
<div class="tools"><details><summary>Description</summary>
<p id="{name}-description">{prose(figure.description)}</p></details>
{data_table(figure)}</div></figcaption>
<script type="application/json">{inert_json(figure.spec)}</script>
</figure>"""


def section_part(section: Section) -> str:
    """A section with its paragraphs, tables and figures."""
    name = inert(section.id)
    parts = [
        f'<section id="{name}" aria-labelledby="{name}-head">',
        f'<h2 id="{name}-head">{prose(section.title)}</h2>',
        paragraphs(section.text),
        *map(result_table, section.tables),
        *map(figure_part, section.figures),
        "</section>",
    ]
    return "\n".join(parts)
