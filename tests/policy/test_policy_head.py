"""The output layer by chunks: what the full logits would have given, in values and gradients, whatever the chunks."""

import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CohereConfig, GraniteConfig

from helpers import small_policy
from model_kinds import KINDS, kind_policy
from ngrpo import objectives
from ngrpo.objectives import Counts
from ngrpo.policy import Policy, backward_through_head, body_of, has_plain_head, logprobs_of_states
from ngrpo.policy import head as head_module

WIDTH, VOCABULARY = 5, 37
LENGTHS = [3, 0, 1, 9, 4, 1]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


def a_head(dtype=torch.float64, bias=False, vocabulary=VOCABULARY):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Linear(WIDTH, vocabulary, bias=bias).to(dtype)


def tokens(lengths, dtype=torch.float64, vocabulary=VOCABULARY):
    """[M, d] states that require gradients, and [M] token ids."""
    random = torch.Generator().manual_seed(2)
    states = torch.randn(sum(lengths), WIDTH, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
    return states, torch.randint(vocabulary, (sum(lengths),), generator=random)


def plain(head, states, token_ids, temperature):
    """The slow twin: all logits at once, gradients by autograd."""
    log_p = (head(states) / temperature).log_softmax(-1)
    return log_p.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1), -(log_p.exp() * log_p).sum(-1)


def curved_loss(lengths):
    """A loss with different first and second derivatives at each token, a sum over completions of whole-row terms."""
    starts = [sum(lengths[:place]) for place in range(len(lengths) + 1)]
    weights = torch.linspace(-1.0, 2.0, sum(lengths), dtype=torch.float64)

    def loss_of(first, last, logprobs, entropies):
        weight = weights[starts[first] : starts[last]].to(logprobs.dtype)
        per_token = weight * logprobs.exp() + 0.1 * logprobs**2
        if entropies is not None:
            per_token = per_token + 0.3 * weight * entropies + 0.05 * entropies**2
        rows = [row.sum() + row.sum() ** 2 for row in per_token.split(lengths[first:last])]
        return torch.stack(rows).sum()

    return loss_of


def gradients(head, states):
    """Of everything, then forgotten."""
    found = [value.grad for value in (states, *head.parameters())]
    for value in (states, *head.parameters()):
        value.grad = None
    return found


def assert_close(actual, expected, tolerance):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


@pytest.fixture
def chunk_of(monkeypatch):
    """Sets the bound so that so many tokens fit into a chunk."""

    def set_bound(num_tokens, dtype=torch.float64, with_entropy=False, vocabulary=VOCABULARY):
        each = vocabulary * dtype.itemsize * (1 + with_entropy)
        monkeypatch.setattr(head_module, "CHUNK_BYTES", {"cpu": num_tokens * each})

    return set_bound


# --- the same as the full logits ---


@pytest.mark.parametrize("num_tokens", [1, 4, 9, 1000])
@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_both_forms_are_the_plain_one(dtype, bias, with_entropy, num_tokens, chunk_of):
    """With 1 and 4 tokens to a chunk the completion of 9 is longer, and goes twice through the layer."""
    chunk_of(num_tokens, dtype, with_entropy)
    head, (states, token_ids), loss_of = a_head(dtype, bias), tokens(LENGTHS, dtype), curved_loss(LENGTHS)
    logprobs, entropies = plain(head, states, token_ids, 0.7)
    loss = loss_of(0, len(LENGTHS), logprobs, entropies if with_entropy else None)
    loss.backward()
    loss, expected = loss.detach(), gradients(head, states)

    once = backward_through_head(
        head, states, token_ids, LENGTHS, temperature=0.7, with_entropy=with_entropy, loss_of=loss_of
    )
    assert not once.requires_grad
    assert float(once) == pytest.approx(float(loss), rel=10 * TOLERANCE[dtype])
    assert_close(gradients(head, states), expected, 20 * TOLERANCE[dtype])

    values = logprobs_of_states(head, states, token_ids, temperature=0.7, with_entropy=with_entropy)
    assert values[0].tolist() == pytest.approx(logprobs.tolist(), abs=TOLERANCE[dtype])
    assert (values[1] is not None) == with_entropy
    if with_entropy:
        assert values[1].tolist() == pytest.approx(entropies.tolist(), abs=TOLERANCE[dtype])
    loss_of(0, len(LENGTHS), *values).backward()
    assert_close(gradients(head, states), expected, 20 * TOLERANCE[dtype])


