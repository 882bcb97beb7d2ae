"""Sampling: ours, `transformers.generate`, its continuous batching, vLLM: the same models, prompts and limits.

Each draws its own tokens, so that lengths differ by chance; rates are completion tokens per second, repeats are
interleaved, ratios are medians over pairs. `generate` gets whole prompts in the batches that suit it best, found by
trying each once; its log-probabilities are not asked for, ours are always recorded. Continuous batching has its own
queue and gets all prompts at once; where flash attention is not installed it multiplies every row with every other's
keys, so that it is left out where the rows are many. vLLM takes part where it is installed.

    python benchmarks/sampling.py                    # 1.3M parameters: 8 and 256 samples, short and long tails
    python benchmarks/sampling.py --medium           # 39M parameters: several minutes
"""

import importlib.util
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils import logging

import bench
from ngrpo.policy import Policy, pad_rows
from ngrpo.rollout import NativeEngine, SampleRequest, Sampling, random_key
from ngrpo.types import Prompt
from shapes import SHAPES, Setting, ending_ids, make_model, make_prompts, make_tokenizer, write_model

TINY, MEDIUM = SHAPES["tiny"], SHAPES["39M"]
BRIEF = replace(TINY, mean_tokens=12)

SETTINGS = {
    "tiny, 16 x 8, long tail": Setting(TINY, 16, 8, 128),
    "tiny, 16 x 8, short tail": Setting(BRIEF, 16, 8, 32),
    "tiny, 16 x 8, none ends early": Setting(TINY, 16, 8, 64, ends_early=False),
    "tiny, 4 x 256, long tail": Setting(TINY, 4, 256, 128),
    "39M, 4 x 8, long tail": Setting(MEDIUM, 4, 8, 64),
    "39M, 2 x 256, long tail": Setting(MEDIUM, 2, 256, 64),
}
"""By name: prompts x samples of each, and whether completions end early."""

BATCH_ROWS = (128, 256, 512)
"""Rows that `generate` may decode together."""

MAX_ROWS = 512
"""Rows that ours decodes together."""

MOST_CONTINUOUS = 128
"""Rows beyond which continuous batching is left out."""

Way = Callable[[int], float]


