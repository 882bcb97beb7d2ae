"""The gradients of every method on every batch and on parts of it, as scalar products.

Axes: K gradients, L layers, R parts of a batch, D trainable numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ngrpo.config import RunConfig
from ngrpo.lab.gradient_batches import NATURAL
from ngrpo.lab.gradient_methods import Method, rows_by_group
from ngrpo.lab.gradient_vectors import GradientTable, Layer, check_room, leave_gradient
from ngrpo.policy import Policy
from ngrpo.train.rows import even_parts
from ngrpo.train.training_rows import TrainingRow
from ngrpo.types import Group

OnProgress = Callable[[str, int, int], None]
"""Called with what is under way, how much of it is done, and how much there is."""


ROUNDING = 1e-6
"""How far rounding may take a cosine of 1 beyond it."""


@dataclass(frozen=True, eq=False)
class Gradients:
    """Scalar products of the gradients of every method on every batch.

    Attributes:
        keys: (method, batch) of each gradient that is not zero throughout; K of them.
        whole: [L, K, K] of whole batches, by layer.
        parts: [R, L, K, K] of parts; NaN where a batch has no such part.
        weights: [R, K] the share of each part in its batch's tokens; 0 where there is no such part.
        table: [K, D] the gradients of whole batches.
    """

    keys: list[tuple[str, str]]
    whole: NDArray[np.float64]
    parts: NDArray[np.float64]
    weights: NDArray[np.float64]
    table: GradientTable

    def squared_norm(self, key: tuple[str, str]) -> float:
        """Of the gradient of a whole batch, all layers together."""
        place = self.keys.index(key)
        return float(self.whole[:, place, place].sum())

    def expected(self) -> NDArray[np.float64]:
        """[K, K] unbiased estimates of the products of expected gradients, those of ever larger batches of the kind.

        The gradient of a batch is that expectation and noise, which adds to its length: for a batch of few groups it is
        most of it. Products of different parts have no noise in common, so the mean over pairs of different parts of
        one batch, weighted as the parts are, is free of it; so is the product of two batches of different groups. NaN
        where there is no such pair: a batch of one part, and `natural` with others, which it shares groups with.
        """
        whole = self.whole.sum(axis=0)
        own = np.einsum("ra,rab,rb->ab", self.weights, np.nan_to_num(self.parts.sum(axis=1)), self.weights)
        share = 1.0 - (self.weights**2).sum(axis=0)
        names = np.array([name for _, name in self.keys])
        is_same = names[:, None] == names
        is_shared = ((names == NATURAL)[:, None] | (names == NATURAL)) & ~is_same
        divided = (whole - own) / np.where(share > 1e-12, share, np.nan)
        return np.where(is_same, divided, np.where(is_shared, np.nan, whole))


def take_gradients(
    policy: Policy,
    methods: Sequence[Method],
    batches: Mapping[str, Sequence[Group]],
    layers: Sequence[Layer],
    config: RunConfig,
    *,
    scratch: Path,
    num_parts: int,
    on_progress: OnProgress,
) -> Gradients:
    """The gradients of every method on every batch, and their scalar products.

    Advantages are taken on whole batches, before these are cut. Parts come one after the other: at no time is there
    more than one gradient in memory, and on disk one for each method and batch, of the part and of the whole.

    Args:
        policy: Its weights do not change.
        methods: The methods.
        batches: Groups by batch.
        layers: From `layers_of`.
        config: Temperature and microbatches.
        scratch: Folder for the gradients.
        num_parts: Parts of a batch.
        on_progress: See there.
    """
    rows = {
        (method.label, name): rows_by_group(method.objective, groups)
        for name, groups in batches.items()
        for method in methods
    }
    objective_of = {method.label: method.objective for method in methods}
    keys = [
        key
        for key, lines in rows.items()
        if any(row.has_gradient or objective_of[key[0]].regularisers for line in lines for row in line)
    ]
    check_room(scratch, len(keys), layers)
    whole = GradientTable(scratch / "whole", len(keys), layers)
    part = GradientTable(scratch / "part", len(keys), layers)
    weights = np.zeros((num_parts, len(keys)))
    products = np.full((num_parts, len(layers), len(keys), len(keys)), np.nan)
    total = sum(min(num_parts, len(batches[name])) for _, name in keys)
    done = 0
    for number in range(num_parts):
        there = []
        for row, key in enumerate(keys):
            groups = batches[key[1]]
            if number >= len(groups):
                continue
            cut = min(num_parts, len(groups))
            tokens = [num_tokens(each) for each in even_parts(groups, cut)]
            leave_gradient(
                policy,
                objective_of[key[0]],
                _flat(list(even_parts(rows[key], cut))[number]),
                num_tokens=tokens[number],
                temperature=config.rollout.temperature,
                max_microbatch_tokens=config.update.max_microbatch_tokens,
            )
            part.put(row)
            weights[number, row] = tokens[number] / sum(tokens)
            whole.add(row, weights[number, row])
            there.append(row)
            done += 1
            on_progress("gradients", done, total)
        if there:
            place = np.ix_(range(len(layers)), there, there)
            products[number][place] = part.products()[place]
    part.close()
    return Gradients(keys, whole.products(), products, weights, whole)


def num_tokens(groups: Sequence[Group]) -> int:
    """Completion tokens of some groups."""
    return sum(len(completion.token_ids) for group in groups for completion in group.completions)


def _flat(lines: Sequence[Sequence[TrainingRow]]) -> list[TrainingRow]:
    """The rows of some groups; no two groups share a number, whatever was left out between them."""
    return [replace(row, group=place) for place, line in enumerate(lines) for row in line]


def cosine(products: NDArray[np.float64], a: int, b: int) -> float | None:
    """The cosine of two gradients, from [K, K] scalar products.

    None where one is zero or not there, and where estimates of the products contradict each other by going beyond 1.
    """
    squares = products[a, a], products[b, b]
    if not min(squares) > 0:
        return None
    value = products[a, b] / (squares[0] * squares[1]) ** 0.5
    return float(np.clip(value, -1.0, 1.0)) if abs(value) < 1.0 + ROUNDING else None
