"""What each of NGRPO's mechanisms contributes: calibration x asymmetric clipping x keeping all-wrong groups.

A full factorial: eight arms, each the catalog's `ngrpo` with other parameters. Base, prompts and their order, random
numbers, optimiser, rollout budget, number of updates and aggregation are the same in all. All-right groups are left
out in all, as published.

| factor | low | high, as published |
|---|---|---|
| `calibration` | `num_virtual = 0`: the group's own statistics, GRPO's | `num_virtual = 1`: a virtual right one joins |
| `clip` | `clip_low = clip_high = 0.2` | `clip_low = 0.16`, `clip_high = 0.24` |
| `keep` | `group_filter = "keep_mixed"`: all-wrong groups dropped | `"drop_all_correct"`: all-wrong groups kept |

What can and what cannot be told apart:

- Without calibration every advantage in an all-wrong group is exactly zero. To keep such a group then teaches nothing
  from it, but is not quite nothing: its tokens enter the denominator of the token mean, so that the loss of its
  optimiser step is smaller, and it takes the place of a mixed group when the groups are divided among the updates.
  (Adam forgives a loss that is smaller by a constant factor, and this factor differs from update to update.) So the
  effect of `keep` where `calibration` is low is that of the denominators alone; learning from all-wrong groups is the
  effect of `keep` where `calibration` is high. Both are given, and half their difference is `calibration x keep`.
- Where `keep` is low, calibration acts on mixed groups only: right answers weigh less, wrong ones more.
- A clip acts only where the policy has moved since the rollout. With one update per step every ratio is 1 and the four
  pairs of arms that differ in `clip` alone are the same runs, bit for bit. With several, look at the clip fractions by
  sign before anything is credited to the clip; `clip_scale` narrows both levels until it binds.

Results that `results.json` has beside the tables:

    "effects": [{"prompts": "all", "factors": ["calibration", "keep"], "at": {}, "quantity": "pass@1",
                 "unit": "points", "estimate", "low", "high", "established"}, ...]
    "training": {arm: {metric: mean over steps and seeds, ...}}, "equal_arms": [[arm, arm], ...]

An effect is defined in `lab.effects`. `at` is empty for effects over all cells; `{"calibration": true}` says that it is
the effect among the cells where that factor is high. `prompts` is `hard` for effects on hard prompts alone, in a world
that has both kinds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from ngrpo.errors import ConfigError
from ngrpo.lab.arms import held_equal
from ngrpo.lab.effects import at_level, factorial_effects
from ngrpo.lab.experiment import Results, read_results
from ngrpo.lab.plan import Arm, Plan
from ngrpo.lab.results import compared_columns
from ngrpo.lab.setups import Setup
from ngrpo.lab.tables import WEIGHTING, Cell, Table, difference_cell, exactness, value_table, with_failed
from ngrpo.lab.training_means import equal_arms, mean_metrics, training_table
from ngrpo.stats import Interval

BASE_NAME = "none"
"""The arm with every factor low: GRPO's advantages and clip, on mixed groups alone."""


@dataclass(frozen=True)
class Factor:
    """One mechanism and its two levels.

    Attributes:
        name: For arms and tables.
        low: Parameters of `ngrpo` without it.
        high: Parameters with it, as published.
    """

    name: str
    low: Mapping[str, Any]
    high: Mapping[str, Any]


def factors(*, clip_scale: float = 1.0) -> tuple[Factor, ...]:
    """The three mechanisms.

    Args:
        clip_scale: What all clips are multiplied with. Below 1 they bind more often, at both levels alike.

    Raises:
        ConfigError: The scale is not above 0, or so large that the lower bound of a ratio is below 0.

    Example:
        >>> [dict(factor.high) for factor in factors(clip_scale=0.5)][1]
        {'clip_low': 0.08, 'clip_high': 0.12}
    """
    if not 0 < clip_scale <= 5:
        raise ConfigError(f"clip_scale must be above 0 and at most 5, where the clip of 0.2 is 1, got {clip_scale!r}.")
    low, high, both = (round(clip_scale * clip, 6) for clip in (0.16, 0.24, 0.2))
    return (
        Factor("calibration", {"num_virtual": 0}, {"num_virtual": 1}),
        Factor("clip", {"clip_low": both, "clip_high": both}, {"clip_low": low, "clip_high": high}),
        Factor("keep", {"group_filter": "keep_mixed"}, {"group_filter": "drop_all_correct"}),
    )


FACTOR_NAMES = tuple(factor.name for factor in factors())


def arms(*, clip_scale: float = 1.0) -> tuple[Arm, ...]:
    """The eight arms, each named after the factors that are high in it.

    Args:
        clip_scale: As in `factors`.

    Example:
        >>> [arm.name for arm in arms()][:4], arms()[-1].name
        (['none', 'keep', 'clip', 'clip+keep'], 'calibration+clip+keep')
        >>> dict(arms()[1].params)
        {'num_virtual': 0, 'clip_low': 0.2, 'clip_high': 0.2, 'group_filter': 'drop_all_correct'}
    """
    found = []
    all_factors = factors(clip_scale=clip_scale)
    for levels in product((False, True), repeat=len(all_factors)):
        chosen = list(zip(all_factors, levels, strict=True))
        params = {key: value for factor, high in chosen for key, value in (factor.high if high else factor.low).items()}
        name = "+".join(factor.name for factor, high in chosen if high) or BASE_NAME
        found.append(Arm(name, "ngrpo", params, factors={factor.name: high for factor, high in chosen}))
    return tuple(found)


