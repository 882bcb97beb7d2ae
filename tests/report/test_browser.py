"""The page in a real headless Chromium: what a reader sees and does."""

import os
import re
import shutil
from dataclasses import replace

import pytest
from report_helpers import HOSTILE, METHODS, figure, forest, group, large_report, learning_curves, synthetic_report

from ngrpo.report.model import Section, Table
from ngrpo.report.page import render
from ngrpo.report.shapes import heat_map

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DRAWN = ".chart svg .role-mark *"


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium, or CHROMIUM=its path")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, tmp_path):
    """Opens a report from disk; at the end nothing was complained of, and nothing but the file was asked for."""
    complaints, requests, contexts = [], [], []

    def open_page(report, *, path=tmp_path / "report.html", **options):
        if report is not None:
            path.write_text(render(report), encoding="utf-8")
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.route(re.compile("^(?!file:|data:|blob:)"), lambda route: route.abort())
        page.goto(path.as_uri())
        return page

    open_page.complaints = complaints
    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith(("data:", "blob:"))} <= {(tmp_path / "report.html").as_uri()}


def draw_all(page):
    """Scrolls through the page as a reader does, until no chart waits."""
    for chart in page.locator("figure").all():
        chart.scroll_into_view_if_needed()
    told(page.locator(".chart.waiting")).to_have_count(0)


def colour_of(page, selector, name):
    return page.eval_on_selector(selector, f"element => getComputedStyle(element).{name}")


