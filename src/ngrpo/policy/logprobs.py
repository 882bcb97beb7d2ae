"""Log-probabilities and entropies of given completions under a model.

Axes: N completions, L prompt positions (left-padded), T completion positions (right-padded), V vocabulary. Packed rows
hold several prompts and completions each: R of them, W positions wide.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ngrpo.errors import ModelError
from ngrpo.policy.load import Policy


@dataclass(frozen=True)
class TokenBatch:
    """Sequences side by side, as the model reads them.

    Padded: one in a row, and every completion starts at the same column, so that the row is L + T wide. Packed: several
    in a row.

    Attributes:
        input_ids: [N, L + T], or [R, W].
        attention_mask: Of the same shape, 1 on real tokens.
        position_ids: Of the same shape, counted from each sequence's first token.
        completion_ids: [N, T].
        mask: [N, T] bool, true on real completion tokens.
        predicted_at: [number of completion tokens] where packed: the places in `input_ids`, laid out flat, whose
            outputs predict the completion tokens, in the order of `mask`.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    completion_ids: Tensor
    mask: Tensor
    predicted_at: Tensor | None = None


def pad_rows(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, pad_token_id: int, device: torch.device
) -> TokenBatch:
    """Pads prompts on the left and completions on the right.

    Args:
        prompts: Token ids of N prompts.
        completions: Token ids of their completions; may be empty.
        pad_token_id: Fills the rest.
        device: Where the tensors go.
    """
    width = max(map(len, prompts))
    length = max(map(len, completions))
    num_rows = len(prompts)
    ids = torch.full((num_rows, width + length), pad_token_id)
    attention = torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        start, end = width - len(prompt), width + len(completion)
        ids[row, start:end] = torch.tensor([*prompt, *completion])
        attention[row, start:end] = 1
    positions = (attention.cumsum(-1) - 1).clamp_min(0)
    mask = attention[:, width:].bool()
    return TokenBatch(
        ids.to(device), attention.to(device), positions.to(device), ids[:, width:].to(device), mask.to(device)
    )


def pack_rows(
    rows: Sequence[Sequence[tuple[Sequence[int], Sequence[int]]]], *, pad_token_id: int, device: torch.device
) -> TokenBatch:
    """Puts several prompts with their completions into each row, one behind the other.

    Positions start anew with each of them, by which the model keeps them apart: they are read without a mask, and
    attention between them is cut where positions restart.

    Args:
        rows: Token ids of the prompts and completions that share each of R rows.
        pad_token_id: Fills rows up to the longest.
        device: Where the tensors go.

    Returns:
        N is the number of completions, in the order given: row by row.
    """
    width = max(sum(len(prompt) + len(completion) for prompt, completion in row) for row in rows)
    completions = [completion for row in rows for _, completion in row]
    ids = torch.full((len(rows), width), pad_token_id)
    # Where it is padded every position is the first, so that each of them is a sequence of its own.
    attention, positions = torch.zeros_like(ids), torch.zeros_like(ids)
    predicted_at: list[int] = []
    for line, row in enumerate(rows):
        start = 0
        for prompt, completion in row:
            end = start + len(prompt) + len(completion)
            ids[line, start:end] = torch.tensor([*prompt, *completion])
            attention[line, start:end] = 1
            positions[line, start:end] = torch.arange(end - start)
            predicted_at += range(line * width + start + len(prompt) - 1, line * width + end - 1)
            start = end
    completion_ids = torch.full((len(completions), max(map(len, completions))), pad_token_id)
    mask = torch.zeros(completion_ids.shape, dtype=torch.bool)
    for place, completion in enumerate(completions):
        completion_ids[place, : len(completion)] = torch.tensor(completion)
        mask[place, : len(completion)] = True
    return TokenBatch(
        ids.to(device), attention.to(device), positions.to(device), completion_ids.to(device), mask.to(device),
        torch.tensor(predicted_at, device=device),
    )  # fmt: skip


