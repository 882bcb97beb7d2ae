"""Every metric, declared once with its unit and meaning."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One number of metrics.jsonl.

    Attributes:
        unit: What it counts in; a share is a number in [0, 1].
        meaning: What it is.
    """

    unit: str
    meaning: str


METRICS: dict[str, Metric] = {
    "reward/mean": Metric("reward", "mean reward of the sampled completions, filtered groups included"),
    "reward/correct_frac": Metric("share", "completions the verifier labelled correct"),
    "reward/unparsed_frac": Metric("share", "completions without an answer that could be judged"),
    "reward/abstained_frac": Metric("share", "completions that declined to answer (reward.abstain_phrases)"),
    "reward/timeout_frac": Metric("share", "completions the verifier gave up on"),
    "reward/error_frac": Metric("share", "completions the verifier failed on"),
    "groups/num_sampled": Metric("groups", "groups sampled in this step, refills included"),
    "groups/num_kept": Metric("groups", "groups that entered the update"),
    "groups/failed_frac": Metric("share", "sampled groups left out because the verifier failed on one of a group"),
    "groups/all_wrong_frac": Metric("share", "sampled groups without a correct completion"),
    "groups/mixed_frac": Metric("share", "sampled groups with correct and wrong completions"),
    "groups/all_right_frac": Metric("share", "sampled groups with correct completions only"),
    "groups/num_batches": Metric("batches", "rollout batches sampled for this step, the first included"),
    "groups/is_short": Metric("0 or 1", "whether the refill bound left the step short of groups"),
    "groups/gradient_frac": Metric("share", "sampled completions that carried a gradient"),
    "advantage/sum_per_completion": Metric("advantage", "sum of advantages over kept completions, per completion"),
    "advantage/positive_sum_per_completion": Metric("advantage", "the same over positive advantages"),
    "advantage/negative_sum_per_completion": Metric("advantage", "the same over negative advantages"),
    "advantage/abs_max": Metric("advantage", "largest absolute advantage"),
    "completion/mean_tokens": Metric("tokens", "mean length, end of sequence included"),
    "completion/max_tokens": Metric("tokens", "longest completion"),
    "completion/correct_mean_tokens": Metric("tokens", "mean length of correct completions"),
    "completion/wrong_mean_tokens": Metric("tokens", "mean length of wrong completions"),
    "completion/truncated_frac": Metric("share", "completions cut off by the token limit"),
    "policy/entropy_nats": Metric("nats", "mean entropy per sampled token of the distribution sampled from"),
    "policy/old_kl_nats": Metric("nats", "mean k3 estimate of KL(old || current) per token, over the updates"),
    "policy/old_kl_coef": Metric(
        "loss/nat", "weight of the old policy's KL, mean over the updates; 0 while that is small"
    ),
    "policy/reference_kl_nats": Metric("nats", "mean k3 estimate of KL(current || reference) per token"),
    "reward/reference_kl_nats": Metric(
        "nats", "mean k1 estimate of KL(old || reference) per token (old - reference), where rewards are charged for it"
    ),
    "policy/sampler_gap_nats": Metric("nats", "largest |sampler - trainer| log-probability where old ones are retaken"),
    "policy/sampler_ratio_mean": Metric("ratio", "mean probability of a sampled token, trainer's over sampler's"),
    "policy/sampler_kl_nats": Metric("nats", "mean k3 estimate of KL(sampler || trainer) per sampled token"),
    "policy/ratio_mean": Metric("ratio", "mean probability ratio, current over old, over the updates"),
    "policy/ratio_max": Metric("ratio", "largest probability ratio"),
    "baseline/greedy_reward_mean": Metric("reward", "mean over kept completions of the greedy reward of their prompt"),
    "baseline/num_greedy_completions": Metric("completions", "greedy completions sampled in this step"),
    "baseline/reference_reward_mean": Metric("reward", "mean over kept groups of the reference model's mean reward"),
    "baseline/num_reference_completions": Metric("completions", "completions of the reference model in this step"),
    "anchors/num_anchors": Metric("completions", "given solutions that took a completion's place in kept groups"),
    "tracker/value_mean": Metric("reward", "mean over all prompts of the tracker's estimate, after this step"),
    "tracker/divergence_nats_mean": Metric("nats", "mean |change of log-probability| on prompts' previous completions"),
    "tracker/decay_mean": Metric("share", "mean share of the counts left, over the prompts of this step"),
    "tracker/num_initial_completions": Metric("completions", "completions sampled for the tracker's first estimates"),
    "loss/value": Metric("loss", "mean of the loss over the updates of this step"),
    "loss/grad_norm": Metric("norm", "mean gradient norm before clipping, over the updates"),
    "loss/grad_norm_max": Metric("norm", "largest gradient norm of the updates"),
    "loss/clip_high_frac": Metric("share", "of positive-advantage tokens, those stopped by the upper bound"),
    "loss/clip_low_frac": Metric("share", "of negative-advantage tokens, those stopped by the lower bound"),
    "update/fill_frac": Metric("share", "positions of the updates' forward passes that hold a token, not padding"),
    "critic/loss": Metric("loss", "mean value loss per token, over the updates"),
    "critic/grad_norm": Metric("norm", "mean gradient norm of the critic before clipping, over the updates"),
    "critic/clip_frac": Metric("share", "of tokens, those whose value the value clip stopped, over the updates"),
    "critic/value_mean": Metric("reward", "mean value before the tokens that were learned from, before the updates"),
    "critic/explained_variance": Metric(
        "share", "1 - var(target - value) / var(target) over tokens, before the updates; 1 is perfect, below 0 harmful"
    ),
    "drafts/num_completions": Metric("completions", "drafts sampled in this step; data/num_completions counts them"),
    "drafts/reward_mean": Metric("reward", "mean reward of the drafts"),
    "drafts/best_reward_mean": Metric("reward", "mean reward of the draft shown with each prompt"),
    "drafts/too_long_frac": Metric("share", "prompts trained on without their draft, with which they did not fit"),
    "pruning/prompt_frac": Metric("share", "prompts that were drawn and let go unsampled"),
    "pruning/completion_frac": Metric("share", "sampled completions whose advantage was pruned"),
    "optim/lr": Metric("rate", "learning rate of this step"),
    "optim/num_updates": Metric("updates", "optimiser steps made so far"),
    "data/epoch": Metric("epochs", "passes over the prompts so far"),
    "data/num_completions": Metric("completions", "completions sampled so far, a method's extra ones included"),
    "time/rollout_s": Metric("s", "sampling and judging"),
    "time/update_s": Metric("s", "optimiser steps"),
    "time/validation_s": Metric("s", "periodic evaluation"),
    "time/step_s": Metric("s", "rollout and update"),
    "time/completion_tokens_per_s": Metric("tokens/s", "completion tokens over the whole step's time"),
    "validation/pass_at_1": Metric("share", "mean over prompts of the share of correct completions"),
    "validation/pass_at_n": Metric("share", "prompts with at least one correct completion of validation.num_samples"),
    "validation/mean_tokens": Metric("tokens", "mean completion length on validation prompts"),
    "validation/truncated_frac": Metric("share", "validation completions cut off by the token limit"),
    "validation/entropy_nats": Metric("nats", "mean entropy per token on validation prompts"),
}

FAMILIES: dict[str, Metric] = {
    "reward/part/": Metric("reward", "mean of what the judge or one shaping term adds to the reward, by its name"),
}
"""Metrics whose names end in something of the user's, by what they begin with."""


def is_declared(name: str) -> bool:
    """Whether a metric is in `METRICS` or in one of `FAMILIES`.

    Example:
        >>> is_declared("reward/mean"), is_declared("reward/part/length"), is_declared("reward/median")
        (True, True, False)
    """
    return name in METRICS or name.startswith(tuple(FAMILIES))