def is_wider_than_its_window(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")


def told(locator):
    """What is awaited of a part of the page. (`wait_for_function` evaluates text, which the page's policy forbids.)"""
    from playwright.sync_api import expect

    expect.set_options(timeout=20_000)  # a busy machine is not a failure
    return expect(locator)


def status(page):
    return told(page.locator("#page-groups-status"))


def test_every_chart_draws(opened):
    report = synthetic_report()
    page = opened(report)
    draw_all(page)
    for drawn in (drawn for section in report.sections for drawn in section.figures):
        assert page.locator(f"#{drawn.id} {DRAWN}").count() > 0
        assert page.locator(f"#{drawn.id} .chart svg").bounding_box()["width"] > 300
    assert page.locator(".failed").count() == 0
    assert page.locator("#learning-curves .chart svg .mark-line path").count() == 4  # one line for each arm
    faintest = "symbols => Math.min(...symbols.map((symbol) => Number(getComputedStyle(symbol).opacity)))"
    assert page.locator("#learning-curves .role-legend-symbol path").evaluate_all(faintest) == 1  # not as a band
    assert page.locator("#clip-heat-map .chart svg .role-mark.mark-rect path").count() == 9


def test_every_chart_of_an_experiment_read_from_disk_draws(opened, tmp_path):
    from report_folders import write_experiment

    from ngrpo.report.build import build_report

    report = build_report([write_experiment(tmp_path / "experiment")])
    page = opened(report)
    draw_all(page)
    names = [drawn.id for section in report.sections for drawn in section.figures]
    assert len(names) > 5
    assert [name for name in names if page.locator(f"#{name} {DRAWN}").count() == 0] == []
    assert page.locator(".failed").count() == 0


def test_a_mark_tells_its_numbers_to_the_pointer(opened):
    page = opened(synthetic_report())
    draw_all(page)
    page.locator("#effects .chart svg .role-mark.mark-symbol path").last.hover()
    told(page.locator("#vg-tooltip-element.visible")).to_contain_text("both")
    assert page.locator("#vg-tooltip-element").evaluate("element => getComputedStyle(element).position") == "fixed"


def test_charts_far_below_wait_until_they_are_near(opened):
    page = opened(large_report(num_figures=16, num_groups=1, num_steps=20))
    told(page.locator(".chart svg").first).to_be_visible()
    assert 0 < page.locator(".chart:not(.waiting)").count() < 16
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    told(page.locator(".chart.waiting")).to_have_count(0)
    assert page.locator(".chart svg").count() == 16


def test_printing_draws_every_chart_first(opened):
    page = opened(large_report(num_figures=8, num_groups=1, num_steps=20))
    printed = page.pdf()
    assert printed.startswith(b"%PDF")
    assert page.locator(".chart svg").count() == 8


def test_a_chart_that_cannot_be_drawn_says_so_and_shows_its_numbers(opened):
    good = figure("good", forest())
    broken = replace(good, id="broken", spec={"mark": "nonsense", "data": {"values": [{"x": 1}]}})
    empty = replace(
        good, id="empty", spec=good.spec | {"datasets": {}, "layer": [{"mark": "bar", "data": {"values": []}}]}
    )
    page = opened(synthetic_report(sections=(Section("one", "One", (), (broken, empty, good)),)))
    draw_all(page)
    for name in ("broken", "empty"):
        assert "could not be drawn" in page.inner_text(f"#{name} .chart")
        assert page.locator(f"#{name} tbody tr").first.is_visible()
        assert page.locator(f"#{name}-description").is_visible()
    assert page.locator("#good .failed").count() == 0


def test_the_theme_is_the_systems_until_another_is_chosen_and_that_is_remembered(opened):
    page = opened(synthetic_report(), color_scheme="light")
    draw_all(page)
    light = [
        colour_of(page, "body", "backgroundColor"),
        colour_of(page, "#learning-curves .role-axis-label text", "fill"),
    ]
    button = page.get_by_role("button", name="Dark theme")
    button.click()
    dark = [
        colour_of(page, "body", "backgroundColor"),
        colour_of(page, "#learning-curves .role-axis-label text", "fill"),
    ]
    assert all(one != other for one, other in zip(light, dark, strict=True))
    assert page.get_by_role("button", name="Light theme").is_visible()
    page.reload()
    assert colour_of(page, "body", "backgroundColor") == dark[0]
    system_dark = opened(None, color_scheme="dark")
    assert colour_of(system_dark, "body", "backgroundColor") == dark[0]


@pytest.mark.parametrize("width", [320, 375, 768])
def test_nothing_but_tables_scrolls_sideways_on_a_phone(opened, width):
    long_word = Table("x" * 200, "y" * 300, ("arm", *(f"column {place}" for place in range(20))), (("a", *"0" * 20),))
    report = synthetic_report(notices=("/a" * 200,), groups=(group(1, text="z" * 3000),), title="A title " + "w" * 100)
    first = replace(report.sections[0], tables=(*report.sections[0].tables, long_word))
    page = opened(replace(report, sections=(first, *report.sections[1:])), viewport={"width": width, "height": 800})
    draw_all(page)
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    assert not is_wider_than_its_window(page)
    assert page.locator("#learning-curves .chart svg").bounding_box()["width"] <= width
    legend = page.locator("#learning-curves .role-legend").last.bounding_box()
    assert legend["x"] + legend["width"] <= width
    assert page.locator(".scroll").last.evaluate("element => element.scrollWidth >= element.clientWidth")


def test_contents_are_folded_on_a_phone_and_lead_to_their_sections(opened):
    page = opened(synthetic_report(), viewport={"width": 375, "height": 800}, reduced_motion="reduce")
    link = page.locator("nav a", has_text="Mechanisms")
    assert not link.is_visible()
    page.get_by_text("Contents", exact=True).click()
    link.click()
    assert page.url.endswith("#mechanisms")
    assert page.locator("#mechanisms-head").evaluate("element => element.getBoundingClientRect().top < innerHeight")


def test_groups_are_chosen_by_run_kind_step_and_text(opened):
    page = opened(synthetic_report())
    status(page).to_have_text("Group 1 of 30")
    page.select_option("#page-groups-kind", "mixed")
    status(page).to_have_text("Group 1 of 10 (of 30 in all)")
    assert "1 of 4 right" in page.inner_text(".group-head")
    page.select_option("#page-groups-run", "grpo-seed0")
    status(page).to_have_text("Group 1 of 5 (of 30 in all)")
    page.fill("#page-groups-from", "10")
    page.fill("#page-groups-to", "20")
    status(page).to_have_text("Group 1 of 2 (of 30 in all)")  # steps 11 and 17
    assert "step 11" in page.inner_text(".group-head")
    page.fill("#page-groups-words", "NOT THERE")
    status(page).to_have_text("No group matches.")
    assert page.locator("#page-groups-view > *").count() == 0
    page.click("#page-groups-clear")
    page.fill("#page-groups-words", "7+5*2")  # a completion of the eighth group, and of that with 17+5*2, 27+5*2
    status(page).to_have_text("Group 1 of 3 (of 30 in all)")


def test_a_group_shows_all_that_is_known_of_it(opened):
    page = opened(synthetic_report(groups=(group(1),)))
    view = page.locator("#page-groups-view")
    items = view.locator(".completions > li")
    assert items.count() == 4
    assert view.locator("pre").all_inner_texts() == ["1,5,7,2=14:", "14", "1+5*0", "1+5*1", "1+5*2"]
    assert items.nth(0).locator(".verdict").inner_text() == "Completion 1: ✓ right, reward 1"
    assert items.nth(1).locator(".verdict").inner_text() == "Completion 2: ✗ wrong, reward 0"
    assert "not kept" in items.nth(3).inner_text()
    assert items.nth(0).locator("tbody th").all_inner_texts() == list(METHODS)
    assert items.nth(0).locator("td.value").all_inner_texts() == ["0", "0", "0.75", "0", "0", "0"]
    assert items.nth(1).locator("td.value").nth(2).inner_text() == "\u22120.333"
    up, down = items.nth(0).locator(".up"), items.nth(1).locator("tr:nth-child(3) .down")
    assert up.bounding_box()["width"] / down.bounding_box()["width"] == pytest.approx(0.75 * 3, rel=0.05)


def test_groups_are_turned_by_buttons_and_by_arrow_keys(opened):
    page = opened(synthetic_report())
    page.click("#page-groups-next")
    status(page).to_have_text("Group 2 of 30")
    page.keyboard.press("ArrowRight")
    status(page).to_have_text("Group 3 of 30")
    page.locator("#page-groups-view").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # stops at the first
    status(page).to_have_text("Group 1 of 30")
    assert page.get_attribute("#page-groups-previous", "aria-disabled") == "true"
    page.locator("#page-groups-words").focus()
    page.keyboard.press("ArrowRight")  # the cursor's there
    status(page).to_have_text("Group 1 of 30")


def test_hostile_text_is_shown_and_nothing_more(opened):
    report = synthetic_report(
        title=HOSTILE, subtitle=HOSTILE, notices=(HOSTILE,), groups=(group(1, text=HOSTILE, run=HOSTILE),)
    )
    drawn = replace(
        report.sections[0].figures[0], title=HOSTILE, caption=HOSTILE, description=HOSTILE, rows=((HOSTILE,) * 3,)
    )
    chart_of_it = {
        "mark": "text",
        "data": {"values": [{"x": HOSTILE}]},
        "encoding": {"text": {"field": "x"}, "y": {"field": "x"}},
    }
    hostile_chart = replace(drawn, id="hostile", spec=chart_of_it)
    table = Table(HOSTILE, HOSTILE, (HOSTILE, HOSTILE), ((HOSTILE, HOSTILE),))
    section = Section("one", HOSTILE, (HOSTILE,), (drawn, hostile_chart), (table,))
    page = opened(replace(report, sections=(section,), configurations={HOSTILE: HOSTILE}))
    draw_all(page)
    assert page.title() != "owned"
    assert page.locator("img, iframe").count() == 0
    assert page.locator("script:not([type])").count() == 1
    shown = page.locator("#page-groups-view pre").first.inner_text()
    assert shown.startswith("</script><script>document.title")
    assert "⟨U+202E⟩" in shown
    assert page.locator("#hostile .chart svg .mark-text text").count() > 0
    assert "</script>" in page.locator(".configuration pre").inner_text()


def test_the_policy_stops_scripts_that_would_get_in_all_the_same(opened):
    page = opened(synthetic_report())
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=\"document.title=1\">')")
    page.evaluate("fetch('https://example.org/').catch(() => { document.body.dataset.refused = 'yes'; })")
    told(page.locator("body[data-refused]")).to_have_count(1)
    assert page.title() == synthetic_report().title
    assert opened.complaints
    assert all("Content Security Policy" in text or "content security policy" in text for text in opened.complaints)
    opened.complaints.clear()


