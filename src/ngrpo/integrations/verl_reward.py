"""The reward that verl's workers call: our judge, its label apart from its value. Needs no verl.

`reward.custom_reward_function.path=pkg://ngrpo.integrations.verl_reward`, `.name=compute_score`, and
`+reward.custom_reward_function.reward_kwargs.settings=FILE`, the JSON file that `ngrpo launch verl` writes.
"""

import json
import threading
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from ngrpo.config import Data
from ngrpo.config import Reward as RewardSettings
from ngrpo.errors import ConfigError
from ngrpo.rewards import Reward
from ngrpo.rewards.protocol import judges_elsewhere
from ngrpo.rollout import reward_for
from ngrpo.types import Completion, Prompt

_lock = threading.Lock()


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, *, settings: str, **_: Any
) -> dict[str, Any]:
    """Judges one completion.

    Args:
        data_source: Name of the data; not read.
        solution_str: What the model wrote, special tokens left out.
        ground_truth: The gold.
        extra_info: What `verl_data.write_prompts` wrote beside the prompt.
        settings: The JSON file with the sections `reward` and `data`.

    Returns:
        `score`, the reward that is optimised; `acc`, the verifier's label, 1.0 or 0.0; `failed`, 1.0 where the
        verifier failed (then the score is its 0); `prompt_id`.

    Raises:
        ConfigError: The file is not there, or not on this machine.
        RewardError: The user's own function broke its contract.
    """
    info = dict(extra_info or {})
    reward = _reward_of(settings, info.get("split", "train"))
    prompt = Prompt(
        id=str(info.get("id", "")),
        text=info.get("text", ""),
        token_ids=(),
        gold=ground_truth,
        columns=json.loads(info["columns"]) if info.get("columns") else {},
        problem=info.get("problem", ""),
    )
    completion = Completion(token_ids=(), logprobs=(), text=solution_str, finish_reason="eos")
    # verl calls from several threads; a judge that works in this process is called by one at a time.
    with nullcontext() if judges_elsewhere(reward) else _lock:
        outcome = reward([prompt], [completion])[0]
    return {
        "score": float(outcome.value),
        "acc": float(outcome.correct),
        "failed": float(outcome.is_failure),
        "prompt_id": prompt.id,
    }


def _reward_of(settings: str, split: str) -> Reward:
    with _lock:  # two threads would otherwise start two pools of workers
        return _make_reward(settings, split)


@cache
def _make_reward(settings: str, split: str) -> Reward:
    try:
        sections = json.loads(Path(settings).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"the reward's settings {settings} cannot be read here ({error.strerror}). The run folder must be on a "
            "disk that every node of the cluster sees under the same path: choose such a run.dir."
        ) from error
    return reward_for(RewardSettings.model_validate(sections["reward"]), Data.model_validate(sections["data"][split]))
