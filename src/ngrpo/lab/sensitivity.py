"""How NGRPO depends on its settings: grids over clips, virtual rewards, group sizes and the share of hard prompts.

Everything but what an axis varies is as in every experiment of the laboratory: base, prompts and their order, random
numbers, optimiser, completions per step, updates per step, aggregation. The default cell is `ngrpo` as published:
clips 0.16 and 0.24, one virtual reward of 1, in groups of 8.

| axis | x | y | what is compared with what |
|---|---|---|---|
| `clip_ratio` | `clip_low / clip_high`, with their sum held at 0.4 | | each with the default |
| `clip` | `clip_low` | `clip_high` | each with the default |
| `virtual` | `num_virtual` | `virtual_reward` | each with the default |
| `group_size` | completions per prompt, completions per step held | method | NGRPO with GRPO at the same size |
| `hardness` | percent of hard training prompts | method | NGRPO with GRPO at the same share |

- `clip_low` bounds tokens of negative advantage (their probability may fall to 1 - clip_low times what it was before
  they stop counting), `clip_high` those of positive advantage. So 2:1 lets wrong answers be pushed down twice as far as
  right ones are pushed up, and 1:2 the reverse; both readings of a ratio are there. Published is 2:3.
- The virtual reward is given in multiples of the best reward of the task, 1. Below that the objective refuses it, as
  then the virtual completion can be the one below average; `virtual_below_best = true` is its setting that allows it.
  What the settings do to advantages needs no training: see `lab.virtual_advantages`.
- Larger groups come with fewer prompts per step, so that each arm samples the same number of completions; it meets
  fewer of the training prompts.
- How many groups are all wrong depends on prompts, base and group size together. `hardness` varies the prompts: the
  training splits of a world that has hard and easy ones. Test prompts are the same for all.

What `results.json` has beside the tables:

    "grid": [{"prompts": "all", "axis": "clip", "x_name": "clip_low", "x": 0.16, "y_name": "clip_high", "y": 0.24,
              "arm": "ngrpo", "quantity": "pass@1", "unit": "percent", "estimate", "low", "high", "num_seeds",
              "reference": null or an arm,
              "difference": null or {"estimate", "low", "high", "unit", "established"}}, ...]
    "training": {arm: {metric: mean over steps and seeds, ...}}
    "advantages": [...]                                       see `lab.virtual_advantages`

`y_name` and `y` are null on the axis that has only x, and y is the name of a method on the last two. `prompts` is
`hard` for what was found on hard prompts alone, in a world that has both kinds. An arm of which a run failed is left
out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ngrpo.errors import ConfigError
from ngrpo.lab.arms import held_equal, run_settings
from ngrpo.lab.experiment import Results, read_results
from ngrpo.lab.plan import Arm, Plan
from ngrpo.lab.setups import Setup, get, names
from ngrpo.lab.tables import (
    OWN_UNITS,
    WEIGHTING,
    Table,
    difference_cells,
    difference_table,
    exactness,
    scaled,
    value_table,
    with_failed,
)
from ngrpo.lab.training_means import mean_metrics, training_table
from ngrpo.lab.virtual_advantages import LOW_VIRTUAL_REWARDS, NUM_VIRTUALS, VIRTUAL_REWARDS

CLIP_RATIOS = ((1, 3), (1, 2), (1, 1), (2, 1), (3, 1))
"""clip_low to clip_high, negative to positive advantages."""

CLIP_SUM = 0.4
"""Of the published clips, of GRPO's, and of all of these."""

CLIP_LOWS, CLIP_HIGHS = (0.08, 0.16, 0.24), (0.16, 0.24, 0.36)
GROUP_SIZES = (4, 8, 16, 32)

NGRPO, GRPO = Arm("ngrpo", "ngrpo"), Arm("grpo", "grpo")
DEFAULT_CLIP, DEFAULT_VIRTUAL = (0.16, 0.24), (1, 1.0)


@dataclass(frozen=True)
class Point:
    """One cell of a grid. The same arm may be a cell of several.

    Attributes:
        axis: Name of the grid.
        x_name: What x is.
        x: Its value.
        y_name: What y is; None on a grid of one dimension.
        y: Its value: a number, or the name of a method.
        arm: What is trained there.
        reference: Name of the arm that it is compared with; None for a reference itself.
    """

    axis: str
    x_name: str
    x: float
    y_name: str | None
    y: float | str | None
    arm: Arm
    reference: str | None