def test_without_scripts_words_and_numbers_stand(opened):
    report = synthetic_report()
    page = opened(report, java_script_enabled=False)
    assert page.locator("noscript > p", has_text="JavaScript is off: charts").is_visible()
    first = report.sections[0].figures[0]
    page.locator(f"#{first.id} summary", has_text="Description").click()
    assert page.locator(f"#{first.id}-description").is_visible()
    page.locator(f"#{first.id} summary", has_text="Data").click()
    assert page.locator(f"#{first.id} tbody tr").count() == len(first.rows)
    page.locator("summary", has_text="ngrpo-seed0").click()
    assert page.locator(".configuration pre:visible").inner_text().startswith("[objective]")
    assert not page.locator("#page-theme").is_visible()
    assert not page.locator("#page-groups-browser").is_visible()


def test_an_empty_report_renders(opened):
    page = opened(synthetic_report(sections=(), groups=(), configurations={}, notices=("There is nothing.",)))
    assert page.get_by_text("Nothing could be read.").is_visible()
    assert page.get_by_text("There is nothing.").is_visible()


def test_configurations_are_chosen_filtered_and_copied(opened):
    page = opened(synthetic_report())
    page.select_option("#page-configurations-run", label="psr-seed0")
    shown = page.locator(".configuration pre:visible")
    assert 'type = "psr"' in shown.inner_text()
    page.fill("#page-configurations-words", "CLIP")
    told(shown).to_have_text("clip_low = 0.16")
    page.click("#page-configurations-copy")
    told(page.locator("#page-configurations-status")).not_to_be_empty()
    page.fill("#page-configurations-words", "nothing like it")
    told(shown).to_have_text("No line matches.")


