"""A whole step of training, ours against TRL's GRPOTrainer: sampling, rewards, advantages, four updates.

Both train the same weights on the same prompts with the same rewards: completions at temperature 1, GRPO's advantages,
its clipped loss as a token mean, four updates. What is compared is completion tokens per second of the whole step, over
interleaved repeats. Each trainer has a process of its own, so that its threads wait for none of the other's.

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
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
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
    phases.watch(loop, "with_old_logprobs", "old log-probs")
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


class Turns:
    """A trainer's side of the comparison, in its own process: waits for its turn, takes the time of it, and reports."""

    def __init__(self, pipe: Connection, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        logging.set_verbosity_error()
        warnings.simplefilter("ignore", FutureWarning)
        self._pipe = pipe
        self._phases = bench.Phases(is_alone=options.threads == 1 and options.device == "cpu")
        watch_all(self._phases)
        self._num_tokens = 0

    def wait(self) -> None:
        """Until it is this trainer's turn."""
        self._pipe.recv()
        self._phases.take()
        self._num_tokens = 0
        self._clock = bench.Clock()

    def count(self, num_tokens: int) -> None:
        """Adds completion tokens to this turn's."""
        self._num_tokens += num_tokens

    def end(self) -> None:
        """The turn is over."""
        lap = self._clock.lap(self._num_tokens)
        self._pipe.send(Turn(lap, dict(self._phases.take())))


@dataclass(frozen=True)
class Turn:
    """What one step took.

    Attributes:
        lap: Completion tokens and time.
        phases: Seconds of each phase.
    """

    lap: Lap
    phases: Mapping[str, float]


class Trainer:
    """A trainer in a process of its own: threads of two trainers in one process spin against each other."""

    def __init__(self, train: Callable[..., None], folder: Path, setting: Setting, options: argparse.Namespace) -> None:
        """Starts the process.

        Args:
            train: Makes steps for as long as it is given turns.
            folder: Will hold its files.
            setting: The step's size.
            options: Threads, device, precision, repeats.
        """
        folder.mkdir()
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_run, args=(train, theirs, folder, setting, options), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self, repeat: int = 0) -> Turn:
        """One step."""
        self._pipe.send("your turn")
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"a trainer's process ended with {self._process.exitcode}; its error is above") from None

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.join()


def _run(
    train: Callable[..., None], pipe: Connection, folder: Path, setting: Setting, options: argparse.Namespace
) -> None:
    train(Turns(pipe, options), folder, setting, options)


def train_ours(turns: Turns, folder: Path, setting: Setting, options: argparse.Namespace) -> None:
    """Steps of our trainer."""
    run = make_run(folder, setting, device=options.device, precision=options.precision)
    sample = run.engine.sample

    def counting(*args: Any, **kwargs: Any) -> Any:
        completions = sample(*args, **kwargs)
        turns.count(sum(len(completion.token_ids) for completion in completions))
        return completions

    run.engine.sample = counting
    while True:
        turns.wait()
        loop.train_step(run, lambda: False)
        turns.end()


def train_trl(
    turns: Turns, folder: Path, setting: Setting, options: argparse.Namespace, *, with_entropy: bool = True
) -> None:
    """Steps of TRL's trainer, in its own loop: one generation and its updates each."""
    with _head_computes(("log_probs", "entropy") if with_entropy else ("log_probs",)):
        trainer = make_trainer(folder, setting, options)
    if not with_entropy:
        _leave_out_entropy(trainer)
    generate = trainer._generate_single_turn

    def counting(*args: Any, **kwargs: Any) -> Any:
        found = generate(*args, **kwargs)
        turns.count(sum(map(len, found[0])))
        return found

    trainer._generate_single_turn = counting
    trainer.add_callback(_AfterEachStep(turns))
    turns.wait()
    trainer.train()


def _leave_out_entropy(trainer: Any) -> None:
    logprobs_of = trainer._get_per_token_logps_and_entropies

    def without(*args: Any, compute_entropy: bool = False, **kwargs: Any) -> Any:
        logprobs, _, auxiliary = logprobs_of(*args, compute_entropy=False, **kwargs)
        return logprobs, torch.zeros_like(logprobs) if compute_entropy else None, auxiliary

    trainer._get_per_token_logps_and_entropies = without


class _AfterEachStep(TrainerCallback):
    """Ends a turn when the updates of one generation are done, and waits for the next."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % NUM_UPDATES == 0:
            self._turns.end()
            if state.global_step < state.max_steps:
                self._turns.wait()


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


def measure(name: str, options: argparse.Namespace) -> tuple[dict[str, object], dict[str, dict[str, float]]]:
    """The ways of one setting, interleaved; and, of each, milliseconds per completion token by phase."""
    setting = SETTINGS[name]
    ways = {"ours": train_ours}
    if trl is not None:
        ways |= {"trl": train_trl, "trl_without_entropy": partial(train_trl, with_entropy=False)}
    turns = take_turns({way: (train, setting, options) for way, train in ways.items()}, options.repeats)
    laps = {way: [turn.lap for turn in each] for way, each in turns.items()}
    phases = {
        way.replace("_", " "): {
            phase: round(1e3 * median(turn.phases.get(phase, 0.0) / turn.lap.amount for turn in each), 4)
            for phase in PHASES
        }
        for way, each in turns.items()
    }
    return {"setting": name, "rows": setting.num_prompts * setting.group_size, **bench.compare(laps)}, phases


def take_turns(
    ways: Mapping[str, tuple[Callable[..., None], Setting, argparse.Namespace]], repeats: int
) -> dict[str, list[Turn]]:
    """Steps of several trainers, interleaved, after one step of each that does not count.

    Args:
        ways: By name: what trains, the step's size, and threads, device and precision.
        repeats: Steps of each that count.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as at_the_end:
        trainers = {
            way: Trainer(train, Path(folder) / way, setting, options) for way, (train, setting, options) in ways.items()
        }
        for trainer in trainers.values():
            at_the_end.callback(trainer.close)
        rounds = [{way: trainer() for way, trainer in trainers.items()} for _ in range(1 + repeats)]
    return {way: [each[way] for each in rounds[1:]] for way in ways}


def measure_threads(name: str, options: argparse.Namespace) -> dict[str, object]:
    """Ours on two threads and on one, interleaved."""
    ways = {"two": 2, "one": 1}
    turns = take_turns(
        {
            way: (train_ours, SETTINGS[name], argparse.Namespace(**{**vars(options), "threads": threads}))
            for way, threads in ways.items()
        },
        options.repeats,
    )
    return {"setting": name, **bench.compare({way: [turn.lap for turn in each] for way, each in turns.items()})}


def report_steps(options: argparse.Namespace) -> None:
    """Ours against TRL, one row per setting; then the phases."""
    columns = {"setting": "setting", "rows": "rows", "ours_per_s": "ours, tokens/s", "ours_per_cpu_s": "per CPU s"}
    if trl is not None:
        columns |= {"trl_per_s": "TRL, tokens/s", "trl_ratio": "ratio", "trl_ratio_low": "lowest"}
        columns |= {"trl_ratio_high": "highest", "trl_cpu_ratio": "ratio by CPU time"}
        columns |= {"trl_without_entropy_ratio": "ratio, TRL without entropy"}
        columns |= {"trl_without_entropy_cpu_ratio": "by CPU time"}
    report = bench.Report(options, columns, device=options.device)
    phases_of: list[dict[str, object]] = []
    for name in options.settings:
        row, by_way = measure(name, options)
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
    if options.two_threads:
        report_threads(options)
    else:
        report_steps(options)


if __name__ == "__main__":
    main()
