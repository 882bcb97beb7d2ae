"""One decoding step of the Llama family in a handful of operations, on the policy's own weights.

The Hugging Face forward pass serves every architecture; a token for a few hundred short rows costs it more in calls
than in arithmetic. Here a step is written out: fused projections, norm weights folded into the matrices behind them,
a LoRA adapter's weights added in, a cache without gaps, grouped attention without repeated keys. Proven equal to the
forward pass by tests, which is its slow twin; prompts are still read by that.

Axes: B rows, H query heads, K key-value heads, D numbers per head, S columns of the cache, d the model's width.
"""

from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ngrpo.policy import Policy
from ngrpo.policy.shared_prefix import STATIC_ROPES
from ngrpo.rollout.cache import RowCache
from ngrpo.rollout.weights import causal_model, has_weight, weight_of

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Values of `config.model_type` whose layers are as written here."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of one layer, laid out for `x @ weight`."""

    qkv: Tensor  # [d, (H + 2 K) D], attention norm folded in
    qkv_bias: Tensor | None
    query_key_norm: Tensor | None  # [H + K, D]
    out: Tensor  # [H D, d]
    out_bias: Tensor | None
    gate_up: Tensor  # [2, d, f], feed-forward norm folded in
    gate_up_bias: Tensor | None  # [2, 1, f]
    down: Tensor  # [f, d]
    down_bias: Tensor | None