@pytest.mark.parametrize(("name", "start"), [("PNG", b"\x89PNG"), ("SVG", b"<svg")])
def test_a_chart_is_saved_by_keyboard_in_colours_for_paper(opened, tmp_path, name, start):
    page = opened(synthetic_report(), color_scheme="dark")
    draw_all(page)
    button = page.locator("#effects").get_by_role("button", name=f"{name} file of the chart")
    button.focus()
    with page.expect_download() as saved:
        page.keyboard.press("Enter")
    assert saved.value.suggested_filename == f"effects.{name.lower()}"
    saved.value.save_as(tmp_path / "saved")
    content = (tmp_path / "saved").read_bytes()
    assert content.startswith(start)
    if name == "SVG":
        assert b"var(" not in content
        assert b"rgb(29, 32, 36)" in content  # the light theme's ink


def test_everything_can_be_reached_by_keyboard_and_has_a_name(opened):
    page = opened(synthetic_report())
    draw_all(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "page-main"
    kinds = "button, select, input, [role=img], [role=region], section, nav"
    nameless = page.evaluate(
        f"[...document.querySelectorAll('{kinds}')].filter((one) =>"
        " !(one.ariaLabel || one.getAttribute('aria-labelledby') || one.labels?.length || one.textContent.trim()))"
        ".map((one) => one.outerHTML)"
    )
    assert nameless == []
    unreachable = page.evaluate(
        "[...document.querySelectorAll('.scroll, pre.text')].filter((one) => one.tabIndex !== 0).length"
    )
    assert unreachable == 0
    tree = page.locator("#learning-curves .chart").aria_snapshot()
    assert tree.startswith("- img")  # one picture with a name, not a hundred marks


def test_charts_follow_the_width_of_the_window(opened):
    page = opened(synthetic_report())
    draw_all(page)
    wide = page.locator("#learning-curves .chart svg")
    assert wide.bounding_box()["width"] > 700
    wide.evaluate("element => element.classList.add('wide')")
    page.set_viewport_size({"width": 375, "height": 800})
    told(page.locator("#learning-curves .chart svg:not(.wide)")).to_be_visible()
    assert page.locator("#learning-curves .chart svg").bounding_box()["width"] <= 375
    assert not is_wider_than_its_window(page)


def test_on_a_phone_long_titles_of_axes_are_wrapped_and_wide_maps_scroll_in_their_place(opened):
    names = [f"method {number}, all wrong" for number in range(20)]
    rows = [{"x": name, "y": names[0], "value": 1.0, "text": "1"} for name in names]
    wide = heat_map(rows, xs=names, ys=names[:1], x_title="x", y_title="y", value_title="cosine", is_signed=True)
    lines = learning_curves().to_dict()
    for layer in lines["layer"]:
        layer["encoding"]["x"]["title"] = "change by one update (nats per token)"
    figures = tuple(
        replace(figure(name, learning_curves()), spec=spec) for name, spec in (("map", wide), ("lines", lines))
    )
    report = synthetic_report(sections=(Section("s", "S", (), figures),))
    page = opened(report, viewport={"width": 375, "height": 800})
    draw_all(page)
    assert not is_wider_than_its_window(page)
    assert page.locator("#map .chart").evaluate("chart => chart.scrollWidth > chart.clientWidth")
    assert page.locator("#lines .role-axis-title tspan").all_text_contents() == [
        "change by one update",
        "(nats per token)",
    ]
