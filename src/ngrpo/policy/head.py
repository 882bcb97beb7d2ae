"""The output layer, a few tokens at a time: the [M, V] logits of an update never exist.

Axes: M tokens, m of them at a time, d width of the model, V vocabulary.

The logits of a chunk live in a buffer which their exponentials, and then their gradient, overwrite; the next chunk
takes the same buffer. `logprobs_of_states` is an ordinary differentiable function that makes the logits again when it
goes backward: four products with the weights. `backward_through_head` asks for the loss of a chunk as soon as its
log-probabilities are known, and needs three. The slow twin of both is `(head(states) / temperature).log_softmax(-1)`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ngrpo.policy.load import Policy

CHUNK_BYTES = {"cpu": 2**28, "cuda": 2**31}
"""What the logits of one chunk may take, with all that is made of them, by kind of device; others as the first."""

_GRADIENT_ROWS = 2**14
"""Rows of the weight's gradient that are added at a time where it is more precise than the product."""

_plain_heads: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def logprobs_of_states(
    head: nn.Linear, states: Tensor, token_ids: Tensor, *, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each token, and the entropy of the distribution it comes from. Differentiable, once.

    Args:
        head: The output layer.
        states: [M, d] its inputs, one for each token. Products run in their precision, or in that of autocast; the
            softmax in float32 at least.
        token_ids: [M] the tokens.
        temperature: Logits are divided by it.
        with_entropy: Also return entropies, for twice the memory.

    Returns:
        Log-probabilities [M] in nats, and entropies [M] in nats or None.

    Example:
        >>> head = nn.Linear(2, 4, bias=False)
        >>> head.weight.data.zero_()
        tensor([[0., 0.],
                [0., 0.],
                [0., 0.],
                [0., 0.]])
        >>> values = logprobs_of_states(
        ...     head, torch.ones(1, 2), torch.tensor([3]), temperature=1.0, with_entropy=True
        ... )
        >>> [value.exp().tolist() for value in values]
        [[0.25], [4.0]]
    """
    return _LogProbs.apply(states, head.weight, head.bias, token_ids, (_arithmetic(states), temperature, with_entropy))


def backward_through_head(
    head: nn.Linear,
    states: Tensor,
    token_ids: Tensor,
    lengths: Sequence[int],
    *,
    temperature: float,
    with_entropy: bool,
    loss_of: Callable[[int, int, Tensor, Tensor | None], Tensor],
) -> Tensor:
    """Loss and gradient of whole completions: into the output layer's `.grad` chunk by chunk, then through `states`.

    Right for every loss that is a sum over completions. Gradients are added to those that are there, and made only
    where they are required.

    Args:
        head: The output layer.
        states: [M, d] its inputs, one for each token; as in `logprobs_of_states`.
        token_ids: [M] the tokens of one completion behind those of the other.
        lengths: How many tokens each completion has; M together.
        temperature: Logits are divided by it.
        with_entropy: Whether `loss_of` gets entropies. They double the memory; time they take where the loss has a
            gradient in them.
        loss_of: Called with the number of the first completion and of the one behind the last, with their tokens'
            log-probabilities [m] and entropies [m] or None. Gives the scalar that they add to the loss.

    Returns:
        The loss, without gradient.

    Raises:
        ValueError: The lengths do not add up.
    """
    if not len(states) == len(token_ids) == sum(lengths):
        raise ValueError(
            f"{len(states)} states, {len(token_ids)} tokens, and lengths of {sum(lengths)} tokens together: give one "
            "state and one token for each place of every completion."
        )
    arithmetic = _arithmetic(states)
    with torch.no_grad(), torch.autocast(states.device.type, enabled=False):
        layer = _Layer(head.weight, head.bias, arithmetic, temperature, with_entropy, max_tokens=len(states))
        layer.weight_grad, layer.bias_grad = _gradient_of(head.weight), _gradient_of(head.bias)
        states_grad = torch.zeros_like(states)
        loss = torch.zeros((), dtype=layer.logits.dtype, device=states.device)
        for first, last, start, end in _chunks(lengths, layer.num_tokens):
            loss += _chunk_backward(
                layer, states[start:end], token_ids[start:end], states_grad[start:end], partial(loss_of, first, last)
            )
    if states.requires_grad:
        states.backward(states_grad)
    return loss


@torch.no_grad()
def has_plain_head(policy: Policy) -> bool:
    """Whether the model's logits are those of its output layer, on the last hidden state of what is below it.

    Then, and only then, the functions of this module can take the layer's place. Not so where logits are capped or
    scaled, where the hidden state still changes on its way, or where the layer has an adapter. The model itself is
    asked, once, with the outputs of its layer put in its mouth, so that it need not be known by name.

    Args:
        policy: Not changed. Its layers must be those it keeps.
    """
    if policy.model not in _plain_heads:
        head = policy.model.get_output_embeddings()
        _plain_heads[policy.model] = type(head) is nn.Linear and _hands_through(policy, head)
    return _plain_heads[policy.model]


def body_of(policy: Policy) -> Any:
    """What is below the output layer: called as the model is, it gives `last_hidden_state`."""
    model = policy.model
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model


def _hands_through(policy: Policy, head: nn.Linear) -> bool:
    """Whether the hidden state reaches the layer unchanged, and the logits come out as the layer gave them."""
    inputs, hidden = [], []
    # Far beyond any cap, and all different.
    made_up = torch.linspace(-100.0, 100.0, head.out_features, device=policy.device).to(head.weight.dtype)

    def answer(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs.append(arguments[0])
        return made_up.expand_as(output)

    handles = [
        head.register_forward_hook(answer),
        body_of(policy).register_forward_hook(lambda *call: hidden.append(call[-1].get("last_hidden_state"))),
    ]
    try:
        tokens = torch.arange(min(4, head.out_features), device=policy.device).unsqueeze(0)
        logits = policy.model(input_ids=tokens, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    if not (len(inputs) == len(hidden) == 1 and isinstance(hidden[0], Tensor)):
        return False
    return torch.equal(inputs[0], hidden[0]) and torch.equal(logits.to(made_up.dtype), made_up.expand_as(logits))


@dataclass(eq=False)
class _Softmax:
    """What one chunk's logits became: views of the layer's buffers, [m, V], and numbers of each token, [m, 1].

    Attributes:
        exps: Exponentials of the logits over the row's largest.
        shifted: The logits themselves over the row's largest, or None.
        sums: Sums of `exps`.
        logprobs: Of the tokens.
        entropies: Or None.
    """

    exps: Tensor
    shifted: Tensor | None
    sums: Tensor
    logprobs: Tensor
    entropies: Tensor | None


class _Layer:
    """The output layer with room for the logits of `num_tokens` tokens.

    Attributes:
        weight_grad: What the gradient of the weights is added to, or None.
        bias_grad: The same of the bias.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        arithmetic: torch.dtype,
        temperature: float,
        with_entropy: bool,
        max_tokens: int,
    ) -> None:
        exact = torch.promote_types(arithmetic, torch.float32)
        self.weight = weight.to(arithmetic)
        self.bias = bias if bias is None else bias.to(exact)
        self.temperature = temperature
        logit_bytes = exact.itemsize * (1 + with_entropy) + arithmetic.itemsize * (arithmetic != exact)
        bound = CHUNK_BYTES.get(weight.device.type, CHUNK_BYTES["cpu"])
        self.num_tokens = max(1, min(max_tokens, bound // (len(weight) * logit_bytes)))
        self.logits = torch.empty(self.num_tokens, len(weight), dtype=exact, device=weight.device)
        self.shifted = torch.empty_like(self.logits) if with_entropy else None
        self.weight_grad: Tensor | None = None
        self.bias_grad: Tensor | None = None

    def softmax(self, states: Tensor, token_ids: Tensor) -> _Softmax:
        """[m, d] and [m] -> everything of these tokens; good until the next call."""
        logits = self.logits[: len(states)]
        _multiply(states.to(self.weight.dtype), self.weight.t(), logits)
        if self.bias is not None:
            logits.add_(self.bias)
        if self.temperature != 1.0:
            logits.div_(self.temperature)
        logits.sub_(logits.amax(-1, keepdim=True))
        chosen = logits.gather(-1, token_ids.unsqueeze(-1))
        shifted = None if self.shifted is None else self.shifted[: len(states)].copy_(logits)
        sums = logits.exp_().sum(-1, keepdim=True)
        entropies = None
        if shifted is not None:  # the products' sum without the products
            entropies = sums.log() - torch.bmm(logits.unsqueeze(1), shifted.unsqueeze(2)).squeeze(2) / sums
        return _Softmax(logits, shifted, sums, chosen - sums.log(), entropies)

    def backward(
        self, softmax: _Softmax, states: Tensor, token_ids: Tensor, by_logprob: Tensor, by_entropy: Tensor | None
    ) -> Tensor:
        """The gradient of a loss by [m] log-probabilities and entropies -> by states [m, d]; by weights it is added.

        With p of the vocabulary, H the entropy and t the token, the gradient by the logits over the temperature is

            by_logprob (1[t] - p) - by_entropy p (log p + H)

        It overwrites the exponentials, up to a factor of each token, which the smaller matrices take.
        """
        gradient, sums, place = softmax.exps, softmax.sums, token_ids.unsqueeze(-1)
        factor = -1.0 / (sums * self.temperature)
        by_logprob = by_logprob.unsqueeze(-1)
        if by_entropy is None:
            at_token, factor = sums, factor * by_logprob
        else:
            log_p_plus_entropy = softmax.shifted.add_(softmax.entropies - sums.log())
            gradient.mul_(log_p_plus_entropy.mul_(by_entropy.unsqueeze(-1)).add_(by_logprob))
            at_token = sums * by_logprob
        gradient.scatter_(-1, place, gradient.gather(-1, place) - at_token)
        if self.bias_grad is not None:
            self.bias_grad += (gradient.t() @ factor).squeeze(-1)
        rounded = gradient.to(self.weight.dtype)
        if self.weight_grad is not None:
            _add_product(self.weight_grad, rounded.t(), (states * factor).to(self.weight.dtype))
        by_states = torch.empty(states.shape, dtype=gradient.dtype, device=states.device)
        return _multiply(rounded, self.weight, by_states).mul_(factor)


class _LogProbs(torch.autograd.Function):
    """`logprobs_of_states`, which see."""

    @staticmethod
    def forward(ctx, states, weight, bias, token_ids, settings):
        with torch.autocast(states.device.type, enabled=False):
            layer = _Layer(weight, bias, *settings, max_tokens=len(states))
            chunks = [layer.softmax(*piece) for piece in _pieces(layer, states, token_ids)]
        ctx.save_for_backward(states, weight, bias, token_ids)
        ctx.arithmetic_and_temperature = settings[:2]
        ctx.set_materialize_grads(False)
        return _joined(chunks, layer)

    @staticmethod
    @once_differentiable
    def backward(ctx, by_logprobs, by_entropies):
        states, weight, bias, token_ids = ctx.saved_tensors
        with_entropy = by_entropies is not None
        with torch.autocast(states.device.type, enabled=False):
            layer = _Layer(weight, bias, *ctx.arithmetic_and_temperature, with_entropy, max_tokens=len(states))
            layer.weight_grad = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
            layer.bias_grad = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
            states_grad = torch.empty_like(states)
            if by_logprobs is None:
                by_logprobs = torch.zeros(len(states), dtype=layer.logits.dtype, device=states.device)
            _pieces_backward(layer, states, token_ids, states_grad, by_logprobs, by_entropies)
        return states_grad, layer.weight_grad, layer.bias_grad, None, None


def _chunk_backward(
    layer: _Layer,
    states: Tensor,
    token_ids: Tensor,
    states_grad: Tensor,
    loss_of: Callable[[Tensor, Tensor | None], Tensor],
) -> Tensor:
    """The loss of some completions; its gradient goes into `states_grad` [m, d] and into the layer's."""
    chunks = [layer.softmax(*piece) for piece in _pieces(layer, states, token_ids)]
    logprobs, entropies = _joined(chunks, layer)
    leaves = [value.requires_grad_() for value in (logprobs, entropies) if value is not None]
    with torch.enable_grad():
        loss = loss_of(logprobs, entropies)
        by_logprobs, by_entropies = (*torch.autograd.grad(loss, leaves, allow_unused=True), None)[:2]
    if by_logprobs is None:
        by_logprobs = torch.zeros_like(logprobs)
    if len(chunks) == 1:  # its exponentials are still there
        states_grad.copy_(layer.backward(chunks[0], states, token_ids, by_logprobs, by_entropies))
    else:
        _pieces_backward(layer, states, token_ids, states_grad, by_logprobs, by_entropies)
    return loss.detach()


def _pieces_backward(
    layer: _Layer,
    states: Tensor,
    token_ids: Tensor,
    states_grad: Tensor,
    by_logprobs: Tensor,
    by_entropies: Tensor | None,
) -> None:
    """Makes the logits anew, piece by piece, and goes back through them."""
    per_token = (states_grad, by_logprobs) if by_entropies is None else (states_grad, by_logprobs, by_entropies)
    for piece, ids, grad, *by_values in _pieces(layer, states, token_ids, *per_token):
        by_logprob, by_entropy = (*by_values, None)[:2]
        grad.copy_(layer.backward(layer.softmax(piece, ids), piece, ids, by_logprob, by_entropy))


def _pieces(layer: _Layer, *per_token: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cuts [M, ...] tensors into what the layer has room for."""
    return zip(*(values.split(layer.num_tokens) for values in per_token), strict=True)


def _joined(chunks: Sequence[_Softmax], layer: _Layer) -> tuple[Tensor, Tensor | None]:
    """[M] log-probabilities and entropies."""
    logprobs = torch.cat([chunk.logprobs for chunk in chunks]).squeeze(-1)
    if layer.shifted is None:
        return logprobs, None
    return logprobs, torch.cat([chunk.entropies for chunk in chunks]).squeeze(-1)


def _chunks(lengths: Sequence[int], num_tokens: int) -> Iterator[tuple[int, int, int, int]]:
    """Runs of whole completions of so many tokens at most, or of one: first and behind the last, of them and of tokens.

    Example:
        >>> list(_chunks([2, 1, 0, 5, 2], num_tokens=3))
        [(0, 3, 0, 3), (3, 4, 3, 8), (4, 5, 8, 10)]
    """
    first = start = end = 0
    for place, length in enumerate(lengths):
        if place > first and end + length - start > num_tokens:
            yield first, place, start, end
            first, start = place, end
        end += length
    if lengths:
        yield first, len(lengths), start, end


def _arithmetic(states: Tensor) -> torch.dtype:
    """What products with these states run in."""
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype


def _gradient_of(parameter: Tensor | None) -> Tensor | None:
    """The `.grad` to add to, made where there is none yet; None where no gradient is required."""
    if parameter is None or not parameter.requires_grad:
        return None
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _multiply(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """`left @ right` into `out`, which may be more precise than both."""
    if left.dtype == out.dtype:
        return torch.mm(left, right, out=out)
    if left.is_cuda:  # the products' own float32 sums, not rounded
        return torch.mm(left, right, out_dtype=out.dtype, out=out)
    return out.copy_(left @ right)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds `left @ right` to `total`, without room for another such matrix."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
        return
    for rows, some in zip(total.split(_GRADIENT_ROWS), left.split(_GRADIENT_ROWS), strict=True):
        rows.add_(_multiply(some, right, torch.empty_like(rows)))
