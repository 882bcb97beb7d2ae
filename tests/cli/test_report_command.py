"""`ngrpo report`: what is written where, what is told, what is refused."""

import json
import os
import re
import webbrowser

import pytest


@pytest.fixture
def census(tmp_path):
    """A census file of two runs, as anybody's trainer may write it."""
    rows = [
        {
            "step": step,
            "run": f"{method}-0",
            "method": method,
            "seed": 0,
            "rewards": [float(place < step % 3) for place in range(4)],
            "prompt_text": "1+1=",
            "gold": "2",
            "completions": ["2", "3", "4", "</script>"],
        }
        for step in range(1, 7)
        for method in ("grpo", "ngrpo")
    ]
    path = tmp_path / "census.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_page_is_written_and_told(ngrpo, census, tmp_path):
    told = ngrpo("report", census.name)
    assert told.code == 0, told.err
    page = (tmp_path / "report.html").read_bytes()
    assert page.startswith(b"<!doctype html>")
    assert f"page: report.html ({len(page) / 1e6:.1f} MB)\n" in told.out
    assert re.search(r"^2 runs from census\.jsonl", told.out, flags=re.M)
    num_figures = page.count(b"<figure ")
    assert num_figures > 0
    assert re.search(rf"^{num_figures} figures, 1 table, 12 sampled groups, 2 configurations$", told.out, flags=re.M)
    assert not list(tmp_path.glob("*.tmp"))


def test_the_page_goes_into_the_first_folder(ngrpo, census, tmp_path):
    (tmp_path / "runs").mkdir()
    told = ngrpo("report", "runs", census.name)
    assert told.code == 0, told.err
    assert (tmp_path / "runs/report.html").is_file()
    assert not (tmp_path / "report.html").exists()


def test_what_is_missing_is_told_and_the_rest_is_reported(ngrpo, census, tmp_path):
    told = ngrpo("report", "gone\x1b[31m", census.name, "--out", "page.html")
    assert told.code == 0, told.err
    assert re.search(r"^note: gone.*does not exist", told.out, flags=re.M)
    assert "\x1b" not in told.out
    assert "does not exist" in (tmp_path / "page.html").read_text()


def test_every_figure_is_exported(ngrpo, census, tmp_path):
    told = ngrpo("report", census.name, "--export", "figures")
    assert told.code == 0, told.err
    page = (tmp_path / "report.html").read_text()
    names = re.findall(r'<figure id="([^"]+)"', page)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("png", "svg")
    }
    assert f"figures: {2 * len(names)} files in figures" in told.out


def test_the_page_is_opened_where_a_browser_can(ngrpo, census, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or len(opened) == 1)
    assert ngrpo("report", census.name, "--open").err == ""
    assert opened == [(tmp_path / "report.html").as_uri()]
    assert "open the page by hand" in ngrpo("report", census.name, "--open").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], r"there is nothing to report in nothing"),
        (["census.jsonl", "--out", "census.jsonl"], r"--out census\.jsonl must name an \.html file"),
        (["census.jsonl", "--out", "no/such/page.html"], r"--out no/such/page\.html must name .* a folder that exists"),
        (["census.jsonl", "--out", "folder.html"], r"--out folder\.html is a folder"),
        (["census.jsonl", "--export", "census.jsonl"], r"--export census\.jsonl is a file"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(refused, census, tmp_path, arguments, message):
    before = census.read_bytes()
    (tmp_path / "folder.html").mkdir()
    assert re.search(message, refused("report", *arguments))
    assert census.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["census.jsonl", "folder.html"]


def test_a_page_that_cannot_be_written_leaves_the_old_one(ngrpo, census, tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")

    def full(self, content):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    told = ngrpo("report", census.name)
    assert told.code == 1
    assert "No space left on device" in told.err
    assert (tmp_path / "report.html").read_text() == "old"