class CompactDecoder:
    """The weights of a policy as decoding wants them: a copy, to be made anew when the weights have changed.

    Where the policy computes in another dtype than that of its weights, matrices and the cache are of that one; what
    is added up from layer to layer, norms, rotation and logits stay in the weights' own, as in a forward pass.

    Args:
        policy: One that `can_decode` accepts.
        num_positions: Longest sequence that will be decoded, in tokens.
    """

    @torch.inference_mode()
    def __init__(self, policy: Policy, *, num_positions: int) -> None:
        whole = causal_model(policy)
        model, config = whole.model, whole.config
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_size = model.layers[0].self_attn.head_dim
        self.scaling = model.layers[0].self_attn.scaling
        self.embedding = model.embed_tokens.weight.detach()
        self.dtype = policy.autocast_dtype or self.embedding.dtype
        self.eps = config.rms_norm_eps
        self._eps_tensor = torch.tensor(self.eps, device=policy.device)
        self.layers = [_laid_out(layer, self.dtype) for layer in model.layers]
        head = whole.lm_head
        self.head = _folded(head.weight, model.norm.weight, self.dtype)
        self.head_bias = _joined_bias((head,), self.dtype)
        positions = torch.arange(num_positions, device=policy.device).unsqueeze(0)
        cos, sin = model.rotary_emb(self.embedding[:1].unsqueeze(0), positions)
        half = self.head_size // 2
        # rotate_half(x) * sin is roll(x, D / 2) * signed sin.
        self.cos, self.signed_sin = cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)

    def new_cache(self) -> RowCache:
        """One without rows."""
        return RowCache(len(self.layers), self.num_kv_heads, self.head_size, len(self.cos), self.head)

    def tensors(self) -> list[Tensor]:
        """All that is copied or taken from the policy, always in the same order."""
        parts = [self.embedding, self.head, self.head_bias, self.cos, self.signed_sin]
        for layer in self.layers:
            parts += [getattr(layer, field.name) for field in fields(layer)]
        return [part for part in parts if part is not None]

    def step(self, tokens: Tensor, positions: Tensor, cache: "Cache") -> Tensor:
        """Feed one token to each row.

        Args:
            tokens: [B] ids.
            positions: [B] their positions, counted from each row's first token; beyond the longest sequence the last.
            cache: Of the B rows; gets one token more.

        Returns:
            [B, V] logits, float32 at least.
        """
        return self.logits(self.states(tokens, positions, cache))

    def states(self, tokens: Tensor, positions: Tensor, cache: "Cache") -> Tensor:
        """[B, d] what the last layer makes of each row's token; arguments as those of `step`."""
        num_rotated = self.num_heads + self.num_kv_heads
        num_rows, size = len(tokens), self.head_size
        positions = positions.clamp_max(len(self.cos) - 1)  # rows that ended and are still here run past the table
        cos, signed_sin = (table.index_select(0, positions).unsqueeze(1) for table in (self.cos, self.signed_sin))
        hidden = self.embedding.index_select(0, tokens)
        cache.begin(positions)
        for number, layer in enumerate(self.layers):
            qkv = _linear(self._normed(hidden), layer.qkv, layer.qkv_bias).view(num_rows, -1, size)
            query_key = qkv[:, :num_rotated]
            if layer.query_key_norm is not None:
                query_key = self._normed(query_key) * layer.query_key_norm
            query_key = _as(query_key, cos.dtype)
            query_key = torch.addcmul(query_key * cos, query_key.roll(size // 2, -1), signed_sin)
            query_key = _as(query_key, self.dtype)
            queries, keys, values = query_key[:, : self.num_heads], query_key[:, self.num_heads :], qkv[:, num_rotated:]
            mixed = cache.attend(number, queries, keys, values, self.scaling)
            hidden = _added(hidden, mixed, layer.out, layer.out_bias)
            gate, up = _both(self._normed(hidden), layer.gate_up, layer.gate_up_bias)
            hidden = _added(hidden, F.silu(gate) * up, layer.down, layer.down_bias)
        return hidden

    def logits(self, states: Tensor) -> Tensor:
        """[B, V] logits of `states`, float32 at least."""
        states = self._normed(states)
        if states.is_cuda and self.dtype.itemsize < states.dtype.itemsize and self.head_bias is None:
            # The product is summed up in float32 anyway; this keeps it so.
            return torch.mm(states.to(self.dtype), self.head, out_dtype=states.dtype)
        logits = _linear(states, self.head, self.head_bias)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _normed(self, hidden: Tensor) -> Tensor:
        """Divided by its root mean square, in float32 as the family does it."""
        if hidden.is_cuda or hidden.dtype != torch.float32:
            return F.rms_norm(hidden.float(), hidden.shape[-1:], eps=self.eps).to(hidden.dtype)
        # The same in four operations: elsewhere F.rms_norm takes three times as long.
        norm = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        return hidden * torch.addcmul(self._eps_tensor, norm, norm, value=1 / hidden.shape[-1]).rsqrt_()


class Cache(Protocol):
    """Where a step leaves the keys and values of its token, and finds those of the tokens before it."""

    def begin(self, positions: Tensor) -> None:
        """Makes room for a token of each row, at these positions [B]."""

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """Puts the token's keys and values [B, K, D] into a layer; [B, H D] what its queries [B, H, D] find there."""


def can_decode(policy: Policy) -> bool:
    """Whether a policy's architecture is one that is written out here, with nothing of it changed."""
    model = causal_model(policy)
    config = getattr(model, "config", None)
    family = getattr(config, "model_type", None)
    if family not in FAMILIES or type(model).__module__ != f"transformers.models.{family}.modeling_{family}":
        return False
    if policy.autocast_dtype is not None and policy.device.type != "cuda":
        return False  # products of bfloat16 are slow elsewhere
    if not hasattr(model, "lm_head"):
        return False  # another head
    rope = config.rope_parameters or {}
    window = getattr(config, "sliding_window", None)
    slides = family == "mistral" or "sliding_attention" in (getattr(config, "layer_types", None) or ())
    return (
        rope.get("rope_type", "default") in STATIC_ROPES
        and rope.get("partial_rotary_factor", 1.0) == 1.0
        and config.hidden_act in ("silu", "swish")
        and not (slides and window is not None and (policy.max_positions is None or window < policy.max_positions))
        and type(model.model.embed_tokens) is nn.Embedding
        and type(model.lm_head) is nn.Linear
        and all(has_weight(linear) for layer in model.model.layers for linear in _linears(layer))
    )


def _linears(layer: Any) -> list[Any]:
    attention, feed_forward = layer.self_attn, layer.mlp
    projections = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    return [*projections, feed_forward.gate_proj, feed_forward.up_proj, feed_forward.down_proj]


def _laid_out(layer: Any, dtype: torch.dtype) -> _Layer:
    attention, feed_forward = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    gate_up = (feed_forward.gate_proj, feed_forward.up_proj)
    gate_up_bias = _joined_bias(gate_up, dtype)
    query_key_norm = None
    if hasattr(attention, "q_norm"):
        num_heads = attention.q_proj.out_features // attention.head_dim
        num_kv_heads = attention.k_proj.out_features // attention.head_dim
        query_key_norm = torch.cat(
            [attention.q_norm.weight.expand(num_heads, -1), attention.k_norm.weight.expand(num_kv_heads, -1)]
        )
    return _Layer(
        qkv=_folded(torch.cat([weight_of(part) for part in projections]), layer.input_layernorm.weight, dtype),
        qkv_bias=_joined_bias(projections, dtype),
        query_key_norm=query_key_norm,
        out=weight_of(attention.o_proj).t().to(dtype).contiguous(),
        out_bias=_joined_bias((attention.o_proj,), dtype),
        gate_up=torch.stack(
            [_folded(weight_of(part), layer.post_attention_layernorm.weight, dtype) for part in gate_up]
        ),
        gate_up_bias=None if gate_up_bias is None else gate_up_bias.view(2, 1, -1),
        down=weight_of(feed_forward.down_proj).t().to(dtype).contiguous(),
        down_bias=_joined_bias((feed_forward.down_proj,), dtype),
    )


def _folded(weight: Tensor, norm_weight: Tensor, dtype: torch.dtype) -> Tensor:
    """[out, in] -> [in, out] contiguous, with the norm before it multiplied in: `(x * n) @ W.T` is `x @ (W * n).T`."""
    return (weight * norm_weight).t().to(dtype).contiguous()


def _joined_bias(parts: tuple[Any, ...], dtype: torch.dtype) -> Tensor | None:
    return None if parts[0].bias is None else torch.cat([part.bias for part in parts]).to(dtype)


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a dtype; `to` costs a step of a small model a hundredth where there is nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _linear(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    hidden = _as(hidden, weight.dtype)
    return hidden @ weight if bias is None else torch.addmm(bias, hidden, weight)


def _both(hidden: Tensor, weights: Tensor, biases: Tensor | None) -> Tensor:
    """[B, d] times each of two matrices -> [2, B, f]. Side by side in one, a second thread would gain little."""
    hidden = _as(hidden, weights.dtype).expand(2, *hidden.shape)
    return torch.bmm(hidden, weights) if biases is None else torch.baddbmm(biases, hidden, weights)


def _added(residual: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The residual, with hidden @ weight + bias added to it."""
    if residual.dtype != weight.dtype:
        return residual + _linear(hidden, weight, bias)
    total = torch.addmm(residual, hidden, weight)
    return total if bias is None else total + bias
