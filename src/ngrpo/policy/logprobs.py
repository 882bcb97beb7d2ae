"""Log-probabilities and entropies of given completions under a model.

Axes: N rows, L prompt positions (left-padded), T completion positions (right-padded), V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ngrpo.policy.load import Policy


@dataclass(frozen=True)
class TokenBatch:
    """Rows padded so that every completion starts at the same column.

    Attributes:
        input_ids: [N, L + T].
        attention_mask: [N, L + T], 1 on real tokens.
        position_ids: [N, L + T], counted from each row's first real token.
        completion_ids: [N, T].
        mask: [N, T] bool, true on real completion tokens.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    completion_ids: Tensor
    mask: Tensor


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


def completion_logprobs(
    policy: Policy, batch: TokenBatch, *, temperature: float, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of every completion token, and the entropy of the distribution it was drawn from.

    Only completion positions meet the vocabulary. Softmax in float32 at least, whatever the forward pass ran in.

    Args:
        policy: The model.
        batch: From `pad_rows`.
        temperature: The sampling temperature; logits are divided by it.
        with_entropy: Also return entropies.

    Returns:
        Log-probabilities [N, T] in nats, and entropies [N, T] in nats or None. Masked positions hold numbers without
        meaning.
    """
    num_positions = batch.completion_ids.shape[1]
    if num_positions == 0:
        empty = torch.zeros(batch.completion_ids.shape, device=batch.input_ids.device)
        return empty, empty if with_entropy else None
    with policy.arithmetic():
        logits = policy.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
            logits_to_keep=num_positions + 1,
        ).logits
    # The last num_positions + 1 outputs predict the completion and one token beyond it.
    logits = logits[:, -num_positions - 1 : -1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    log_normaliser = logits.logsumexp(-1)
    logprobs = logits.gather(-1, batch.completion_ids.unsqueeze(-1)).squeeze(-1) - log_normaliser
    if not with_entropy:
        return logprobs, None
    probabilities = (logits - log_normaliser.unsqueeze(-1)).exp()
    return logprobs, log_normaliser - (probabilities * logits).sum(-1)