def plan_sensitivity(
    setup: Setup, axes: Sequence[str], *, num_seeds: int, model: str, virtual_below_maximum: bool = False
) -> tuple[Plan, list[Point]]:
    """Grids as an experiment: every arm once, whatever number of grids it is a cell of.

    Args:
        setup: World and sizes.
        axes: Of `AXES`.
        num_seeds: Runs of each arm.
        model: Base model.
        virtual_below_maximum: Whether the axis `virtual` also has rewards below the task's best.

    Raises:
        ConfigError: An axis is unknown, or this world cannot have it.
    """
    if unknown := [axis for axis in axes if axis not in AXES]:
        raise ConfigError(f"there is no axis {unknown[0]!r}. There are: {', '.join(AXES)}.")
    if not axes:
        raise ConfigError(f"at least one axis is needed. There are: {', '.join(AXES)}.")
    points = [point for axis in dict.fromkeys(axes) for point in AXES[axis](setup)]
    if virtual_below_maximum:
        if "virtual" not in axes:
            raise ConfigError("rewards below the maximum were asked for, but not the axis virtual. Add it to the axes.")
        points += _virtual(LOW_VIRTUAL_REWARDS, may_be_below=True)
    arms = tuple({point.arm.name: point.arm for point in points}.values())
    plan = Plan(
        kind="sensitivity",
        setup=setup,
        arms=arms,
        num_seeds=num_seeds,
        model=model,
        held_equal=(*held_equal(setup, arms), "but for what an axis varies"),
    )
    return plan, points


def clip_ratio_points(_: Setup) -> list[Point]:
    """Clips of one sum and several ratios, and the published ones."""
    clips = [(CLIP_SUM * low / (low + high), CLIP_SUM * high / (low + high)) for low, high in CLIP_RATIOS]
    pairs = sorted([*((round(low, 4), round(high, 4)) for low, high in clips), DEFAULT_CLIP])
    return [
        Point("clip_ratio", "clip_low / clip_high", round(low / high, 4), None, None, *_clip_arm(low, high))
        for low, high in pairs
    ]


def clip_points(_: Setup) -> list[Point]:
    """A grid of clips around the published ones."""
    return [
        Point("clip", "clip_low", low, "clip_high", high, *_clip_arm(low, high))
        for low in CLIP_LOWS
        for high in CLIP_HIGHS
    ]


def _clip_arm(low: float, high: float) -> tuple[Arm, str | None]:
    if (low, high) == DEFAULT_CLIP:
        return NGRPO, None
    params = {"clip_low": low, "clip_high": high}
    return Arm(f"clip {low:g} / {high:g}", "ngrpo", params, factors=params), NGRPO.name


def virtual_points(_: Setup) -> list[Point]:
    """Numbers and values of virtual rewards, from the task's best reward upwards."""
    return _virtual(VIRTUAL_REWARDS, may_be_below=False)


def _virtual(rewards: Sequence[float], *, may_be_below: bool) -> list[Point]:
    points = []
    for number in NUM_VIRTUALS:
        for reward in rewards:
            arm, reference = NGRPO, None
            if (number, reward) != DEFAULT_VIRTUAL:
                place = {"num_virtual": number, "virtual_reward": reward}
                params = place | ({"virtual_below_best": True} if may_be_below else {})
                arm, reference = Arm(f"virtual {number} x {reward:g}", "ngrpo", params, factors=place), NGRPO.name
            points.append(Point("virtual", "num_virtual", number, "virtual_reward", reward, arm, reference))
    return points


def group_size_points(setup: Setup) -> list[Point]:
    """Sizes of groups, each with so many prompts that a step samples as many completions as the world's own.

    Raises:
        ConfigError: They cannot be had with whole prompts.
    """
    rollout = run_settings(setup).rollout
    own_size, total = rollout.num_samples_per_prompt, rollout.num_prompts_per_step * rollout.num_samples_per_prompt
    overrides = {}
    for size in GROUP_SIZES:
        if total % size:
            raise ConfigError(
                f"{total} completions per step cannot be had in groups of {size}. Choose "
                "rollout.num_prompts_per_step so that they can."
            )
        sizes = (f"rollout.num_samples_per_prompt={size}", f"rollout.num_prompts_per_step={total // size}")
        overrides[size] = () if size == own_size else sizes
    return _method_points("group_size", "group_size", overrides, "in groups of {}")


def hardness_points(setup: Setup) -> list[Point]:
    """Shares of hard prompts among the training prompts.

    Raises:
        ConfigError: The world has no training splits that differ in it.
    """
    if not setup.train_splits:
        having = [world for world in names() if get(world).train_splits]
        raise ConfigError(
            f"the axis hardness needs a world with training splits by their share of hard prompts, which "
            f"{setup.world!r} has not. Choose one of: {', '.join(having)}."
        )
    own_split = run_settings(setup).data.split
    splits = sorted(setup.train_splits.items())
    overrides = {percent: () if split == own_split else (f"data.split={split}",) for percent, split in splits}
    return _method_points("hardness", "hard_percent", overrides, "at {} % hard")


