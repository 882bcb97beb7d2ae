"""Samples per second of an evaluation on a Ray cluster of one worker and of two, and their ratio.

The same random model, prompts and samples; workers have loaded the model before the clock starts, so that what counts
is sampling, streaming, judging and writing. One thread each: on two cores that are free two workers should be close to
twice as fast, less what the driver takes.

    python benchmarks/ray_scaling.py                  # needs ngrpo[ray]
    python benchmarks/ray_scaling.py --samples 64     # a short evaluation
"""

import os
import tempfile
from functools import partial
from pathlib import Path

from transformers.utils import logging

import bench
from ngrpo.data import PromptSet
from ngrpo.evaluate import EvaluationSettings, evaluate
from ngrpo.integrations.ray import RayEngine, RayWorkers
from ngrpo.integrations.ray_cluster import RayCluster, connect
from ngrpo.integrations.ray_worker import WorkerModel
from ngrpo.policy import weights_fingerprint
from ngrpo.rewards import exact_reward
from ngrpo.types import Prompt
from shapes import SHAPES, Setting, make_model, make_prompts, make_tokenizer


class Job:
    """One evaluation on one or two workers; returns the number of samples."""

    def __init__(self, folder: Path, num_prompts: int, num_samples: int, max_tokens: int) -> None:
        shape = SHAPES["tiny"]
        setting = Setting(shape, num_prompts=num_prompts, max_tokens=max_tokens)
        tokenizer = make_tokenizer(shape.vocabulary)
        make_model(setting).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        self.prompts = tuple(
            Prompt(str(place), text, tuple(tokenizer.encode(text)), "0", problem=text)
            for place, text in enumerate(make_prompts(setting))
        )
        self.num_samples, self.max_tokens = num_samples, max_tokens
        path = str(folder)
        self.model = WorkerModel(path, weights_fingerprint(path), "native", "cpu", "float32", 256, 4.0)

    def workers(self, count: int) -> RayWorkers:
        """So many processes that have loaded the model."""
        import ray

        found = RayWorkers(RayCluster(count, on_gpus=False), self.model)
        found.start(count)
        for worker in found.workers:
            ray.get(worker.loading)
        return found

    def evaluate(self, repeat: int, *, workers: RayWorkers) -> float:
        """As `ngrpo eval --ray`, workers that have begun taken for granted."""
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
            reward="exact",
            engine="native",
        )
        with tempfile.TemporaryDirectory() as folder:
            evaluate(
                Path(folder) / "evaluation",
                settings,
                PromptSet(self.prompts, "letters"),
                lambda: RayEngine(workers, answers_are_boxed=False),
                exact_reward(),
                max_rows=256,
                on_progress=lambda count: None,
            )
        return len(self.prompts) * self.num_samples


def main() -> None:
    """Prints a table, or a JSON line."""
    parser = bench.arguments(__doc__, repeats=5)
    parser.add_argument("--prompts", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--samples", type=int, default=512, help="of each (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=64, help="longest completion (default: %(default)s)")
    options = parser.parse_args()
    logging.set_verbosity_error()
    columns = {"setting": "setting", "two_per_s": "two workers, samples/s", "one_per_s": "one", "one_ratio": "ratio"}
    report = bench.Report(options, columns)
    os.environ.setdefault("RAY_worker_niceness", "0")  # else workers give way to every other process of the machine
    cluster = connect("local", device="cpu", num_cpus=3)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Path(folder), options.prompts, options.samples, options.max_tokens)
        ways = {name: partial(job.evaluate, workers=job.workers(count)) for name, count in (("two", 2), ("one", 1))}
        laps = bench.interleave(ways, repeats=options.repeats, warm_ups=1)
        setting = f"tiny, {options.prompts} prompts, {options.samples} samples, {options.max_tokens} tokens"
        report.add({"setting": setting, "repeats": options.repeats, **bench.compare(laps)})
    cluster.close()


if __name__ == "__main__":
    main()