def plan_ablation(setup: Setup, *, num_seeds: int, model: str, clip_scale: float = 1.0) -> Plan:
    """The whole factorial as an experiment.

    Args:
        setup: World and sizes.
        num_seeds: Runs of each arm.
        model: Base model.
        clip_scale: As in `factors`.

    Raises:
        ConfigError: The scale is out of range.
    """
    all_arms = arms(clip_scale=clip_scale)
    return Plan(
        kind="ablation",
        setup=setup,
        arms=all_arms,
        num_seeds=num_seeds,
        model=model,
        held_equal=(*held_equal(setup, all_arms), "all-right groups left out"),
    )


def analyse(results: Results) -> tuple[list[Table], dict[str, Any]]:
    """What an ablation says: its tables, and what `results.json` has beside them.

    Args:
        results: Of `plan_ablation`, with controls or without.

    Returns:
        The tables in the order of printing, and the further keys. Where runs failed there are no effects, and
        `no_effects` says why.
    """
    plan = results.plan
    done = [arm for arm in plan.arms if arm.name in results.rows]
    rows = [results.base, results.sharp, *results.rows.values()]
    trained = {arm.name: mean_metrics(results.folder, arm, plan.seeds) for arm in done}
    equal = equal_arms(results.folder, done, plan.seeds)
    caption = f"Percent. {exactness(results.base)}{_legend(plan)} {WEIGHTING}"
    tables = [
        value_table("Arms", rows, quantities=list(compared_columns(results.base)), caption=caption),
        training_table(results, equal=equal),
    ]
    tables = [with_failed(table, results.failed) for table in tables]
    more: dict[str, Any] = {"effects": [], "training": trained, "equal_arms": equal, "failed": dict(results.failed)}
    missing = [arm.name for arm in plan.arms if arm.role == "method" and arm.name in results.failed]
    if missing:
        told = " ".join(f"{name}: {results.failed[name]}" for name in missing)
        return tables, {**more, "no_effects": f"Effects need all eight arms, and some failed. {told}"}
    parts = {"all": results}
    if "hard" in results.base.difficulties:
        parts["hard"] = read_results(results.folder, plan, difficulty="hard")
    for prompts, part in parts.items():
        found = effects(part)
        tables.append(_effect_table(found, part, "Effects" if prompts == "all" else "Effects on hard prompts"))
        more["effects"] += [
            {"prompts": prompts, "factors": list(effect.factors), "at": dict(effect.at), "quantity": quantity,
             **asdict(cell)}
            for effect in found
            for quantity, cell in effect.cells.items()
        ]  # fmt: skip
    return tables, more


@dataclass(frozen=True)
class Effect:
    """A main effect or an interaction.

    Attributes:
        factors: Of which factors.
        at: Among which cells: level of another factor. Empty for all.
        cells: By quantity, in points; entropy in nats, length in tokens.
    """

    factors: tuple[str, ...]
    at: Mapping[str, bool]
    cells: Mapping[str, Cell]

    @property
    def name(self) -> str:
        """As tables call it.

        Example:
            >>> Effect(("keep",), {"calibration": True}, {}).name, Effect(("clip", "keep"), {}, {}).name
            ('keep, calibration on', 'clip x keep')
        """
        held = (f"{name} {'on' if is_high else 'off'}" for name, is_high in self.at.items())
        return ", ".join([" x ".join(self.factors), *held])


def effects(results: Results) -> list[Effect]:
    """Main effects and interactions over all cells, and what `keep` does at each level of `calibration`.

    Args:
        results: Of an ablation none of whose arms failed.
    """
    columns = compared_columns(results.base)
    arms_by_levels = {tuple(arm.factors[name] for name in FACTOR_NAMES): arm.name for arm in results.plan.arms
                      if arm.role == "method"}  # fmt: skip
    cells = {
        levels: results.rows[name].by_prompt[..., list(columns.values())] for levels, name in arms_by_levels.items()
    }

    def as_effect(names: tuple[str, ...], interval: Interval, at: Mapping[str, bool]) -> Effect:
        ends = zip(columns, interval.estimate, interval.low, interval.high, strict=True)
        values = {
            quantity: difference_cell(quantity, Interval(*each), results.plan.num_seeds) for quantity, *each in ends
        }
        return Effect(names, at, values)

    found = [as_effect(names, interval, {}) for names, interval in factorial_effects(cells, FACTOR_NAMES).items()]
    others = [name for name in FACTOR_NAMES if name != "calibration"]
    for level in (False, True):
        within = factorial_effects(at_level(cells, FACTOR_NAMES.index("calibration"), is_high=level), others)
        found.append(as_effect(("keep",), within[("keep",)], {"calibration": level}))
    return found


def _effect_table(found: Sequence[Effect], results: Results, title: str) -> Table:
    caption = (
        "Points, nats and tokens, with 95 % intervals over seeds and prompts. A main effect is the mean with the "
        "mechanism minus the mean without, over all levels of the others; an interaction is half of what one mechanism "
        "does more where the other is there. keep, calibration off: only denominators differ, nothing is learned from "
        f"all-wrong groups there. Each interval is by itself: of twenty, one may leave out the truth. {WEIGHTING}"
    )
    row = next(iter(results.rows.values()))
    cells = {effect.name: effect.cells for effect in found}
    table = value_table(title, [row], quantities=[], caption=caption)
    return replace(table, columns=tuple(compared_columns(row)), rows=cells)


def _legend(plan: Plan) -> str:
    """What the names of the arms mean."""
    low, high = (
        "{clip_low:g} / {clip_high:g}".format(**arm.params) for arm in plan.arms if arm.name in (BASE_NAME, "clip")
    )
    return (
        f"calibration: a virtual right completion in every group. clip: {high} instead of {low}. keep: "
        f"all-wrong groups in the update. {BASE_NAME}: GRPO's advantages and clip, on mixed groups alone."
    )
