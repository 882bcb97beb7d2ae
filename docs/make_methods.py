"""Writes into the pages of docs/methods, and docs/integrations.md, what the code knows, so that they cannot drift.

    python docs/make_methods.py

Only what stands between the two marker lines of a page is written; a test says when that is stale.
"""

import re
import sys
from pathlib import Path
from typing import Any

from ngrpo import objectives
from ngrpo.errors import ConfigError
from ngrpo.integrations import trl_parts, verl_methods
from ngrpo.objectives import Objective
from ngrpo.objectives.registry import Description

FOLDER = Path(__file__).parent / "methods"
ENGINES = Path(__file__).parent / "integrations.md"
BEGIN = "<!-- written by docs/make_methods.py: edit the catalog instead -->"
END = "<!-- end of what is written -->"

WITHOUT_ENTRY = ("dagrpo", "lmm_r1")
"""Pages on what is no entry of the catalog: a method nobody can build yet, and a use of another method."""

EXAMPLES: dict[str, dict[str, Any]] = {
    "ucpo": {"abstention_weight": 1.0},
    "dppo": {"prompt_prune_prob": 0.5, "completion_prune_prob": 0.5, "low_advantage": 0.4},
}
"""Values for required parameters, so that parts can be shown. Of nobody's experiments."""

GENERAL = ("kl_coef", "entropy_coef", "aggregation", "group_filter")
"""Parameters of every method, told once in the overview."""

COLUMNS = ("reward_transforms", "group_filter", "advantage", "policy", "aggregation")
"""Slots with a column of their own in the overview."""


def built_in() -> list[str]:
    """Methods of the catalog itself: those with a source."""
    return [name for name in objectives.names() if objectives.describe(name).source]


def pages() -> dict[Path, str]:
    """Every page with what belongs between its markers.

    Raises:
        FileNotFoundError: A method has no page.
        ValueError: A page lacks the markers.
    """
    texts = {FOLDER / f"{name}.md": _page(name) for name in built_in()}
    texts[FOLDER / "README.md"] = _overview()
    texts[ENGINES] = _engines()
    return {path: _with_region(path, text) for path, text in texts.items()}


def _with_region(path: Path, text: str) -> str:
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} lacks the lines {BEGIN!r} and {END!r}, between which the catalog's part goes.")
    return f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}"


def _objective(name: str) -> Objective:
    return objectives.get(name, **EXAMPLES.get(name, {}))


def _page(name: str) -> str:
    """Parts, needs and parameters of one method."""
    description, objective = objectives.describe(name), _objective(name)
    lines = [f"`{name}`: {description.summary} ({_linked_source(description)})", ""]
    lines += ["| slot | part | source |", "|---|---|---|"]
    for slot, text in objective.parts().items():
        files = ", ".join(f"[{file}](../../src/ngrpo/objectives/{file})" for file in _files(text))
        lines.append(f"| `{slot}` | `{_escaped(text)}` | {files} |")
    if name in EXAMPLES:
        values = ", ".join(f"`{key} = {value!r}`" for key, value in EXAMPLES[name].items())
        lines += ["", f"Shown with {values}: an example, not a recommendation."]
    lines += ["", f"Needs: {_needs(objective)}.", ""]
    own = [parameter for parameter in description.parameters if parameter.name not in GENERAL]
    lines += ["| parameter | type | default |", "|---|---|---|"] if own else ["It has no parameters of its own."]
    for parameter in own:
        default = "required" if parameter.is_required else f"`{parameter.default!r}`"
        lines.append(f"| `{parameter.name}` | `{_escaped(parameter.type)}` | {default} |")
    return "\n".join(lines)


def _overview() -> str:
    """Two tables over all methods: what they are and need, and what they are made of."""
    lines = ["| method | what it is | source | needs |", "|---|---|---|---|"]
    for name in built_in():
        description = objectives.describe(name)
        needs, source = _needs(_objective(name)), _linked_source(description)
        lines.append(f"| [{name}]({name}.md) | {_escaped(description.summary)} | {source} | {needs} |")
    lines += ["", f"| method | {' | '.join(COLUMNS)} | further slots |", f"|---{'|---' * len(COLUMNS)}|---|"]
    for name in built_in():
        parts = _objective(name).parts()
        cells = [f"`{_escaped(parts[slot])}`" if slot in parts else "" for slot in COLUMNS]
        further = [f"{slot}: `{_escaped(text)}`" for slot, text in parts.items() if slot not in COLUMNS]
        lines.append(f"| [{name}]({name}.md) | {' | '.join(cells)} | {'<br>'.join(further)} |")
    shown = "; ".join(
        f"{name} with {', '.join(f'`{key} = {value!r}`' for key, value in values.items())}"
        for name, values in EXAMPLES.items()
    )
    return "\n".join([*lines, "", f"Parameters without a default have example values here: {shown}."])


def _engines() -> str:
    """Every method against every trainer, by what the integrations say themselves."""
    lines = ["| method | `ngrpo train` | TRL | verl |", "|---|---|---|---|"]
    lines += [f"| [{name}](methods/{name}.md) | yes | {_in_trl(name)} | {_in_verl(name)} |" for name in built_in()]
    return "\n".join(lines)


def _in_trl(name: str) -> str:
    try:
        return _verdict("yes", trl_parts.carried(_objective(name)).differences)
    except ConfigError as error:
        return "no: " + str(error).partition(f"cannot carry {name}: ")[2].partition(". Train it")[0]


def _in_verl(name: str) -> str:
    found = verl_methods.support(name, EXAMPLES.get(name))
    if found.obstacles:
        return "no: " + "; ".join(found.obstacles)
    whose = f"yes, by verl's own `{found.estimator}`" if name in verl_methods.VERL_OWN else "yes"
    return _verdict(whose, found.differences)


def _verdict(yes: str, differences: tuple[str, ...]) -> str:
    return f"{yes}, but: {'; '.join(differences)}" if differences else yes


def _needs(objective: Objective) -> str:
    """What a run must give besides rewards."""
    plan = objective.rollout
    needs = ["labels"] if objective.needs_labels else []
    needs += [f"`{fact}`" for fact in sorted(objective.needs_facts)]
    needs += ["groups of 2 or more"] if objective.min_group_size > 1 else []
    needs += ["groups of 1"] if plan.group_size == 1 else []
    needs += ["a reference model"] if objective.needs_reference or plan.reference_values else []
    needs += ["a pass before each optimiser step"] if objective.needs_step_pass else []
    state = {
        "a critic": objective.critic,
        "a value tracker": plan.tracker,
        "reference values": plan.reference_values,
        "a history of advantages": plan.pruning,
    }
    kept = [what for what, part in state.items() if part is not None]
    return ", ".join(needs + ([f"state: {' and '.join(kept)}"] if kept else [])) or "nothing"


def _linked_source(description: Description) -> str:
    """The source, with a link where it is an arXiv id."""
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", description.source)


def _files(text: str) -> list[str]:
    """Files of the parts that a slot's text names, each once; that of the record itself where it is a flag."""
    parts = [getattr(objectives, name) for name in re.findall(r"\w+", text) if name in objectives.__all__]
    return list(dict.fromkeys(f"{part.__module__.rpartition('.')[2]}.py" for part in parts)) or ["objective.py"]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Rewrites the pages that are stale, and says which."""
    for path, text in pages().items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(FOLDER.parent.parent)}\n")


if __name__ == "__main__":
    main()
