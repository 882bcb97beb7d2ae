"""verl's plug-in: the catalog's advantages as estimators of verl. START HERE for verl.

verl finds this module by the entry point `verl.plugins`, in the driver and in every worker, and so does
`actor_rollout_ref.model.external_lib=ngrpo.integrations.verl`. Then one line switches a run of verl:

    algorithm.adv_estimator=ngrpo                       parameters: +algorithm.ngrpo.virtual_reward=1.0

What verl has itself stays verl's: `ngrpo_grpo`, `ngrpo_rloo` and `ngrpo_opo` are ours. Losses need no code, see
`verl_methods.loss_of`; the group filter is `verl_sampler`; `ngrpo launch verl` sets all of it.

Axes: N rows, T tokens.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from verl.trainer.ppo.core_algos import register_adv_est

from ngrpo import objectives
from ngrpo.errors import ConfigError
from ngrpo.integrations.verl_methods import LOSS_PARAMETERS, estimator_name, support, supported_methods
from ngrpo.objectives import KeepKinds, Objective, RolloutFacts

logger = logging.getLogger(__name__)

ESTIMATORS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {}
"""Our estimators by their names in verl."""


def register_estimator(method: str) -> str:
    """Makes a method of the catalog an advantage estimator of verl. Those that come with the package are already.

    Args:
        method: Its name in the catalog; of one's own, `ngrpo.objectives.register` comes first. Call it in a module
            that verl loads everywhere (`VERL_USE_EXTERNAL_MODULES=my_module`, or an entry point `verl.plugins`).

    Returns:
        What verl calls it.

    Raises:
        ConfigError: verl cannot carry the method; the message says which part.
    """
    obstacles = support(method).obstacles
    if obstacles:
        raise ConfigError(f"verl cannot carry objective {method!r}: {'; '.join(obstacles)}.")
    name = estimator_name(method)
    if name not in ESTIMATORS:
        ESTIMATORS[name] = _estimator(method)
        register_adv_est(name)(ESTIMATORS[name])
    return name


def _estimator(method: str) -> Callable[..., tuple[Tensor, Tensor]]:
    def estimate(
        token_level_rewards: Tensor, response_mask: Tensor, index: Any, config: Any = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """Advantages as verl calls for them.

        Args:
            token_level_rewards: [N, T] rewards; a row's sum is its reward.
            response_mask: [N, T] 1 where a token is the model's.
            index: [N] ids of the groups, anything that can be compared.
            config: verl's `algorithm` section; the table `ngrpo` in it holds the method's parameters.

        Returns:
            [N, T] advantages, 0 where masked, twice: verl wants returns too, and there is no critic.
        """
        objective = objective_of(method, config)
        advantages = row_advantages(objective, token_level_rewards.sum(dim=-1), response_mask, index)
        spread = advantages.unsqueeze(-1) * response_mask
        return spread, spread

    estimate.__name__ = f"estimate_{method}"
    return estimate


def objective_of(method: str, config: Any) -> Objective:
    """The method with the parameters that verl's `algorithm.ngrpo` gives.

    Args:
        method: A name of the catalog.
        config: verl's `algorithm` section, or None.

    Raises:
        ConfigError: A parameter is unknown or impossible, or one that verl has a setting of its own for.
    """
    table = config.get("ngrpo") if isinstance(config, Mapping | DictConfig) else getattr(config, "ngrpo", None)
    if isinstance(table, DictConfig):
        table = OmegaConf.to_container(table, resolve=True)
    params = dict(table or {})
    for name in params.keys() & LOSS_PARAMETERS.keys():
        where = LOSS_PARAMETERS[name]
        advice = f"Set {where} instead." if where else "verl has nothing for it; leave it out."
        raise ConfigError(f"algorithm.ngrpo.{name} is no part of the advantages, so it would have no effect. {advice}")
    # Groups are filtered by the sampler; labels that only the filter reads are not asked of the rewards.
    return replace(objectives.get(method, **params), group_filter=KeepKinds())


def row_advantages(objective: Objective, rewards: Tensor, response_mask: Tensor, index: Any) -> Tensor:
    """One advantage per row of a batch of verl's.

    Rows without a token take no part and get 0: verl's padding, and what its rollout correction rejected. So do groups
    that lost so many completions to failed rollouts that the method is not defined for them; a run would end there.

    Args:
        objective: The method.
        rewards: [N].
        response_mask: [N, T].
        index: [N] ids of groups.

    Returns:
        [N] in the precision of the rewards.

    Raises:
        ConfigError: The method needs labels and the rewards are not all 0 or 1.
    """
    lengths = response_mask.sum(dim=-1).long()
    _, groups = np.unique(np.asarray(index, dtype=str), return_inverse=True)
    ids = torch.as_tensor(groups, device=rewards.device).long().reshape(-1)
    counted = lengths > 0
    sizes = torch.zeros(len(ids), dtype=torch.long, device=rewards.device).scatter_add(0, ids, counted.long())[ids]
    is_small = counted & (sizes < objective.min_group_size)
    if is_small.any():
        logger.warning(
            "ngrpo: %d rows are in groups of fewer than %d completions, which %s is not defined for: advantage 0.",
            int(is_small.sum()), objective.min_group_size, objective.name,
        )  # fmt: skip
    rows = (counted & ~is_small).nonzero().squeeze(-1)
    advantages = torch.zeros_like(rewards)
    if len(rows) == 0:
        return advantages
    chosen = rewards[rows]
    if objective.needs_labels and not ((chosen == 0) | (chosen == 1)).all():
        raise ConfigError(
            f"{objective.name} needs to know which completions are correct. verl gives an estimator the rewards alone, "
            "which say so only where all are 0 or 1: take shaping out of the reward, and set "
            "algorithm.use_kl_in_reward=False."
        )
    facts = RolloutFacts(completion_tokens=lengths[rows])
    advantages[rows] = objective.advantages(chosen, ids[rows], rollout=facts).to(advantages.dtype)
    return advantages


for _method in supported_methods():
    register_estimator(_method)
