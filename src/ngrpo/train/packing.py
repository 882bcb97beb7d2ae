"""What goes together: microbatches of rows that share their prompt, and dense packing of rows that cannot.

Packing puts several whole sequences in a row of a microbatch, where padding would otherwise stand.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from ngrpo.errors import ConfigError
from ngrpo.policy import Policy, TokenBatch, completion_logprobs, pack_rows, pad_rows, shared_tokens
from ngrpo.train.training_rows import TrainingRow

MAX_ROUNDING_NATS = 1e-3
"""Most that a float32 forward pass of another shape may change a log-probability by."""

MAX_NEIGHBOUR_NATS = 1e-5
"""The same in a pass of the same shape, where what is masked is exactly zero: nearly nothing."""


def pack(lengths: Sequence[int], *, capacity: int, window: int) -> list[list[int]]:
    """Chooses what goes into one row together.

    A row is opened by the first sequence that is left. Then, of the next `window` that are left, the longest that still
    fits joins it, until none does. Nothing is cut, and nothing waits longer than until it is first in line.

    Args:
        lengths: Of the sequences, in tokens.
        capacity: Of a row, in tokens. A sequence that is longer has a row of its own.
        window: How many to look ahead, at least 1.

    Returns:
        Places in `lengths`, every one once, row by row.

    Example:
        >>> pack([7, 5, 3, 2, 5], capacity=10, window=3)
        [[0, 2], [1, 4], [3]]
        >>> pack([7, 5, 3, 2, 5], capacity=10, window=1)
        [[0], [1, 2, 3], [4]]
    """
    left = list(range(len(lengths)))
    rows = []
    while left:
        row = [left.pop(0)]
        room = capacity - lengths[row[0]]
        while fitting := [place for place in left[:window] if lengths[place] <= room]:
            chosen = max(fitting, key=lambda place: lengths[place])
            left.remove(chosen)
            row.append(chosen)
            room -= lengths[chosen]
        rows.append(row)
    return rows


def packed_microbatches(rows: Sequence[TrainingRow], max_tokens: int, window: int) -> Iterator[list[list[TrainingRow]]]:
    """Cuts rows into microbatches of packed rows whose padded size stays within a token budget.

    A packed row is twice as long as the longest sequence at most: longer ones fill better, but attention costs the
    square of the length.

    Args:
        rows: In any order.
        max_tokens: Budget of one forward pass, padding included. A longer sequence is a microbatch of its own.
        window: See `pack`.
    """
    lengths = [len(row.prompt_ids) + len(row.completion_ids) for row in rows]
    packed = pack(lengths, capacity=min(2 * max(lengths, default=0), max_tokens), window=window)
    chunk: list[list[TrainingRow]] = []
    width = 0
    for places in packed:
        length = sum(lengths[place] for place in places)
        if chunk and (len(chunk) + 1) * max(width, length) > max_tokens:
            yield chunk
            chunk, width = [], 0
        chunk.append([rows[place] for place in places])
        width = max(width, length)
    if chunk:
        yield chunk


def shared_microbatches(rows: Sequence[TrainingRow], max_tokens: int) -> Iterator[tuple[list[TrainingRow], int]]:
    """Cuts rows into microbatches in which every prompt stands once, and no padding.

    Rows of a prompt stay together, as far as the budget reaches. A row without a completion is left out: it has no
    gradient, and nothing to say.

    Args:
        rows: In any order.
        max_tokens: Budget of one forward pass, in real tokens. A row that is longer is a microbatch of its own.

    Yields:
        Rows, and how many tokens their pass has.
    """
    of_prompt: dict[tuple[int, ...], list[TrainingRow]] = {}
    for row in rows:
        if row.completion_ids:
            of_prompt.setdefault(row.prompt_ids, []).append(row)
    chunk: list[TrainingRow] = []
    num_tokens = 0
    for prompt, members in of_prompt.items():
        # Split only what would be split in any case.
        if chunk and num_tokens + shared_tokens([(prompt, row.completion_ids) for row in members]) > max_tokens:
            yield chunk, num_tokens
            chunk, num_tokens = [], 0
        num_tokens += len(prompt)
        for place, row in enumerate(members):
            # The last token of a completion is read by nobody.
            own = len(row.completion_ids) - 1
            if place > 0 and num_tokens + own > max_tokens:
                yield chunk, num_tokens
                chunk, num_tokens = [], len(prompt)
            chunk.append(row)
            num_tokens += own
    if chunk:
        yield chunk, num_tokens


@torch.no_grad()
def check_packing(policy: Policy) -> None:
    """Sees on the model itself that it keeps apart sequences which share a row.

    Attention does, where positions tell it to; a recurrent layer, a convolution over time or positions of the model's
    own making do not. A sequence is read behind either of two others, which must change nothing, and alone.

    Args:
        policy: Read in the precision of its weights; not changed.

    Raises:
        ConfigError: They are not kept apart.
    """
    policy = replace(policy, autocast_dtype=None)
    special = {policy.pad_token_id, *policy.eos_token_ids}
    ordinary = [token for token in range(len(policy.tokenizer)) if token not in special][:1000]
    ids = [ordinary[(7 * place + 3) % len(ordinary)] for place in range(30)]
    neighbours, pair = [(ids[:5], ids[5:9]), (ids[9:14], ids[14:18])], (ids[18:21], ids[21:])
    one, other = (
        _logprobs(policy, pack_rows([[each, pair]], pad_token_id=policy.pad_token_id, device=policy.device))[4:]
        for each in neighbours
    )
    alone = _logprobs(policy, pad_rows(*zip(pair), pad_token_id=policy.pad_token_id, device=policy.device))
    neighbour_nats, gap_nats = float((one - other).abs().max()), float((one - alone).abs().max())
    if not (neighbour_nats <= MAX_NEIGHBOUR_NATS and gap_nats <= MAX_ROUNDING_NATS):
        raise ConfigError(
            f"update.packing_window: {type(policy.model).__name__} does not keep apart sequences that share a row (a "
            f"log-probability changes by {max(neighbour_nats, gap_nats):.3g} nats), so the update would be wrong. Set "
            "it to none."
        )


def _logprobs(policy: Policy, batch: TokenBatch) -> torch.Tensor:
    """[number of completion tokens] one behind the other."""
    values, _ = completion_logprobs(policy, batch, temperature=1.0)
    return values[batch.mask]
