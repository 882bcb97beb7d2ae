"""The forward pass over real tokens only: every distinct prompt once, then its completions, in one long row.

Linear layers, norms and embeddings see [1, n] tokens and no padding; a prompt is read once, however many completions
it has. The model's own modules run, so adapters, biases and gradient checkpointing work as ever. Only attention knows
which token belongs where: it is replaced, through transformers' AttentionInterface, by a function that gathers queries,
keys and values into padded blocks of rows of like length. The slow twin is the padded pass of `logprobs.py`.

The last token of a completion predicts nothing that is asked for, and is left out.

Axes: n tokens of the row, M completion tokens, B rows of a block, Q queries and S keys of a row, H query heads, K
key-value heads, D numbers per head, d width of the model.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ngrpo.policy.head import body_of, has_plain_head, logprobs_of_states
from ngrpo.policy.load import Policy

ATTENTION = "ngrpo_shared_prefix"
"""Name under which transformers finds the attention of this module."""

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Values of `config.model_type` whose layers mix tokens in attention only."""

STATIC_ROPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Kinds of rotary embedding that turn a token by its position alone, whatever else is in the pass."""

MAX_STRETCH = 1.3
"""A row of a block has at most so many times the queries of the block's shortest, and `SPARE_QUERIES` more."""

SPARE_QUERIES = 8

WHOLE_ROW_DEVICES = frozenset({"cuda"})
"""Where kernels that take no mask are so much faster that each row attends from its prompt on, results there unused."""


@dataclass(frozen=True)
class _Block:
    """Rows of like length, whose attention is computed together.

    Attributes:
        shape: B, Q and S.
        bias: [B or 1, 1, Q, S] added to the scores, 0 or minus infinity; None where each query sees itself and what
            stands before it, Q being S.
    """

    shape: tuple[int, int, int]
    bias: Tensor | None


@dataclass(frozen=True)
class SharedBatch:
    """Prompts and their completions in one row, and who attends to whom.

    Attributes:
        input_ids: [1, n].
        position_ids: [1, n], counted from the first token of each prompt.
        predicted_at: [M] the places whose outputs predict the completion tokens.
        completion_ids: [M] these tokens, completion behind completion in the order given.
        lengths: Tokens of each completion.
        blocks: The rows that attention works on.
        queries_at: [sum of B Q] the place of each query of the blocks, one block behind the other; padding is place 0.
        keys_at: [sum of B S] the same for keys and values.
        taken_at: [n] where in `queries_at` each token's own result is.
    """

    input_ids: Tensor
    position_ids: Tensor
    predicted_at: Tensor
    completion_ids: Tensor
    lengths: tuple[int, ...]
    blocks: tuple[_Block, ...]
    queries_at: Tensor
    keys_at: Tensor
    taken_at: Tensor


def can_share_prefix(policy: Policy) -> bool:
    """Whether `shared_states` is exact for this model: its family is known, and its attention sees all that is before.

    Args:
        policy: The model, or an adapter around one.
    """
    body = body_of(policy)
    config = body.config
    kind = getattr(config, "model_type", None)
    if kind not in FAMILIES or not has_plain_head(policy):
        return False
    # A class that is not the library's own may compute anything under a known name.
    is_the_librarys = type(body).__module__ == f"transformers.models.{kind}.modeling_{kind}"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    return is_the_librarys and rope in STATIC_ROPES and not _has_window(body)


