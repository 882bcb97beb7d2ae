"""Makes completions.json, the script of the golden trace: what is asked, answered and rewarded in ten rollout steps.

    python tests/train/golden/make_completions.py
    python examples/02_single_file.py --trace tests/train/golden/completions.json tests/train/golden/trace.json

The tokens are random numbers; the kinds of the groups are chosen, so that every case occurs. Model, seed and learning
rate were chosen so that each bound of the ratio binds in several steps, no ratio comes within 0.001 of a bound (past
it, a fraction would jump), and noise of 6e-8 in every output of an RMSNorm, which computes in float32 even here, moves
no number of the trace by more than 3e-6.
"""

import json
import random
from pathlib import Path

PATH = Path(__file__).with_name("completions.json")

# One word per step, one letter per group: all wrong, mixed, all right.
STEPS = (
    "wmmr",
    "wwmm",
    "mrwm",
    "wwww",  # GRPO would learn nothing here
    "mmmm",
    "rrrr",  # every group is filtered: two updates on no rows at all
    "wmrr",
    "rmrr",  # one group is left: the second update has no rows
    "mwmw",
    "mmwr",
)
NUM_SAMPLES = 4
MAX_COMPLETION_TOKENS = 6
EOS, FIRST_TOKEN, VOCAB_SIZE = 1, 2, 12

SETTINGS = {
    "seed": 1,
    "model": {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32,
        "initializer_range": 0.15,
        "tie_word_embeddings": True,
    },
    "lr": 0.01,
    "warmup_steps": 3,
    "weight_decay": 0.01,
    # Rows of a microbatch: fewer than an update has, and another cut than the library's by tokens.
    "update": {"num_updates": 2, "max_grad_norm": 0.5, "rows_per_microbatch": 3},
}


def make_completions() -> dict:
    """The content of completions.json: settings, and for each step its groups of prompt, completions and rewards."""
    rng = random.Random(2509_18851)

    def tokens(shortest: int, longest: int) -> list[int]:
        return [rng.randrange(FIRST_TOKEN, VOCAB_SIZE) for _ in range(rng.randint(shortest, longest))]

    def completion() -> list[int]:
        """Ended by EOS, or cut off at the limit."""
        return [*tokens(0, MAX_COMPLETION_TOKENS), EOS][:MAX_COMPLETION_TOKENS]

    def group(kind: str) -> dict:
        num_right = {"w": 0, "m": rng.randint(1, NUM_SAMPLES - 1), "r": NUM_SAMPLES}[kind]
        rewards = [1] * num_right + [0] * (NUM_SAMPLES - num_right)
        rng.shuffle(rewards)
        return {"prompt": tokens(1, 4), "completions": [completion() for _ in rewards], "rewards": rewards}

    return {**SETTINGS, "steps": [[group(kind) for kind in kinds] for kinds in STEPS]}


def main() -> None:
    """Writes the file, one group a line."""
    script = make_completions()
    steps = [",\n".join(json.dumps(group, separators=(",", ":")) for group in groups) for groups in script.pop("steps")]
    head = json.dumps(script)[:-1]
    PATH.write_text(f'{head}, "steps": [\n' + ",\n".join(f"[{groups}]" for groups in steps) + "\n]}\n")


if __name__ == "__main__":
    main()
