"""The plug-in in verl's real registries, advantages, v1 path and losses; the same numbers and gradients as ours.

`make parity` builds the environment and runs this. float64, so that what differs is the method and not the rounding.
"""

import warnings
from dataclasses import replace

import pytest
import torch
from parity_helpers import SEEDS, gradient, ragged

pytest.importorskip("verl", reason="verl is not installed here; `make parity` builds an environment that has it")
pytest.importorskip("hydra", reason="the environment of verl's parity tests has Hydra")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from omegaconf import OmegaConf
    from verl.trainer.ppo import core_algos
    from verl.trainer.ppo.ray_trainer import compute_advantage
    from verl.trainer.ppo.v1 import trainer_base
    from verl.utils.config import omega_conf_to_dataclass
    from verl_helpers import Leaves, keys_of, launched, ppo_loss_of, proto

    from ngrpo.integrations import verl as plugin
    from ngrpo.integrations.verl_sampler import count_sessions_once

from ngrpo import objectives
from ngrpo.errors import ConfigError
from ngrpo.integrations.verl_methods import (
    VERL_ESTIMATORS,
    VERL_OWN,
    advantage_params,
    estimator_name,
    support,
    supported_methods,
)
from ngrpo.objectives import RolloutFacts

EXACT = {"rtol": 1e-10, "atol": 1e-10}
BUT_FOR_1E8 = {"rtol": 3e-8, "atol": 3e-8}  # verl adds 1e-8 to counts of tokens


def algorithm(**params):
    """verl's `algorithm` section with ours in it."""
    return OmegaConf.create({"gamma": 1.0, "lam": 1.0, "ngrpo": params})