class Work:
    """A model, its prompts, and how each side samples from it.

    Args:
        setting: Its size.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        tokenizer = make_tokenizer(setting.shape.vocabulary)
        self.ends = ending_ids(setting.shape) if setting.ends_early else []
        eos = tuple(self.ends) or (setting.shape.vocabulary,)
        longest = setting.prompt_tokens[1] + setting.max_tokens
        self.policy = Policy(make_model(setting).eval(), tokenizer, eos, 0, longest)
        self.prompts = [
            Prompt(str(place), text, tuple(tokenizer.encode(text)), "")
            for place, text in enumerate(make_prompts(setting))
        ]
        self.settings = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=setting.max_tokens,
            num_return_sequences=setting.group_size,
            eos_token_id=self.ends or None,
            pad_token_id=0,
        )

    def ours(self, repeat: int) -> float:
        """Completion tokens of the native engine."""
        requests = [
            SampleRequest(prompt, random_key(seed=repeat, stream=0, step=0, occurrence=place, sample=sample))
            for place, prompt in enumerate(self.prompts)
            for sample in range(self.setting.group_size)
        ]
        engine = NativeEngine(self.policy, max_rows=MAX_ROWS)
        completions = engine.sample(requests, Sampling(self.setting.max_tokens))
        return sum(len(completion.token_ids) for completion in completions)

    def best_generate(self) -> Way:
        """`generate`, with as many prompts at a time as give it the highest rate."""
        num_prompts = sorted({min(len(self.prompts), math.ceil(rows / self.setting.group_size)) for rows in BATCH_ROWS})
        if len(num_prompts) == 1:
            return lambda repeat: self.generate(repeat, num_prompts[0])
        laps = {number: bench.timed(lambda number=number: self.generate(0, number)) for number in num_prompts}
        best = max(num_prompts, key=lambda number: laps[number].amount / laps[number].cpu_s)
        return lambda repeat: self.generate(repeat, best)

    def generate(self, repeat: int, num_prompts: int) -> float:
        """Completion tokens of `transformers.generate`, so many prompts in a batch."""
        torch.manual_seed(repeat)
        total = 0.0
        for first in range(0, len(self.prompts), num_prompts):
            ids = [prompt.token_ids for prompt in self.prompts[first : first + num_prompts]]
            batch = pad_rows(ids, [()] * len(ids), pad_token_id=0, device=torch.device("cpu"))
            with torch.inference_mode():
                output = self.policy.model.generate(
                    input_ids=batch.input_ids, attention_mask=batch.attention_mask, generation_config=self.settings
                )
            new = output[:, batch.input_ids.shape[1] :]
            has_ended = torch.isin(new, torch.tensor(self.ends, dtype=torch.long))
            total += int(torch.where(has_ended.any(1), has_ended.int().argmax(1) + 1, new.shape[1]).sum())
        return total

    def continuous(self, repeat: int) -> float:
        """Completion tokens of its continuous batching."""
        from transformers import ContinuousBatchingConfig

        torch.manual_seed(repeat)
        outputs = self.policy.model.generate_batch(
            [list(prompt.token_ids) for prompt in self.prompts],
            generation_config=self.settings,
            continuous_batching_config=ContinuousBatchingConfig(page_size=32, num_blocks=1024, max_batch_tokens=2048),
            progress_bar=False,
        )
        return sum(len(output.generated_tokens) for output in outputs.values())


class VLLM:
    """Sampling by vLLM, which reads the model from a folder of its own.

    Args:
        work: Model and prompts.
    """

    def __init__(self, work: Work) -> None:
        from vllm import LLM

        self._work = work
        self._folder = tempfile.TemporaryDirectory()
        setting = work.setting
        self._engine: Any = LLM(
            model=str(write_model(Path(self._folder.name) / "model", setting)),
            dtype="float32",
            max_model_len=setting.prompt_tokens[1] + setting.max_tokens,
            max_num_seqs=MAX_ROWS,
            disable_log_stats=True,
        )

    def __call__(self, repeat: int) -> float:
        """Completion tokens."""
        from vllm import SamplingParams

        work = self._work
        settings = SamplingParams(
            n=work.setting.group_size,
            temperature=1.0,
            max_tokens=work.setting.max_tokens,
            stop_token_ids=work.ends,
            ignore_eos=True,  # what ends a completion is said above
            seed=repeat,
            detokenize=False,
        )
        prompts = [{"prompt_token_ids": list(prompt.token_ids)} for prompt in work.prompts]
        outputs = self._engine.generate(prompts, settings, use_tqdm=False)
        return sum(len(completion.token_ids) for output in outputs for completion in output.outputs)


def measure(name: str, repeats: int) -> dict[str, object]:
    """One row of the table."""
    setting = SETTINGS[name]
    work = Work(setting)
    ways: dict[str, Way] = {"ours": work.ours, "generate": work.best_generate()}
    if setting.num_prompts * setting.group_size <= MOST_CONTINUOUS:
        ways["continuous"] = work.continuous
    if importlib.util.find_spec("vllm") is not None:
        ways["vllm"] = VLLM(work)
    return {"setting": name, "repeats": repeats} | bench.compare(bench.interleave(ways, repeats=repeats))


def main() -> None:
    """Prints a table, or JSON lines."""
    parser = bench.arguments(__doc__, repeats=3)
    parser.add_argument("--medium", action="store_true", help="the settings of the larger model")
    options = parser.parse_args()
    logging.set_verbosity_error()
    columns = {
        "setting": "setting",
        "ours_per_s": "ours, tokens/s",
        "generate_per_s": "generate",
        "generate_ratio": "ratio",
        "generate_cpu_ratio": "by processor time",
        "continuous_per_s": "continuous batching",
        "continuous_ratio": "ratio",
    }
    if importlib.util.find_spec("vllm") is not None:
        columns |= {"vllm_per_s": "vLLM", "vllm_ratio": "ratio"}
    report = bench.Report(options, columns)
    for name, setting in SETTINGS.items():
        if (setting.shape is MEDIUM) == options.medium:
            report.add(measure(name, options.repeats))


if __name__ == "__main__":
    main()
