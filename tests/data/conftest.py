import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="session")
def make_tokenizer():
    """Byte-level tokenizers with one token per byte: no files, no training."""

    def make(*, chat_template=None, opens=False, closes=False):
        vocabulary = {
            token: i for i, token in enumerate(["<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
        }
        core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        core.decoder = decoders.ByteLevel()
        core.add_special_tokens(["<bos>", "<eos>"])
        if opens or closes:
            single = f"{'<bos> ' if opens else ''}$A{' <eos>' if closes else ''}"
            core.post_processor = processors.TemplateProcessing(
                single=single, special_tokens=[("<bos>", 0), ("<eos>", 1)]
            )
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token="<eos>")
        tokenizer.chat_template = chat_template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer):
    return make_tokenizer()


@pytest.fixture(scope="session")
def chat_tokenizer(make_tokenizer):
    return make_tokenizer(chat_template=CHAT_TEMPLATE, opens=True)


@pytest.fixture
def write_rows(tmp_path, monkeypatch):
    """Write rows as JSON lines into the current folder, and return the path as a user would type it."""
    monkeypatch.chdir(tmp_path)

    def write(rows, name="rows.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    return write
