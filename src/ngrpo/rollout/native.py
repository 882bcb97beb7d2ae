"""The default engine: batched sampling with a key-value cache, on the policy's own weights.

Each distinct prompt is read once and its cache shared out to its samples; finished rows leave the batch as they end
and others take their place; tokens are drawn by inverse CDF, one uniform number each. Models of the Llama family are
decoded by `compact`, all others by their own forward pass. Axes: P distinct prompts, B rows being decoded, V
vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ngrpo.errors import Interrupted, ModelError, NumericsError
from ngrpo.policy import Policy, pad_rows
from ngrpo.record import console
from ngrpo.rollout.cache import row_bytes
from ngrpo.rollout.compact import CompactDecoder, can_decode
from ngrpo.rollout.draw import draw
from ngrpo.rollout.engine import OnCompletions, SampleRequest, Sampling, uniforms
from ngrpo.rollout.graphed import GraphedDecoder
from ngrpo.types import Completion

RETIRE_FRAC = 0.125
"""Share of finished rows at which the batch is compacted: copying the cache costs about as much as carrying them."""

READ_TOKENS = 16384
"""Prompt tokens, padding included, that go through one forward pass at most: bounds its memory."""

TOKENS_PER_LOOK_ON_GPU = 8
"""A GPU is asked only so often which rows have ended: it goes on computing while nobody waits for its answer."""


class NativeEngine:
    """Samples from a policy on its own device.

    Args:
        policy: The model; always the current weights.
        max_rows: Completions decoded at the same time at most.
        cache_gib: Memory for what is kept of them while they are decoded, in GiB; where it does not hold `max_rows` of
            the longest that may come, fewer are decoded at the same time. Neither changes anything else.
    """

    def __init__(self, policy: Policy, *, max_rows: int = 512, cache_gib: float = 4.0) -> None:
        self.policy = policy
        self.max_rows, self.cache_gib = max_rows, cache_gib
        self._fewest_rows = max_rows
        self._graphed: GraphedDecoder | None = None

    def sample(
        self,
        requests: Sequence[SampleRequest],
        sampling: Sampling,
        *,
        on_completions: OnCompletions | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Completion]:
        """Samples every request; see `Engine.sample`.

        Raises:
            Interrupted: `should_stop` said so.
            ModelError: A prompt and its completion do not fit into the model, or the model keeps no cache.
            NumericsError: The model's logits are not finite.
        """
        self._check_room(requests, sampling)
        if not requests:
            return []
        # Prompts of like length side by side need little padding; the samples of one are admitted one after another.
        ids = [request.prompt.token_ids for request in requests]
        order = sorted(range(len(requests)), key=lambda index: (len(ids[index]), ids[index]))
        self.policy.model.eval()
        placed: list[Completion | None] = [None] * len(requests)

        def on_ended(rows: list[int], completions: list[Completion]) -> None:
            indices = [order[row] for row in rows]
            for index, completion in zip(indices, completions, strict=True):
                placed[index] = completion
            if on_completions is not None:
                on_completions(indices, completions)

        self._decode([requests[index] for index in order], sampling, on_ended, should_stop)
        return placed  # type: ignore[return-value]

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

    def _rows_at_once(self, requests: Sequence[SampleRequest], limit: int) -> int:
        """How many completions the memory allows, at least one; says so where that is fewer than before."""
        num_tokens = max(len(request.prompt.token_ids) for request in requests) + limit
        per_row = row_bytes(self.policy, num_tokens)
        num_rows = max(1, min(self.max_rows, int(self.cache_gib * 2**30 / per_row)))
        if num_rows < min(self._fewest_rows, len(requests)):
            self._fewest_rows = num_rows
            console().print(
                f"{num_rows} completions are decoded at a time, not {self.max_rows}: {num_tokens} tokens take "
                f"{per_row / 2**20:.1f} MiB each, and cache_gib is {self.cache_gib:g}.",
                markup=False,
                soft_wrap=True,
            )
        return num_rows

    @torch.inference_mode()
    def _decode(
        self,
        requests: Sequence[SampleRequest],
        sampling: Sampling,
        on_ended: OnCompletions,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        """Completes requests in order of length; those that do not fit wait until others have ended."""
        policy, device = self.policy, self.policy.device
        num_rows, limit = len(requests), sampling.max_completion_tokens
        most = self._rows_at_once(requests, limit)
        state = self._new_state(requests, limit, most)
        drawn_of = _Drawn(policy, requests, limit)
        eos = torch.tensor(policy.eos_token_ids, device=device)
        ends: Tensor | None = None  # [V] whether a token ends a completion; V is known when a prompt has been read
        rows = torch.arange(0, device=device)  # of each row being decoded: which request it is,
        ages = torch.arange(0, device=device)  # how many tokens it has,
        running = torch.ones(0, dtype=torch.bool, device=device)  # whether it goes on,
        was_running = running  # and whether it did when last looked at
        num_admitted, num_running, num_unseen = 0, 0, 0
        while num_admitted < num_rows or num_running:
            has_room = num_admitted < num_rows and (state.takes_more or not num_running)
            if num_running <= (1.0 - RETIRE_FRAC) * len(rows) or (has_room and not num_running):
                keep = _in_place(running)
                num_new = min(most - len(keep), num_rows - num_admitted) if has_room else 0
                new = range(num_admitted, num_admitted + num_new)
                state.change(keep, [requests[index].prompt.token_ids for index in new])
                rows = torch.cat([rows[keep], torch.arange(new.start, new.stop, device=device)])
                ages = torch.cat([ages[keep], ages.new_zeros(num_new)])
                running = was_running = torch.ones(len(rows), dtype=torch.bool, device=device)
                num_admitted += num_new
                num_running = len(rows)
            if should_stop is not None and should_stop():
                raise Interrupted("sampling was asked to stop")
            tokens, *facts = draw(state.logits, drawn_of.randoms[rows, ages], sampling)
            drawn_of.keep(rows, ages, running, tokens, *facts)
            ages = ages + running
            if ends is None:
                ends = torch.zeros(state.logits.shape[-1], dtype=torch.bool, device=device)
                ends[eos[eos < len(ends)]] = True
            running = running & ~(ends.index_select(0, tokens) | (ages == limit))
            num_unseen += 1
            if num_unseen == state.tokens_per_look:
                num_unseen = 0
                _require_finite(drawn_of.entropies)
                ended = was_running & ~running
                ended_rows, was_running = rows[ended].tolist(), running
                num_running -= len(ended_rows)
                if ended_rows:
                    on_ended(ended_rows, drawn_of.completions(ended_rows, ages[ended]))
            if num_running:
                state.advance(tokens)

    def _new_state(self, requests: Sequence[SampleRequest], limit: int, most: int) -> "_DecodeState":
        if not can_decode(self.policy):
            return _ForwardState(self.policy)
        num_positions = max(len(request.prompt.token_ids) for request in requests) + limit
        if self.policy.device.type != "cuda":
            return _CompactState(self.policy, CompactDecoder(self.policy, num_positions=num_positions))
        max_rows = min(most, len(requests))
        if self._graphed is not None and self._graphed.fits(num_positions=num_positions, max_rows=max_rows):
            self._graphed.load(self.policy)
        else:
            self._graphed = None  # its memory is free before more is taken
            self._graphed = GraphedDecoder(self.policy, num_positions=num_positions, max_rows=max_rows)
        return _CompactState(self.policy, self._graphed)


def _in_place(running: Tensor) -> Tensor:
    """Indices of rows that run, those beyond their number in the places of rows that have ended.

    Example:
        >>> _in_place(torch.tensor([True, False, True, False, True])).tolist()
        [0, 4, 2]
    """
    places = running.nonzero().squeeze(-1)
    keep = torch.arange(len(places), device=running.device)
    keep[~running[: len(keep)]] = places[places >= len(keep)]
    return keep


class _Drawn:
    """What was drawn for each request, and the random numbers to draw with."""

    def __init__(self, policy: Policy, requests: Sequence[SampleRequest], limit: int) -> None:
        device, num_rows = policy.device, len(requests)
        dtype = torch.promote_types(next(policy.model.parameters()).dtype, torch.float32)
        self._policy = policy
        randoms = torch.from_numpy(uniforms([request.key for request in requests], limit))
        # A column more than is ever read takes what is drawn for rows that have ended.
        self.randoms = F.pad(randoms, (0, 1)).to(device, _cumulative_dtype(device))
        self._tokens = torch.full((num_rows, limit + 1), policy.pad_token_id, device=device)
        self._logprobs = torch.zeros((num_rows, limit + 1), dtype=dtype, device=device)
        self.entropies = torch.zeros(num_rows, dtype=dtype, device=device)  # [N] summed over tokens

    def keep(
        self, rows: Tensor, ages: Tensor, running: Tensor, tokens: Tensor, logprobs: Tensor, entropies: Tensor
    ) -> None:
        """Notes what was drawn. Rows that have ended keep their age: behind their last token nobody reads."""
        self._tokens[rows, ages] = tokens
        self._logprobs[rows, ages] = logprobs
        self.entropies.index_add_(0, rows, entropies * running)

    def completions(self, rows: list[int], lengths: Tensor) -> list[Completion]:
        """Of requests that have ended, with so many tokens [rows] each."""
        tokenizer, eos = self._policy.tokenizer, set(self._policy.eos_token_ids)
        means = (self.entropies[rows] / lengths).tolist()
        sizes = lengths.tolist()
        ids = [row[:size] for row, size in zip(self._tokens[rows].tolist(), sizes, strict=True)]
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [
            Completion(
                token_ids=tuple(row),
                logprobs=tuple(row_logprobs[:size]),
                text=text,
                finish_reason="eos" if row[-1] in eos else "length",
                entropy_nats=entropy,
            )
            for row, row_logprobs, size, text, entropy in zip(
                ids, self._logprobs[rows].tolist(), sizes, texts, means, strict=True
            )
        ]


class _DecodeState(Protocol):
    """What the next token of each row depends on."""

    logits: Tensor  # [B, V], float32 at least
    takes_more: bool  # whether rows can join those that are being decoded
    tokens_per_look: int  # after how many it is worth waiting for a device to say which rows have ended

    def change(self, keep: Tensor, prompts: Sequence[tuple[int, ...]]) -> None:
        """Lets all rows go but these, and puts new ones behind them, one for each prompt."""

    def advance(self, tokens: Tensor) -> None:
        """Feeds one token to each row."""


class _ForwardState:
    """Any causal model, by its own forward pass and cache; new rows only when all others have ended."""

    takes_more, tokens_per_look = False, 1

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def change(self, keep: Tensor, prompts: Sequence[tuple[int, ...]]) -> None:
        """See `_DecodeState`."""
        if prompts:
            read = _read(self._policy, prompts)
            self._cache, self.logits, self._attention_mask = read.cache, read.logits, read.attention_mask
            self._next_position = read.lengths
            keep = torch.tensor(read.sources, device=self._policy.device)
        # Not batch_select_indices, which layers with a recurrent state lack.
        self._cache.reorder_cache(keep)
        self.logits = self.logits[keep]
        self._next_position = self._next_position[keep]
        if self._attention_mask is not None:
            self._attention_mask = self._attention_mask[keep]

    def advance(self, tokens: Tensor) -> None:
        """See `_DecodeState`."""
        if self._attention_mask is not None:
            ones = torch.ones((len(tokens), 1), dtype=self._attention_mask.dtype, device=tokens.device)
            self._attention_mask = torch.cat([self._attention_mask, ones], dim=1)
        with self._policy.arithmetic():
            output = self._policy.model(
                input_ids=tokens.unsqueeze(-1),
                attention_mask=self._attention_mask,
                position_ids=self._next_position.unsqueeze(-1),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self._cache = output.past_key_values
        self.logits = _float_logits(output.logits)
        self._next_position = self._next_position + 1


class _CompactState:
    """The Llama family, by a `CompactDecoder` and the cache that belongs to it."""

    takes_more = True

    def __init__(self, policy: Policy, decoder: CompactDecoder) -> None:
        self._policy, self._decoder, self._cache = policy, decoder, decoder.new_cache()
        # Rows that have ended are decoded for as long as nobody looks: on a GPU that costs less than the wait.
        self.tokens_per_look = TOKENS_PER_LOOK_ON_GPU if policy.device.type == "cuda" else 1
        self._read: _Read | None = None
        self.logits = self._decoder.embedding.new_zeros((0, self._decoder.head.shape[1]))
        self._positions = torch.zeros(0, dtype=torch.long, device=policy.device)

    def change(self, keep: Tensor, prompts: Sequence[tuple[int, ...]]) -> None:
        """See `_DecodeState`."""
        none = keep.new_zeros(0)
        self._cache.rebuild(keep, [], none, none)
        self.logits, self._positions = self.logits[keep], self._positions[keep]
        while prompts:
            # The samples of a prompt are admitted one after another: what was read last is not read again for them.
            if self._read is None or prompts[0] not in self._read.places:
                self._read = _read(self._policy, _first_distinct(prompts))
            places, lengths = self._read.places, self._read.lengths
            num_known = next((at for at, prompt in enumerate(prompts) if prompt not in places), len(prompts))
            sources = torch.tensor([places[prompt] for prompt in prompts[:num_known]], device=keep.device)
            stored = [(layer.keys, layer.values) for layer in self._read.cache.layers]
            self._cache.rebuild(torch.arange(len(self.logits), device=keep.device), stored, lengths, sources)
            self.logits = torch.cat([self.logits, self._read.logits[sources]])
            self._positions = torch.cat([self._positions, lengths[sources]])
            prompts = prompts[num_known:]

    def advance(self, tokens: Tensor) -> None:
        """See `_DecodeState`."""
        self.logits = self._decoder.step(tokens, self._positions, self._cache)
        self._positions = self._positions + 1


def _first_distinct(prompts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The first prompts, each once, that are read together: as many as `READ_TOKENS` allow, at least one."""
    distinct: dict[tuple[int, ...], None] = {}
    longest = 0
    for prompt in prompts:
        longest = max(longest, len(prompt))
        if distinct and prompt not in distinct and (len(distinct) + 1) * longest > READ_TOKENS:
            break
        distinct[prompt] = None
    return list(distinct)


