"""What tests of the verl plug-in share: verl's composed configuration, a ragged batch as its v1 trainer has it."""

import os
import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from parity_helpers import Ragged

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import verl
    from hydra import compose, initialize_config_dir
    from tensordict import TensorDict
    from verl.protocol import DataProto
    from verl.utils import tensordict_utils as tu

from ngrpo.config import RunConfig, load_config
from ngrpo.integrations.verl_config import Machines
from ngrpo.integrations.verl_launch import arguments_for

CONFIG_FOLDER = os.path.join(os.path.dirname(verl.__file__), "trainer", "config")


@cache
def composed(*arguments: str):
    """verl's own configuration under these overrides, by Hydra itself, as `main_ppo` gets it; do not change it."""
    with initialize_config_dir(CONFIG_FOLDER, version_base=None):
        return compose("ppo_trainer", overrides=list(arguments))


def launched(source: str, *overrides: str, machines: Machines | None = None) -> tuple[RunConfig, object]:
    """A run file and what verl makes of its translation."""
    config = load_config(source, list(overrides))
    return config, composed(*arguments_for(config, machines or Machines()))


def keys_of(batch: Ragged) -> list[str]:
    """Keys as v1 has them, `uid_session_output`: one output each."""
    seen: dict[int, int] = {}
    keys = []
    for group in batch.groups.tolist():
        seen[group] = seen.get(group, -1) + 1
        keys.append(f"uid-{group}_{seen[group]}_0")
    return keys


def proto(batch: Ragged, rewards: torch.Tensor | None = None) -> DataProto:
    """The batch as v1's `_compute_advantage` hands it on."""
    given = batch.at_last_token(batch.rewards if rewards is None else rewards)
    uids = np.array([f"uid-{group}" for group in batch.groups.tolist()], dtype=object)
    tensors = {"token_level_rewards": given, "response_mask": batch.mask.long()}
    return DataProto(batch=TensorDict(tensors, batch_size=len(given)), non_tensor_batch={"uid": uids})


@dataclass
class Leaves:
    """What a loss is differentiated by: [N, T] log-probabilities and entropies of the policy."""

    logprobs: torch.Tensor
    entropies: torch.Tensor

    @classmethod
    def of(cls, batch: Ragged) -> "Leaves":
        return cls(batch.current.clone().requires_grad_(), (batch.current**2 / 3).detach().requires_grad_())


def ppo_loss_of(config, batch: Ragged, advantages: torch.Tensor, leaves: Leaves, *, with_entropy: bool):
    """verl's whole loss of an actor, on the nested tensors that its workers hold: one prompt token before each row."""
    from verl.workers.utils.losses import ppo_loss

    rows = range(len(batch.rewards))
    lengths = batch.lengths.tolist()

    def nested(matrix: torch.Tensor) -> torch.Tensor:
        return torch.nested.as_nested_tensor([matrix[row, : lengths[row]] for row in rows], layout=torch.jagged)

    def packed(matrix: torch.Tensor) -> torch.Tensor:
        """A model's output: the values of a row of length L are at the L positions before the last one."""
        one = matrix.new_zeros(1)
        return torch.cat([torch.cat([matrix[row, : lengths[row]], one]) for row in rows])

    data = TensorDict(
        {
            "prompts": torch.nested.as_nested_tensor([torch.ones(1).long() for _ in rows], layout=torch.jagged),
            "responses": nested(torch.ones_like(batch.old).long()),
            "response_mask": nested(batch.mask.long()),
            "old_log_probs": nested(batch.old),
            "ref_log_prob": nested(batch.ref),
            "advantages": nested(advantages),
        },
        batch_size=len(rows),
    )
    tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=int(batch.mask.sum()), global_batch_size=len(rows))
    output = {"log_probs": packed(leaves.logprobs)}
    if with_entropy:
        output["entropy"] = packed(leaves.entropies)
    return ppo_loss(config, output, data)
