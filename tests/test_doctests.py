"""Every docstring example of the package runs. A module that needs an extra which is not installed is skipped."""

import doctest
import importlib
import io
from pathlib import Path

import pytest

import ngrpo
from ngrpo.errors import MissingExtraError
from ngrpo.objectives import registry

ROOT = Path(ngrpo.__file__).parent


def module_names() -> list[str]:
    names = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        if parts[-1] != "__main__":
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples_run(name, monkeypatch, tmp_path):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "ngrpo":
            raise
        pytest.skip(f"{error.name} is not installed")
    except MissingExtraError as error:
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))  # examples register methods
    report = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder().find(module, name):
        runner.run(test, out=report.write)
    assert not runner.failures, report.getvalue()


def test_the_mathematics_has_examples():
    for name in ("objectives.objective", "objectives.groups", "objectives.registry", "stats.pass_at_k", "stats.auc"):
        finder = doctest.DocTestFinder()
        assert any(test.examples for test in finder.find(importlib.import_module(f"ngrpo.{name}")))
