"""The gradients of every method on every batch, compared, and what one update with each does. Format: `gradients`."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngrpo.config import RunConfig
from ngrpo.lab.gradient_batches import BATCHES, census
from ngrpo.lab.gradient_effects import adam_step, effect_of, populations_of, score, sgd_step
from ngrpo.lab.gradient_methods import Method, advantages_by_group, virtual_share, without_virtual
from ngrpo.lab.gradient_products import Gradients, OnProgress, cosine, num_tokens, take_gradients
from ngrpo.lab.gradient_vectors import layers_of
from ngrpo.policy import Policy
from ngrpo.stats.intervals import student_quantile
from ngrpo.train.rows import with_old_logprobs
from ngrpo.types import Group

SCRATCH = "scratch"

Key = tuple[str, str]
"""A method's label and a batch."""


def measure(
    policy: Policy,
    methods: Sequence[Method],
    groups: Sequence[Group],
    batches: Mapping[str, Sequence[int]],
    config: RunConfig,
    *,
    folder: Path,
    num_parts: int,
    sgd_norm: float | None,
    gold_of: Callable[[Group], Sequence[int] | None],
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Everything of `gradients.json` that needs the model.

    Args:
        policy: The same bits afterwards.
        methods: From `make_methods`.
        groups: Every sampled group.
        batches: From `sort_groups`.
        config: Temperature, microbatches, and the learning rate and AdamW of the update.
        folder: For the gradients while they are compared: twice the model for each method and batch.
        num_parts: Parts of a batch; of fewer groups, as many as there are.
        sgd_norm: L2 norm of the SGD step; None: the learning rate times the root of the number of weights, which is how
            far Adam's first step goes.
        gold_of: Token ids of a group's gold completion, or None.
        on_progress: See there.

    Raises:
        ConfigError: Nothing of the model can be trained, or the disk cannot hold the gradients.
        NumericsError: A gradient is not finite.
    """
    layers = layers_of(policy)
    groups, _ = with_old_logprobs(policy, list(groups), config)
    sgd_norm = sgd_norm or config.optim.lr * layers[-1].end ** 0.5
    found = {name: [groups[place] for place in batches[name]] for name in BATCHES}
    scratch = folder / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir(parents=True)
    try:
        gradients = take_gradients(
            policy, methods, found, layers, config, scratch=scratch, num_parts=num_parts, on_progress=on_progress
        )
        effects = _effects(
            policy, methods, groups, batches, gradients,
            config=config, sgd_norm=sgd_norm, gold_of=gold_of, on_progress=on_progress,
        )  # fmt: skip
        gradients.table.close()
    finally:
        shutil.rmtree(scratch)
    return {
        "num_parameters": layers[-1].end,
        "sgd_norm": sgd_norm,
        "census": {**census(groups), "groups": len(groups)},
        "batches": [_batch_facts(name, found[name], num_parts) for name in BATCHES],
        "layers": [
            {"name": each.name, "block": each.block, "part": each.part, "num_parameters": each.end - each.start}
            for each in layers
        ],
        "norms": _norms(
            gradients, methods, {name: min(num_parts, len(found[name])) for name in BATCHES if found[name]}
        ),
        "cosines": _cosines(gradients, methods, [name for name in BATCHES if found[name]]),
        "virtual": _virtual(methods, found, gradients),
        "effects": effects,
    }


def spread(
    whole: float | None, expected: float | None, of_parts: Sequence[float], *, least: float, most: float
) -> dict[str, Any]:
    """A number of the whole batch, without noise, and of its parts: their mean, and Student's 95 % interval of it.

    Args:
        whole: Of the whole batch; None where it is undefined.
        expected: Of the expected gradient; None where that is not known.
        of_parts: Of the parts where it is defined.
        least: No number of this kind is below; the interval is cut there.
        most: None is above.

    Example:
        >>> spread(0.5, None, [0.25, 0.75], least=0.0, most=1.0)["estimate"]
        0.5
    """
    told: dict[str, Any] = dict.fromkeys(("estimate", "low", "high", "established"))
    told |= {"whole": whole, "expected": expected, "num_parts": len(of_parts)}
    if of_parts:
        told["estimate"] = float(np.mean(of_parts))
    if len(of_parts) > 1:
        half = student_quantile(0.95, len(of_parts) - 1) * float(np.std(of_parts, ddof=1)) / len(of_parts) ** 0.5
        low, high = max(least, told["estimate"] - half), min(most, told["estimate"] + half)
        told |= {"low": low, "high": high, "established": low > 0 or high < 0}
    return told


def _norms(gradients: Gradients, methods: Sequence[Method], num_parts: Mapping[str, int]) -> list[dict[str, Any]]:
    """The list `norms`."""
    layers = range(gradients.whole.shape[0])
    expected = gradients.expected()
    told = []
    for name, count in num_parts.items():
        for method in methods:
            entry: dict[str, Any] = {"method": method.label, "batch": name}
            if (method.label, name) in gradients.keys:
                place = gradients.keys.index((method.label, name))
                square = expected[place, place]
                # Of an expected gradient of nearly nothing the estimated square may be negative.
                entry |= _norm(gradients, place, slice(None), count)
                entry["expected"] = None if np.isnan(square) else max(0.0, float(square)) ** 0.5
                entry["by_layer"] = [_norm(gradients, place, slice(each, each + 1), count) for each in layers]
            else:  # zero throughout, exactly
                zero = spread(0.0, 0.0, [0.0] * count, least=0.0, most=np.inf)
                entry |= {**zero, "by_layer": [zero for _ in layers]}
            told.append(entry)
    return told


def _norm(gradients: Gradients, place: int, layers: slice, num_parts: int) -> dict[str, Any]:
    whole = gradients.whole[layers, place, place].sum() ** 0.5
    of_parts = gradients.parts[:num_parts, layers, place, place].sum(axis=1) ** 0.5
    return spread(float(whole), None, of_parts.tolist(), least=0.0, most=np.inf)


def _cosines(gradients: Gradients, methods: Sequence[Method], batches: Sequence[str]) -> list[dict[str, Any]]:
    """The list `cosines`."""
    keys = [(method.label, name) for name in batches for method in methods]
    whole, parts, expected = gradients.whole.sum(axis=0), gradients.parts.sum(axis=1), gradients.expected()
    place = {key: row for row, key in enumerate(gradients.keys)}
    told = []
    for row, one in enumerate(keys):
        for other in keys[row + 1 :]:

            def of(products: NDArray[np.float64], one: Key = one, other: Key = other) -> float | None:
                is_there = one in place and other in place
                return cosine(products, place[one], place[other]) if is_there else None

            of_parts = [value for value in map(of, parts) if value is not None]
            entry: dict[str, Any] = {
                "a": dict(zip(("method", "batch"), one, strict=True)),
                "b": dict(zip(("method", "batch"), other, strict=True)),
                **spread(of(whole), of(expected), of_parts, least=-1.0, most=1.0),
            }
            if one[1] == other[1]:
                entry["by_layer"] = [of(layer) for layer in gradients.whole]
            told.append(entry)
    return told


def _virtual(
    methods: Sequence[Method], batches: Mapping[str, Sequence[Group]], gradients: Gradients
) -> list[dict[str, Any]]:
    """The list `virtual`."""
    told = []
    for method in methods:
        others = [each for each in methods if each is not method]
        for name, groups in batches.items():
            share = virtual_share(method.objective, groups) if groups else None
            if share is None:
                continue
            plain = advantages_by_group(without_virtual(method.objective), groups)
            twin = next((each for each in others if advantages_by_group(each.objective, groups) == plain), None)
            frac = None if twin is None else _distance_frac(gradients, (method.label, name), (twin.label, name))
            label = None if twin is None else twin.label
            told.append(
                {"method": method.label, "batch": name, **share, "gradient_frac": frac, "gradient_without": label}
            )
    return told


def _distance_frac(gradients: Gradients, key: tuple[str, str], other: tuple[str, str]) -> float | None:
    """|g - g0| / |g| of two gradients of whole batches; None where g is zero."""
    if key not in gradients.keys or gradients.squared_norm(key) == 0:
        return None
    if other not in gradients.keys:
        return 1.0
    products, a, b = gradients.whole.sum(axis=0), gradients.keys.index(key), gradients.keys.index(other)
    distance = max(0.0, products[a, a] - 2 * products[a, b] + products[b, b])
    return float((distance / products[a, a]) ** 0.5)


def _effects(
    policy: Policy,
    methods: Sequence[Method],
    groups: Sequence[Group],
    batches: Mapping[str, Sequence[int]],
    gradients: Gradients,
    *,
    config: RunConfig,
    sgd_norm: float,
    gold_of: Callable[[Group], Sequence[int] | None],
    on_progress: OnProgress,
) -> list[dict[str, Any]]:
    """The list `effects`."""
    sequences, populations = populations_of(groups, batches, gold_of)
    scored = {"temperature": config.rollout.temperature, "max_tokens": config.update.max_microbatch_tokens}
    before = score(policy, sequences, **scored)
    steps = {"adam": partial(adam_step, policy, config), "sgd": partial(sgd_step, policy, sgd_norm)}
    told = []
    for done, key in enumerate((method.label, name) for name in BATCHES if batches[name] for method in methods):
        for step, move in steps.items():
            entry: dict[str, Any] = {"method": key[0], "batch": key[1], "step": step, "is_zero": True}
            entry |= {"step_norm": 0.0, "changes": []}
            if key in gradients.keys and gradients.squared_norm(key) > 0:
                gradients.table.take(gradients.keys.index(key))
                entry |= {"is_zero": False, **effect_of(policy, move, sequences, before, populations, **scored)}
            told.append(entry)
        on_progress("updates", done + 1, len(methods) * sum(bool(batches[name]) for name in BATCHES))
    return told


def _batch_facts(name: str, groups: Sequence[Group], num_parts: int) -> dict[str, Any]:
    completions = [completion for group in groups for completion in group.completions]
    num_correct = sum(group.num_correct for group in groups)
    return {
        "name": name,
        "num_groups": len(groups),
        "num_parts": min(num_parts, len(groups)),
        "num_completions": len(completions),
        "num_tokens": num_tokens(groups),
        "truncated_frac": sum(each.is_truncated for each in completions) / len(completions) if completions else None,
        "correct_frac": num_correct / len(completions) if completions else None,
    }