@dataclass
class _Read:
    """Distinct prompts, read by the model's forward pass."""

    places: dict[tuple[int, ...], int]  # where each prompt is
    sources: list[int]  # [rows] the prompt of each row
    cache: Any  # as the model gave it, [P, ...]
    logits: Tensor  # [P, V], float32 at least
    lengths: Tensor  # [P]
    attention_mask: Tensor | None  # [P, L]; None where nothing is padded


def _read(policy: Policy, prompts: Sequence[tuple[int, ...]]) -> _Read:
    places: dict[tuple[int, ...], int] = {}
    for prompt in prompts:
        places.setdefault(prompt, len(places))
    batch = pad_rows(list(places), [()] * len(places), pad_token_id=policy.pad_token_id, device=policy.device)
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
    return _Read(
        places=places,
        sources=[places[prompt] for prompt in prompts],
        cache=output.past_key_values,
        logits=_float_logits(output.logits),
        lengths=batch.position_ids[:, -1] + 1,
        attention_mask=batch.attention_mask if is_padded else None,
    )


def _require_finite(values: Tensor) -> None:
    if not math.isfinite(float(values.sum())):
        raise NumericsError(
            "the model's logits are not finite while sampling: its weights are broken. Go back to an older checkpoint."
        )


def _float_logits(logits: Tensor) -> Tensor:
    last = logits[:, -1]
    return last.to(torch.promote_types(last.dtype, torch.float32))


def _cumulative_dtype(device: torch.device) -> torch.dtype:
    """float64, so that a sum over a large vocabulary loses no tail; Apple's GPUs have none."""
    return torch.float32 if device.type == "mps" else torch.float64
