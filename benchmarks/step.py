"""A whole step of training, ours against TRL's GRPOTrainer: sampling, rewards, advantages, four updates.

Both train the same weights on the same prompts with the same rewards: completions at temperature 1, GRPO's advantages,
its clipped XX What is compared is completion tokens per second of the whole step, over interleaved repeats.

TRL always computes the entropy of each token in the update, for a metric; the second comparison is with that taken out
of it. Ours always records the entropy too, of the distributions that tokens were sampled from.

Rows without advantage cost ours nothing in the update. There are none here, but in the setting that says so.

    .venv-trl/bin/python benchmarks/step.py                      # in the environment that `make parity` builds
    .venv-trl/bin/python benchmarks/step.py --settings tiny 39M --threads 2
    python benchmarks/step.py                                    # without TRL: ours alone
    python benchmarks/step.py --two-threads                      # ours on two threads against ours on one
"""

import argparse
import contextlib
import os
import queue
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers.utils import logging

import bench
from bench import Lap
from ngrpo.policy.load import load_model, load_tokenizer
from ngrpo.rewards.function import FunctionReward
from ngrpo.rollout import NativeEngine
from ngrpo.train import loop
from shapes import SHAPES, Setting, ending_ids, make_prompts, make_run, score, write_model

try:
    import trl
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl.trainer import grpo_trainer
except ImportError:
    trl, TrainerCallback = None, object

SETTINGS = {
    "tiny": Setting(SHAPES["tiny"]),
    "tiny, no advantage in half of the groups": Setting(SHAPES["tiny"], hopeless_frac=0.5),
    "tiny, all to full length": Setting(SHAPES["tiny"], ends_early=False),
    "39M": Setting(SHAPES["39M"], num_prompts=4, max_tokens=64),
    "39M, 16 prompts": Setting(SHAPES["39M"], max_tokens=64),
    "39M, all to full length": Setting(SHAPES["39M"], num_prompts=4, max_tokens=64, ends_early=False),
    "0.5B": Setting(SHAPES["0.5B"], num_prompts=32, max_tokens=512, prompt_tokens=(100, 200)),
}
USUAL = [name for name in SETTINGS if name not in ("39M, 16 prompts", "0.5B")]
"""Unless asked for, neither the longest of all nor the one for a GPU."""

NUM_UPDATES = 4

PHASES = ("sampling", "old log-probs", "forward and backward", "clip and AdamW", "rest")


def watch_all(phases: bench.Phases) -> None:
    """Puts the clocks into both trainers."""
    phases.watch(torch.optim.AdamW, "step", "clip and AdamW")
    phases.watch(torch.nn.utils, "clip_grad_norm_", "clip and AdamW")
    phases.watch(NativeEngine, "sample", "sampling")
    phases.watch(FunctionReward, "__call__", "rest")
    phases.watch(loop, "with_retaken_logprobs", "old log-probs")
    phases.watch(loop, "update_policy", "forward and backward")
    phases.watch(loop, "train_step", "rest")
    if trl is not None:
        trainer = grpo_trainer.GRPOTrainer
        phases.watch(trainer, "_generate_single_turn", "sampling")
        phases.watch(trainer, "_generate_and_score_completions", "rest")
        phases.watch(trainer, "_get_per_token_logps_and_entropies", "old log-probs", only_if=is_without_gradient)
        phases.watch(trainer, "_compute_loss", "forward and backward")
        phases.watch(Accelerator, "backward", "forward and backward")


def is_without_gradient() -> bool:
    """Whether this is TRL's pass for the old log-probabilities, and not the one of the update."""
    return not torch.is_grad_enabled()


class Ours:
    """Steps of our trainer."""

    def __init__(self, folder: Path, setting: Setting, options: argparse.Namespace) -> None:
        folder.mkdir()
        self.run = make_run(folder, setting, device=options.device, precision=options.precision)
        self._num_tokens = 0
        sample = self.run.engine.sample

        def counting(*args: Any, **kwargs: Any) -> Any:
            completions = sample(*args, **kwargs)
            self._num_tokens += sum(len(completion.token_ids) for completion in completions)
            return completions

        self.run.engine.sample = counting

    def __call__(self, repeat: int) -> int:
        """One step. Returns the number of completion tokens."""
        before = self._num_tokens
        loop.train_step(self.run, lambda: False)
        return self._num_tokens - before


