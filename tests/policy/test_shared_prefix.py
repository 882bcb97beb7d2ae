"""One row of real tokens, each prompt once: the numbers and gradients of every completion read alone."""

import copy

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import EOS, MAX_POSITIONS, PAD, small_policy, small_tokenizer, with_exact_norms
from model_kinds import KINDS, kind_policy
from ngrpo.policy import (
    Policy,
    backward_through_head,
    can_share_prefix,
    completion_logprobs,
    pad_rows,
    recompute_activations,
    share_rows,
    shared_logprobs,
    shared_prefix,
    shared_states,
    shared_tokens,
)

SIZE = {
    "vocab_size": 20,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
    "initializer_range": 0.25,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}
ROPES = {
    "llama3": LLAMA3 | {"original_max_position_embeddings": 24, "rope_theta": 10000.0},
    "yarn": YARN | {"rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
}
MODELS = {
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "llama with biases, rope scaling": (
        "Llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "rope_parameters": ROPES["llama3"]},
    ),
    "llama, a key for each query": ("Llama", {"num_key_value_heads": 4, "rope_parameters": ROPES["linear"]}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 12}),
    "mistral, wide window": ("Mistral", {"sliding_window": MAX_POSITIONS}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2, one key, rope scaling": ("Qwen2", {"num_key_value_heads": 1, "rope_parameters": ROPES["yarn"]}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3 with biases": ("Qwen3", {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": False}),
}
# Ragged groups of two, one and five; equal prompts apart from each other; one token; none; one prompt begins another.
PAIRS = [
    ((3, 4, 5), (6, 7, 8, 9)),
    ((3, 4, 5), (6, 7)),
    ((2, 2, 9, 4, 7, 11, 3), (5,)),
    ((3, 4), (10, 11, 12, 13, 14, 1)),
    ((3, 4), ()),
    ((3, 4), (1,)),
    ((3, 4), (*range(2, 18), 1)),
    ((3, 4), (12,)),
    ((3, 4, 5), (6, 7, 9)),
    ((8,), ()),
]
TEMPERATURE = 0.7


def policy_of(name: str, dtype: torch.dtype) -> Policy:
    kind, settings = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**(SIZE | settings))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype).eval()
        for parameter in model.parameters():  # biases of zero and norms of one would hide much
            parameter.data += 0.1 * torch.randn(parameter.shape, dtype=dtype)
    policy = Policy(model, small_tokenizer(), (EOS,), PAD, MAX_POSITIONS)
    return with_exact_norms(policy) if dtype == torch.float64 else policy


def alone(policy: Policy, prompt, completion):
    """Log-probabilities and entropies of one completion, from a forward pass over it alone."""
    if not completion:
        return torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    logits = policy.model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1].double() / TEMPERATURE
    logprobs = logits.log_softmax(-1)
    return logprobs[range(len(completion)), list(completion)], -(logprobs.exp() * logprobs).sum(-1)


def weights_of(number: int, length: int) -> torch.Tensor:
    """What makes the loss of a completion differ from token to token and from row to row."""
    return torch.linspace(0.5 + number, 2.0, length, dtype=torch.float64)


def loss_of_row(number: int, logprobs: torch.Tensor, entropies: torch.Tensor) -> torch.Tensor:
    logprobs, entropies = logprobs.double(), entropies.double()
    weights = weights_of(number, len(logprobs))
    return (weights * logprobs.exp()).sum() + 0.3 * (weights * entropies).sum()


def gradient_alone(policy: Policy, pairs) -> torch.Tensor:
    policy.model.zero_grad()
    losses = [loss_of_row(number, *alone(policy, *pair)) for number, pair in enumerate(pairs)]
    torch.stack(losses).sum().backward()
    return gradient_of(policy)


def gradient_of(policy: Policy) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in policy.trainable_parameters()]).clone()