def shared_tokens(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> int:
    """How many tokens the forward pass over some prompts and completions has.

    Example:
        >>> shared_tokens([((5, 6, 7), (1, 2)), ((5, 6, 7), (3,)), ((5,), (4, 4, 4))])
        7
    """
    prompts = {tuple(prompt) for prompt, _ in pairs}
    return sum(map(len, prompts)) + sum(max(0, len(completion) - 1) for _, completion in pairs)


def share_rows(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], policy: Policy) -> SharedBatch:
    """Lays prompts and completions out in one row.

    Args:
        pairs: Token ids of each prompt, not empty, and of its completion, which may be; in any order.
        policy: Tells where the tensors go, and their precision.
    """
    device, dtype = policy.device, next(policy.model.parameters()).dtype
    ids: list[int] = []
    positions: list[int] = []
    starts: dict[tuple[int, ...], int] = {}
    predicted_at: list[int] = []
    rows: list[_Row] = []
    for prompt, completion in ((tuple(prompt), completion) for prompt, completion in pairs):
        if prompt not in starts:
            starts[prompt] = len(ids)
            ids += prompt
            positions += range(len(prompt))
        start, own = len(ids), max(0, len(completion) - 1)
        ids += completion[:own]
        positions += range(len(prompt), len(prompt) + own)
        if completion:
            predicted_at += [starts[prompt] + len(prompt) - 1, *range(start, start + own)]
        if own:
            rows.append(_Row(range(starts[prompt], starts[prompt] + len(prompt)), range(start, start + own)))
    prompts = [_Row(range(0), range(start, start + len(prompt))) for prompt, start in starts.items()]
    tokens = [torch.tensor(completion) for _, completion in pairs if completion]
    return SharedBatch(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        torch.tensor(predicted_at, dtype=torch.long, device=device),
        (torch.cat(tokens) if tokens else torch.zeros(0, dtype=torch.long)).to(device),
        tuple(len(completion) for _, completion in pairs),
        *_laid_out(prompts, rows, len(ids), device=device, dtype=dtype),
    )


@contextlib.contextmanager
def shared_states(policy: Policy, batch: SharedBatch) -> Iterator[Tensor]:
    """What the output layer makes each completion token from. The backward pass has to run before the context closes.

    (Gradient checkpointing runs the layers again in backward, and they must find the same attention.)

    Args:
        policy: One that `can_share_prefix` accepts.
        batch: From `share_rows`.

    Yields:
        [M, d] states behind the last norm.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attention)
    body = body_of(policy)
    before = body.config._attn_implementation
    body.config._attn_implementation = ATTENTION
    try:
        with policy.arithmetic():
            hidden = body(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                use_cache=False,
                shared_batch=batch,
            ).last_hidden_state
        yield hidden.squeeze(0).index_select(0, batch.predicted_at)
    finally:
        body.config._attn_implementation = before


@torch.no_grad()
def shared_logprobs(policy: Policy, batch: SharedBatch, *, temperature: float) -> Tensor:
    """[M] log-probability of every completion token, nats, without gradient.

    Args:
        policy: One that `can_share_prefix` accepts.
        batch: From `share_rows`.
        temperature: The sampling temperature; logits are divided by it.
    """
    with shared_states(policy, batch) as states, policy.arithmetic():
        return logprobs_of_states(
            policy.model.get_output_embeddings(),
            states,
            batch.completion_ids,
            temperature=temperature,
            with_entropy=False,
        )[0]


@dataclass(frozen=True)
class _Row:
    """One row of attention: the places of a completion's tokens behind those of its prompt, or of a prompt alone."""

    context: range
    own: range


def _laid_out(
    prompts: list[_Row], rows: list[_Row], num_tokens: int, *, device: torch.device, dtype: torch.dtype
) -> tuple[tuple[_Block, ...], Tensor, Tensor, Tensor]:
    """Blocks of prompts, each attending to itself, and of completions, attending to their prompt and to themselves."""
    is_whole = device.type in WHOLE_ROW_DEVICES
    blocks = []
    queries_at: list[int] = []
    keys_at: list[int] = []
    taken_at = [0] * num_tokens
    for part in (*_like_length(prompts), *_like_length(rows)):
        skipped = [0 if is_whole else len(row.context) for row in part]
        num_keys = max(len(row.context) + len(row.own) for row in part)
        num_queries = max(len(row.context) + len(row.own) - skip for row, skip in zip(part, skipped, strict=True))
        for row, skip in zip(part, skipped, strict=True):
            first = len(queries_at) + len(row.context) - skip
            taken_at[row.own.start : row.own.stop] = range(first, first + len(row.own))
            places = [*row.context, *row.own]
            queries_at += places[skip:] + [0] * (num_queries - len(places) + skip)
            keys_at += places + [0] * (num_keys - len(places))
        bias = _bias(skipped, num_queries, num_keys, dtype).to(device) if any(skipped) else None
        blocks.append(_Block((len(part), num_queries, num_keys), bias))
    return (
        tuple(blocks),
        torch.tensor(queries_at, device=device),
        torch.tensor(keys_at, device=device),
        torch.tensor(taken_at, device=device),
    )


