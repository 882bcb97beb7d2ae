"""Gradients of whole models, as many as memory does not hold: side by side on disk, multiplied block by block.

The gradient itself is training's own: `train.step.update` with an optimiser that does not move anything.

Axes: K gradients, D trainable numbers, L layers.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ngrpo.errors import ConfigError
from ngrpo.objectives import Counts, Objective, token_mean
from ngrpo.policy import Policy
from ngrpo.train.step import update
from ngrpo.train.training_rows import TrainingRow

BLOCK_VALUES = 1 << 23
"""Numbers of a gradient table that are in memory together, as float64: 64 MiB."""

BLOCK_NAME = re.compile(r"\.(?:layers|h|blocks?)\.(\d+)\.([^.]+)")
"""How families of transformers name what is in a block: model.layers.0.self_attn, transformer.h.0.mlp."""


@dataclass(frozen=True)
class Layer:
    """A run of the flattened parameters that belong together.

    Attributes:
        name: `embedding`, `block 0 attention`, `block 0 feed-forward`, `head`, ...
        block: Number of the block, from 0; None outside of blocks.
        part: `embedding`, `attention`, `feed_forward`, `norms`, `head`, `embedding_and_head` (tied), `other`.
        start: First place in the flattened gradient.
        end: Place behind the last.
        parameters: In the order of the flattened gradient.
    """

    name: str
    block: int | None
    part: str
    start: int
    end: int
    parameters: tuple[nn.Parameter, ...]


def layers_of(policy: Policy) -> list[Layer]:
    """The trainable parameters by layer, in the order of the model; they lie in the flattened gradient in this order.

    Args:
        policy: The model, or an adapter around one.

    Raises:
        ConfigError: Nothing of the model can be trained.
    """
    found: dict[tuple[int | None, str], list[nn.Parameter]] = {}
    embedding, head = policy.model.get_input_embeddings(), policy.model.get_output_embeddings()
    inputs, outputs = ({id(each) for each in module.parameters()} if module else set() for module in (embedding, head))
    for name, parameter in policy.model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in inputs:
            place = (None, "embedding_and_head" if id(parameter) in outputs else "embedding")
        elif id(parameter) in outputs:
            place = (None, "head")
        else:
            place = _place_of(name)
        found.setdefault(place, []).append(parameter)
    if not found:
        raise ConfigError(
            "no weight of the model can be trained, so there is no gradient. Give a model, or model.lora."
        )
    layers = []
    start = 0
    for (block, part), parameters in found.items():
        end = start + sum(parameter.numel() for parameter in parameters)
        words = {"feed_forward": "feed-forward", "embedding_and_head": "embedding (and head)"}.get(part, part)
        name = words if block is None else f"block {block} {words}"
        layers.append(Layer(name, block, part, start, end, tuple(parameters)))
        start = end
    return layers


def _place_of(name: str) -> tuple[int | None, str]:
    """Block and part of a parameter, from its name.

    Example:
        >>> _place_of("model.layers.3.self_attn.q_norm.weight"), _place_of("transformer.h.1.mlp.c_fc.bias")
        ((3, 'attention'), (1, 'feed_forward'))
        >>> _place_of("model.layers.0.post_attention_layernorm.weight"), _place_of("model.norm.weight")
        ((0, 'norms'), (None, 'norms'))
    """
    found = BLOCK_NAME.search(name)
    module = (found[2] if found else name).lower()
    if "norm" in module or re.search(r"\bln_", module):
        part = "norms"
    elif found and "att" in module:
        part = "attention"
    elif found and re.search(r"mlp|ffn|feed_forward|fc\d|expert|moe", module):
        part = "feed_forward"
    else:
        part = "other"
    return (int(found[1]) if found else None), part


def leave_gradient(
    policy: Policy,
    objective: Objective,
    rows: Sequence[TrainingRow],
    *,
    num_tokens: int,
    temperature: float,
    max_microbatch_tokens: int,
) -> None:
    """Leaves in the parameters the gradient that training would take its step with, but for what it is divided by.

    Args:
        policy: Its weights do not change, bit for bit.
        objective: The method; its aggregation is replaced by the sum over tokens divided by `num_tokens`.
        rows: Those that the method lets into the update.
        num_tokens: Tokens of the whole batch, the same for every method.
        temperature: The sampling temperature.
        max_microbatch_tokens: Budget of one forward pass; changes rounding only.

    Raises:
        NumericsError: Loss or gradient are not finite.
    """
    update(
        policy,
        _Still(policy.trainable_parameters()),
        replace(objective, aggregation=partial(_over_batch, num_tokens=num_tokens)),
        rows,
        temperature=temperature,
        max_microbatch_tokens=max_microbatch_tokens,
        max_grad_norm=float("inf"),
    )


def _over_batch(loss: Tensor, mask: Tensor, counts: Counts, *, num_tokens: int) -> Tensor:
    """The token mean, over a number of tokens that does not depend on which rows a method leaves out."""
    return token_mean(loss, mask, Counts(num_tokens, 0))


class _Still(torch.optim.Optimizer):
    """An optimiser that moves nothing."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: None = None) -> None:
        """Leaves weights and gradients as they are."""


