"""The batch that TRL, verl and our loop share, through TRL's trainer: our loop's advantages and gradient."""

import pytest
import torch
from shared_batch import GROUP, METHODS, REWARDS, assert_same_gradients, gradients_of, our_loop, shared_groups
from trl_helpers import ObjectiveTrainer, fixed_rewards, generation, trainer_of

from ngrpo import objectives

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning", "ignore:.*:DeprecationWarning")


@pytest.mark.parametrize("name", METHODS)
def test_trls_trainer_has_our_loops_advantages_and_gradient(tmp_path, name):
    trainer = trainer_of(
        ObjectiveTrainer,
        tmp_path,
        options={"objective": objectives.get(name)},
        dtype=torch.float64,
        per_device_train_batch_size=len(REWARDS),
        steps_per_generation=1,
        num_iterations=2,
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    fixed_rewards(trainer, REWARDS)
    groups = shared_groups()
    completions = [completion for group in groups for completion in group.completions]
    old = torch.nn.utils.rnn.pad_sequence([torch.tensor(each.logprobs).double() for each in completions], True)
    trainer._generate = lambda prompts: (
        [list(group.prompt.token_ids) for group in groups for _ in range(GROUP)],
        [list(each.token_ids) for each in completions],
        None, [each.text for each in completions], None, {}, None, None,
    )  # fmt: skip
    logprobs_of = trainer._get_per_token_logps_and_entropies
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (old, None, None)
    output = generation(trainer, len(groups))
    trainer._get_per_token_logps_and_entropies = logprobs_of
    loss = trainer.compute_loss(trainer.model, output)
    loss.backward()

    ours = our_loop(name)
    torch.testing.assert_close(output["advantages"].double(), ours.advantages, rtol=1e-6, atol=1e-6)
    is_trained = (output["completion_mask"] * output.get("tool_mask", 1)).sum(dim=1) > 0
    assert is_trained.tolist() == ours.is_kept.tolist()
    assert loss.item() == pytest.approx(ours.loss, rel=1e-5, abs=1e-6)
    assert_same_gradients(gradients_of(trainer.model), ours.gradients, tolerance=2e-6)  # TRL's advantages are float32