def _bias(skipped: list[int], num_queries: int, num_keys: int, dtype: torch.dtype) -> Tensor:
    """[B, 1, Q, S], or [1, 1, Q, S] where all rows are alike: a query sees as many keys as its row skips, and its own.

    Queries of padding see keys of padding, so that no softmax is over nothing.
    """
    before = torch.tensor(skipped[:1] if len(set(skipped)) == 1 else skipped).view(-1, 1, 1, 1)
    is_seen = torch.arange(num_keys) <= before + torch.arange(num_queries).view(-1, 1)
    return torch.zeros(is_seen.shape, dtype=dtype).masked_fill(~is_seen, float("-inf"))


def _like_length(rows: list[_Row]) -> Iterator[list[_Row]]:
    """Cuts rows into runs of like length, shortest first."""
    run: list[_Row] = []
    for row in sorted(rows, key=lambda row: (len(row.own), len(row.context))):
        if run and len(row.own) > MAX_STRETCH * len(run[0].own) + SPARE_QUERIES:
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared_batch: SharedBatch,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in place of its own attention: [1, H, n, D] and [1, K, n, D] twice -> [1, n, H, D]."""
    num_kv_heads, size = key.shape[1], key.shape[3]
    # Norms and rotations of queries and keys may have left the precision of autocast, which the products go back to.
    query, key = query.to(value.dtype), key.to(value.dtype)
    keys_values = torch.cat([key, value], dim=1)[0].transpose(0, 1).flatten(1)
    queries = query[0].transpose(0, 1).flatten(1).index_select(0, shared_batch.queries_at)
    keys_values = keys_values.index_select(0, shared_batch.keys_at)
    query_sizes = [rows * num_queries for block in shared_batch.blocks for rows, num_queries, _ in [block.shape]]
    key_sizes = [rows * num_keys for block in shared_batch.blocks for rows, _, num_keys in [block.shape]]
    results = []
    for block, block_queries, block_keys in zip(
        shared_batch.blocks, queries.split(query_sizes), keys_values.split(key_sizes), strict=True
    ):
        rows, num_queries, num_keys = block.shape
        keys, values = block_keys.view(rows, num_keys, 2, num_kv_heads, size).unbind(2)
        result = F.scaled_dot_product_attention(
            block_queries.view(rows, num_queries, -1, size).transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=None if block.bias is None else block.bias.to(value.dtype),
            dropout_p=dropout,
            is_causal=block.bias is None,
            scale=scaling,
            enable_gqa=True,
        )
        results.append(result.transpose(1, 2).reshape(rows * num_queries, -1))
    taken = torch.cat(results).index_select(0, shared_batch.taken_at)
    return taken.view(1, len(taken), -1, size), None


def _has_window(body: Any) -> bool:
    """Whether some layer may not see everything that stands before a token, within the positions it was made for."""
    config = body.config
    # Some families keep a window in each layer, others have one for all.
    shared_window = getattr(config, "sliding_window", None)
    windows = [getattr(layer.self_attn, "sliding_window", shared_window) for layer in body.layers]
    return any(window is not None and window < config.max_position_embeddings for window in windows)