def in_verl(method, batch, config=None, **params):
    """[N, T] from verl's own `compute_advantage`, through its registry."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = compute_advantage(proto(batch), estimator_name(method), config=config or algorithm(**params))
    return data.batch["advantages"]


def facts_of(batch):
    return RolloutFacts(completion_tokens=batch.lengths)


def in_house(method, batch, **params):
    """[N, T] from the objective."""
    rows = objectives.get(method, **params).advantages(batch.rewards, batch.groups, rollout=facts_of(batch))
    return rows.unsqueeze(1) * batch.mask


def test_verls_own_estimators_are_those_we_know_and_keep_their_functions():
    theirs = {name for name, function in core_algos.ADV_ESTIMATOR_REGISTRY.items() if name not in plugin.ESTIMATORS}
    assert theirs == VERL_ESTIMATORS
    assert core_algos.get_adv_estimator_fn("grpo") is core_algos.compute_grpo_outcome_advantage
    assert all(core_algos.ADV_ESTIMATOR_REGISTRY[name].__module__ == core_algos.__name__ for name in theirs)


def test_every_method_that_verl_can_carry_is_registered_and_no_other():
    assert {estimator_name(method) for method in supported_methods()} == plugin.ESTIMATORS.keys()
    assert {"ngrpo", "psr", "nsr", "w_reinforce", "dr_grpo", "ngrpo_grpo", "ngrpo_rloo"} <= plugin.ESTIMATORS.keys()
    assert not {"lens", "disco", "remax", "spo", "grpo"} & plugin.ESTIMATORS.keys()
    for name in ("lens", "disco"):
        with pytest.raises(ConfigError, match=f"verl cannot carry objective '{name}'"):
            plugin.register_estimator(name)


def test_ngrpo_in_verl_by_hand():
    """G = 4, one right, k = 1 (METHODS.md 1.1): C = 2, n = 5: A+ = sqrt(3 * 4 / 10), A- = -sqrt(2 * 4 / 15)."""
    batch = ragged(0, sizes=[4, 4])
    first = batch.groups == batch.groups.min()
    rewards = torch.zeros(8, dtype=torch.float64)
    rewards[first.nonzero()[0]] = 1.0
    got = in_verl("ngrpo", replace(batch, rewards=rewards))[:, 0]
    assert got[first].sort().values.tolist() == pytest.approx([-((8 / 15) ** 0.5)] * 3 + [1.2**0.5], abs=1e-5)
    assert got[~first].tolist() == pytest.approx([-(5**-0.5)] * 4, abs=1e-5)  # all wrong: -1 / sqrt(G + 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("method", supported_methods())
def test_advantages_are_the_catalogs(method, seed):
    batch = ragged(seed)
    torch.testing.assert_close(in_verl(method, batch), in_house(method, batch), **EXACT)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("ngrpo", {"num_virtual": 2, "virtual_reward": 3.0, "ddof": 0}),
        ("w_reinforce", {"positive_weight": 0.4}),
        ("dapo", {"overlong_max_tokens": 11, "overlong_buffer_tokens": 6}),
        ("grpo_lead", {"alpha": 0.3}),
    ],
)
def test_parameters_come_from_algorithm_ngrpo(method, params):
    batch = ragged(1)
    got = in_verl(method, batch, **params)
    torch.testing.assert_close(got, in_house(method, batch, **params), **EXACT)
    assert not torch.allclose(got, in_house(method, batch))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"clip_low": 0.1}, r"algorithm\.ngrpo\.clip_low is no part .* Set actor_rollout_ref\.actor\.clip_ratio_low"),
        ({"drop_zero_weight": True}, "verl has nothing for it"),
        ({"virtual_rewards": 1.0}, "no parameter 'virtual_rewards'. Did you mean 'virtual_reward'"),
        ({"virtual_reward": 0.5}, "virtual_reward 0.5 is below the best reward 1"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused_by_name(params, message):
    with pytest.raises(ConfigError, match=message):
        in_verl("ngrpo", ragged(0), **params)


def test_a_method_that_reads_labels_refuses_rewards_that_are_none():
    batch = ragged(0, is_binary=False)
    with pytest.raises(ConfigError, match=r"w_reinforce needs to know which.*verl gives an estimator"):
        in_verl("w_reinforce", batch)
    in_verl("dr_grpo", batch)  # reads none
    in_verl("ngrpo", replace(batch, rewards=batch.rewards.clamp(max=1)))  # only its filter does, which is the sampler's


def test_padding_takes_no_part_and_small_groups_get_0(caplog):
    """verl pads with rows of no token under an id of their own; a failed rollout can leave a group of one."""
    batch = ragged(2, sizes=[1, 4, 3])
    padding = batch.groups == batch.groups.max()
    padding[(batch.groups == 8).nonzero()[0]] = True  # rejected by rollout correction, from the midst of a group
    mask = batch.mask & ~padding.unsqueeze(1)
    got = in_verl("grpo", replace(batch, mask=mask))
    alone = batch.groups == 5
    assert got[padding | alone].abs().max() == 0
    rest = (batch.groups == 8) & ~padding
    expected = objectives.get("grpo").advantages(batch.rewards[rest], batch.groups[rest])
    torch.testing.assert_close(got[rest, 0], expected, **EXACT)
    assert "1 rows are in groups of fewer than 2 completions, which grpo is not defined for" in caplog.text


def multi_output(batch):
    """Each session's row twice or thrice: earlier outputs with other lengths and the session's own reward."""
    keys = keys_of(batch)
    rows = [(row, output) for row in range(len(keys)) for output in range(1 + row % 3)]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [rows[place] for place in order]
    index = torch.tensor([row for row, _ in rows])
    is_final = torch.tensor([output == row % 3 for row, output in rows])
    lengths = torch.where(is_final, batch.lengths[index], torch.ones_like(index))
    mask = torch.arange(batch.mask.shape[1]) < lengths.unsqueeze(1)
    spread = replace(batch, rewards=batch.rewards[index], groups=batch.groups[index], lengths=lengths, mask=mask,
                     old=batch.old[index])  # fmt: skip
    return spread, [f"{keys[row].rsplit('_', 1)[0]}_{output}" for row, output in rows], index


@pytest.mark.parametrize("method", ["ngrpo", "grpo_lead", "rloo"])
def test_the_v1_path_counts_a_session_once_whatever_outputs_it_has(method, monkeypatch):
    batch = ragged(3)
    spread, keys, index = multi_output(batch)
    given = trainer_base.compute_advantage_for_multi_trajectories
    settings = {"batch_keys": keys, "adv_estimator": estimator_name(method), "config": algorithm()}
    verls_own = given(proto(spread), **settings).batch["advantages"]
    monkeypatch.setattr(trainer_base, "compute_advantage_for_multi_trajectories", given)  # put back afterwards
    count_sessions_once()
    got = trainer_base.compute_advantage_for_multi_trajectories(proto(spread), **settings).batch["advantages"]
    expected = in_house(method, batch)[:, :1][index] * spread.mask
    torch.testing.assert_close(got, expected, **EXACT)
    assert not torch.allclose(verls_own, expected)  # what this is for; when it fails, verl has mended it
    patched = trainer_base.compute_advantage_for_multi_trajectories
    count_sessions_once()
    assert trainer_base.compute_advantage_for_multi_trajectories is patched
    for name in ("grpo", "rloo"):  # verl's own are left to verl
        ours, theirs = (
            path(proto(spread), **{**settings, "adv_estimator": name}).batch["advantages"] for path in (patched, given)
        )
        torch.testing.assert_close(ours, theirs, **EXACT)


# Advantages and loss together, under the configuration that the launch makes.

CARRIED = [method for method in objectives.names() if not support(method).obstacles and method not in VERL_OWN]


@pytest.mark.parametrize("method", CARRIED)
def test_the_whole_step_has_our_gradient(method, model_folder):
    """Hydra's configuration, v1's advantages, verl's whole loss with entropy and reference model, and its backward."""
    batch = ragged(4)
    extra = ["objective.params.kl_coef=0.02", "objective.params.entropy_coef=0.03"]
    if "drop_zero_weight" in {each.name for each in objectives.describe(method).parameters}:
        extra.append("objective.params.drop_zero_weight=false")
    run, config = launched("gpu_1x", f"model.path={model_folder}", f"objective.name={method}", *extra)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert actor.entropy_coeff == 0.03
    assert actor.kl_loss_coef == 0.02
    assert actor.use_kl_loss

    advantages = in_verl(method, batch, config=config.algorithm)
    theirs = Leaves.of(batch)
    loss, _ = ppo_loss_of(actor, batch, advantages, theirs, with_entropy=True)
    loss.backward()

    objective = objectives.get(method, **run.objective.params)
    if objective.drop_zero_weight:  # raft has no parameter for it; the stated difference
        objective = replace(objective, drop_zero_weight=False)
    ours = Leaves.of(batch)
    rows = objective.advantages(batch.rewards, batch.groups, rollout=facts_of(batch))
    terms = objective.token_terms(ours.logprobs, batch.old, rows, batch.mask, batch.ref, ours.entropies)
    mine = objective.reduce(terms, batch.mask)
    torch.testing.assert_close(mine, loss.detach(), **BUT_FOR_1E8, check_dtype=False)
    torch.testing.assert_close(gradient(mine, ours.logprobs), theirs.logprobs.grad, **BUT_FOR_1E8)
    assert theirs.entropies.grad.abs().max() > 0
    assert theirs.logprobs.grad[~batch.mask].abs().max() == 0


