"""Decoding with shapes that stay as they are, so that a GPU repeats a step as one recorded graph.

A step of a small model is hundreds of small kernels, and starting them one by one costs a GPU more than running them.
A CUDA graph starts them all at once, but always on the same memory in the same shapes. Hence every row has a slot of
its own in a cache that never moves, writes at its own position there, and steps run at a few numbers of rows only: the
next one above what is needed, the rows too many computing what nobody reads. The step itself is `CompactDecoder`'s.

Without a GPU the same steps run one operation at a time; tests compare them with the forward pass.

Axes: B rows, R slots, C columns of a slot (tokens it can hold), H query heads, K key-value heads, D numbers per head,
V vocabulary.
"""

import functools
import math
import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ngrpo.policy import Policy
from ngrpo.rollout.cache import RowCache
from ngrpo.rollout.compact import CompactDecoder

SMALLEST_ROWS, SMALLEST_COLUMNS = 8, 128
"""Sizes of a step are powers of two, from these on."""

WARM_UPS = 2
"""Steps made before one is recorded, so that libraries have allocated what they allocate once."""


class SlotCache(RowCache):
    """A `RowCache` that never moves, with the heads of a position side by side.

    Args:
        decoder: Says how many layers and heads there are, and in which dtype.
        num_slots: R, the most rows at a time.
        num_columns: C, the longest sequence.
    """

    @torch.inference_mode()
    def __init__(self, decoder: CompactDecoder, *, num_slots: int, num_columns: int) -> None:
        heads, size, like = (decoder.num_heads, decoder.num_kv_heads), decoder.head_size, decoder.head
        super().__init__(len(decoder.layers), heads[1], size, num_columns, like)
        self.stored = like.new_zeros((len(decoder.layers), 2, num_slots, num_columns, heads[1], size))
        self._stored = [[store.transpose(1, 2) for store in layer] for layer in self.stored]
        self.reads_own_columns_only = flash_works(heads, size, like.dtype, like.device)

    def _reserve(self, num_rows: int) -> None:
        """Nothing: it is as large as it will ever be."""

    def grow(self) -> int:
        """Notes that each row gets a token. Returns how many columns are then in use."""
        self._num_new += 1
        self._width = min(self._width + 1, self.stored.shape[3])  # rows that ended and are still here need no more
        return self._width


class _Slots:
    """The first slots and columns of a cache, as a step of fixed size meets them; see `Cache`."""

    def __init__(self, cache: SlotCache, num_rows: int, num_columns: int) -> None:
        self._stored = cache.stored[:, :, :num_rows, :num_columns]
        device = cache.stored.device
        self._rows = torch.arange(num_rows, device=device)
        self._columns = torch.arange(num_columns, device=device)
        self._is_flash = cache.reads_own_columns_only
        self._starts = [_starts(num_rows, step, device) for step in (1, num_columns)]

    def begin(self, positions: Tensor) -> None:
        """See `Cache`."""
        self._positions = positions
        if self._is_flash:
            self._lengths = (positions + 1).to(torch.int32)
            return
        is_empty = self._columns > positions.unsqueeze(-1)
        bias = torch.zeros(is_empty.shape, dtype=self._stored.dtype, device=positions.device)
        self._bias = bias.masked_fill(is_empty, -torch.inf)

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """See `Cache`."""
        all_keys, all_values = self._stored[layer]
        all_keys[self._rows, self._positions] = keys
        all_values[self._rows, self._positions] = values
        if self._is_flash:
            mixed = flash_attention(queries, all_keys, all_values, self._starts, self._lengths, scaling)
        else:
            mixed = masked_attention(queries, all_keys, all_values, self._bias, scaling)
        return mixed.flatten(1)


@dataclass(frozen=True)
class _Recorded:
    """A step of one size."""

    graph: torch.cuda.CUDAGraph
    states: Tensor  # [rows, d] where each replay leaves what it computes
    slots: _Slots  # the graph knows where its tensors lie: they must not go


