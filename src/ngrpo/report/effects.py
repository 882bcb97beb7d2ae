"""Figures of an experiment's own results: effects of mechanisms as a forest plot.

`lab/ablation.py` documents the `effects` of results.json that are drawn here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ngrpo.report.charts import MAX_ROWS, rounded
from ngrpo.report.fields import is_number, list_in, number_in, readable, text_in
from ngrpo.report.model import Figure
from ngrpo.report.records import Notices
from ngrpo.report.shapes import forest

MANY_SEEDS = 5

TRAINING = ("Training", "While training")
"""How titles of tables begin that are of training rollouts: these have no held-out prompts, no k, no temperature."""

COLUMNS = ("effect of", "estimate", "low", "high", "established")


def effect_figures(prefix: str, results: Mapping[str, Any], notices: Notices) -> list[Figure]:
    """A forest plot for each quantity that effects are given of.

    Args:
        prefix: Of the figures' ids.
        results: `results.json`.
        notices: Told of effects that are not as `lab/ablation.py` documents them: these are left out.

    Raises:
        DataError: `effects` is no list.
    """
    if "effects" not in results:
        return []
    has_one_seed = is_of_one_seed(results)
    by_quantity: dict[str, list[dict[str, Any]]] = {}
    units: dict[str, str] = {}
    for quantity, unit, row in readable(list_in(results, "effects"), _effect, "results.json, effects", notices):
        units.setdefault(quantity, unit)
        by_quantity.setdefault(quantity, []).append({**row, "established": None} if has_one_seed else row)
    about = conditions(results)
    return [_figure(prefix, quantity, units[quantity], rows, about) for quantity, rows in by_quantity.items()]


def _effect(effect: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Quantity, unit, and the row of one effect."""
    prompts, quantity = effect.get("prompts", "all"), text_in(effect, "quantity")
    row = {
        "label": _label(list_in(effect, "factors"), effect.get("at") or {}),
        **{name: rounded(number_in(effect, name)) for name in ("estimate", "low", "high")},
        "established": effect.get("established"),
    }
    return quantity if prompts == "all" else f"{quantity} on {prompts} prompts", text_in(effect, "unit"), row


def is_of_one_seed(results: Mapping[str, Any]) -> bool:
    """Whether the first table says that there is one seed: then no difference is established."""
    table = _first_table(results)
    return table is not None and table.get("num_seeds") == 1


def _first_table(results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    tables = results.get("tables")
    return tables[0] if isinstance(tables, list) and tables and isinstance(tables[0], Mapping) else None


def conditions(results: Mapping[str, Any]) -> str:
    """Under what results were measured, as the first table says: seeds, prompts, samples, range of k, temperature."""
    table = _first_table(results)
    return "Numbers of seeds, prompts and samples were not recorded." if table is None else conditions_of(table)


def conditions_of(table: Mapping[str, Any]) -> str:
    """The same of one table of results.json, as far as it applies: of training there are neither prompts nor k."""
    seeds, told = table.get("num_seeds"), []
    if is_number(seeds):
        told.append(f"{seeds} seed{'s' * (seeds != 1)} of each arm")
    if str(table.get("title")).startswith(TRAINING):
        return str(table.get("footer") or "") or "".join(f"{each}." for each in told)
    told += [f"{table[key]} {word}" for key, word in (("num_prompts", "prompts"), ("num_samples", "samples of each"))
             if is_number(table.get(key))]  # fmt: skip
    columns = table.get("columns")
    if is_number(table.get("max_k")) and any(
        str(each).startswith(("pass@", "AUC")) for each in (columns if isinstance(columns, list) else [])
    ):
        told.append(f"k from 1 to {table['max_k']}")
    if is_number(table.get("temperature")):
        told.append(f"temperature {table['temperature']:g}")
    return " ".join(filter(None, [f"{', '.join(told)}." if told else "", _few(seeds)]))


def _few(seeds: Any) -> str:
    if seeds == 1:
        return "One seed: intervals are over prompts only and say nothing of another seed, so no difference is marked."
    return "With fewer than 5 seeds little can be established." if is_number(seeds) and seeds < MANY_SEEDS else ""


def _figure(prefix: str, quantity: str, unit: str, rows: Sequence[dict[str, Any]], about: str) -> Figure:
    told = "; ".join(f"{row['label']} {_told(row)}" for row in rows)
    established = sum(row["established"] is True for row in rows)
    is_told = any(row["established"] is not None for row in rows)
    hollow = "; hollow and grey: the interval contains zero, so the effect is not established" if is_told else ""
    of_all = f", {established} of {len(rows)} established" if is_told else ""
    return Figure(
        id=f"{prefix}-effects-{_slug(quantity)}",
        title=f"What each mechanism does to {quantity}",
        caption=f"Main effects and interactions with 95 % intervals, paired, in {unit}{hollow}. {about}",
        description=f"Effects on {quantity} in {unit}{of_all}: {told}.",
        spec=forest(rows, x_title=f"effect on {quantity} ({unit})"),
        columns=COLUMNS,
        rows=tuple(tuple(row[name] for name in ("label", "estimate", "low", "high", "established")) for row in rows)[
            :MAX_ROWS
        ],
    )


def _label(factors: Sequence[str], at: Mapping[str, Any]) -> str:
    """`calibration x keep`, or `keep where calibration is on`."""
    name = " x ".join(map(str, factors))
    where = " and ".join(f"{factor} is {_level(level)}" for factor, level in at.items())
    return f"{name} where {where}" if where else name


def _level(level: Any) -> str:
    return {True: "on", False: "off"}.get(level, str(level)) if isinstance(level, bool) else str(level)


def _told(row: Mapping[str, Any]) -> str:
    verdict = {True: "", False: ", not established"}.get(row["established"], "")
    return f"{row['estimate']:+.3g} ({row['low']:+.3g} to {row['high']:+.3g}{verdict})"


def _slug(text: str) -> str:
    return "-".join("".join(each if each.isalnum() else " " for each in text.lower()).split())
