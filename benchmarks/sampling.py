"""Sampling, ours against `transformers.generate`: same model, prompts, temperature, limits and end-of-sequence ids.

Both draw their own tokens, so lengths differ by chance; the ratio is of completion tokens per second. Repeats are
interleaved, the median is reported. Weights are random: the arithmetic does not care.

    python benchmarks/sampling.py                 # tiny (1.3 M parameters) and, with --medium, 39 M
    python benchmarks/sampling.py --json
"""

import argparse
import json
import platform
import statistics
import time

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

from ngrpo.lab.tokenizer import character_tokenizer
from ngrpo.policy import Policy, pad_rows
from ngrpo.rollout import NativeEngine, SampleRequest, Sampling, random_key
from ngrpo.types import Prompt

SIZES = {
    # hidden, layers, heads, kv heads, feed-forward, vocabulary, ids that end a completion
    "tiny": (128, 4, 4, 2, 512, 2048, 43),
    "medium": (512, 8, 8, 2, 1408, 32000, 1000),
}
SETTINGS = {
    # model, prompts, samples per prompt, longest completion, whether completions end early
    "tiny, long tail": ("tiny", 16, 8, 128, True),
    "tiny, 256 samples": ("tiny", 1, 256, 128, True),
    "tiny, none ends early": ("tiny", 16, 8, 64, False),
    "medium, long tail": ("medium", 4, 8, 64, True),
}


def make_policy(size: str, ends_early: bool) -> Policy:
    """A random model whose many end-of-sequence ids make lengths geometric, about 44 tokens on average."""
    hidden, layers, heads, kv_heads, feed_forward, vocabulary, num_eos = SIZES[size]
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
        max_position_embeddings=512,
    )
    eos = tuple(range(1, 1 + num_eos)) if ends_early else (vocabulary + 1,)
    tokenizer: PreTrainedTokenizerFast = character_tokenizer("ab", max_tokens=512)
    return Policy(Qwen2ForCausalLM(config).eval(), tokenizer, eos, 0, 512)


def measure(name: str, repeats: int) -> dict[str, object]:
    """Completion tokens per second of both, interleaved."""
    size, num_prompts, num_samples, limit, ends_early = SETTINGS[name]
    policy = make_policy(size, ends_early)
    random = np.random.default_rng(0)
    vocabulary = policy.model.config.vocab_size
    prompts = [
        Prompt(str(i), "", tuple(random.integers(2000, vocabulary, size=random.integers(30, 70)).tolist()), "")
        for i in range(num_prompts)
    ]
    ours, theirs = [], []
    for repeat in range(repeats + 1):
        ours.append(sample_ours(policy, prompts, num_samples, limit, seed=repeat))
        theirs.append(sample_theirs(policy, prompts, num_samples, limit, seed=repeat))
    ours, theirs = ours[1:], theirs[1:]  # the first round warms up
    return {
        "setting": name,
        "rows": num_prompts * num_samples,
        "ours_tokens_per_s": round(statistics.median(ours)),
        "generate_tokens_per_s": round(statistics.median(theirs)),
        "ratio": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 2),
        "repeats": repeats,
    }


def sample_ours(policy: Policy, prompts: list[Prompt], num_samples: int, limit: int, seed: int) -> float:
    """Completion tokens per second of the native engine."""
    requests = [
        SampleRequest(prompt, random_key(seed=seed, stream=0, step=0, occurrence=place, sample=sample))
        for place, prompt in enumerate(prompts)
        for sample in range(num_samples)
    ]
    started = time.perf_counter()
    completions = NativeEngine(policy, max_rows=len(requests)).sample(requests, Sampling(limit))
    return sum(len(completion.token_ids) for completion in completions) / (time.perf_counter() - started)


def sample_theirs(policy: Policy, prompts: list[Prompt], num_samples: int, limit: int, seed: int) -> float:
    """Completion tokens per second of `generate`, log-probabilities not asked for (ours records them)."""
    torch.manual_seed(seed)
    ids = [prompt.token_ids for prompt in prompts]
    batch = pad_rows(ids, [()] * len(ids), pad_token_id=0, device=torch.device("cpu"))
    is_open = policy.eos_token_ids[0] >= policy.model.config.vocab_size
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=limit,
        num_return_sequences=num_samples,
        eos_token_id=None if is_open else list(policy.eos_token_ids),
        pad_token_id=0,
    )
    started = time.perf_counter()
    with torch.inference_mode():
        output = policy.model.generate(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, generation_config=config
        )
    elapsed = time.perf_counter() - started
    new = output[:, batch.input_ids.shape[1] :]
    if is_open:
        return new.numel() / elapsed
    ended = torch.isin(new, torch.tensor(policy.eos_token_ids))
    lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, new.shape[1])
    return int(lengths.sum()) / elapsed


def main() -> None:
    """Prints a table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--medium", action="store_true", help="also the 39 M model (slower)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    names = [name for name in SETTINGS if options.medium or not name.startswith("medium")]
    if not options.json:
        print(f"torch {torch.__version__}, {options.threads} threads, {platform.machine()}")
        print(f"{'setting':24} {'rows':>5} {'ours tok/s':>11} {'generate tok/s':>15} {'ratio':>6}")
    for name in names:
        row = measure(name, options.repeats)
        if options.json:
            print(json.dumps(row))
        else:
            print(
                f"{name:24} {row['rows']:>5} {row['ours_tokens_per_s']:>11} {row['generate_tokens_per_s']:>15} "
                f"{row['ratio']:>6}"
            )


if __name__ == "__main__":
    main()
