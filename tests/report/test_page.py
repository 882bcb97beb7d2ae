"""The page as text: what is in it, what cannot get out of it, how large it is."""

import html
import json
import re
from dataclasses import replace
from importlib import resources
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_helpers import HOSTILE, figure, forest, group, large_report, synthetic_report

from ngrpo.report.model import Section, Table
from ngrpo.report.page import MAX_BYTES, render
from ngrpo.report.page_parts import inert, inert_json, result_table, shown

STYLE = (resources.files("ngrpo.report") / "page" / "page.css").read_text()


@pytest.fixture(scope="module")
def page():
    return render(synthetic_report())


def without_library(page: str) -> str:
    """Without the scripts of the chart library, which name addresses of documentation in messages."""
    return re.sub(r'<script type="module">.*?</script>', "", page, count=1, flags=re.S)


def kept_groups(page: str) -> list[dict]:
    return json.loads(re.search(r'id="page-groups-data">(.*?)</script>', page, flags=re.S)[1])


@given(st.text(alphabet=st.characters(), max_size=80))
def test_any_text_as_html_is_that_text_and_can_be_encoded(text):
    written = inert(text)
    assert not set(written) & set("<>\"'\0")
    assert html.unescape(written.encode().decode()) == shown(text)


def test_characters_that_steer_are_named():
    assert shown("\x00\x1b\x7f\x85") == "␀␛␡\ufffd"
    assert shown("a\u202eb\ufeff\ud800") == "a⟨U+202E⟩b⟨U+FEFF⟩\ufffd"
    assert shown("a\r\nb\tc\u05d0") == "a\nb\tc\u05d0"  # right-to-left letters are letters


VALUES = st.recursive(
    st.text() | st.floats() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(VALUES)
def test_any_value_as_json_cannot_end_its_script(value):
    written = inert_json(value)
    assert not set(written) & set("<>&\u2028\u2029")
    assert written.isascii()
    json.loads(written, parse_constant=pytest.fail)


def test_json_means_what_it_meant():
    value = {"a": HOSTILE, "b": [1, 2.5, None, True]}
    assert json.loads(inert_json(value)) == value
    assert inert_json([float("inf"), float("nan")]) == "[null,null]"


def test_nothing_is_fetched(page):
    """No element that loads, no address but names of vocabularies in the library's own text."""
    own = without_library(page)
    assert not re.findall(r"<(?:link|iframe|object|embed|base|img|video|audio|source)\b", own)
    assert not re.findall(r"<script[^>]+src", page)
    assert not re.findall(r"url\(|@import", STYLE)
    for address in re.findall(r"https?://[^\s\"'\\]+", own):
        assert re.fullmatch(r"https://vega.github.io/schema/vega-lite/v[\d.]+json", address)


def test_the_policy_allows_what_the_page_has_and_nothing_else(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 4  # the style, and the scripts: early, library, page
    assert len(re.findall(r"<script(?! type=\"application/json\")", page)) == 3


def test_every_part_is_there_without_scripts(page):
    report = synthetic_report()
    for text in (report.title, report.subtitle, *report.notices, *report.configurations.values()):
        assert inert(text) in page
    for section in report.sections:
        assert f'<section id="{section.id}"' in page
        assert f'href="#{section.id}"' in page
        for drawn in section.figures:
            assert f'<p id="{drawn.id}-description">{inert(drawn.description)}</p>' in page
            assert page.count(f'aria-describedby="{drawn.id}-description"') == 1
    assert "27.3 [26.1, 28.4]" in page


def test_identifiers_are_unique(page):
    names = re.findall(r'\bid="([^"]+)"', without_library(page))
    assert len(names) == len(set(names))
    targets = re.findall(r'(?:aria-labelledby|aria-describedby)="([^"]+)"|href="#([^"]+)"', page)
    assert {one or other for one, other in targets} <= set(names)


def test_heads_are_in_order(page):
    levels = [int(level) for level in re.findall(r"<h([1-6])[ >]", without_library(page))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))


def test_names_between_backticks_are_code_and_the_rest_is_text():
    table = Table("Loss `x<y`", "", ("arm", "k"), (("<b>", "-1.5"), ("psr", "not established")))
    written = result_table(table)
    assert "<code>x&lt;y</code>" in written
    assert "<td>-1.5<td" not in written
    assert '<th scope="row">&lt;b&gt;</th><td>-1.5</tr>' not in written
    assert '<th scope="row">&lt;b&gt;</th><td>-1.5' in written
    assert "<td class=t>not established" in written


def test_an_empty_report_is_a_page_without_the_chart_library():
    empty = render(synthetic_report(sections=(), groups=(), configurations={}, notices=()))
    assert "Nothing could be read." in empty
    assert "page-groups" not in without_library(empty).replace("page-groups-", "")
    assert len(empty.encode()) < 60_000


def test_a_large_report_stays_below_the_limit_and_says_what_it_left_out():
    page = render(large_report())
    assert 2_000_000 < len(page.encode()) <= MAX_BYTES
    kept = kept_groups(page)
    stride = int(re.search(r"One group in (\d+) is kept here", page)[1])
    assert stride > 1
    assert [row["step"] for row in kept] == list(range(1, 4001, stride))


def test_few_groups_are_all_kept(page):
    assert len(kept_groups(page)) == 30
    assert "is kept here" not in page


def test_one_group_too_large_for_the_page_is_kept_all_the_same():
    report = synthetic_report(groups=(group(0, text="x" * 2_000_000),))
    assert len(kept_groups(render(report))) == 1


def test_a_figure_without_numbers_has_no_empty_table():
    bare = replace(figure("bare", forest()), columns=(), rows=())
    page = render(synthetic_report(sections=(Section("one", "One", (), (bare,)),)))
    assert "<summary>Data</summary>" not in page


def colours() -> dict[str, tuple[str, str]]:
    """Name of each variable -> its light and its dark colour."""
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", STYLE)
    return {name: (light, dark) for name, light, dark in found}


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_measured_as_wcag_does():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the well-known grey that just fails


@pytest.mark.parametrize(
    ("text", "ground"),
    list(product(("ink", "ink-soft", "accent", "right", "wrong"), ("paper", "panel", "caution"))),
)
def test_text_can_be_read_on_every_ground_in_both_themes(text, ground):
    for theme in (0, 1):
        assert contrast(colours()[text][theme], colours()[ground][theme]) >= 4.5


def test_borders_of_controls_can_be_seen_in_both_themes():
    for theme in (0, 1):
        assert contrast(colours()["rule-strong"][theme], colours()["paper"][theme]) >= 3
