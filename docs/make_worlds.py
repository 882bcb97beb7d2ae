"""Writes the table of base models into docs/worlds.md, from the bases themselves, building those that are not cached.

    python docs/make_worlds.py

Only what stands between the two marker lines is written. A test says when a recipe has changed since, or when a number
is not in the range that `lab.setups` expects.
"""

from pathlib import Path

from ngrpo.lab import setups
from ngrpo.lab.base import cached_base, read_statistics

PAGE = Path(__file__).parent / "worlds.md"
BEGIN = "<!-- written by docs/make_worlds.py -->"
END = "<!-- end of what is written -->"

COLUMNS = ("pass@1", "pass@8", "pass@64", "all_wrong_frac", "mixed_frac", "all_right_frac", "entropy_nats")


def table() -> str:
    """One line per world, and one for the hard prompts alone where it has them."""
    lines = ["| base | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for world in setups.names():
        folder, _ = cached_base(world=world)
        found = read_statistics(folder, world)
        lines.append(row(f"{world} ({folder.name})", [found[name] for name in COLUMNS]))
        if "hard/pass@1" in found:
            hard = [found[f"hard/{name}"] for name in COLUMNS if name != "entropy_nats"]
            lines.append(row(f"{world}, hard prompts", hard) + " |")
    return "\n".join(lines)


def row(name: str, values: list[float]) -> str:
    """A line of the table."""
    return f"| {name} | " + " | ".join(f"{value:.4f}" for value in values) + " |"


def main() -> None:
    """Rewrites the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
