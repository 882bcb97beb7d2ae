"""A small model with random weights that reads any text: to try data, rewards and settings without a download."""

from pathlib import Path

from ngrpo.errors import RunFolderError
from ngrpo.lab.tokenizer import byte_tokenizer
from ngrpo.policy import no_progress_bars


def write_random_model(folder: Path, *, seed: int = 0, max_positions: int = 8192) -> Path:
    """Writes a Hugging Face folder: a two-layer Qwen2 of about 115,000 parameters and a byte-level tokenizer.

    Its completions are noise, so every group is all wrong: GRPO's gradient is exactly zero on it and NGRPO's is not.

    Args:
        folder: Where to write; must not exist, or be empty.
        seed: Of the weights.
        max_positions: Longest sequence, in bytes.

    Raises:
        RunFolderError: The folder is not empty.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder} exists and is not an empty folder. Choose another folder or remove it.")
    tokenizer = byte_tokenizer(max_tokens=max_positions)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]), no_progress_bars():
        torch.manual_seed(seed)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
