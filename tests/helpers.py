"""What tests of several folders share: a two-layer random model, its tokenizer, a policy of them, prompts.

Everything is made in memory or in a temporary folder; nothing is downloaded. The fixtures in conftest.py hand out the
session's own copies of these, which no test may change: a test that trains takes a fresh `small_policy`.
"""

from functools import cache, partial
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from ngrpo import worlds
from ngrpo.lab.tokenizer import character_tokenizer
from ngrpo.policy import Policy, no_progress_bars
from ngrpo.types import Completion, Outcome, Prompt

ALPHABET = worlds.get("countdown").alphabet
MAX_POSITIONS = 96
PAD, EOS = 0, 1  # as `character_tokenizer` numbers them

# Countdown prompts of six lengths, so that batches of them are padded.
PROMPT_TEXTS = ("1,2,3=6:", "3,5,7,2=14:", "9,9,9,9,9=81:", "9,9,9=81:", "1,2,3,4=9:", "1,2,3,4,5=9:")


@cache
def small_tokenizer() -> Qwen2Tokenizer:
    return character_tokenizer(ALPHABET, max_tokens=MAX_POSITIONS)


def small_model(dtype: torch.dtype = torch.float32, *, seed: int = 0) -> Qwen2ForCausalLM:
    """A random two-layer Qwen2. Weights are large enough that its next-token distributions are far from uniform."""
    config = Qwen2Config(
        vocab_size=len(ALPHABET) + 2,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        initializer_range=0.25,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config).to(dtype).eval()


def small_policy(dtype: torch.dtype = torch.float32, *, seed: int = 0) -> Policy:
    """A policy of `small_model`, on the CPU: equal seeds give equal weights."""
    return Policy(
        model=small_model(dtype, seed=seed),
        tokenizer=small_tokenizer(),
        eos_token_ids=(EOS,),
        pad_token_id=PAD,
        max_positions=MAX_POSITIONS,
    )


def with_exact_norms(policy: Policy) -> Policy:
    """The same policy with root-mean-square norms in the precision of its weights; transformers' are float32 inside.

    What sums gradients before such a norm and what sums them behind it can then be told apart from rounding.
    """

    def exact(norm: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        return norm.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)

    for module in policy.model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(exact, module)
    return policy


def save_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """A model folder as a user would have one."""
    with no_progress_bars():
        small_model(seed=seed).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


def make_prompt(text: str, *, id: str | None = None, gold: str = "1") -> Prompt:
    """A prompt of the small tokenizer's alphabet; its text is its id unless one is given."""
    token_ids = tuple(small_tokenizer().encode(text, add_special_tokens=False))
    id = text if id is None else id
    return Prompt(id, text, token_ids, gold, source=f"test {text}", columns={"prompt": text}, problem=text)


def make_prompts(texts: tuple[str, ...] = PROMPT_TEXTS) -> list[Prompt]:
    return [make_prompt(text) for text in texts]


def make_completion(text: str, *, finish_reason: str = "eos") -> Completion:
    """A completion with that text; its log-probabilities mean nothing."""
    token_ids = tuple(small_tokenizer().encode(text, add_special_tokens=False))
    if finish_reason == "eos":
        token_ids = (*token_ids, EOS)
    return Completion(token_ids, (-1.0,) * len(token_ids), text, finish_reason, entropy_nats=0.5)


class EqualsGold:
    """A reward: correct when the completion is the gold; counts how often it is asked."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, prompts, completions) -> list[Outcome]:
        self.num_calls += 1
        return [
            Outcome(float(completion.text == prompt.gold), completion.text == prompt.gold, extracted=completion.text)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    def check_golds(self, golds) -> list[str | None]:
        return [None] * len(golds)

    def close(self) -> None:
        pass