@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=8),
    num_tokens=st.integers(1, 12),
    with_entropy=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_chunks_change_nothing(lengths, num_tokens, with_entropy):
    head, (states, token_ids), loss_of = a_head(), tokens(lengths), curved_loss(lengths)
    found = []
    for bound in (2**28, num_tokens * VOCABULARY * 8 * (1 + with_entropy)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(head_module, "CHUNK_BYTES", {"cpu": bound})
            loss = backward_through_head(
                head, states, token_ids, lengths, temperature=1.3, with_entropy=with_entropy, loss_of=loss_of
            )
            found.append([loss, *gradients(head, states)])
    assert_close(found[1], found[0], 1e-10)


@given(st.lists(st.integers(0, 7), max_size=8), st.integers(1, 12))
def test_chunks_are_whole_completions_and_lose_none(lengths, num_tokens):
    chunks = list(head_module._chunks(lengths, num_tokens))
    behind = end = 0
    for first, last, start, stop in chunks:
        assert (first, start) == (behind, end)
        assert stop - start == sum(lengths[first:last])
        assert stop - start <= num_tokens or sum(length > 0 for length in lengths[first:last]) == 1
        behind, end = last, stop
    assert (behind, end) == (len(lengths), sum(lengths))


@pytest.mark.parametrize("with_entropy", [False, True])
def test_gradients_by_finite_differences(with_entropy, chunk_of):
    chunk_of(2, with_entropy=with_entropy, vocabulary=4)
    head, (states, token_ids) = a_head(bias=True, vocabulary=4), tokens([3, 2], vocabulary=4)

    def both(states, weight, bias):
        layer = nn.Module()
        layer.weight, layer.bias = weight, bias
        values = logprobs_of_states(layer, states, token_ids, temperature=0.8, with_entropy=with_entropy)
        return tuple(value for value in values if value is not None)

    assert torch.autograd.gradcheck(both, (states, head.weight, head.bias))


def test_by_hand():
    """Two tokens, p = 1/4 and 3/4; by the logit of the one drawn the log-probability grows by 1 - p, entropy by
    -p (log p + H)."""
    head = nn.Linear(1, 2, bias=False).double()
    head.weight.data = torch.tensor([[1.0], [3.0]], dtype=torch.float64).log()
    states, token_ids = torch.ones(1, 1, dtype=torch.float64, requires_grad=True), torch.tensor([0])
    logprobs, entropies = logprobs_of_states(head, states, token_ids, temperature=1.0, with_entropy=True)
    entropy = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert logprobs.exp().tolist() == pytest.approx([0.25])
    assert entropies.tolist() == pytest.approx([entropy])
    by_weight = torch.autograd.grad(logprobs.sum(), head.weight, retain_graph=True)[0]
    assert by_weight.flatten().tolist() == pytest.approx([0.75, -0.75])
    by_weight = torch.autograd.grad(entropies.sum(), head.weight)[0]
    expected = -0.25 * (math.log(0.25) + entropy)
    assert by_weight.flatten().tolist() == pytest.approx([expected, -expected])


# --- what may be there or not ---


def test_no_tokens(chunk_of):
    head, (states, token_ids) = a_head(), tokens([])
    logprobs, entropies = logprobs_of_states(head, states, token_ids, temperature=1.0, with_entropy=True)
    assert logprobs.shape == entropies.shape == (0,)
    (logprobs.sum() + entropies.sum()).backward()
    for lengths in ([], [0, 0]):
        loss = backward_through_head(
            head, states, token_ids, lengths, temperature=1.0, with_entropy=True, loss_of=lambda *v: v[2].sum()
        )
        assert float(loss) == 0.0
    assert not head.weight.grad.any()


def test_one_token_completions_one_to_a_chunk(chunk_of):
    chunk_of(1)
    head, (states, token_ids) = a_head(), tokens([1, 1, 1])
    seen = []

    def loss_of(first, last, logprobs, entropies):
        seen.append((first, last, len(logprobs), entropies))
        return logprobs.sum()

    loss = backward_through_head(
        head, states, token_ids, [1, 1, 1], temperature=1.0, with_entropy=False, loss_of=loss_of
    )
    assert seen == [(0, 1, 1, None), (1, 2, 1, None), (2, 3, 1, None)]
    assert float(loss) == pytest.approx(plain(head, states, token_ids, 1.0)[0].sum().item())


def test_gradients_are_added_to_those_there():
    head, (states, token_ids), loss_of = a_head(bias=True), tokens(LENGTHS), curved_loss(LENGTHS)
    arguments = {"temperature": 1.0, "with_entropy": False, "loss_of": loss_of}
    backward_through_head(head, states, token_ids, LENGTHS, **arguments)
    one = gradients(head, states)
    head.weight.grad, head.bias.grad = torch.ones_like(head.weight), torch.ones_like(head.bias)
    held = head.weight.grad
    backward_through_head(head, states, token_ids, LENGTHS, **arguments)
    assert head.weight.grad is held
    assert_close(gradients(head, states)[1:], [one[1] + 1, one[2] + 1], 1e-12)


def test_a_frozen_layer_gets_no_gradient_and_its_input_does():
    head, (states, token_ids), loss_of = a_head(bias=True), tokens(LENGTHS), curved_loss(LENGTHS)
    arguments = {"temperature": 1.0, "with_entropy": True, "loss_of": loss_of}
    backward_through_head(head, states, token_ids, LENGTHS, **arguments)
    expected = gradients(head, states)[0]
    head.requires_grad_(False)
    backward_through_head(head, states, token_ids, LENGTHS, **arguments)
    assert head.weight.grad is None
    assert head.bias.grad is None
    assert_close([states.grad], [expected], 1e-12)
    values = logprobs_of_states(head, states, token_ids, temperature=1.0, with_entropy=True)
    assert_close(torch.autograd.grad(loss_of(0, len(LENGTHS), *values), states), [expected], 1e-12)


def test_frozen_states_leave_the_layer_its_gradient():
    head, (states, token_ids), loss_of = a_head(), tokens(LENGTHS), curved_loss(LENGTHS)
    arguments = {"temperature": 1.0, "with_entropy": False, "loss_of": loss_of}
    backward_through_head(head, states, token_ids, LENGTHS, **arguments)
    expected = gradients(head, states)[1]
    backward_through_head(head, states.detach(), token_ids, LENGTHS, **arguments)
    assert_close([head.weight.grad], [expected], 1e-12)


@pytest.mark.parametrize("is_there", [False, True])
def test_tied_weights_get_both_shares(is_there):
    """The embedding is the layer's own weight, and the states are made from it."""
    head, (_, token_ids), loss_of = a_head(), tokens(LENGTHS), curved_loss(LENGTHS)
    before = torch.roll(token_ids, 1)
    mix = torch.linspace(-1, 1, WIDTH * WIDTH, dtype=torch.float64).reshape(WIDTH, WIDTH)

    def made():
        return torch.tanh(nn.functional.embedding(before, head.weight) @ mix)

    logprobs, _ = plain(head, made(), token_ids, 1.0)
    loss_of(0, len(LENGTHS), logprobs, None).backward()
    expected = head.weight.grad
    head.weight.grad = torch.zeros_like(head.weight) if is_there else None
    arguments = {"temperature": 1.0, "with_entropy": False, "loss_of": loss_of}
    backward_through_head(head, made(), token_ids, LENGTHS, **arguments)
    assert_close([head.weight.grad], [expected], 1e-12)


def test_entropy_as_a_mere_number_changes_no_gradient():
    head, (states, token_ids) = a_head(), tokens(LENGTHS)
    seen = []

    def loss_of(first, last, logprobs, entropies):
        seen.append(entropies)
        return (logprobs**2).sum()

    for with_entropy in (True, False):
        backward_through_head(
            head, states, token_ids, LENGTHS, temperature=1.0, with_entropy=with_entropy, loss_of=loss_of
        )
        seen.append(gradients(head, states))
    assert_close([seen[0].detach()], [plain(head, states, token_ids, 1.0)[1].detach()], 1e-12)
    assert seen[2] is None
    assert_close(seen[1], seen[3], 1e-12)


def test_entropy_alone_has_its_gradient():
    head, (states, token_ids) = a_head(), tokens(LENGTHS)
    plain(head, states, token_ids, 1.0)[1].sum().backward()
    expected = gradients(head, states)
    backward_through_head(
        head, states, token_ids, LENGTHS, temperature=1.0, with_entropy=True, loss_of=lambda *values: values[3].sum()
    )
    assert_close(gradients(head, states), expected, 1e-12)
    logprobs_of_states(head, states, token_ids, temperature=1.0, with_entropy=True)[1].sum().backward()
    assert_close(gradients(head, states), expected, 1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("with_entropy", [False, True])
def test_what_is_not_finite_stays_so(bad, with_entropy):
    head, (states, token_ids), loss_of = a_head(), tokens(LENGTHS), curved_loss(LENGTHS)
    head.weight.data[3, 2] = bad
    loss = backward_through_head(
        head, states, token_ids, LENGTHS, temperature=1.0, with_entropy=with_entropy, loss_of=loss_of
    )
    assert not loss.isfinite()
    assert not head.weight.grad.isfinite().all()


def test_likely_and_impossible_tokens_keep_their_numbers():
    """Large logits far apart: exponentials overflow and underflow, log-probabilities and gradients must not."""
    head = nn.Linear(1, 3, bias=False)
    head.weight.data = torch.tensor([[200.0], [0.0], [180.0]])
    states, token_ids = torch.ones(3, 1, requires_grad=True), torch.tensor([0, 1, 2])
    loss = backward_through_head(
        head, states, token_ids, [3], temperature=1.0, with_entropy=True,
        loss_of=lambda first, last, logprobs, entropies: logprobs.sum() + entropies.sum(),
    )  # fmt: skip
    assert float(loss) == pytest.approx(-220.0)
    assert head.weight.grad.flatten().tolist() == pytest.approx([-2.0, 1.0, 1.0], abs=1e-6)
    assert states.grad.flatten().tolist() == pytest.approx([0.0, -200.0, -20.0], abs=1e-5)


def test_lengths_that_do_not_add_up_are_refused():
    head, (states, token_ids) = a_head(), tokens([3])
    with pytest.raises(ValueError, match="3 states, 3 tokens, and lengths of 4 tokens"):
        backward_through_head(
            head,
            states,
            token_ids,
            [2, 2],
            temperature=1.0,
            with_entropy=False,
            loss_of=lambda *values: values[2].sum(),
        )


# --- precision ---


@pytest.mark.parametrize("how", ["states", "autocast"])
@pytest.mark.parametrize("with_entropy", [False, True])
def test_products_in_bfloat16_logits_and_gradients_of_weights_in_float32(how, with_entropy, monkeypatch):
    monkeypatch.setattr(head_module, "_GRADIENT_ROWS", 16)
    head, loss_of = a_head(torch.float32, bias=True), curved_loss(LENGTHS)
    states, token_ids = tokens(LENGTHS, torch.float32)
    rounded = states.detach().bfloat16()
    states = (rounded.clone() if how == "states" else rounded.float()).requires_grad_()
    # The twin multiplies what was rounded and rounds the product, as bfloat16 does; what follows is float32.
    weight = head.weight.data.bfloat16()
    logits = ((rounded @ weight.t()).float() + head.bias.data).requires_grad_()
    logprobs, entropies = plain(nn.Identity(), logits, token_ids, 1.0)
    loss_of(0, len(LENGTHS), logprobs, entropies if with_entropy else None).backward()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "autocast"):
        found = logprobs_of_states(head, states, token_ids, temperature=1.0, with_entropy=with_entropy)
        backward_through_head(
            head, states, token_ids, LENGTHS, temperature=1.0, with_entropy=with_entropy, loss_of=loss_of
        )
    assert_close(found[:1], [logprobs], 1e-6)
    assert_close([head.bias.grad], [logits.grad.sum(0)], 1e-5)
    assert states.grad.dtype == states.dtype
    assert head.weight.grad.dtype == torch.float32
    expected = logits.grad.t() @ rounded.float(), logits.grad @ weight.float()
    for gradient, exact in zip((head.weight.grad, states.grad), expected, strict=True):
        assert float((gradient - exact).norm() / exact.norm()) < 0.01


# --- objectives ---


@pytest.mark.parametrize(
    ("name", "params"),
    [("ngrpo", {}), ("gspo", {}), ("grpo", {"kl_coef": 0.05, "entropy_coef": 0.01}), ("dapo", {}), ("cispo", {})],
)
def test_objectives(name, params, chunk_of):
    """Losses of whole sequences and with regularisers, cut into chunks, against all rows side by side."""
    objective = objectives.get(name, **params)
    chunk_of(5, with_entropy=objective.needs_entropy)
    lengths = [3, 1, 9, 4, 1, 2]
    head, (states, token_ids) = a_head(), tokens(lengths)
    random = torch.Generator().manual_seed(3)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    current, entropies = plain(head, states, token_ids, 1.0)
    old = current.detach() + 0.3 * torch.randn(current.shape, generator=random)
    reference = current.detach() + 0.3 * torch.randn(current.shape, generator=random)
    advantages = torch.randn(len(lengths), generator=random, dtype=torch.float64)
    counts = Counts.of(mask)

    def spread(values, mask):
        return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask, values)

    def loss_of(first, last, logprobs, entropies):
        own = mask[first:last]
        before = sum(lengths[:first])
        part = slice(before, before + sum(lengths[first:last]))
        terms = objective.token_terms(
            spread(logprobs, own), spread(old[part], own), advantages[first:last], own,
            ref_logprobs=spread(reference[part], own) if objective.needs_reference else None,
            entropies=None if entropies is None else spread(entropies, own),
        )  # fmt: skip
        return objective.reduce(terms, own, counts=counts)

    loss = loss_of(0, len(lengths), current, entropies if objective.needs_entropy else None)
    loss.backward()
    loss, expected = loss.detach(), gradients(head, states)
    assert expected[1].abs().max() > 1e-4
    found = backward_through_head(
        head, states, token_ids, lengths,
        temperature=1.0, with_entropy=objective.needs_entropy, loss_of=loss_of,
    )  # fmt: skip
    assert float(found) == pytest.approx(float(loss), rel=1e-12)
    assert_close(gradients(head, states), expected, 1e-12)


