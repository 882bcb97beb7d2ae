"""The pages of docs/methods: one for each method, true to the catalog, with links that lead somewhere."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from ngrpo import objectives
from ngrpo.record.metrics import METRICS

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "methods"
PAGES = sorted(FOLDER.glob("*.md"))

spec = importlib.util.spec_from_file_location("make_methods", DOCS / "make_methods.py")
make_methods = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_methods)

SECTIONS = [
    "Equation",
    "In code",
    "Where the defaults come from",
    "Metrics",
    "Differences from the authors' code, and open readings",
    "What is verified",
]


def test_every_method_has_a_page_and_every_page_a_method():
    pages = {path.stem for path in PAGES} - {"README", *make_methods.WITHOUT_ENTRY}
    assert pages == set(make_methods.built_in())
    assert {"dagrpo", "lmm_r1"} == set(make_methods.WITHOUT_ENTRY) <= {path.stem for path in PAGES}
    assert not set(make_methods.WITHOUT_ENTRY) & set(objectives.names())


@pytest.mark.parametrize("name", [*make_methods.built_in(), "README"])
def test_what_the_catalog_knows_is_as_the_catalog_has_it(name):
    path = FOLDER / f"{name}.md"
    assert path.read_text(encoding="utf-8") == make_methods.pages()[path], "run python docs/make_methods.py"


def test_the_table_of_engines_is_what_the_integrations_say():
    text = make_methods.ENGINES.read_text(encoding="utf-8")
    assert text == make_methods.pages()[make_methods.ENGINES], "run python docs/make_methods.py"
    rows = dict(re.findall(r"^\| \[(\w+)\]\(methods/\w+\.md\) \| (.+) \|$", text, re.MULTILINE))
    assert list(rows) == make_methods.built_in()
    assert rows["grpo"] == "yes | yes | yes"
    assert rows["remax"].count("no: ") == 2
    counts = [sum(row.split(" | ")[place].startswith("yes") for row in rows.values()) for place in (1, 2)]
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert f"{counts[0]} of {len(rows)} are carried by TRL, {counts[1]} by verl" in readme


@pytest.mark.parametrize("path", [*PAGES, make_methods.ENGINES], ids=lambda path: path.stem)
def test_links_lead_to_files(path):
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert targets
    for target in targets:
        if not target.startswith("https://arxiv.org/abs/"):
            assert (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_metrics_are_declared(path):
    named = re.findall(r"`([a-z]+/[a-z0-9_]+)`", path.read_text(encoding="utf-8"))
    assert set(named) <= METRICS.keys()
    assert named or path.stem in ("README", "dagrpo"), "a page says what its metrics mean"


@pytest.mark.parametrize("name", make_methods.built_in())
def test_a_page_has_its_sections(name):
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert "\nNot verified: " in text


@pytest.mark.parametrize("name", make_methods.built_in())
def test_parameters_that_a_page_names_exist(name):
    """Of what is set to a number in backticks: `clip_low = 0.2`, `ddof = eps = 1`."""
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    written = re.sub(rf"{make_methods.BEGIN}.*{make_methods.END}", "", text, flags=re.DOTALL)
    known = {parameter.name for parameter in objectives.describe(name).parameters}
    for assignment in re.findall(r"`([a-z_]+(?: = [^`]+)+)`", written):
        *names, _ = assignment.split(" = ")
        assert set(names) <= known, assignment


@pytest.mark.parametrize("name", make_methods.built_in())
def test_defaults_that_a_page_explains_are_the_catalogs(name):
    """What a line of that section says before its colon."""
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    section = text.partition("## Where the defaults come from\n")[2].partition("\n## ")[0]
    defaults = {parameter.name: parameter.default for parameter in objectives.describe(name).parameters}
    leads = re.findall(r"^- (`[a-z_]+ = [^:]*)[:.]", section, re.MULTILINE)
    for assignment in re.findall(r"`([a-z_]+(?: = [^`]+)+)`", " ".join(leads)):
        *names, value = assignment.split(" = ")
        for each in names:
            assert defaults[each] == ast.literal_eval(value), assignment


def test_examples_are_for_methods_that_need_them():
    required = {
        name: {parameter.name for parameter in objectives.describe(name).parameters if parameter.is_required}
        for name in make_methods.built_in()
    }
    assert {name: set(values) for name, values in make_methods.EXAMPLES.items()} == {
        name: parameters for name, parameters in required.items() if parameters
    }


def test_the_writer_changes_what_is_between_the_markers_only(tmp_path, monkeypatch):
    for path in PAGES:
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(make_methods, "FOLDER", tmp_path)
    begin, end = make_methods.BEGIN, make_methods.END
    (tmp_path / "grpo.md").write_text(f"before\n{begin}\nstale\n{end}\nafter\n", encoding="utf-8")
    text = make_methods.pages()[tmp_path / "grpo.md"]
    assert text.startswith(f"before\n{begin}\n\n`grpo`: ")
    assert text.endswith(f"\n\n{end}\nafter\n")
    assert "stale" not in text
    (tmp_path / "grpo.md").write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match=r"grpo\.md lacks the lines"):
        make_methods.pages()


def test_the_picture_is_there_and_its_command_names_every_required_parameter():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    command = re.search(r"```bash\n(ngrpo explain .*?)```", text, re.DOTALL)[1]
    assert "--plot docs/methods/advantages.png" in command
    for name, values in make_methods.EXAMPLES.items():
        for key, value in values.items():
            assert f"--param {name}.{key}={value:g}" in command
    assert (FOLDER / "advantages.png").read_bytes().startswith(b"\x89PNG")