def _method_points(axis: str, x_name: str, overrides: Mapping[int, tuple[str, ...]], suffix: str) -> list[Point]:
    """GRPO and NGRPO at every x; where nothing is overridden they are the plain arms."""
    points = []
    for x, changed in overrides.items():
        arms = [
            Arm(f"{method.name} {suffix.format(x)}", method.objective, overrides=changed,
                factors={x_name: x, "method": method.name}) if changed else method
            for method in (GRPO, NGRPO)
        ]  # fmt: skip
        points += [
            Point(axis, x_name, x, "method", arm.objective, arm, None if arm is arms[0] else arms[0].name)
            for arm in arms
        ]
    return points


AXES: dict[str, Callable[[Setup], list[Point]]] = {
    "clip_ratio": clip_ratio_points,
    "clip": clip_points,
    "virtual": virtual_points,
    "group_size": group_size_points,
    "hardness": hardness_points,
}
"""Grids by name."""


def analyse(
    results: Results, points: Sequence[Point], advantages: Sequence[Mapping[str, Any]]
) -> tuple[list[Table], dict[str, Any]]:
    """What the grids say: tables, and what `results.json` has beside them.

    Args:
        results: Of `plan_sensitivity`, with controls or without.
        points: From there, too.
        advantages: From `lab.virtual_advantages`.

    Returns:
        The tables in the order of printing, and the further keys.
    """
    tables = _tables(results, points, "")
    entries = _grid(results, points, "all")
    if "hard" in results.base.difficulties:
        hard = read_results(results.folder, results.plan, difficulty="hard")
        tables += _tables(hard, points, "Hard prompts: ")
        entries += _grid(hard, points, "hard")
    done = [arm for arm in results.plan.arms if arm.name in results.rows]
    trained = {arm.name: mean_metrics(results.folder, arm, results.plan.seeds) for arm in done}
    tables.append(with_failed(training_table(results), results.failed))
    more = {"grid": entries, "training": trained, "advantages": list(advantages), "failed": dict(results.failed)}
    return tables, more


def _tables(results: Results, points: Sequence[Point], prefix: str) -> list[Table]:
    """Of each axis its arms, and their differences to what they are compared with."""
    rows, tables = results.rows, []
    quantities = [name for name in results.base.values if name.startswith(("pass@", "AUC"))]
    caption = (
        "Percent, with 95 % intervals over seeds and prompts (of the base: over prompts). "
        f"{exactness(results.base)}{WEIGHTING}"
    )
    controls = [rows[arm.name] for arm in results.plan.arms if arm.role == "control" and arm.name in rows]
    for axis in dict.fromkeys(point.axis for point in points):
        names = {point.arm.name for point in points if point.axis == axis}
        failed = [
            arm.name
            for arm in results.plan.arms
            if arm.name in results.failed and (arm.name in names or arm.role == "control")
        ]
        here = [point for point in points if point.axis == axis and point.arm.name in rows]
        arms = {point.arm.name: rows[point.arm.name] for point in here}
        shown = [results.base, results.sharp, *arms.values(), *controls]
        table = value_table(
            f"{prefix}axis {axis}", shown, quantities=[*quantities, "entropy", "length"], caption=caption
        )
        tables.append(with_failed(table, failed))
        differences = [
            difference_table("", [rows[point.arm.name]], rows[point.reference])
            for point in here
            if point.reference in rows
        ]
        if differences:
            cells = {name: cells for table in differences for name, cells in table.rows.items()}
            title = f"{prefix}axis {axis}, differences"
            tables.append(with_failed(replace(differences[0], title=title, caption=POINTS, rows=cells), failed))
    return [replace(table, title=table.title[0].upper() + table.title[1:]) for table in tables]


POINTS = (
    "Points, nats and tokens, paired by seed and prompt, with 95 % intervals. Each interval is by itself: of twenty, "
    "one may leave out the truth, and the best cell of a grid looks better than it is."
)


def _grid(results: Results, points: Sequence[Point], prompts: str) -> list[dict[str, Any]]:
    """Every cell that did not fail, once per quantity."""
    return [
        {"prompts": prompts, **entry}
        for point in points
        if point.arm.name in results.rows
        for entry in _entries(point, results)
    ]


def _entries(point: Point, results: Results) -> list[dict[str, Any]]:
    """One cell of a grid, once per quantity."""
    row = results.rows[point.arm.name]
    values = {name: scaled(value, OWN_UNITS.get(name, "percent")) for name, value in row.values.items()}
    differences = {}
    if point.reference in results.rows:
        differences = difference_cells(row, results.rows[point.reference])
    shared = {key: getattr(point, key) for key in ("axis", "x_name", "x", "y_name", "y")}
    return [
        {
            **shared,
            "arm": point.arm.name,
            "quantity": quantity,
            **{key: getattr(cell, key) for key in ("unit", "estimate", "low", "high")},
            "num_seeds": row.num_seeds,
            "reference": point.reference,
            "difference": asdict(differences[quantity]) if quantity in differences else None,
        }
        for quantity, cell in values.items()
    ]