# --- memory ---


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made while it is open, and the most that lived at once."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._seen = weakref.WeakValueDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for storage in self._new_storages((args, kwargs)):  # was there before
            self._seen[storage._cdata] = storage
        result = func(*args, **(kwargs or {}))
        for storage in self._new_storages(result):
            self._seen[storage._cdata] = storage
            self._count(storage.nbytes())
            weakref.finalize(storage, self._count, -storage.nbytes())
        return result

    def _new_storages(self, values):
        storages = [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
        return {storage._cdata: storage for storage in storages if storage._cdata not in self._seen}.values()

    def _count(self, number):
        self.now += number
        self.most = max(self.most, self.now)


def peak_bytes(num_tokens, form, with_entropy=False):
    """Most bytes alive at once beyond weights and their gradient, in loss and backward."""
    vocabulary, lengths = 4000, [10] * (num_tokens // 10)
    head, (states, token_ids) = (
        a_head(torch.float32, vocabulary=vocabulary),
        tokens(lengths, torch.float32, vocabulary),
    )
    head.weight.grad = torch.zeros_like(head.weight)
    with LiveBytes() as live:
        if form == "plain":
            plain(head, states, token_ids, 1.0)[0].sum().backward()
        elif form == "once":
            backward_through_head(
                head, states, token_ids, lengths,
                temperature=1.0, with_entropy=with_entropy, loss_of=lambda *values: values[2].sum(),
            )  # fmt: skip
        else:
            values = logprobs_of_states(head, states, token_ids, temperature=1.0, with_entropy=with_entropy)
            values[0].sum().backward()
    return live.most


def test_the_count_of_bytes_sees_the_plain_form_grow():
    assert peak_bytes(400, "plain") > 1.9 * peak_bytes(200, "plain") > 1.9 * 200 * 4000 * 4


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("form", ["once", "twice"])
def test_memory_grows_with_the_chunk_and_not_with_the_tokens(form, with_entropy, chunk_of):
    """The bound holds with entropies too: twice as much for each token, half as many tokens."""
    found = {}
    for chunk in (20, 40):
        chunk_of(chunk, torch.float32, vocabulary=4000)
        for num_tokens in (200, 400):
            found[chunk, num_tokens] = peak_bytes(num_tokens, form, with_entropy)
    small_things = 400 * WIDTH * 4 * 8
    weights = 0 if form == "once" else 4000 * WIDTH * 4  # autograd's gradient, before it is added
    for (chunk, _), number in found.items():
        assert chunk * 4000 * 4 <= number <= chunk * 4000 * 4 + weights + small_things


# --- which models have such a layer ---


NOT_PLAIN = {
    "gemma2_softcap": "capped",
    "opt_dropout_as_numbers": "its logits do not come through the body that transformers names",
}


@pytest.mark.parametrize("kind", KINDS)
def test_models_with_a_plain_layer(kind):
    policy = kind_policy(kind, torch.float32)
    assert has_plain_head(policy) == (kind not in NOT_PLAIN)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NOT_PLAIN])