class Theirs:
    """Steps of TRL's trainer, which runs in a thread of its own and waits between one step and the next."""

    def __init__(self, folder: Path, setting: Setting, options: argparse.Namespace, *, with_entropy: bool) -> None:
        self._go: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._num_threads = torch.get_num_threads()
        self._num_tokens = 0
        folder.mkdir()
        outputs = ("log_probs", "entropy") if with_entropy else ("log_probs",)
        with _head_computes(outputs):
            self._trainer = make_trainer(folder, setting, options)
        if not with_entropy:
            self._without_entropy()
        self._count_tokens()
        self._trainer.add_callback(_AfterEachStep(self))
        # A thread, so that the trainer's own loop runs, and not one written here.
        threading.Thread(target=self._train, daemon=True).start()

    def __call__(self, repeat: int) -> int:
        """One generation and its updates. Returns the number of completion tokens."""
        before = self._num_tokens
        self._go.put(None)
        error = self._done.get()
        if error is not None:
            raise error
        return self._num_tokens - before

    def _train(self) -> None:
        torch.set_num_threads(self._num_threads)  # each thread has a number of its own
        self._go.get()
        try:
            self._trainer.train()
        except BaseException as error:  # noqa: BLE001  whatever it is, the benchmark must not wait for ever
            self._done.put(error)

    def step_ends(self, *, is_last: bool) -> None:
        """Hands over to whoever measures, and waits for the next turn."""
        self._done.put(None)
        if not is_last:
            self._go.get()

    def _count_tokens(self) -> None:
        generate = self._trainer._generate_single_turn

        def counting(*args: Any, **kwargs: Any) -> Any:
            found = generate(*args, **kwargs)
            self._num_tokens += sum(map(len, found[0]))
            return found

        self._trainer._generate_single_turn = counting

    def _without_entropy(self) -> None:
        logprobs_of = self._trainer._get_per_token_logps_and_entropies

        def without(*args: Any, compute_entropy: bool = False, **kwargs: Any) -> Any:
            logprobs, _, auxiliary = logprobs_of(*args, compute_entropy=False, **kwargs)
            return logprobs, torch.zeros_like(logprobs) if compute_entropy else None, auxiliary

        self._trainer._get_per_token_logps_and_entropies = without


class _AfterEachStep(TrainerCallback):
    """Tells when the updates of one generation are done."""

    def __init__(self, steps: Theirs) -> None:
        self._steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % NUM_UPDATES == 0:
            bench.wait_for_device()
            self._steps.step_ends(is_last=state.global_step == state.max_steps)


@contextlib.contextmanager
def _head_computes(outputs: tuple[str, ...]) -> Iterator[None]:
    """What TRL's fused head shall compute of every token, for trainers made inside."""
    add_fused_lm_head = grpo_trainer.add_fused_lm_head

    def add(*args: Any, **kwargs: Any) -> None:
        add_fused_lm_head(*args, **{**kwargs, "outputs": outputs})

    grpo_trainer.add_fused_lm_head = add
    try:
        yield
    finally:
        grpo_trainer.add_fused_lm_head = add_fused_lm_head