def gradient_together(policy: Policy, pairs) -> torch.Tensor:
    policy.model.zero_grad()
    batch = share_rows(pairs, policy)

    def loss_of(first, last, logprobs, entropies):
        lengths = batch.lengths[first:last]
        parts = zip(range(first, last), logprobs.split(lengths), entropies.split(lengths), strict=True)
        return torch.stack([loss_of_row(*part) for part in parts]).sum().to(logprobs.dtype)

    with shared_states(policy, batch) as states, policy.arithmetic():
        backward_through_head(
            policy.model.get_output_embeddings(), states, batch.completion_ids, batch.lengths,
            temperature=TEMPERATURE, with_entropy=True, loss_of=loss_of,
        )  # fmt: skip
    return gradient_of(policy)


@pytest.fixture(params=["own queries, masked", "whole rows, causal"])
def rows_of_attention(request, monkeypatch):
    """Attention as on the CPU, and as on a GPU."""
    if request.param.startswith("whole"):
        monkeypatch.setattr(shared_prefix, "WHOLE_ROW_DEVICES", frozenset({"cpu"}))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_and_gradients_are_those_of_each_row_alone(name, dtype, tolerance, rows_of_attention):
    policy = policy_of(name, dtype)
    assert can_share_prefix(policy)
    batch = share_rows(PAIRS, policy)
    found = shared_logprobs(policy, batch, temperature=TEMPERATURE)
    with torch.no_grad():
        expected = torch.cat([alone(policy, *pair)[0] for pair in PAIRS])
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())
    assert batch.completion_ids.tolist() == [token for _, completion in PAIRS for token in completion]
    expected_gradient = gradient_alone(policy, PAIRS)
    assert (gradient_together(policy, PAIRS) - expected_gradient).norm() <= tolerance * expected_gradient.norm()
    assert expected_gradient.norm() > 0.1


prompts = st.lists(st.integers(2, 17), min_size=1, max_size=12).map(tuple)
ragged = st.lists(
    st.tuples(st.sampled_from([(3, 4), (3, 4, 5), (7,) * 11]) | prompts, st.lists(st.integers(1, 17), max_size=30)),
    min_size=1,
    max_size=9,
)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=ragged)
def test_any_mixture_of_prompts_and_lengths(pairs, rows_of_attention, policy64):
    batch = share_rows(pairs, policy64)
    assert batch.input_ids.shape == batch.position_ids.shape == (1, shared_tokens(pairs))
    found = shared_logprobs(policy64, batch, temperature=TEMPERATURE).split(batch.lengths)
    for line, pair in zip(found, pairs, strict=True):
        torch.testing.assert_close(line, alone(policy64, *pair)[0].detach(), rtol=0, atol=1e-9)


@settings(deadline=None)
@given(pairs=ragged)
def test_attention_is_never_padded_far_beyond_what_it_is_of(pairs, policy64):
    """One long completion stands in a block of its own, and does not stretch the others."""
    batch = share_rows([*pairs, ((5, 6), (1,) * 500)], policy64)
    for block in batch.blocks:
        num_rows, num_queries, _ = block.shape
        assert num_rows == 1 or num_queries < 500
    own = sum(max(0, len(completion) - 1) for _, completion in pairs) + 499
    padded_queries = sum(block.shape[0] * block.shape[1] for block in batch.blocks if block.bias is not None)
    assert padded_queries <= 1.3 * own + 8 * len(pairs)