@torch.no_grad()
def test_a_plain_layer_gives_the_models_logits(kind):
    policy = kind_policy(kind, torch.float32)
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    states = body_of(policy)(input_ids=ids, use_cache=False).last_hidden_state
    logits = policy.model(input_ids=ids, use_cache=False).logits
    assert policy.model.get_output_embeddings()(states).tolist() == logits.tolist()


@pytest.mark.parametrize(("config_class", "scale"), [(GraniteConfig, "logits_scaling"), (CohereConfig, "logit_scale")])
@pytest.mark.parametrize("value", [1.0, 0.5])
def test_scaled_logits_are_not_plain(config_class, scale, value):
    from transformers import AutoModelForCausalLM

    config = config_class(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=None, eos_token_id=1, **{scale: value},
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    assert has_plain_head(Policy(model, None, (1,), 0, None)) == (value == 1.0)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True.:UserWarning")
def test_adapters_elsewhere_leave_the_layer_plain_and_one_of_its_own_does_not():
    peft = pytest.importorskip("peft")
    for targets, expected in ((["q_proj"], True), (["q_proj", "lm_head"], False)):
        policy = small_policy()
        settings = peft.LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM")
        adapted = Policy(peft.get_peft_model(policy.model, settings), None, (1,), 0, None)
        assert has_plain_head(adapted) == expected


def test_a_state_that_changes_on_its_way_to_the_layer_is_not_plain():
    policy = kind_policy("llama", torch.float32)
    policy.model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0] * 2,))
    assert not has_plain_head(policy)


def test_asking_leaves_nothing_behind():
    policy = kind_policy("llama", torch.float32)
    ids = torch.tensor([[3, 4, 5]])
    before = policy.model(input_ids=ids, use_cache=False).logits.tolist()
    assert has_plain_head(policy)
    assert policy.model(input_ids=ids, use_cache=False).logits.tolist() == before
    assert all(parameter.grad is None for parameter in policy.model.parameters())
