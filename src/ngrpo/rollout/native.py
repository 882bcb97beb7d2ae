"""The default engine: batched sampling with a KV cache on the model's own forward pass.

Each distinct prompt is read once and its cache shared out to its samples; finished rows leave the batch as they end;
tokens are drawn by inverse CDF, one uniform number each. Axes: P distinct prompts, B rows being decoded, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ngrpo.errors import Interrupted, ModelError, NumericsError
from ngrpo.policy import Policy, pad_rows
from ngrpo.rollout.engine import SampleRequest, Sampling, uniforms
from ngrpo.types import Completion

RETIRE_FRAC = 0.125
"""Share of finished rows at which the batch is compacted: copying the cache costs about as much as carrying them."""


class NativeEngine:
    """Samples from a policy on its own device.

    Args:
        policy: The model; always the current weights.
        max_rows: Completions decoded at the same time; bounds the cache's memory and changes nothing else.
    """

    def __init__(self, policy: Policy, *, max_rows: int = 256) -> None:
        self.policy = policy
        self.max_rows = max_rows

    def sample(
        self,
        requests: Sequence[SampleRequest],
        sampling: Sampling,
        *,
        on_progress: Callable[[int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Completion]:
        """Samples every request; see `Engine.sample`.

        Raises:
            Interrupted: `should_stop` said so.
            ModelError: A prompt and its completion do not fit into the model, or the model keeps no cache.
            NumericsError: The model's logits are not finite.
        """
        self._check_room(requests, sampling)
        # Prompts of like length side by side need little padding; the order of a prompt's samples is kept.
        order = sorted(range(len(requests)), key=lambda index: len(requests[index].prompt.token_ids))
        completions: list[Completion | None] = [None] * len(requests)
        self.policy.model.eval()
        for start in range(0, len(order), self.max_rows):
            chosen = order[start : start + self.max_rows]
            chunk = self._decode([requests[index] for index in chosen], sampling, should_stop)
            for index, completion in zip(chosen, chunk, strict=True):
                completions[index] = completion
            if on_progress is not None:
                on_progress(len(chosen))
        return completions  # type: ignore[return-value]

    def _check_room(self, requests: Sequence[SampleRequest], sampling: Sampling) -> None:
        limit = self.policy.max_positions
        longest = max(requests, key=lambda request: len(request.prompt.token_ids), default=None)
        if limit is None or longest is None:
            return
        num_tokens = len(longest.prompt.token_ids)
        if num_tokens + sampling.max_completion_tokens > limit:
            raise ModelError(
                f"prompt {longest.prompt.id!r} has {num_tokens} tokens; with {sampling.max_completion_tokens} of a "
                f"completion that is more than the {limit} the model was made for. Shorten either."
            )

    @torch.inference_mode()
    def _decode(
        self, requests: Sequence[SampleRequest], sampling: Sampling, should_stop: Callable[[], bool] | None
    ) -> list[Completion]:
        policy, device = self.policy, self.policy.device
        state = self._prefill(requests)
        num_rows, limit = len(requests), sampling.max_completion_tokens
        randoms = torch.from_numpy(uniforms([request.key for request in requests], limit))
        randoms = randoms.to(device, _cumulative_dtype(device))
        eos = torch.tensor(policy.eos_token_ids, device=device)
        tokens = torch.full((num_rows, limit), policy.pad_token_id, device=device)
        logprobs = torch.zeros((num_rows, limit), dtype=state.logits.dtype, device=device)
        entropies = torch.zeros_like(logprobs)
        lengths = torch.full((num_rows,), limit, device=device)
        rows = torch.arange(num_rows, device=device)  # where each row being decoded goes
        running = torch.ones(num_rows, dtype=torch.bool, device=device)
        for position in range(limit):
            if should_stop is not None and should_stop():
                raise Interrupted("sampling was asked to stop")
            drawn, logprob, entropy = draw(state.logits, randoms[rows, position], sampling)
            tokens[rows, position], logprobs[rows, position] = drawn, logprob
            entropies[rows, position] = entropy.where(running, 0.0)  # rows that ended and are still here
            ended = running & torch.isin(drawn, eos)
            lengths[rows[ended]] = position + 1
            running &= ~ended
            num_running = int(running.sum())
            if num_running == 0 or position + 1 == limit:
                break
            if num_running <= (1.0 - RETIRE_FRAC) * len(rows):
                keep = running.nonzero().squeeze(-1)
                state.select(keep)
                rows, running, drawn = rows[keep], running[keep], drawn[keep]
            state.advance(policy, drawn)
        return self._completions(tokens, logprobs, entropies, lengths)

    def _prefill(self, requests: Sequence[SampleRequest]) -> "_DecodeState":
        """Reads each distinct prompt once, then gives every request its own row of the cache."""
        policy = self.policy
        place: dict[tuple[int, ...], int] = {}
        for request in requests:
            place.setdefault(request.prompt.token_ids, len(place))
        batch = pad_rows(list(place), [()] * len(place), pad_token_id=policy.pad_token_id, device=policy.device)
        is_padded = not bool(batch.attention_mask.all())
        with policy.arithmetic():
            output = policy.model(
                input_ids=batch.input_ids,
                # Without padding no mask is needed, and attention without one is faster.
                attention_mask=batch.attention_mask if is_padded else None,
                position_ids=batch.position_ids,
                use_cache=True,
                logits_to_keep=1,
            )
        if getattr(output, "past_key_values", None) is None:
            raise ModelError(
                f"{type(policy.model).__name__} keeps no key-value cache, which the native engine decodes with. "
                "Give a model with attention."
            )
        state = _DecodeState(
            cache=output.past_key_values,
            logits=_float_logits(output.logits),
            attention_mask=batch.attention_mask if is_padded else None,
            next_position=batch.position_ids[:, -1] + 1,
        )
        state.select(torch.tensor([place[request.prompt.token_ids] for request in requests], device=policy.device))
        return state

    def _completions(self, tokens: Tensor, logprobs: Tensor, entropies: Tensor, lengths: Tensor) -> list[Completion]:
        tokenizer, eos = self.policy.tokenizer, set(self.policy.eos_token_ids)
        means = (entropies.sum(-1) / lengths).tolist()
        sizes = lengths.tolist()
        ids = [row[:size] for row, size in zip(tokens.tolist(), sizes, strict=True)]
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [
            Completion(
                token_ids=tuple(row),
                logprobs=tuple(row_logprobs[:size]),
                text=text,
                finish_reason="eos" if row[-1] in eos else "length",
                entropy_nats=entropy,
            )
            for row, row_logprobs, size, text, entropy in zip(ids, logprobs.tolist(), sizes, texts, means, strict=True)
        ]


@dataclass
class _DecodeState:
    """What the next token of each row depends on."""

    cache: Any
    logits: Tensor  # [B, V], float32 at least
    attention_mask: Tensor | None  # [B, tokens so far]; None where nothing is padded
    next_position: Tensor  # [B]

    def select(self, rows: Tensor) -> None:
        """Keeps (or repeats) these rows."""
        # Not batch_select_indices, which layers with a recurrent state lack.
        self.cache.reorder_cache(rows)
        self.logits = self.logits[rows]
        self.next_position = self.next_position[rows]
        if self.attention_mask is not None:
            self.attention_mask = self.attention_mask[rows]

    def advance(self, policy: Policy, tokens: Tensor) -> None:
        """Feeds one token to each row."""
        if self.attention_mask is not None:
            ones = torch.ones((len(tokens), 1), dtype=self.attention_mask.dtype, device=tokens.device)
            self.attention_mask = torch.cat([self.attention_mask, ones], dim=1)
        with policy.arithmetic():
            output = policy.model(
                input_ids=tokens.unsqueeze(-1),
                attention_mask=self.attention_mask,
                position_ids=self.next_position.unsqueeze(-1),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self.cache = output.past_key_values
        self.logits = _float_logits(output.logits)
        self.next_position = self.next_position + 1


def draw(logits: Tensor, randoms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """Draws one token per row by inverse CDF.

    Args:
        logits: [B, V], float32 or float64.
        randoms: [B], uniform in [0, 1).
        sampling: Temperature and truncation.

    Returns:
        Token ids [B], and of the distribution they were drawn from (temperature and truncation included) their
        log-probabilities [B] and its entropy [B], in nats.

    Raises:
        NumericsError: Logits are NaN, plus infinity, or minus infinity for every token.
    """
    if sampling.temperature == 0.0:
        highest, tokens = logits.max(-1)
        _require_finite(highest)  # NaN wins every maximum
        certain = torch.zeros_like(highest)
        return tokens, certain, certain
    logprobs = torch.log_softmax(truncated(logits / sampling.temperature, sampling.top_k, sampling.top_p), dim=-1)
    probabilities = logprobs.exp()
    cumulative = probabilities.cumsum(-1, dtype=randoms.dtype)
    total = cumulative[:, -1:]
    _require_finite(total)
    # Just below the total, so that rounding cannot choose a token past the last one with any probability.
    target = torch.minimum(randoms.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, target, right=True)
    entropy = torch.special.entr(probabilities).sum(-1)
    return tokens.squeeze(-1), logprobs.gather(-1, tokens).squeeze(-1), entropy


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


def _require_finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise NumericsError(
            "the model's logits are not finite while sampling: its weights are broken. Go back to an older checkpoint."
        )


def _float_logits(logits: Tensor) -> Tensor:
    last = logits[:, -1]
    return last.to(torch.promote_types(last.dtype, torch.float32))


def _cumulative_dtype(device: torch.device) -> torch.dtype:
    """float64, so that a sum over a large vocabulary loses no tail; Apple's GPUs have none."""
    return torch.float32 if device.type == "mps" else torch.float64
