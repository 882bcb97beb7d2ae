"""Numbers of one step, from what was sampled and what the updates measured."""

from collections.abc import Mapping, Sequence

from ngrpo.objectives import RolloutFacts
from ngrpo.train.step import UpdateStats
from ngrpo.types import Group, Outcome

COUNTED_KINDS = ("unparsed", "abstained", "timeout", "error")
"""Outcome kinds that are counted one by one."""

EXTRA_COMPLETIONS = (
    "baseline/num_greedy_completions",
    "baseline/num_reference_completions",
    "drafts/num_completions",
    "tracker/num_initial_completions",
)
"""Metrics that count completions sampled besides those of the groups."""


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Rewards, lengths and entropy of everything sampled in a step, filtered groups included.

    Nothing where nothing was sampled, because every prompt was pruned.
    """
    if not groups:
        return {}
    outcomes = [outcome for group in groups for outcome in group.outcomes]
    completions = [completion for group in groups for completion in group.completions]
    lengths = [len(completion.token_ids) for completion in completions]
    correct_lengths = [length for length, outcome in zip(lengths, outcomes, strict=True) if outcome.correct]
    wrong_lengths = [length for length, outcome in zip(lengths, outcomes, strict=True) if not outcome.correct]
    metrics = {
        "reward/mean": _mean([outcome.value for outcome in outcomes]),
        "reward/correct_frac": _mean([outcome.correct for outcome in outcomes]),
        **{f"reward/{kind}_frac": _mean([outcome.kind == kind for outcome in outcomes]) for kind in COUNTED_KINDS},
        **_part_means(outcomes),
        "groups/failed_frac": _mean([group.num_failures > 0 for group in groups]),
        "completion/mean_tokens": _mean(lengths),
        "completion/max_tokens": float(max(lengths)),
        "completion/truncated_frac": _mean([completion.is_truncated for completion in completions]),
        "policy/entropy_nats": mean_entropy_nats(groups),
    }
    if correct_lengths:
        metrics["completion/correct_mean_tokens"] = _mean(correct_lengths)
    if wrong_lengths:
        metrics["completion/wrong_mean_tokens"] = _mean(wrong_lengths)
    return metrics


def _part_means(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Means of what rewards are the sums of, over the completions that the verifier did not fail on."""
    known = [outcome.parts for outcome in outcomes if outcome.parts]
    return {f"reward/part/{name}": _mean([parts[name] for parts in known]) for name in (known[0] if known else ())}


def group_census(groups: Sequence[Group]) -> dict[str, float]:
    """Shares of all-wrong, mixed and all-right groups, by the verifier's labels; they add up to 1."""
    shares = [group.num_correct / len(group.outcomes) for group in groups]
    return {
        "groups/all_wrong_frac": _mean([share == 0.0 for share in shares]),
        "groups/mixed_frac": _mean([0.0 < share < 1.0 for share in shares]),
        "groups/all_right_frac": _mean([share == 1.0 for share in shares]),
    }


def census_metrics(kept: Sequence[bool], *, num_batches: int, is_short: bool) -> dict[str, float]:
    """What filter and refill made of the sampled groups."""
    return {
        "groups/num_sampled": len(kept),
        "groups/num_kept": sum(kept),
        "groups/num_batches": num_batches,
        "groups/is_short": float(is_short),
    }


def num_extra_completions(metrics: Mapping[str, float]) -> int:
    """Completions that a method sampled in a step besides those of its groups."""
    return sum(int(metrics.get(name, 0)) for name in EXTRA_COMPLETIONS)


def mean_entropy_nats(groups: Sequence[Group]) -> float:
    """Mean over tokens of the entropy of the distribution they were sampled from."""
    completions = [completion for group in groups for completion in group.completions]
    total = sum(completion.entropy_nats * len(completion.token_ids) for completion in completions)
    return total / max(1, sum(len(completion.token_ids) for completion in completions))


def advantage_metrics(advantages: Sequence[float], num_sampled: int) -> dict[str, float]:
    """How much the kept completions push, and in which direction.

    Args:
        advantages: Of every kept completion.
        num_sampled: Completions sampled in the step, filtered ones included.
    """
    count, num_sampled = max(1, len(advantages)), max(1, num_sampled)
    return {
        "groups/gradient_frac": sum(value != 0.0 for value in advantages) / num_sampled,
        "advantage/sum_per_completion": sum(advantages) / count,
        "advantage/positive_sum_per_completion": sum(value for value in advantages if value > 0) / count,
        "advantage/negative_sum_per_completion": sum(value for value in advantages if value < 0) / count,
        "advantage/abs_max": max((abs(value) for value in advantages), default=0.0),
    }


def reward_kl_metrics(facts: RolloutFacts) -> dict[str, float]:
    """What of the reference model's divergence the rewards are charged for; nothing where they are not.

    Args:
        facts: Of the groups that enter the update.
    """
    if facts.old_logprobs is None or facts.ref_logprobs is None:
        return {}
    num_tokens = int(facts.completion_tokens.sum())
    gaps = facts.old_logprobs - facts.ref_logprobs  # both are 0 beyond a completion's end
    return {"reward/reference_kl_nats": float(gaps.sum()) / max(1, num_tokens)}


def time_metrics(rollout_s: float, update_s: float, num_completion_tokens: int) -> dict[str, float]:
    """Where the time of a step went."""
    step_s = rollout_s + update_s
    return {
        "time/rollout_s": rollout_s,
        "time/update_s": update_s,
        "time/step_s": step_s,
        "time/completion_tokens_per_s": num_completion_tokens / step_s,
    }


def update_metrics(updates: Sequence[UpdateStats], *, with_reference: bool) -> dict[str, float]:
    """Loss, gradient norm, ratios and clipping over the optimiser steps of one rollout step."""
    tokens = sum(stats.num_tokens for stats in updates)
    positive = sum(stats.num_positive_tokens for stats in updates)
    negative = sum(stats.num_negative_tokens for stats in updates)
    metrics = {
        "loss/value": _mean([stats.loss for stats in updates]),
        "loss/grad_norm": _mean([stats.grad_norm for stats in updates]),
        "loss/grad_norm_max": max(stats.grad_norm for stats in updates),
        "loss/clip_high_frac": sum(stats.clipped_high_tokens for stats in updates) / max(1, positive),
        "loss/clip_low_frac": sum(stats.clipped_low_tokens for stats in updates) / max(1, negative),
    }
    coefs = [stats.old_kl_coef for stats in updates if stats.old_kl_coef is not None]
    if coefs:
        metrics["policy/old_kl_coef"] = _mean(coefs)
    if tokens:
        positions = sum(stats.num_positions for stats in updates)
        metrics["update/fill_frac"] = sum(stats.num_filled_positions for stats in updates) / positions
        metrics["policy/ratio_mean"] = sum(stats.ratio_sum for stats in updates) / tokens
        metrics["policy/ratio_max"] = max(stats.max_ratio for stats in updates)
        metrics["policy/old_kl_nats"] = sum(stats.old_kl_nats_sum for stats in updates) / tokens
        if with_reference:
            metrics["policy/reference_kl_nats"] = sum(stats.reference_kl_nats_sum for stats in updates) / tokens
    return metrics


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
