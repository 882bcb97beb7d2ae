"""Trains a few methods on one process or several, for test_trl_processes.py: accelerate launch ... FOLDER.

Completions are drawn from a generator of their own, by prompt, place in the group and step, so that it does not matter
which process they fall to.
"""

import hashlib
import json
import os
import random
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from trl_helpers import GROUP, NGRPOTrainer, ObjectiveTrainer, trainer_of  # noqa: E402

from helpers import EOS  # noqa: E402

ROWS = 16
NUM_PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
METHODS = ("ngrpo", "reinforce_pp", "lens", "rloo", "grpo")


def drawn(trainer, prompt_ids):
    """Completions of the rows of this process."""
    first = trainer.accelerator.process_index * len(prompt_ids)
    found = []
    for row, ids in enumerate(prompt_ids, start=first):
        key = f"{list(ids)} {row % GROUP} {trainer.state.global_step}"
        source = random.Random(hashlib.sha256(key.encode()).digest())
        found.append([*(source.randrange(2, 12) for _ in range(source.randrange(9))), EOS])
    return found


def score(prompts, completion_ids, **_):
    """By length: mostly wrong, sometimes right, now and then nothing."""
    return [None if len(ids) == 9 else float(len(ids) in (2, 3)) for ids in completion_ids]


def main(folder):
    for method in METHODS:
        is_ours = method == "ngrpo"
        trainer = trainer_of(
            NGRPOTrainer if is_ours else ObjectiveTrainer,
            folder / method,
            reward_funcs=score,
            options={} if is_ours else {"objective": method},
            per_device_train_batch_size=ROWS // NUM_PROCESSES,
            num_iterations=2,
            max_steps=4,
            record_groups=True,
            ddp_backend="gloo" if NUM_PROCESSES > 1 else None,
        )
        trainer._generate_single_turn = lambda ids, *_, trainer=trainer, **__: (drawn(trainer, ids), None)
        trainer.train()
        if trainer.accelerator.is_main_process:
            torch.save(trainer.accelerator.unwrap_model(trainer.model).state_dict(), folder / method / "weights.pt")
            lines = [
                {key: value for key, value in line.items() if key.startswith(("groups/", "loss", "reward"))}
                for line in trainer.state.log_history
            ]
            shown = list(trainer._logs["advantages"])
            told = {"lines": lines, "advantages": shown, "processes": trainer.accelerator.num_processes}
            (folder / method / "told.json").write_text(json.dumps(told))
        trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
