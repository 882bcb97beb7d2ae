"""Small random models of the architectures that users bring, for tests of what must hold for all of them."""

from typing import Any

import pytest
import torch
import transformers

from helpers import ALPHABET, EOS, MAX_POSITIONS, PAD, small_tokenizer
from ngrpo.policy import Policy

_SIZE = {
    "vocab_size": len(ALPHABET) + 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": MAX_POSITIONS,
    "initializer_range": 0.25,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
_GPT2 = {
    "vocab_size": len(ALPHABET) + 2,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": MAX_POSITIONS,
    "initializer_range": 0.25,
    "bos_token_id": EOS,
    "eos_token_id": EOS,
    "resid_pdrop": 0.5,
    "embd_pdrop": 0.5,
    "attn_pdrop": 0.5,
}
_OPT = {
    **{name: value for name, value in _SIZE.items() if name not in ("head_dim", "num_key_value_heads")},
    "ffn_dim": 48,
    "word_embed_proj_dim": 32,
    "init_std": 0.25,
    "dropout": 0.5,
    "attention_dropout": 0.5,
    "layerdrop": 0.5,
}
_HYBRID = {
    **_SIZE,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}

# Name, what is special about it, and its configuration class with arguments.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2Config", {**_SIZE, "attention_dropout": 0.5}),
    "llama": ("LlamaConfig", {**_SIZE, "attention_dropout": 0.5}),
    "mistral_sliding_window": ("MistralConfig", {**_SIZE, "sliding_window": 6}),
    "qwen3": ("Qwen3Config", _SIZE),
    "gpt2_absolute_positions": ("GPT2Config", _GPT2),
    "opt_dropout_as_numbers": ("OPTConfig", _OPT),
    "gemma2_softcap": (
        "Gemma2Config",
        {**_SIZE, "sliding_window": 6, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0},
    ),
    "qwen3_5_recurrent_layers": ("Qwen3_5TextConfig", _HYBRID),
}

# Their attention is float32 inside, whatever the weights are (and NaN on padding in float64).
FLOAT32_ONLY = ("gemma2_softcap", "qwen3_5_recurrent_layers")


def kind_config(kind: str) -> Any:
    class_name, arguments = KINDS[kind]
    if not hasattr(transformers, class_name):
        pytest.skip(f"this transformers has no {class_name}")
    return getattr(transformers, class_name)(**arguments)


def kind_policy(kind: str, dtype: torch.dtype) -> Policy:
    """A policy of a random model of that kind, dropout as configured but in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(kind_config(kind)).to(dtype).eval()
    return Policy(model, small_tokenizer(), (EOS,), PAD, MAX_POSITIONS)
