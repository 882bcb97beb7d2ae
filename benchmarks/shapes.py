"""Models of known shape with random weights, and training runs on them as `ngrpo train` assembles them.

Weights are random: the arithmetic does not care. A share of the vocabulary ends a completion, which makes lengths
geometric, as those of real completions are long-tailed; or no token does, and every completion runs to its limit.
"""

import json
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from ngrpo.config import RunConfig
from ngrpo.lab.tokenizer import EOS_TOKEN, PAD_TOKEN
from ngrpo.objectives.aggregation import token_mean
from ngrpo.policy import no_progress_bars
from ngrpo.rewards.function import FunctionReward
from ngrpo.train.assemble import TrainingRun, assemble

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Shape:
    """What decides the cost of a model.

    Attributes:
        hidden: Width.
        layers: Depth.
        heads: Query heads.
        kv_heads: Key and value heads.
        feed_forward: Width of the feed-forward layer.
        vocabulary: Tokens.
        mean_tokens: Mean length of a completion whose length has no limit, where tokens end it.
        tied: Whether embedding and head are one matrix.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    mean_tokens: int
    tied: bool = True

    @property
    def num_layer_weights(self) -> int:
        """Weights of the matrices that every token is multiplied with, the head left out."""
        head_size = self.hidden // self.heads
        attention = 2 * self.hidden * head_size * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.feed_forward)

    @property
    def width(self) -> int:
        """Channels of all layers together."""
        return self.layers * self.hidden

    @property
    def num_head_weights(self) -> int:
        """Weights of the head."""
        return self.hidden * self.vocabulary

    @property
    def num_kv(self) -> int:
        """Numbers that one position keeps in the cache."""
        return 2 * self.layers * self.kv_heads * (self.hidden // self.heads)


SHAPES = {
    "tiny": Shape(128, 4, 4, 2, 512, 2048, 48),
    "39M": Shape(512, 8, 8, 2, 1408, 32_000, 32),
    "0.5B": Shape(896, 24, 14, 2, 4864, 151_936, 256),
}


@dataclass(frozen=True)
class Setting:
    """One training step's size.

    Attributes:
        shape: The model.
        num_prompts: Groups of a step.
        group_size: Completions of a group.
        max_tokens: Longest completion.
        ends_early: Whether some tokens end a completion.
        hopeless_frac: Share of prompts whose completions are all wrong, so that their groups have no advantage.
        prompt_tokens: Shortest and longest prompt.
    """

    shape: Shape
    num_prompts: int = 16
    group_size: int = 8
    max_tokens: int = 128
    ends_early: bool = True
    hopeless_frac: float = 0.0
    prompt_tokens: tuple[int, int] = (30, 70)


def make_tokenizer(vocabulary: int) -> Qwen2Tokenizer:
    """As many tokens as the model has: every byte, then made-up words, so that any completion reads as text."""
    symbols = [PAD_TOKEN, EOS_TOKEN, *sorted(ByteLevel.alphabet())]
    symbols += [f"Ġw{number}" for number in range(vocabulary - len(symbols))]
    return Qwen2Tokenizer(
        vocab={symbol: index for index, symbol in enumerate(symbols)},
        merges=[],
        unk_token=EOS_TOKEN,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def ending_ids(shape: Shape) -> list[int]:
    """The tokens that end a completion: the last ones, so many that the mean length comes out."""
    return list(range(shape.vocabulary - shape.vocabulary // shape.mean_tokens, shape.vocabulary))


def make_model(setting: Setting) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights, the same for the same setting."""
    shape = setting.shape
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=setting.prompt_tokens[1] + setting.max_tokens,
        bos_token_id=None,
        eos_token_id=ending_ids(shape),
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen2ForCausalLM(config)


def make_prompts(setting: Setting) -> list[str]:
    """Random letters, one token each; `score` gives nothing for those that begin with z."""
    chance = random.Random(0)
    lengths = [chance.randint(*setting.prompt_tokens) for _ in range(setting.num_prompts)]
    num_hopeless = round(setting.hopeless_frac * setting.num_prompts)
    firsts = ["z" if place < num_hopeless else "a" for place in range(setting.num_prompts)]
    chance.shuffle(firsts)
    return [
        first + "".join(chance.choices(LETTERS, k=length - 1)) for first, length in zip(firsts, lengths, strict=True)
    ]


def score(prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
    """Rewards 0 and 1, as good as random and the same for the same text; both sides call it."""
    return [
        0.0 if prompt.startswith("z") else float(zlib.crc32(completion.encode()) & 1)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def write_model(folder: Path, setting: Setting) -> Path:
    """The model and its tokenizer as a Hugging Face folder."""
    model = make_model(setting)
    with no_progress_bars():
        model.save_pretrained(folder)
    make_tokenizer(setting.shape.vocabulary).save_pretrained(folder)
    return folder


def make_run(folder: Path, setting: Setting, *, device: str = "cpu", precision: str = "float32") -> TrainingRun:
    """A run as `ngrpo train` makes it: GRPO's advantages and clip, token mean, four updates per step, no KL.

    Args:
        folder: Empty; gets the model, the prompts and the run.
        setting: Its size.
        device: Where the model is.
        precision: Of the forward passes.
    """
    write_model(folder / "model", setting)
    rows = [json.dumps({"prompt": prompt, "gold": "1"}) for prompt in make_prompts(setting)]
    (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    num_rows = setting.num_prompts * setting.group_size
    sections = {
        "run": {"dir": str(folder)},
        "model": {"path": str(folder / "model"), "device": device, "precision": precision},
        "data": {"source": str(folder / "prompts.jsonl")},
        "reward": {"name": "exact"},
        "rollout": {
            "num_prompts_per_step": setting.num_prompts,
            "num_samples_per_prompt": setting.group_size,
            "max_completion_tokens": setting.max_tokens,
            "max_rows": num_rows,
        },
        "objective": {"name": "grpo"},
        "train": {"num_steps": 1_000_000},
        "record": {"tensorboard": False},
    }
    run = assemble(RunConfig.model_validate(sections))
    run.reward = FunctionReward(score, name="score")
    run.objective = replace(run.objective, aggregation=token_mean)
    if not setting.ends_early:
        run.policy.eos_token_ids = (setting.shape.vocabulary,)
    return run
