"""An evaluation from prompts to numbers, ours against the straightforward one: `generate`, then math-verify.

Both take the same random model, prompts, limits, temperature and number of samples, decode 256 completions at a time
and write every sample to a file. Theirs calls `transformers.generate` for one prompt after the other and then parses
and verifies each answer with math-verify, as TRL's accuracy reward configures it, in the same process. Ours is what
`ngrpo eval` runs: the native engine, `MathReward` with one process beside it, files that survive a kill, intervals.

A random model answers nothing, so to what it wrote an answer is added that its text decides on: in 45 % of the cases
the gold, in 40 % the gold written differently, else something wrong; golds are of the kinds of MATH.

A third column is ours with the grading after the sampling, to see what doing both at the same time gains. Processor
time of the grading process is not in `per_cpu_s`: it is the clock that counts here, on two cores that are free.

    python benchmarks/evaluation.py                  # 4 prompts, 256 samples each
    python benchmarks/evaluation.py --prompts 64
"""

import json
import random
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from transformers import GenerationConfig
from transformers.utils import logging

import bench
from grading import completion, made_up_golds, sequential, variant, wrong
from ngrpo.data import PromptSet
from ngrpo.evaluate import EvaluationSettings, evaluate
from ngrpo.policy import Policy
from ngrpo.rewards import MathReward
from ngrpo.rollout import NativeEngine
from ngrpo.types import Completion, Outcome, Prompt
from shapes import SHAPES, Setting, ending_ids, make_model, make_prompts, make_tokenizer

MAX_ROWS = 256


class Speaking(MathReward):
    """Judges what was written with an answer added to it."""

    def __init__(self, golds: Sequence[str], *, is_alongside: bool) -> None:
        super().__init__(num_workers=1)
        self.golds, self.judges_elsewhere = golds, is_alongside

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Outcome]:
        """See `Reward`."""
        spoken = [
            replace(each, text=speak(each.text, prompt.gold, self.golds))
            for prompt, each in zip(prompts, completions, strict=True)
        ]
        return super().__call__(prompts, spoken)


def speak(text: str, gold: str, golds: Sequence[str]) -> str:
    """A thought of a hundred words and an answer; the same for the same text."""
    chance = random.Random(zlib.crc32(text.encode()))
    luck = chance.random()
    answer = gold if luck < 0.45 else variant(gold, chance) if luck < 0.85 else wrong(gold, list(golds), chance)
    return completion(answer, chance)


class Job:
    """One evaluation, done in several ways; each returns the number of samples."""

    def __init__(self, num_prompts: int, num_samples: int, max_tokens: int) -> None:
        shape = SHAPES["tiny"]
        setting = Setting(shape, num_prompts=num_prompts, max_tokens=max_tokens)
        tokenizer = make_tokenizer(shape.vocabulary)
        max_positions = setting.prompt_tokens[1] + max_tokens
        self.policy = Policy(make_model(setting).eval(), tokenizer, tuple(ending_ids(shape)), 0, max_positions)
        texts = make_prompts(setting)
        self.golds = made_up_golds(num_prompts, random.Random(1))
        self.prompts = [
            Prompt(str(place), text, tuple(tokenizer.encode(text)), gold, problem=text)
            for place, (text, gold) in enumerate(zip(texts, self.golds, strict=True))
        ]
        self.num_samples, self.max_tokens = num_samples, max_tokens
        self.grade = sequential("trl")

    def ours(self, repeat: int, *, is_alongside: bool) -> float:
        """As `ngrpo eval`, the start of the grading process counted."""
        settings = EvaluationSettings(
            model="random",
            data="letters",
            fingerprint="",
            num_prompts=len(self.prompts),
            num_samples=self.num_samples,
            ks=(1,),
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            max_completion_tokens=self.max_tokens,
            seed=repeat,
            reward="math",
            engine="native",
        )
        reward = Speaking(self.golds, is_alongside=is_alongside)
        with tempfile.TemporaryDirectory() as folder:
            evaluate(
                Path(folder) / "evaluation",
                settings,
                PromptSet(tuple(self.prompts), "letters"),
                lambda: NativeEngine(self.policy, max_rows=MAX_ROWS),
                reward,
                max_rows=MAX_ROWS,
                on_progress=lambda count: None,
            )
        reward.close()
        return len(self.prompts) * self.num_samples

    def theirs(self, repeat: int) -> float:
        """Sample, decode, parse, verify, write."""
        torch.manual_seed(repeat)
        with tempfile.TemporaryFile("w") as file:
            for prompt in self.prompts:
                for start in range(0, self.num_samples, MAX_ROWS):
                    texts = self._generate(prompt, min(MAX_ROWS, self.num_samples - start))
                    spoken = [speak(text, prompt.gold, self.golds) for text in texts]
                    for sample, text in enumerate(spoken, start=start):
                        is_right = bool(self.grade([(text, prompt.gold)]))
                        row = {"prompt": prompt.id, "sample": sample, "completion": text, "correct": is_right}
                        file.write(json.dumps(row) + "\n")
        return len(self.prompts) * self.num_samples

    @torch.inference_mode()
    def _generate(self, prompt: Prompt, count: int) -> list[str]:
        config = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.max_tokens,
            num_return_sequences=count,
            eos_token_id=list(self.policy.eos_token_ids),
            pad_token_id=self.policy.pad_token_id,
        )
        ids = torch.tensor([prompt.token_ids])
        output = self.policy.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
        )
        return self.policy.tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)


def main() -> None:
    """Prints a table, or a JSON line."""
    parser = bench.arguments(__doc__, repeats=3)
    parser.add_argument("--prompts", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--samples", type=int, default=256, help="of each (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=64, help="longest completion (default: %(default)s)")
    options = parser.parse_args()
    logging.set_verbosity_error()
    columns = {
        "setting": "setting",
        "ours_per_s": "ours, samples/s",
        "afterwards_per_s": "graded afterwards",
        "theirs_per_s": "generate and math-verify",
        "afterwards_ratio": "gain of grading alongside",
        "theirs_ratio": "ratio",
    }
    report = bench.Report(options, columns)
    job = Job(options.prompts, options.samples, options.max_tokens)
    ways = {
        "ours": partial(job.ours, is_alongside=True),
        "afterwards": partial(job.ours, is_alongside=False),
        "theirs": job.theirs,
    }
    laps = bench.interleave(ways, repeats=options.repeats, warm_ups=0)
    setting = f"tiny, {options.prompts} prompts, {options.samples} samples, {options.max_tokens} tokens"
    report.add({"setting": setting, "repeats": options.repeats, **bench.compare(laps)})


if __name__ == "__main__":
    main()