class GradientTable:
    """[K, D] gradients in a file, in the precision of the weights. Rows that are never put are zero.

    Args:
        path: The file, made anew; `close` removes it.
        num_rows: K.
        layers: From `layers_of`.
    """

    def __init__(self, path: Path, num_rows: int, layers: Sequence[Layer]) -> None:
        self.path, self.layers = path, layers
        weights = layers[0].parameters[0]
        self.dtype = np.float64 if weights.dtype == torch.float64 else np.float32
        self._values = np.memmap(path, self.dtype, mode="w+", shape=(max(1, num_rows), layers[-1].end))

    def put(self, row: int) -> None:
        """Writes the gradients that the parameters have."""
        for start, parameter in _places(self.layers):
            self._values[row, start : start + parameter.numel()] = _flat(parameter.grad)

    def add(self, row: int, weight: float) -> None:
        """Adds the gradients that the parameters have, times a weight."""
        for start, parameter in _places(self.layers):
            self._values[row, start : start + parameter.numel()] += weight * _flat(parameter.grad)

    def take(self, row: int) -> None:
        """Gives the parameters the gradients of a row."""
        for start, parameter in _places(self.layers):
            values = np.array(self._values[row, start : start + parameter.numel()])
            parameter.grad = torch.from_numpy(values).view_as(parameter).to(parameter)

    def products(self) -> NDArray[np.float64]:
        """[L, K, K] the scalar products of all pairs, layer by layer; their sum over layers is that of the whole."""
        num_rows = len(self._values)
        products = np.zeros((len(self.layers), num_rows, num_rows))
        width = max(1, BLOCK_VALUES // num_rows)
        for place, layer in enumerate(self.layers):
            for start in range(layer.start, layer.end, width):
                block = self._values[:, start : min(layer.end, start + width)].astype(np.float64)
                products[place] += block @ block.T
        return products

    def close(self) -> None:
        """Removes the file."""
        del self._values
        self.path.unlink(missing_ok=True)


def check_room(folder: Path, num_rows: int, layers: Sequence[Layer]) -> None:
    """Refuses what the disk cannot hold: two tables of so many gradients.

    Raises:
        ConfigError: It has not the room.
    """
    needed = 2 * num_rows * layers[-1].end * layers[0].parameters[0].element_size()
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"{num_rows} gradients of {layers[-1].end:,} numbers, of the whole batches and of a part of each, take "
            f"{needed / 2**30:.1f} GiB of disk while they are compared, and {folder} has {free / 2**30:.1f}. Ask for "
            "fewer --method, train an adapter (model.lora.rank=16), or give a --folder on another disk."
        )


def _places(layers: Sequence[Layer]) -> list[tuple[int, nn.Parameter]]:
    """Where each parameter starts in the flattened gradient."""
    places = []
    for layer in layers:
        start = layer.start
        for parameter in layer.parameters:
            places.append((start, parameter))
            start += parameter.numel()
    return places


def _flat(gradient: Tensor | None) -> NDArray[np.float32] | NDArray[np.float64]:
    assert gradient is not None, "update leaves a gradient, zero or not, in every trainable parameter"
    return gradient.detach().flatten().cpu().numpy()
