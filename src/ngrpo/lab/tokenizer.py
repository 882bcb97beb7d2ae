"""Tokenizers of one token per character (of a world's alphabet) or per byte, as folders that `AutoTokenizer` loads.

Each is a genuine `Qwen2Tokenizer` (byte-level BPE) whose vocabulary is the alphabet and that has no merges.
`AutoTokenizer` gives every folder with a Qwen2 model in it that class, whatever class its tokenizer was saved as, and
that class rebuilds everything but the vocabulary: a tokenizer of another kind would come back changed.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

PAD_TOKEN = "<|pad|>"

# Qwen2's own end-of-sequence token. As there, it is the unknown token too, which that class insists on having.
EOS_TOKEN = "<|endoftext|>"


def character_tokenizer(alphabet: str, *, max_tokens: int) -> "Qwen2Tokenizer":
    """Build a tokenizer with one token per character.

    Encoding adds no special tokens, and decoding what was encoded gives the same text back, without inserted spaces.
    Characters outside the alphabet are left out by encoding. Ids: padding 0, end of sequence 1, then the alphabet in
    its order.

    Args:
        alphabet: Every character the model shall know, each once: visible ASCII, which byte-level BPE leaves as it is.
        max_tokens: Longest sequence the model takes, in tokens.

    Returns:
        A fast tokenizer; `save_pretrained(folder)` writes what `AutoTokenizer.from_pretrained(folder)` reads.

    Example:
        >>> tokenizer = character_tokenizer("0123456789+-*,=:", max_tokens=64)
        >>> tokenizer("3,5=8:")["input_ids"]
        [5, 15, 7, 16, 10, 17]
        >>> tokenizer.decode([5, 15, 7, 16, 10, 17])
        '3,5=8:'
    """
    assert len(set(alphabet)) == len(alphabet), f"characters of an alphabet must differ: {alphabet!r}"
    assert all("!" <= character <= "~" for character in alphabet), f"an alphabet must be visible ASCII: {alphabet!r}"
    return _without_merges(alphabet, max_tokens)


def byte_tokenizer(*, max_tokens: int) -> "Qwen2Tokenizer":
    """Build a tokenizer with one token per byte, which reads any text.

    Args:
        max_tokens: Longest sequence the model takes, in tokens.

    Returns:
        A fast tokenizer with 258 tokens.

    Example:
        >>> tokenizer = byte_tokenizer(max_tokens=64)
        >>> len(tokenizer("½ x")["input_ids"]), tokenizer.decode(tokenizer("½ x")["input_ids"])
        (4, '½ x')
    """
    from tokenizers.pre_tokenizers import ByteLevel

    return _without_merges(sorted(ByteLevel.alphabet()), max_tokens)


def _without_merges(letters: Sequence[str], max_tokens: int) -> "Qwen2Tokenizer":
    from transformers import Qwen2Tokenizer

    symbols = [PAD_TOKEN, EOS_TOKEN, *letters]
    return Qwen2Tokenizer(
        vocab={symbol: index for index, symbol in enumerate(symbols)},
        merges=[],
        unk_token=EOS_TOKEN,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=max_tokens,
    )
