"""NGRPO inside TRL, on a processor, in under a minute: the same data, model and seed under TRL's GRPO and under NGRPO.

The model is tiny and random and the task is hard for it, so that most groups are all wrong: GRPO learns nothing from
those. The switch is the import and the two names; everything else is TRL's.

    pip install "ngrpo[trl]"
    python examples/04_trl.py
    accelerate launch --multi_gpu --num_processes 4 examples/04_trl.py --gpu        # several GPUs of one machine
"""

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PrinterCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer

from ngrpo.integrations.trl import NGRPOConfig, NGRPOTrainer
from ngrpo.lab.random_model import write_random_model

KINDS = ("all_wrong", "mixed", "all_right")
PROMPTS = [f"{first} + {second} =" for first in range(8) for second in range(8)]


def has_three_digits(completions: list[str], **_: Any) -> list[float]:
    """1 where a completion has three digits at least; random bytes very rarely do."""
    return [float(sum(letter.isdigit() for letter in text) >= 3) for text in completions]


def train(trainer_class: Any, config_class: Any, model: Path, options: argparse.Namespace) -> list[dict[str, float]]:
    """Trains one model; what was logged at each generation."""
    trainer = trainer_class(
        model=str(model),
        reward_funcs=has_three_digits,
        args=config_class(
            output_dir=str(options.folder / trainer_class.__name__),
            per_device_train_batch_size=16,
            steps_per_generation=4,  # as NGRPOConfig has it anyway: with one update per generation nothing is clipped
            num_generations=8,
            max_completion_length=12,
            max_steps=options.num_steps,
            learning_rate=3e-3,
            lr_scheduler_type="constant",
            logging_steps=4,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not options.gpu,
            bf16=options.gpu,
        ),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [line for line in trainer.state.log_history if "reward" in line]


def main() -> None:
    """Train both and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-steps", type=int, default=80, help="optimiser steps of each run")
    parser.add_argument("--folder", type=Path, help="where the runs go; left out, a temporary folder")
    parser.add_argument("--gpu", action="store_true", help="on a GPU, in bfloat16")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or Path(folder)
        model = write_random_model(Path(folder) / "model", max_positions=64)
        found = {
            "TRL's GRPO": train(GRPOTrainer, GRPOConfig, model, options),
            "NGRPO": train(NGRPOTrainer, NGRPOConfig, model, options),
        }
    say = PartialState().print  # of several processes, one
    for name, lines in found.items():
        rewards = [sum(line["reward"] for line in part) / len(part) for part in (lines[:3], lines[-3:])]
        zero = sum(line["frac_reward_zero_std"] for line in lines) / len(lines)
        say(f"{name:11} mean reward {rewards[0]:.2f} at first, {rewards[1]:.2f} at last; {zero:.0%} constant groups")
    first = found["NGRPO"][0]
    kinds = ", ".join(f"{first[f'groups/{kind}_frac']:.0%} {kind.replace('_', ' ')}" for kind in KINDS)
    say(f"NGRPO's first generation: {kinds}")
    say("One seed on a toy: it shows that the switch works, and nothing about which method is better.")


if __name__ == "__main__":
    torch.set_num_threads(1)  # the model is tiny: more threads cost more than they do
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    main()
