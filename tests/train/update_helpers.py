"""What tests of one optimiser step share: groups of random completions, rows of them, and a step on them."""

import torch

from helpers import EOS, make_prompts, small_policy, with_exact_norms
from ngrpo import objectives
from ngrpo.policy import Policy, completion_logprobs, pad_rows
from ngrpo.train import step
from ngrpo.train.rows import even_parts, group_rows
from ngrpo.train.step import TrainingRow, update
from ngrpo.types import Completion, Group, Outcome

TEMPERATURE = 0.7
MAX_TOKENS = 9
# By group, from which the prompt is: mixed, all wrong, all right, mixed.
CORRECT = [[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]]
# Group 2 is all right, which ngrpo's filter drops; here it stays, for its zero advantages.
METHODS = {
    "ngrpo": {},
    "grpo": {},
    "dr_grpo": {"budget_tokens": MAX_TOKENS},
    "psr": {},
    "psr by sequence": {"aggregation": "seq_mean_token_mean"},
    "nsr": {"drop_zero_weight": False},
    "dapo": {"mask_truncated": True},
    "rloo": {},
    "ngrpo with kl and entropy": {"kl_coef": 0.3, "entropy_coef": 0.2},
    "psr with kl and entropy": {"kl_coef": 0.3, "entropy_coef": 0.2},
}


def exact_policy(*, seed: int = 0) -> Policy:
    """A policy that is float64 in every respect."""
    return with_exact_norms(small_policy(torch.float64, seed=seed))


def method(name: str) -> objectives.Objective:
    return objectives.get(name.partition(" ")[0], **METHODS[name])


def logprobs_of(policy, prompts, completions):
    batch = pad_rows(prompts, completions, pad_token_id=policy.pad_token_id, device=policy.device)
    with torch.no_grad():
        values, _ = completion_logprobs(policy, batch, temperature=TEMPERATURE)
    return [line[: len(ids)] for line, ids in zip(values.tolist(), completions, strict=True)]


def make_groups(policy) -> list[Group]:
    """Groups of random completions of many lengths; the policy has moved since, so that some ratios are clipped."""
    random = torch.Generator().manual_seed(1)
    groups = []
    for prompt, labels in zip(make_prompts(), CORRECT, strict=False):
        ids = [torch.randint(2, 18, (int(torch.randint(1, MAX_TOKENS, (1,), generator=random)),), generator=random)
               for _ in labels]  # fmt: skip
        rows = [[*row.tolist(), EOS] if place % 3 else row.tolist() for place, row in enumerate(ids)]
        current = logprobs_of(policy, [prompt.token_ids] * len(rows), rows)
        moved = [[value + float(torch.randn((), generator=random)) * 0.3 for value in line] for line in current]
        completions = [
            Completion(tuple(row), tuple(line), "", "eos" if row[-1] == EOS else "length")
            for row, line in zip(rows, moved, strict=True)
        ]
        groups.append(Group(prompt, tuple(completions), tuple(Outcome(float(c), bool(c)) for c in labels)))
    return groups


def make_rows(policy, objective) -> list[TrainingRow]:
    return [row for group in group_rows(objective, make_groups(policy)) for row in group]


def take_step(
    policy, objective, rows, *, optimizer=None, reference=None, max_grad_norm=1e9, max_tokens=10**9, packing_window=None
):
    optimizer = optimizer or torch.optim.SGD(policy.trainable_parameters(), lr=0.0)
    return update(
        policy,
        optimizer,
        objective,
        rows,
        temperature=TEMPERATURE,
        max_microbatch_tokens=max_tokens,
        max_grad_norm=max_grad_norm,
        reference=reference,
        packing_window=packing_window,
    )


def gradient(policy) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in policy.trainable_parameters()])


def cut_evenly(monkeypatch, count) -> None:
    """Makes so many microbatches of every pass, whatever the budget, either way through the model."""

    def parts(rows, _):
        return [list(part) for part in even_parts(rows, count) if part]

    monkeypatch.setattr(step, "microbatches", parts)
    monkeypatch.setattr(step, "shared_microbatches", lambda rows, size: [(part, 0) for part in parts(rows, size)])


def frozen_reference():
    return exact_policy(seed=5)


def reference_of(objective):
    return frozen_reference() if objective.needs_reference else None
