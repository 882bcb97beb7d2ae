"""Slow twins for `gpu.py`: a model's forward pass with all logits, row by row."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ngrpo.policy import Policy
from ngrpo.rollout.compact import CompactDecoder
from ngrpo.train.step import TrainingRow


def gap_of_steps(policy: Policy, plain: Policy, decoder: CompactDecoder, rows: list[list[int]]) -> Iterator[float]:
    """Largest error of the logits over their largest, step by step, for rows of different lengths."""
    rows = [row[: 20 - place] for place, row in enumerate(rows)]
    cache = decoder.new_cache()
    device = policy.device
    for place, row in enumerate(rows):
        with policy.arithmetic():
            read = policy.model(torch.tensor([row], device=device), use_cache=True).past_key_values
        keep, one = torch.arange(place, device=device), torch.zeros(1, dtype=torch.long, device=device)
        cache.rebuild(keep, [(layer.keys, layer.values) for layer in read.layers], one + len(row), one)
    for token in range(3, 8):
        positions = torch.tensor([len(row) for row in rows], device=device)
        rows = [[*row, token] for row in rows]
        logits = decoder.step(torch.full((len(rows),), token, device=device), positions, cache)
        expected = torch.stack([plain.model(torch.tensor([row], device=device)).logits[0, -1] for row in rows])
        yield float((logits - expected).abs().max() / expected.abs().max())


def plain_logprobs(policy: Policy, prompt: tuple[int, ...], completion: tuple[int, ...]) -> Tensor:
    """[T] by one forward pass with all logits."""
    ids = torch.tensor([[*prompt, *completion]], device=policy.device)
    with policy.arithmetic():
        logits = policy.model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None]).squeeze(-1)


def plain_gradient(policy: Policy, rows: Sequence[TrainingRow]) -> list[Tensor]:
    """Of the mean over tokens of minus the advantage times the ratio, where the policy is its own old one."""
    num_tokens = sum(len(row.completion_ids) for row in rows)
    policy.model.zero_grad()
    for row in rows:
        (-row.advantage * plain_logprobs(policy, row.prompt_ids, row.completion_ids).sum() / num_tokens).backward()
    return [parameter.grad.clone() for parameter in policy.trainable_parameters()]
