"""The house: who may import whom, what a package may need, how long a file may be."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import ngrpo

ROOT = Path(ngrpo.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# From the ground up. A module imports from lower floors and from its own package. Sampling stands on the policy it
# samples from; besides, packages of one floor do not know each other.
FLOORS = [
    {"types", "errors"},
    {"objectives", "stats", "rewards", "config", "worlds"},
    {"policy", "data", "record"},
    {"rollout"},
    {"train", "evaluate"},
    {"lab", "report", "integrations"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}

# What of other people's the lower floors may import, lazily or not.
ALLOWED = {
    "types": set(),
    "errors": set(),
    "objectives": {"torch"},
    "stats": {"numpy"},
    "worlds": {"reasoning_gym"},
    "config": {"pydantic"},
    "rewards": {"math_verify", "latex2sympy2_extended", "reasoning_gym", "numpy", "regex", "sympy"},
}


def package_of(file: Path) -> str:
    """The package (or the module beside the packages) that a file is of; empty for `ngrpo` itself."""
    part = file.relative_to(ROOT).parts[0]
    return "" if part == "__init__.py" else part.removesuffix(".py")


def imported_names(file: Path) -> set[str]:
    """Dotted names of everything a file imports, at the top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def house_imports(file: Path) -> set[str]:
    """The packages of the house that a file imports from."""
    parts = [name.split(".") for name in imported_names(file)]
    return {part[1] for part in parts if part[0] == "ngrpo" and len(part) > 1 and part[1] in FLOOR_OF}


def test_every_package_has_a_floor():
    assert {package_of(file) for file in FILES} - {""} == FLOOR_OF.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_imports_lower_floors_and_its_own_package_only(file):
    own = package_of(file)
    others = house_imports(file) - {own}
    if own == "":
        assert not imported_names(file)  # `import ngrpo` must cost nothing
    for other in others:
        assert FLOOR_OF[other] < FLOOR_OF[own], f"{own} (floor {FLOOR_OF[own]}) imports {other} ({FLOOR_OF[other]})"


def test_the_reader_of_imports_sees_them_all(tmp_path):
    """Of this very file's kinds of import: plain, from, of a submodule, inside a function."""
    (tmp_path / "all.py").write_text(
        "import ngrpo.stats\nfrom ngrpo import worlds\nfrom ngrpo.train.step import update\n"
        "def f():\n    from ngrpo.lab import base\n    import ngrpo.cli.main as main\n"
    )
    assert house_imports(tmp_path / "all.py") == {"stats", "worlds", "train", "lab", "cli"}


@pytest.mark.parametrize("package", ALLOWED)
def test_the_lower_floors_need_little(package):
    files = [file for file in FILES if package_of(file) == package]
    tops = {name.partition(".")[0] for file in files for name in imported_names(file)}
    foreign = tops - sys.stdlib_module_names - {"ngrpo"}
    assert foreign <= ALLOWED[package]


@cache
def modules_of(statement: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter has after a statement."""
    code = f"{statement}; import sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def modules_after(statement: str) -> set[str]:
    """Of these, the ones that a fresh interpreter has not without the statement."""
    return modules_of(statement) - modules_of("pass")


def import_all(package: str) -> str:
    """A statement that imports every module of a package."""
    files = [file for file in FILES if package_of(file) == package]
    names = [".".join(("ngrpo", *file.relative_to(ROOT).with_suffix("").parts)) for file in files]
    return "import " + ", ".join(name.removesuffix(".__init__") for name in names)


def test_importing_the_package_loads_nothing_of_others():
    assert modules_after("import ngrpo") - sys.stdlib_module_names == {"ngrpo"}


@pytest.mark.parametrize("package", ["types", "errors", "worlds"])
def test_standard_library_only_through_all_imports(package):
    assert modules_after(import_all(package)) - sys.stdlib_module_names == {"ngrpo"}


@pytest.mark.parametrize("package", ["rewards", "config", "stats"])
def test_no_torch_through_all_imports(package):
    loaded = modules_after(import_all(package))
    assert "ngrpo" in loaded
    assert not loaded & {"torch", "transformers", "datasets", "pyarrow", "peft"}


def test_the_mathematics_needs_torch_and_nothing_that_torch_does_not():
    assert modules_after(import_all("objectives")) - modules_after("import torch") - sys.stdlib_module_names == {
        "ngrpo"
    }


def test_help_is_fast():
    """The command line imports what a command needs in that command."""
    assert not modules_after("import ngrpo.cli.main") & {"torch", "transformers", "datasets", "numpy", "pydantic"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_are_short(file):
    is_table = file.name == "catalog.py"  # one entry per method, nothing to be followed
    assert is_table or len(file.read_text(encoding="utf-8").splitlines()) < 450


def test_the_loop_is_read_in_one_sitting():
    assert len((ROOT / "train" / "loop.py").read_text(encoding="utf-8").splitlines()) <= 150