def test_every_prompt_is_read_once_and_positions_go_on_from_it(policy64):
    batch = share_rows([((5, 6, 7), (1, 2)), ((8,), (9, 9, 9)), ((5, 6, 7), (3,))], policy64)
    # The last token of a completion predicts nothing.
    assert batch.input_ids.tolist() == [[5, 6, 7, 1, 8, 9, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert batch.predicted_at.tolist() == [2, 3, 4, 5, 6, 2]
    assert batch.lengths == (2, 3, 1)


def test_completions_without_a_token_have_nothing(policy64):
    batch = share_rows([((5, 6), ()), ((7,), ())], policy64)
    assert shared_logprobs(policy64, batch, temperature=1.0).shape == (0,)


# --- what must not matter ---


def test_gradient_checkpointing_finds_the_same_attention_in_backward():
    policy = policy_of("qwen3", torch.float64)
    expected = gradient_together(policy, PAIRS)
    recompute_activations(policy.model)
    policy.model.train()
    calls = []
    policy.model.model.layers[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    assert (gradient_together(policy, PAIRS) - expected).norm() <= 1e-12 * expected.norm()
    assert len(calls) == 2  # the layer did run again


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
def test_an_adapter_is_trained_and_its_base_is_not():
    peft = pytest.importorskip("peft")
    policy = policy_of("qwen2", torch.float64)
    settings = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"])
    policy.model = peft.get_peft_model(policy.model, settings)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in policy.trainable_parameters():
            parameter.data.normal_(std=0.2)
    policy.model.double()
    assert can_share_prefix(policy)
    expected = gradient_alone(policy, PAIRS)
    assert (gradient_together(policy, PAIRS) - expected).norm() <= 1e-10 * expected.norm()
    assert expected.norm() > 0.1
    assert policy.model.get_output_embeddings().weight.grad is None


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_autocast_is_as_near_as_on_padded_rows(name, rows_of_attention):
    policy = policy_of(name, torch.float32)
    exact = shared_logprobs(policy, share_rows(PAIRS, policy), temperature=TEMPERATURE)
    policy.autocast_dtype = torch.bfloat16
    rough = shared_logprobs(policy, share_rows(PAIRS, policy), temperature=TEMPERATURE)
    pairs = [pair for pair in PAIRS if pair[1]]
    padded = pad_rows(*zip(*pairs, strict=True), pad_token_id=PAD, device=policy.device)
    with torch.no_grad():
        values, _ = completion_logprobs(policy, padded, temperature=TEMPERATURE)
    padded_gap = (values[padded.mask] - exact).abs().mean()
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().mean() < 2 * padded_gap
    assert gradient_together(policy, PAIRS).isfinite().all()


# --- what is left behind ---


def test_the_models_own_attention_is_back_afterwards_even_after_an_error(policy64):
    config = policy64.model.config
    before = config._attn_implementation
    batch = share_rows(PAIRS, policy64)
    with shared_states(policy64, batch):
        assert config._attn_implementation == shared_prefix.ATTENTION
    assert config._attn_implementation == before != shared_prefix.ATTENTION
    with pytest.raises(ZeroDivisionError), shared_states(policy64, batch):
        raise ZeroDivisionError
    assert config._attn_implementation == before


# --- models it is not exact for ---


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("qwen2", "llama", "qwen3")])
def test_other_architectures_are_left_to_the_padded_pass(kind):
    assert not can_share_prefix(kind_policy(kind, torch.float32))


@pytest.mark.parametrize("kind", ["qwen2", "llama", "qwen3"])
def test_known_families_are_accepted(kind):
    assert can_share_prefix(kind_policy(kind, torch.float32))


def test_a_window_that_cuts_is_refused_in_some_layers_too():
    settings = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZE, **settings))
    assert not can_share_prefix(Policy(model, small_tokenizer(), (EOS,), PAD, MAX_POSITIONS))


def test_rotations_that_depend_on_the_longest_sequence_are_refused():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZE, rope_parameters=rope))
    assert not can_share_prefix(Policy(model, small_tokenizer(), (EOS,), PAD, MAX_POSITIONS))


def test_a_class_of_someone_elses_is_refused_under_a_known_name():
    policy = small_policy()
    body = policy.model.model

    class Other(type(body)):
        pass

    other = copy.deepcopy(policy)
    other.model.model.__class__ = Other
    assert can_share_prefix(policy)
    assert not can_share_prefix(other)
