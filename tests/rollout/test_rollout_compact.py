"""The written-out step of the Llama family finds what the model's own forward pass finds."""

import dataclasses
from importlib.util import find_spec

import pytest
import torch
import transformers

from helpers import ALPHABET, EOS, PAD, small_tokenizer
from model_kinds import KINDS, kind_policy
from ngrpo.policy import Policy
from ngrpo.rollout import NativeEngine, SampleRequest, Sampling, native, random_key
from ngrpo.rollout.compact import CompactDecoder, can_decode
from ngrpo.types import Prompt

SIZE = {
    "vocab_size": len(ALPHABET) + 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.25,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 1e4,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}

VARIANTS = {
    "llama": ("Llama", {}),
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama, biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, one key-value head": ("Llama", {"num_key_value_heads": 1}),
    "llama, as many key-value heads as heads": ("Llama", {"num_key_value_heads": 4}),
    "llama, large heads": ("Llama", {"head_dim": 16}),
    "llama, linear rope": ("Llama", {"rope_parameters": LINEAR}),
    "llama, llama3 rope": ("Llama", {"rope_parameters": LLAMA3}),
    "qwen2": ("Qwen2", {}),
    "qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2, yarn rope": ("Qwen2", {"rope_parameters": YARN}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3, tied, biases": ("Qwen3", {"tie_word_embeddings": True, "attention_bias": True, "head_dim": 8}),
    "qwen3, yarn rope": ("Qwen3", {"head_dim": 8, "rope_parameters": YARN}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral, large heads": ("Mistral", {"sliding_window": None, "head_dim": 16}),
    "mistral, window longer than the model": ("Mistral", {"sliding_window": 64}),
}


def variant_policy(variant, dtype):
    """A random policy, its biases and norm weights random too: as they are made, they would hide mistakes."""
    family, changes = VARIANTS[variant]
    config = getattr(transformers, f"{family}Config")(**{**SIZE, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config).to(dtype).eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return Policy(model, small_tokenizer(), (EOS,), PAD, 64)


def plain_logits(policy, ids):
    """[T, V] of one unpadded sequence."""
    with torch.no_grad():
        return policy.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


PROMPTS = [(3, 4, 5, 6, 7), (8,), (9, 10, 11, 12, 13, 14, 15, 16, 17), (5, 3)]
SHARES = [0, 0, 1, 2, 3, 3]  # which prompt each row has: groups of two and of one


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_forced_tokens_get_the_logits_of_the_forward_pass(variant, dtype, tolerance):
    policy = variant_policy(variant, dtype)
    assert can_decode(policy)
    # 20 tokens more than the longest prompt has: past where yarn and llama3 begin to stretch.
    forced = torch.randint(2, SIZE["vocab_size"], (len(SHARES), 20), generator=torch.Generator().manual_seed(1))
    rows = [PROMPTS[share] for share in SHARES]
    state = native._CompactState(policy, CompactDecoder(policy, num_positions=29))
    with torch.inference_mode():
        state.change(torch.arange(0), rows)
        found = [state.logits]
        for tokens in forced.T:
            state.advance(tokens)
            found.append(state.logits)
    for number, prompt in enumerate(rows):
        expected = plain_logits(policy, [*prompt, *forced[number].tolist()])[len(prompt) - 1 :]
        scale = float(expected.abs().max())
        gap = float((torch.stack([logits[number] for logits in found]) - expected).abs().max())
        assert gap <= tolerance * max(1.0, scale)


def test_rows_that_come_and_go_leave_the_others_as_they_are():
    policy = variant_policy("qwen2", torch.float64)
    state = native._CompactState(policy, CompactDecoder(policy, num_positions=64))
    sequences = [list(PROMPTS[0]), list(PROMPTS[2]), list(PROMPTS[2]), list(PROMPTS[1])]
    generator = torch.Generator().manual_seed(0)
    # What is kept, in its new order, and what joins: the last takes the place of the first; all go; one after the next.
    changes = [([3, 1, 2], [3]), ([0, 3, 2], [0, 0]), ([], [1]), ([0], []), ([0], [2, 0, 3, 1])]
    with torch.inference_mode():
        state.change(torch.arange(0), [tuple(sequence) for sequence in sequences])
        for keep, new in changes:
            for _ in range(3):
                tokens = torch.randint(2, 18, (len(sequences),), generator=generator)
                state.advance(tokens)
                sequences = [[*row, token] for row, token in zip(sequences, tokens.tolist(), strict=True)]
            state.change(torch.tensor(keep, dtype=torch.long), [PROMPTS[place] for place in new])
            sequences = [sequences[place] for place in keep] + [list(PROMPTS[place]) for place in new]
            expected = torch.stack([plain_logits(policy, row)[-1] for row in sequences])
            assert torch.allclose(state.logits, expected, rtol=0, atol=1e-9)


def requests_of(prompts, num_samples):
    return [
        SampleRequest(Prompt(str(place), "", ids, ""), random_key(seed=0, stream=0, step=0, occurrence=place, sample=n))
        for place, ids in enumerate(prompts)
        for n in range(num_samples)
    ]


@pytest.mark.parametrize("num_samples", [1, 5])
@pytest.mark.parametrize("limit", [1, 2, 17])
def test_the_engine_draws_what_it_draws_by_the_forward_pass(monkeypatch, num_samples, limit):
    policy = variant_policy("qwen3", torch.float64)
    requests = requests_of(PROMPTS, num_samples)
    fast = [NativeEngine(policy, max_rows=rows).sample(requests, Sampling(limit)) for rows in (1, 3, 100)]
    monkeypatch.setattr(native, "can_decode", lambda policy: False)
    slow = NativeEngine(policy).sample(requests, Sampling(limit))
    assert max(len(completion.token_ids) for completion in slow) == limit
    for completions in fast:
        assert [one.token_ids for one in completions] == [one.token_ids for one in slow]
        for one, other in zip(completions, slow, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-9)
            assert (one.finish_reason, one.text) == (other.finish_reason, other.text)


def test_first_tokens_follow_the_models_distribution_by_chi_square():
    policy = variant_policy("llama", torch.float32)
    num_draws = 4000
    completions = NativeEngine(policy, max_rows=500).sample(requests_of([PROMPTS[0]], num_draws), Sampling(2))
    # Second tokens, so that a step of the decoder is behind them: of all rows with the commonest first token.
    firsts = [completion.token_ids[0] for completion in completions]
    common = max((first for first in set(firsts) if first != EOS), key=firsts.count)
    seconds = torch.tensor([one.token_ids[1] for one in completions if one.token_ids[0] == common])
    expected = plain_logits(policy, [*PROMPTS[0], common])[-1].double().softmax(-1) * len(seconds)
    counts = torch.bincount(seconds, minlength=len(expected)).double()
    assert len(seconds) > 300
    assert float(((counts - expected) ** 2 / expected).sum()) < 50.0  # 17 degrees of freedom: once in 25,000 seeds


# --- what it does not decode ---


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_that_are_not_written_out_take_the_forward_pass(kind):
    assert can_decode(kind_policy(kind, torch.float32)) == (kind in ("qwen2", "llama", "qwen3"))


def changed_policy(**changes):
    policy = variant_policy("llama", torch.float32)
    for name, value in changes.items():
        setattr(policy.model.config, name, value)
    return policy


def test_settings_that_are_not_written_out_take_the_forward_pass():
    assert can_decode(changed_policy())
    assert not can_decode(changed_policy(hidden_act="gelu"))
    assert not can_decode(changed_policy(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}))
    assert not can_decode(changed_policy(rope_parameters={**LINEAR, "partial_rotary_factor": 0.5}))
    assert not can_decode(dataclasses.replace(changed_policy(), autocast_dtype=torch.bfloat16))


def test_a_sliding_window_takes_the_forward_pass_where_a_sequence_may_outgrow_it():
    policy = variant_policy("mistral, window longer than the model", torch.float32)
    assert can_decode(policy)
    assert not can_decode(dataclasses.replace(policy, max_positions=65))
    assert not can_decode(dataclasses.replace(policy, max_positions=None))


def test_modules_of_another_kind_take_the_forward_pass():
    class Odd(torch.nn.Linear):
        pass

    policy = variant_policy("qwen2", torch.float32)
    policy.model.model.layers[1].mlp.down_proj.__class__ = Odd
    assert not can_decode(policy)
    policy = variant_policy("qwen2", torch.float32)
    policy.model.__class__ = type("Qwen2Changed", (type(policy.model),), {})
    assert not can_decode(policy)


# --- adapters ---


def with_peft(test):
    """Skipped where peft is not there; its own warnings are none of ours."""
    for text in ("`is_gradient_checkpointing` is deprecated", "`lora_bias=True` was passed"):
        test = pytest.mark.filterwarnings(f"ignore:{text}")(test)
    return pytest.mark.skipif(find_spec("peft") is None, reason="needs peft")(test)


def adapted_policy(dtype=torch.float64, **settings):
    import peft

    policy = variant_policy("qwen2", dtype)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    model = peft.get_peft_model(policy.model, peft.LoraConfig(**settings)).to(dtype).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            with torch.random.fork_rng():
                torch.manual_seed(len(name))
                torch.nn.init.normal_(parameter, std=0.2)
    return dataclasses.replace(policy, model=model)


@with_peft
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"target_modules": ["q_proj", "down_proj"]}])
@pytest.mark.parametrize("is_merged", [False, True])
def test_a_lora_adapter_is_decoded_with_its_weights_added_in(settings, is_merged):
    policy = adapted_policy(**settings)
    if is_merged:
        policy.model.merge_adapter()
    assert can_decode(policy)
    requests = requests_of(PROMPTS, 2)
    completions = NativeEngine(policy).sample(requests, Sampling(9))
    without = NativeEngine(variant_policy("qwen2", torch.float64)).sample(requests, Sampling(9))
    assert [one.token_ids for one in completions] != [one.token_ids for one in without]
    for request, completion in zip(requests, completions, strict=True):
        ids = [*request.prompt.token_ids, *completion.token_ids]
        logprobs = plain_logits(policy, ids)[len(request.prompt.token_ids) - 1 : -1].log_softmax(-1)
        chosen = logprobs.gather(-1, torch.tensor(completion.token_ids).unsqueeze(-1)).squeeze(-1)
        assert completion.logprobs == pytest.approx(chosen.tolist(), abs=1e-9)


@with_peft
@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"lora_bias": True}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["lm_head"]}],
)
def test_adapters_that_are_more_than_a_sum_of_weights_take_the_forward_pass(settings):
    assert not can_decode(adapted_policy(**settings))


@with_peft
def test_adapters_of_other_kinds_and_those_switched_off_take_the_forward_pass():
    policy = adapted_policy()
    with policy.model.disable_adapter():
        assert not can_decode(policy)
    import peft

    policy = variant_policy("qwen2", torch.float32)
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert not can_decode(dataclasses.replace(policy, model=peft.get_peft_model(policy.model, settings)))
