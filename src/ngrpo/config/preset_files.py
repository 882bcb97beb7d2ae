"""Run files that come with the package, each value with its source."""

from pathlib import Path

FOLDER = Path(__file__).parent / "presets"


def names() -> list[str]:
    """Names every preset: `tiny`, `paper/ngrpo`, ...

    Example:
        >>> "tiny" in names()
        True
    """
    return sorted(file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.rglob("*.toml"))


def path_of(name: str) -> Path:
    """The file of a preset."""
    return FOLDER / f"{name}.toml"
