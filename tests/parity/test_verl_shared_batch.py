"""The batch that TRL, verl and our loop share, through verl's functions: our loop's advantages and gradient."""

import warnings

import pytest
import torch
from parity_helpers import Ragged
from shared_batch import (
    GROUP,
    METHODS,
    REWARDS,
    assert_same_gradients,
    gradients_of,
    logprobs_of_model,
    our_loop,
    shared_groups,
    shared_policy,
)
from torch.nn.utils.rnn import pad_sequence

pytest.importorskip("verl", reason="verl is not installed here; `make parity` builds an environment that has it")
pytest.importorskip("hydra", reason="the environment of verl's parity tests has Hydra")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from verl.trainer.ppo.ray_trainer import compute_advantage
    from verl.utils.config import omega_conf_to_dataclass
    from verl_helpers import Leaves, launched, ppo_loss_of, proto

    from ngrpo.integrations import verl as _plugin  # noqa: F401  (registers the estimators)


def batch_of(groups, is_kept, model):
    """The groups that the sampler keeps, as verl's tensors."""
    rows = [
        (REWARDS[place], place // GROUP, group.prompt.token_ids, completion)
        for place, (group, completion) in enumerate((group, each) for group in groups for each in group.completions)
        if is_kept[place]
    ]
    rewards, ids, prompts, completions = zip(*rows, strict=True)
    lengths = torch.tensor([len(each.token_ids) for each in completions])
    old = pad_sequence([torch.tensor(each.logprobs).double() for each in completions], batch_first=True)
    current = pad_sequence(
        [
            logprobs_of_model(model, list(prompt), list(each.token_ids))
            for prompt, each in zip(prompts, completions, strict=True)
        ],
        batch_first=True,
    )
    batch = Ragged(
        rewards=torch.tensor(rewards).double(), groups=torch.tensor(ids), lengths=lengths,
        mask=torch.arange(old.shape[1]) < lengths.unsqueeze(1), old=old, current=current.detach(),
        ref=old, values=torch.zeros_like(old), greedy=torch.zeros(len(rows)),
    )  # fmt: skip
    return batch, current


@pytest.mark.parametrize("name", METHODS)
def test_verls_functions_have_our_loops_advantages_and_gradient(name, model_folder):
    """Under the configuration that `ngrpo launch verl` makes: verl's registry, its `compute_advantage`, its loss."""
    ours, model = our_loop(name), shared_policy().model
    batch, current = batch_of(shared_groups(), ours.is_kept, model)
    _, config = launched("gpu_1x", f"model.path={model_folder}", f"objective.name={name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = compute_advantage(
            proto(batch), config.algorithm.adv_estimator, config=config.algorithm, gamma=1.0, lam=1.0
        )
    advantages = data.batch["advantages"]
    torch.testing.assert_close(advantages[:, 0], ours.advantages[ours.is_kept], rtol=1e-8, atol=1e-8)

    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    loss, _ = ppo_loss_of(actor, batch, advantages, Leaves(current, current), with_entropy=False)
    loss.backward()
    assert loss.item() == pytest.approx(ours.loss, rel=1e-6, abs=1e-9)  # verl adds 1e-8 to counts of tokens
    assert_same_gradients(gradients_of(model), ours.gradients, tolerance=3e-7)
