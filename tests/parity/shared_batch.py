"""One batch of rewards, groups and log-probabilities for every trainer, and what our own loop makes of it.

TRL and verl cannot live in one environment. The test of each makes this very batch from its seeds and holds its trainer
against our loop, so that the three have the same advantages and the same gradient.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from helpers import EOS, PROMPT_TEXTS, small_policy, small_tokenizer
from ngrpo import objectives
from ngrpo.errors import ConfigError
from ngrpo.integrations import trl_parts, verl_methods
from ngrpo.policy import Policy
from ngrpo.train.rows import group_rows
from ngrpo.train.step import update
from ngrpo.types import Completion, Group, Outcome, Prompt

GROUP = 4
LONGEST = 11
REWARDS = [0.0] * 4 + [1.0, 0.0, 0.0, 0.0] + [1.0] * 4 + [1.0, 1.0, 0.0, 1.0]  # all wrong, mixed, all right, mixed


def _is_the_same_everywhere(name: str) -> bool:
    """Whether TRL and verl carry a method without a difference that could be seen in one update of kept groups."""
    in_verl = verl_methods.support(name)
    if in_verl.obstacles or set(in_verl.differences) - {verl_methods.LABELS}:
        return False
    try:
        found = trl_parts.carried(objectives.get(name))
    except ConfigError:
        return False
    return set(found.differences) <= {trl_parts.MASKED, trl_parts.SHARED_DIVISOR}


METHODS = [name for name in objectives.names() if _is_the_same_everywhere(name)]


@dataclass(frozen=True)
class Ours:
    """What our loop makes of the batch.

    Attributes:
        advantages: [16] of every completion; 0 where its group is not kept.
        is_kept: [16] whether its group is.
        loss: Of the one update.
        gradients: Of the loss, by the names of the model's parameters.
    """

    advantages: Tensor
    is_kept: Tensor
    loss: float
    gradients: dict[str, Tensor]


def shared_policy() -> Policy:
    """The policy at the update."""
    return small_policy(torch.float64)


def shared_groups() -> list[Group]:
    """Four groups of four completions, sampled by another policy than the present one: ratios are far from 1."""
    random = torch.Generator().manual_seed(7)
    model, groups = shared_policy().model, []
    for place, text in enumerate(PROMPT_TEXTS[:4]):
        prompt_ids = small_tokenizer()(text, add_special_tokens=False)["input_ids"]
        completions = []
        for _ in range(GROUP):
            length = int(torch.randint(1, LONGEST, (1,), generator=random))
            ids = [*torch.randint(2, 16, (length,), generator=random).tolist(), EOS]
            with torch.no_grad():
                now = logprobs_of_model(model, prompt_ids, ids)
            noise = 0.3 * torch.randn(len(ids), generator=random, dtype=torch.float64)
            completions.append(
                Completion(tuple(ids), tuple((now + noise).tolist()), small_tokenizer().decode(ids), "eos")
            )
        rewards = REWARDS[place * GROUP : (place + 1) * GROUP]
        outcomes = tuple(Outcome(reward, reward == 1.0) for reward in rewards)
        groups.append(Group(Prompt(str(place), text, tuple(prompt_ids), ""), tuple(completions), outcomes))
    return groups


def logprobs_of_model(model: torch.nn.Module, prompt_ids: list[int], completion_ids: list[int]) -> Tensor:
    """[T] log-probabilities of a completion's tokens, by nothing but the model's forward pass."""
    logits = model(torch.tensor([[*prompt_ids, *completion_ids]])).logits[0, len(prompt_ids) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(completion_ids).unsqueeze(1)).squeeze(1)


def our_loop(name: str) -> Ours:
    """Filter, advantages and gradient of one update, by the functions of `ngrpo train`."""
    objective, groups, policy = objectives.get(name), shared_groups(), shared_policy()
    is_kept = objective.keep(REWARDS, [place // GROUP for place in range(len(REWARDS))])
    rows = group_rows(objective, [group for group, keep in zip(groups, is_kept[::GROUP], strict=True) if keep])
    rows = [row for group in rows for row in group]
    advantages = torch.zeros(len(REWARDS), dtype=torch.float64)
    advantages[is_kept] = torch.tensor([row.advantage for row in rows], dtype=torch.float64)
    stats = update(
        policy,
        torch.optim.SGD(policy.trainable_parameters(), lr=0.0),
        objective,
        rows,
        temperature=1.0,
        max_microbatch_tokens=1000,
        max_grad_norm=1e9,
    )
    return Ours(advantages, is_kept, stats.loss, gradients_of(policy.model))


def gradients_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """By the names of the parameters."""
    return {name: value.grad.clone() for name, value in model.named_parameters()}


def assert_same_gradients(theirs: dict[str, Tensor], ours: dict[str, Tensor], *, tolerance: float) -> None:
    """Up to a share of the largest entry of all."""
    largest = max(value.abs().max().item() for value in ours.values())
    assert largest > 1e-5
    for name, value in ours.items():
        assert (theirs[name] - value).abs().max().item() < tolerance * largest, name