def completion_logprobs(
    policy: Policy, batch: TokenBatch, *, temperature: float, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of every completion token, and the entropy of the distribution it was drawn from.

    Only completion positions meet the vocabulary. Softmax in float32 at least, whatever the forward pass ran in.

    Args:
        policy: The model.
        batch: From `pad_rows` or `pack_rows`.
        temperature: The sampling temperature; logits are divided by it.
        with_entropy: Also return entropies.

    Returns:
        Log-probabilities [N, T] in nats, and entropies [N, T] in nats or None. Masked positions hold numbers without
        meaning.
    """
    if batch.completion_ids.shape[1] == 0:
        empty = torch.zeros(batch.completion_ids.shape, device=batch.input_ids.device)
        return empty, empty if with_entropy else None
    if batch.predicted_at is None:
        return _logprobs(_padded_logits(policy, batch, temperature), batch.completion_ids, with_entropy)
    logits = _packed_logits(policy, batch, batch.predicted_at, temperature)
    logprobs, entropies = _logprobs(logits, batch.completion_ids[batch.mask], with_entropy)
    return spread(logprobs, batch.mask), None if entropies is None else spread(entropies, batch.mask)


@torch.no_grad()
def completion_states(
    policy: Policy, batch: TokenBatch, *, temperature: float, vocabulary: Tensor
) -> tuple[Tensor, Tensor]:
    """What the output layer makes each completion token from, and probabilities of some tokens at its place.

    Args:
        policy: The model; not changed.
        batch: From `pad_rows`.
        temperature: The sampling temperature; logits are divided by it.
        vocabulary: [K] token ids.

    Returns:
        Inputs of the output layer [N, T, d], behind the last norm, and probabilities [N, T, K] under the softmax of the
        whole vocabulary, both float32 at least. Masked positions hold numbers without meaning.

    Raises:
        ModelError: The model does not tell its output layer.
    """
    seen: list[Tensor] = []

    def keep(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden

    with _before_output_layer(policy, keep):
        logits = _padded_logits(policy, batch, temperature)
    hidden = seen[-1][:, -batch.completion_ids.shape[1] - 1 : -1]
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    return hidden, (logits[..., vocabulary] - logits.logsumexp(-1, keepdim=True)).exp()


def _padded_logits(policy: Policy, batch: TokenBatch, temperature: float) -> Tensor:
    """[N, T, V] what predicts each completion position, over the temperature."""
    num_positions = batch.completion_ids.shape[1]
    with policy.arithmetic():
        logits = policy.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
            logits_to_keep=num_positions + 1,
        ).logits
    # The last num_positions + 1 outputs predict the completion and one token beyond it.
    return _tempered(logits[:, -num_positions - 1 : -1], temperature)


def _packed_logits(policy: Policy, batch: TokenBatch, predicted_at: Tensor, temperature: float) -> Tensor:
    """[number of completion tokens, V] what predicts each of them, over the temperature."""
    with (
        # Places of prompts and of padding never meet the vocabulary.
        _before_output_layer(policy, lambda hidden: hidden.flatten(0, 1)[predicted_at].unsqueeze(0)),
        policy.arithmetic(),
    ):
        logits = policy.model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits
    return _tempered(logits.squeeze(0), temperature)


@contextlib.contextmanager
def _before_output_layer(policy: Policy, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While open, what the model hands to its output layer goes through `change` first."""
    layer = policy.model.get_output_embeddings()
    if layer is None:
        raise ModelError(
            f"{type(policy.model).__name__} does not tell its output layer (get_output_embeddings), which this method "
            "or update.packing_window reads. Choose another model, or do without."
        )
    handle = layer.register_forward_pre_hook(lambda _, inputs: (change(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature


def _logprobs(logits: Tensor, token_ids: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
    """[..., V] and [...] -> log-probabilities [...] of these tokens, and entropies [...] where asked for."""
    log_normaliser = logits.logsumexp(-1)
    logprobs = logits.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1) - log_normaliser
    if not with_entropy:
        return logprobs, None
    probabilities = (logits - log_normaliser.unsqueeze(-1)).exp()
    return logprobs, log_normaliser - (probabilities * logits).sum(-1)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """[number of completion tokens], one for each true place of the mask [N, T] -> [N, T], 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)