def test_a_stated_difference_is_the_one_there_is(model_folder):
    """psr drops wrong completions from the denominator, which verl does not: a factor, the same for every token."""
    batch = ragged(4)
    _, config = launched("gpu_1x", f"model.path={model_folder}", "objective.name=psr")
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    theirs = Leaves.of(batch)
    loss, _ = ppo_loss_of(actor, batch, in_verl("psr", batch), theirs, with_entropy=False)
    loss.backward()
    objective, ours = objectives.get("psr"), Leaves.of(batch)
    rows = objective.advantages(batch.rewards, batch.groups)
    mine = objective.reduce(objective.token_terms(ours.logprobs, batch.old, rows, batch.mask), batch.mask)
    counted_frac = (batch.mask & (rows != 0).unsqueeze(1)).sum() / batch.mask.sum()
    assert 0.1 < counted_frac < 0.9
    torch.testing.assert_close(gradient(mine, ours.logprobs) * counted_frac, theirs.logprobs.grad, **BUT_FOR_1E8)
    assert (
        "completions of weight 0 stay in the denominators (as with drop_zero_weight = false)"
        in support("psr").differences
    )


def test_advantage_parameters_are_those_without_a_place_in_verl():
    params = {"num_virtual": 2, "clip_low": 0.1, "group_filter": "keep_all", "kl_coef": 0.1, "ddof": 0}
    assert advantage_params(params) == {"num_virtual": 2, "ddof": 0}