class GraphedDecoder(CompactDecoder):
    """Steps of a few fixed sizes, each recorded as a CUDA graph when it is first needed.

    Recording takes a good part of a second per size: keep the decoder, and `load` the weights when they have changed.

    Args:
        policy: One that `can_decode` accepts.
        num_positions: Longest sequence that will be decoded, in tokens.
        max_rows: Most rows at a time.
    """

    @torch.inference_mode()
    def __init__(self, policy: Policy, *, num_positions: int, max_rows: int) -> None:
        num_columns = math.ceil(num_positions / SMALLEST_COLUMNS) * SMALLEST_COLUMNS
        super().__init__(policy, num_positions=num_columns)
        self._cache = SlotCache(self, num_slots=max_rows, num_columns=num_columns)
        self._tokens, self._positions = torch.zeros((2, max_rows), dtype=torch.long, device=policy.device)
        self._records = policy.device.type == "cuda"
        self._recorded: dict[tuple[int, int], _Recorded] = {}

    def new_cache(self) -> SlotCache:
        """The decoder's only one: who had it before has it no more."""
        return self._cache

    def fits(self, *, num_positions: int, max_rows: int) -> bool:
        """Whether there is room for so many rows of that length."""
        _, _, num_slots, num_columns, _, _ = self._cache.stored.shape
        return num_positions <= num_columns and max_rows <= num_slots

    @torch.inference_mode()
    def load(self, policy: Policy) -> None:
        """Takes the policy's weights as they are now to where the recorded steps look for them."""
        current = CompactDecoder(policy, num_positions=len(self.cos))
        for old, new in zip(self.tensors(), current.tensors(), strict=True):
            if old.data_ptr() != new.data_ptr():
                old.copy_(new)

    @torch.inference_mode()
    def step(self, tokens: Tensor, positions: Tensor, cache: SlotCache) -> Tensor:
        """Feeds one token to each row; see `CompactDecoder.step`. The cache is the decoder's own."""
        num_rows = len(tokens)
        size = self._size_of(num_rows, cache.grow())
        self._tokens[:num_rows] = tokens
        self._positions[:num_rows] = positions
        self._positions[num_rows : size[0]] = 0  # in slots that are free
        with torch.cuda.device_of(self._tokens):
            return self.logits(self._states(size)[:num_rows])

    def _size_of(self, num_rows: int, num_columns: int) -> tuple[int, int]:
        """The rows and columns of the smallest step that holds so many."""
        _, _, most_rows, most_columns, _, _ = self._cache.stored.shape
        rows = min(_power_of_two(num_rows, SMALLEST_ROWS), most_rows)
        if self._cache.reads_own_columns_only:
            return rows, most_columns
        return rows, min(_power_of_two(num_columns, SMALLEST_COLUMNS), most_columns)

    def _states(self, size: tuple[int, int]) -> Tensor:
        """[rows, d] of the tokens and positions that are laid ready."""
        if self._records and size not in self._recorded:
            try:
                self._recorded[size] = self._record(size)
            except RuntimeError as error:
                self._records = False
                first = str(error).strip().splitlines()[0]
                warnings.warn(
                    f"no CUDA graph could be recorded ({first}); sampling goes on without, and slower.", stacklevel=2
                )
        if not self._records:
            return self._plain_states(size, _Slots(self._cache, *size))
        recorded = self._recorded[size]
        recorded.graph.replay()
        return recorded.states

    def _plain_states(self, size: tuple[int, int], slots: _Slots) -> Tensor:
        return self.states(self._tokens[: size[0]], self._positions[: size[0]], slots)

    def _record(self, size: tuple[int, int]) -> _Recorded:
        """Records a step of that size. What runs here on the way writes what the first replay will write again."""
        slots = _Slots(self._cache, *size)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._plain_states(size, slots)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # What a step leaves behind is read before another begins, so all of them can share memory.
        pool = next((other.graph.pool() for other in self._recorded.values()), None)
        # Other threads may do with the GPU what they like.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            states = self._plain_states(size, slots)
        return _Recorded(graph, states, slots)


def masked_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scaling: float) -> Tensor:
    """What each row's queries find in its slot; the slow twin of `flash_attention`, for any device and dtype.

    Args:
        queries: [B, H, D].
        keys: [B, C, K, D].
        values: Likewise.
        bias: [B, C], 0 where the slot is filled, minus infinity elsewhere.
        scaling: Of the scores.

    Returns:
        [B, H, D].
    """
    num_rows, _, num_kv_heads, size = keys.shape
    # The queries that share a head of keys are like several queries of one sequence.
    grouped = queries.view(num_rows, num_kv_heads, -1, size)
    mask = bias[:, None, None].expand(-1, num_kv_heads, grouped.shape[2], -1)
    mixed = F.scaled_dot_product_attention(
        grouped, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask, scale=scaling
    )
    return mixed.reshape(queries.shape)


def flash_attention(
    queries: Tensor, keys: Tensor, values: Tensor, starts: list[Tensor], lengths: Tensor, scaling: float
) -> Tensor:
    """The same by PyTorch's flash attention, which reads the columns in use and no others.

    Called by the operator behind `torch.nn.attention.varlen`, whose own arguments differ between versions.

    Args:
        queries: [B, H, D], bfloat16 or float16.
        keys: [B, C, K, D], contiguous.
        values: Likewise.
        starts: [B + 1] each, int32: where each row's queries and its slot begin in `queries` and in `keys`, laid flat.
        lengths: [B] columns in use, int32.
        scaling: Of the scores.

    Returns:
        [B, H, D].
    """
    return torch.ops.aten._flash_attention_forward(
        queries,
        keys.flatten(0, 1),
        values.flatten(0, 1),
        *starts,
        1,
        keys.shape[1],
        0.0,
        False,
        False,
        scale=scaling,
        seqused_k=lengths,
    )[0]


@functools.cache
def flash_works(heads: tuple[int, int], size: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `flash_attention` is there for these heads (H and K) of D numbers, and finds what its slow twin finds."""
    lengths = torch.tensor([1, 5, 16], dtype=torch.int32, device=device)
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn((3, heads[0], size), generator=generator).to(device, dtype)
    keys, values = torch.randn((2, 3, 16, heads[1], size), generator=generator).to(device, dtype)
    starts = [_starts(3, step, device) for step in (1, 16)]
    is_empty = torch.arange(16, device=device) >= lengths.unsqueeze(-1)
    bias = torch.zeros(is_empty.shape, dtype=dtype, device=device).masked_fill(is_empty, -torch.inf)
    try:
        found = flash_attention(queries, keys, values, starts, lengths, size**-0.5)
    except (RuntimeError, AttributeError, TypeError):  # how PyTorch says that it has none, or with other arguments
        return False
    return torch.allclose(found, masked_attention(queries, keys, values, bias, size**-0.5), atol=0.03)


def _starts(num_rows: int, step: int, device: torch.device) -> Tensor:
    return torch.arange(num_rows + 1, dtype=torch.int32, device=device) * step


def _power_of_two(number: int, least: int) -> int:
    """The smallest power of two that is no less than either."""
    return 1 << (max(number, least) - 1).bit_length()
