"""Drawing one token per row from its logits, by inverse CDF: one uniform number each. Axes: B rows, V vocabulary."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ngrpo.rollout.engine import Sampling

BLOCK = 64
"""Tokens summed up together before one of them is drawn."""

CACHED_NUMBERS = 2**20
"""Logits that a processor keeps at hand while it goes over them several times: more are drawn from in parts."""


def draw(logits: Tensor, randoms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """Draws one token per row by inverse CDF.

    Args:
        logits: [B, V], float32 or float64.
        randoms: [B], uniform in [0, 1).
        sampling: Temperature and truncation.

    Returns:
        Token ids [B], and of the distribution they were drawn from (temperature and truncation included) their
        log-probabilities [B] and its entropy [B], in nats. Both are NaN where logits are NaN, plus infinity, or minus
        infinity for every token: whether they are is not asked here, a GPU would have to be waited for.
    """
    if logits.device.type == "cpu" and len(logits) > 1 and logits.numel() > CACHED_NUMBERS:
        rows = max(1, CACHED_NUMBERS // logits.shape[-1])
        parts = [draw(*part, sampling) for part in zip(logits.split(rows), randoms.split(rows), strict=True)]
        tokens, logprobs, entropies = (torch.cat(each) for each in zip(*parts, strict=True))
        return tokens, logprobs, entropies
    if sampling.temperature == 0.0:
        highest, tokens = logits.max(-1)
        certain = highest - highest  # NaN, where it is not finite, wins every maximum
        return tokens, certain, certain
    if sampling.temperature != 1.0:
        logits = logits / sampling.temperature
    logits = truncated(logits, sampling.top_k, sampling.top_p)
    centred = logits - logits.amax(-1, keepdim=True)
    weights = centred.exp()
    tokens, total = _inverse_cdf(weights, randoms)
    log_total = total.log().to(logits.dtype)
    logprobs = centred.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - log_total
    # 0 weight times minus infinity is no share of the entropy. In place: the vocabulary's memory is what costs.
    shares = weights.mul_(centred.clamp_min_(torch.finfo(logits.dtype).min)).sum(-1)
    return tokens, logprobs, log_total - shares / total.to(logits.dtype)


def _inverse_cdf(weights: Tensor, randoms: Tensor) -> tuple[Tensor, Tensor]:
    """[B, V] unnormalised probabilities and [B] uniform numbers -> tokens [B] and the sums of the weights [B].

    In two steps, block and token in it: only the blocks' sums and one block of each row are summed up one by one, in
    the dtype of the uniform numbers.
    """
    spare = -weights.shape[-1] % BLOCK
    blocks = (F.pad(weights, (0, spare)) if spare else weights).unflatten(-1, (-1, BLOCK))
    sums = blocks.sum(-1).to(randoms.dtype)
    cumulative = sums.cumsum(-1)
    total = cumulative[:, -1:]
    # Just below the total, so that rounding cannot choose a token past the last one with any probability.
    target = torch.minimum(randoms.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    block = torch.searchsorted(cumulative, target, right=True).clamp_max(cumulative.shape[-1] - 1)  # NaN is past all
    inner = blocks.gather(1, block.unsqueeze(-1).expand(-1, -1, BLOCK)).squeeze(1).cumsum(-1, dtype=randoms.dtype)
    # The share of its block that is left to go, of the block as it is summed up token by token: rounding between the
    # two sums then neither loses a thin tail nor chooses past the last token with any probability.
    chosen = sums.gather(-1, block)
    share = (target - (cumulative.gather(-1, block) - chosen)).clamp_min(0.0) / chosen
    rest = torch.minimum(share * inner[:, -1:], torch.nextafter(inner[:, -1:], torch.zeros_like(share)))
    within = torch.searchsorted(inner, rest, right=True)
    return (block * BLOCK + within).squeeze(-1).clamp_max(weights.shape[-1] - 1), total.squeeze(-1)


def truncated(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Sets the logits outside the k likeliest tokens, then outside the nucleus, to minus infinity.

    The nucleus is the smallest set of likeliest tokens whose probability reaches `top_p`; it is never empty. Ties at
    the k-th place go to the lower token ids, so exactly k tokens stay.

    Args:
        logits: [B, V].
        top_k: 0 keeps all.
        top_p: 1 keeps all.
    """
    if top_k == 0 and top_p >= 1.0:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    if 0 < top_k < logits.shape[-1]:
        ordered[:, top_k:] = -torch.inf
    if top_p < 1.0:
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, order, ordered)
