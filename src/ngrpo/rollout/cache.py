"""Keys and values of the rows being decoded, one slot each, filled from column 0 on: a token's column is its position.

Rows come and go without those that stay being copied. Axes: B rows, K key-value heads, H query heads, D numbers per
head, L prompt positions (left-padded), P prompts.
"""

import torch
from torch import Tensor

from ngrpo.policy import Policy

SPARE_COLUMNS = 16
"""Columns that a short row is made longer by when it is full."""

LOGIT_COPIES = 4
"""Float32 copies of a row's logits while a token is drawn from them."""


class RowCache:
    """What a decoding step attends to; see `compact.Cache`.

    A head's columns are as many as the longest row needs and a few to spare, and all of them are read: where short rows
    lie without a gap behind each other, a processor fetches the next one while it works on this.

    Args:
        num_layers: Layers.
        num_kv_heads: K.
        head_size: D.
        num_columns: Tokens of the longest row that will be decoded. A row's further tokens overwrite its last.
        like: Of the dtype and on the device of the cache.
    """

    def __init__(self, num_layers: int, num_kv_heads: int, head_size: int, num_columns: int, like: Tensor) -> None:
        # Keys, then values, of each layer: [slots, K, columns, D].
        self._stored = [[like.new_zeros((0, num_kv_heads, 0, head_size)) for _ in "kv"] for _ in range(num_layers)]
        self._most_columns = num_columns
        self._lengths = torch.arange(0, device=like.device)  # [B] tokens of each row when it was rebuilt
        self._num_new = 0  # and since
        self._width = 0  # columns in use
        self._bias: Tensor | None = None  # [B K, columns] minus infinity where a head has no token yet, else 0

    def rebuild(self, keep: Tensor, prompts: list[tuple[Tensor, Tensor]], lengths: Tensor, sources: Tensor) -> None:
        """Lets rows go and takes others in.

        Args:
            keep: Rows that stay, in their new order; only those whose place changes are copied.
            prompts: For each layer the keys and values [P, K, L, D] of prompts that were read, right-aligned.
            lengths: [P] tokens of each prompt.
            sources: [new rows] the prompt of each new row; new rows come behind those that stay.
        """
        self._lengths = torch.cat([self._lengths[keep] + self._num_new, lengths[sources]])
        num_kept, num_rows = len(keep), len(self._lengths)
        self._num_new, self._width = 0, int(self._lengths.max()) if num_rows else 0
        self._bias = None
        moved = (keep != torch.arange(num_kept, device=keep.device)).nonzero().squeeze(-1)
        if len(moved):
            origins = keep[moved]
            for store in self._stores():
                store[moved, :, : self._width] = store[origins, :, : self._width]
        self._reserve(num_rows)
        if len(sources):
            num_columns = prompts[0][0].shape[2]
            first = (num_columns - lengths).unsqueeze(-1)
            columns = (torch.arange(self._width, device=keep.device) + first).clamp_max(num_columns - 1)
            index = columns[:, None, :, None]
            for stored, read in zip(self._stored, prompts, strict=True):
                for store, prompt in zip(stored, read, strict=True):
                    left_aligned = prompt.gather(2, index.expand(-1, prompt.shape[1], -1, prompt.shape[3]))
                    store[num_kept:num_rows, :, : self._width] = left_aligned[sources]

    def begin(self, positions: Tensor) -> None:
        """See `Cache`."""
        num_rows, num_columns = len(positions), self._stored[0][0].shape[2]
        if self._width == num_columns < self._most_columns:
            self._reserve(num_rows)
        if self._bias is None:
            self._new_bias()
        self._width = min(self._width + 1, self._most_columns)  # rows that ended and are still here may run past it
        self._num_new += 1
        self._places = self._starts + positions.unsqueeze(-1)
        self._bias.view(-1).index_fill_(0, self._places.view(-1), 0.0)

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """See `Cache`."""
        num_rows, num_kv_heads, size = keys.shape
        stored_keys, stored_values = self._stored[layer]
        stored_keys.view(-1, size)[self._places] = keys
        stored_values.view(-1, size)[self._places] = values
        num_columns = stored_keys.shape[2]
        if num_columns - self._width > SPARE_COLUMNS:
            num_columns = self._width
        all_keys = stored_keys[:num_rows, :, :num_columns].flatten(0, 1)
        all_values = stored_values[:num_rows, :, :num_columns].flatten(0, 1)
        # The queries that share a head of keys are like several queries of one sequence.
        grouped = queries.reshape(num_rows * num_kv_heads, -1, size)
        bias = self._bias[:, :num_columns].unsqueeze(1)
        scores = torch.baddbmm(bias, grouped, all_keys.transpose(1, 2), alpha=scaling)
        return torch.bmm(scores.softmax(-1), all_values).view(num_rows, -1)

    def _new_bias(self) -> None:
        """Of the rows as they are now; and where, all heads laid flat, the columns of each begin."""
        _, num_kv_heads, num_columns, _ = self._stored[0][0].shape
        device = self._lengths.device
        is_empty = torch.arange(num_columns, device=device) >= (self._lengths + self._num_new).unsqueeze(-1)
        bias = torch.zeros(is_empty.shape, dtype=self._stored[0][0].dtype, device=device)
        self._bias = bias.masked_fill_(is_empty, -torch.inf).repeat_interleave(num_kv_heads, dim=0)
        self._starts = (torch.arange(len(self._bias), device=device) * num_columns).view(-1, num_kv_heads)

    def _stores(self) -> list[Tensor]:
        return [store for stored in self._stored for store in stored]

    def _reserve(self, num_rows: int) -> None:
        """Makes room for so many rows and their next tokens, and gives back what is too much; what is there stays."""
        num_slots, _, old_columns, _ = self._stored[0][0].shape
        num_columns = min(self._width + max(SPARE_COLUMNS, self._width // 8), self._most_columns)
        if num_rows <= num_slots and self._width < old_columns <= 2 * num_columns:
            return
        kept, filled = min(num_rows, num_slots), min(self._width, old_columns)
        for stored in self._stored:
            for number, old in enumerate(stored):
                new = old.new_empty((num_rows, old.shape[1], num_columns, old.shape[3]))
                new[:kept, :, :filled] = old[:kept, :, :filled]
                # Nothing stays uninitialised: a NaN times 0 is a NaN.
                new[:kept, :, filled:] = 0.0
                new[kept:] = 0.0
                stored[number] = new
        self._bias = None


def row_bytes(policy: Policy, num_tokens: int) -> int:
    """Memory that one row takes while it is decoded: keys and values of its tokens, and its logits.

    Counted as if every layer attended to all tokens, which is the most that any does.

    Args:
        policy: The model.
        num_tokens: Longest prompt and completion together.
    """
    config = policy.model.config.get_text_config()
    num_heads = getattr(config, "num_attention_heads", 1)  # some keep a state and have none
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    number = (policy.autocast_dtype or next(policy.model.parameters()).dtype).itemsize
    cached = 2 * config.num_hidden_layers * num_kv_heads * head_size * number
    return num_tokens * cached + LOGIT_COPIES * 4 * config.vocab_size