def make_trainer(folder: Path, setting: Setting, options: argparse.Namespace) -> Any:
    """TRL's trainer on the setting's model and prompts."""
    write_model(folder / "model", setting)
    generation = {} if setting.ends_early else {"eos_token_id": [setting.shape.vocabulary]}
    config = trl.GRPOConfig(
        output_dir=str(folder / "output"),
        max_steps=(1 + options.repeats) * NUM_UPDATES,
        per_device_train_batch_size=setting.num_prompts * setting.group_size // NUM_UPDATES,
        steps_per_generation=NUM_UPDATES,
        gradient_accumulation_steps=1,
        num_generations=setting.group_size,
        max_completion_length=setting.max_tokens,
        generation_kwargs=generation,
        temperature=1.0,
        beta=0.0,
        loss_type="dapo",  # the token mean
        epsilon=0.2,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=options.precision == "bfloat16",
        use_cpu=options.device == "cpu",
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = grpo_trainer.GRPOTrainer(
        model=load_model(str(folder / "model"), torch.float32),
        processing_class=load_tokenizer(str(folder / "model")),
        reward_funcs=score,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": make_prompts(setting)}),
    )
    if not setting.ends_early:
        trainer.eos_token_ids = [setting.shape.vocabulary]
    assert trainer.eos_token_ids[-1] >= ending_ids(setting.shape)[-1], "TRL knows other ends than ours"
    trainer.remove_callback(PrinterCallback)
    return trainer


def measure(
    name: str, options: argparse.Namespace, phases: bench.Phases
) -> tuple[dict[str, object], dict[str, dict[str, float]]]:
    """The ways of one setting, interleaved; and, of each, milliseconds per completion token by phase."""
    setting = SETTINGS[name]
    with tempfile.TemporaryDirectory() as found:
        folder = Path(found)
        ours = Ours(folder / "ours", setting, options)
        ways: dict[str, Callable[[int], int]] = {"ours": ours}
        if trl is not None:
            for way, with_entropy in (("trl", True), ("trl_without_entropy", False)):
                ways[way] = Theirs(folder / way, setting, options, with_entropy=with_entropy)
        laps, seconds = interleave_with_phases(ways, phases, options.repeats)
        ours.run.close()
    row = {"setting": name, "rows": setting.num_prompts * setting.group_size, **bench.compare(laps)}
    return row, {
        way.replace("_", " "): {phase: round(1e3 * median(values), 4) for phase, values in by_phase.items()}
        for way, by_phase in seconds.items()
    }


def interleave_with_phases(
    ways: Mapping[str, Callable[[int], int]], phases: bench.Phases, repeats: int
) -> tuple[dict[str, list[Lap]], dict[str, dict[str, list[float]]]]:
    """As `bench.interleave`, with the seconds per token of each phase of each lap beside."""
    seconds: dict[str, dict[str, list[float]]] = {way: {phase: [] for phase in PHASES} for way in ways}

    def noting(way: str, step: Callable[[int], int]) -> Callable[[int], int]:
        def run(repeat: int) -> int:
            num_tokens = step(repeat)
            taken = phases.take()
            if repeat > 0:  # the first warms up
                for phase in PHASES:
                    seconds[way][phase].append(taken[phase] / num_tokens)
            return num_tokens

        return run

    laps = bench.interleave({way: noting(way, step) for way, step in ways.items()}, repeats=repeats)
    return laps, seconds


def measure_threads(name: str, options: argparse.Namespace) -> dict[str, object]:
    """Ours on two threads and on one, interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(Path(folder) / "ours", SETTINGS[name], options)

        def on(num_threads: int) -> Callable[[int], int]:
            def run(repeat: int) -> int:
                torch.set_num_threads(num_threads)
                return ours(repeat)

            return run

        laps = bench.interleave({"two": on(2), "one": on(1)}, repeats=options.repeats)
        ours.run.close()
    return {"setting": name, **bench.compare(laps)}


def report_steps(options: argparse.Namespace) -> None:
    """Ours against TRL, one row per setting; then the phases."""
    phases = bench.Phases(is_alone=options.threads == 1 and options.device == "cpu")
    watch_all(phases)
    columns = {"setting": "setting", "rows": "rows", "ours_per_s": "ours, tokens/s", "ours_per_cpu_s": "per CPU s"}
    if trl is not None:
        columns |= {"trl_per_s": "TRL, tokens/s", "trl_ratio": "ratio", "trl_ratio_low": "lowest"}
        columns |= {"trl_ratio_high": "highest", "trl_cpu_ratio": "ratio by CPU time"}
        columns |= {"trl_without_entropy_ratio": "ratio, TRL without entropy"}
        columns |= {"trl_without_entropy_cpu_ratio": "by CPU time"}
    report = bench.Report(options, columns, device=options.device)
    phases_of: list[dict[str, object]] = []
    for name in options.settings:
        row, by_way = measure(name, options, phases)
        report.add(row)
        phases_of += [{"setting": name, "way": way, **shares} for way, shares in by_way.items()]
    report.table(
        {"setting": "setting", "way": "ms per completion token", **{phase: phase for phase in PHASES}}, phases_of
    )
    if trl is None:
        report.note("TRL is not installed here; `make bench-trl` runs this in the environment that has it.")


def report_threads(options: argparse.Namespace) -> None:
    """Two threads against one."""
    columns = {"setting": "setting", "two_per_s": "two threads, tokens/s", "one_per_s": "one thread, tokens/s"}
    columns |= {"one_ratio": "ratio", "one_ratio_low": "lowest", "one_ratio_high": "highest"}
    report = bench.Report(options, columns, device=options.device)
    for name in options.settings:
        report.add(measure_threads(name, options))


def main() -> None:
    """Prints a table, or JSON lines."""
    parser = bench.arguments(__doc__, repeats=3)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, metavar="NAME", default=USUAL)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--two-threads", action="store_true", help="ours on two threads against ours on one instead")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)
    if options.two_threads:
        report_threads(options)
    else:
        report_steps(options)


if __name__ == "__main__":
    main()
