"""START HERE: every method, one expression each, with its source.

A method is a function from its parameters to an `Objective`, the record of its parts. Methods are as published, except
that terms for a reference model and for entropy are off unless asked for (`kl_coef`, `entropy_coef`).

    rewards, groups --transforms--> rewards --filter--> kept groups --advantage--> one number per completion
    log-probabilities, advantages --policy (+ regularisers)--> per-token losses --aggregation--> one number
"""

from functools import partial

from ngrpo.errors import ConfigError
from ngrpo.objectives.advantages import (
    GroupMean,
    GroupStd,
    LabelWeight,
    LeaveOneOut,
    RelativeAdvantage,
    ZeroBaseline,
)
from ngrpo.objectives.aggregation import (
    seq_mean_token_mean,
    seq_mean_token_sum,
    seq_mean_token_sum_norm,
    token_mean,
)
from ngrpo.objectives.filters import KeepKinds
from ngrpo.objectives.groups import VirtualRewards
from ngrpo.objectives.objective import Objective
from ngrpo.objectives.policy_terms import ClippedSurrogate, Reinforce
from ngrpo.objectives.registry import register
from ngrpo.objectives.transforms import OverlongPenalty, PlusMinusOne


@register("ngrpo", source="arXiv 2509.18851")
def ngrpo(
    *,
    num_virtual: int = 1,
    virtual_reward: float = 1.0,
    clip_low: float = 0.16,
    clip_high: float = 0.24,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Objective:
    """Negative-enhanced GRPO: a virtual best completion joins every group, so that failing wholly is a signal too.

    Sections 4.1 and 4.2 of the paper. `num_virtual = 0` gives GRPO's advantages bit for bit, `clip_low = clip_high` its
    clip. `ddof = 1` is what the reference code computes and the paper's figure 3 shows; equation 6 as printed is
    `ddof = 0`. The aggregation of the reference code depends on how microbatches were packed; the token mean is its
    clean reading.
    """
    return Objective(
        group_filter=KeepKinds(all_right=False),
        advantage=RelativeAdvantage(
            GroupMean(), GroupStd(ddof, eps), virtual=VirtualRewards(num_virtual, virtual_reward)
        ),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=token_mean,
    )


@register("grpo", source="arXiv 2402.03300")
def grpo(*, clip_low: float = 0.2, clip_high: float = 0.2, ddof: int = 1, eps: float = 1e-6) -> Objective:
    """Group Relative Policy Optimization: each reward against its group's mean, in its group's standard deviations.

    DeepSeekMath, equation 3. The paper states no clip; 0.2 is the convention. Its KL weight is `kl_coef = 0.04`.
    """
    return Objective(
        advantage=RelativeAdvantage(GroupMean(), GroupStd(ddof, eps)),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=seq_mean_token_mean,
    )


@register("dr_grpo", source="arXiv 2503.20783")
def dr_grpo(*, budget_tokens: int = 3000, clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """GRPO done right: no division by the standard deviation, and a constant length instead of each completion's own.

    `budget_tokens` is that constant, the longest completion allowed (the default is the paper's); it only rescales the
    loss. A group of one has advantage 0.
    """
    if budget_tokens < 1:
        raise ConfigError(f"budget_tokens must be 1 or more, got {budget_tokens!r}: the loss is divided by it.")
    return Objective(
        advantage=RelativeAdvantage(GroupMean()),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=partial(seq_mean_token_sum_norm, budget_tokens=budget_tokens),
    )


@register("dapo", source="arXiv 2503.14476")
def dapo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = 10.0,
    ddof: int = 1,
    eps: float = 1e-6,
    overlong_max_tokens: int | None = None,
    overlong_buffer_tokens: int = 4096,
    overlong_penalty: float = 1.0,
    mask_truncated: bool = False,
) -> Objective:
    """GRPO with a higher upper clip, mixed groups only, a token mean, and rules for overlong completions.

    The soft punishment of long completions is on when `overlong_max_tokens` is given; `mask_truncated` is the paper's
    alternative, overlong filtering. The dual clip is verl's, which the paper's code runs on.
    """
    punishment = ()
    if overlong_max_tokens is not None:
        punishment = (OverlongPenalty(overlong_max_tokens, overlong_buffer_tokens, overlong_penalty),)
    return Objective(
        reward_transforms=punishment,
        group_filter=KeepKinds(all_wrong=False, all_right=False),
        advantage=RelativeAdvantage(GroupMean(), GroupStd(ddof, eps)),
        policy=ClippedSurrogate(clip_low, clip_high, dual_clip),
        aggregation=token_mean,
        mask_truncated=mask_truncated,
    )


@register("psr", source="arXiv 2506.01347")
def psr(*, clip_low: float = 0.2, clip_high: float = 0.2, drop_zero_weight: bool = True) -> Objective:
    """Positive Sample Reinforcement: learn from correct completions alone.

    `drop_zero_weight` removes incorrect ones from the denominators too, as the authors' code does.
    """
    return _label_weighted(1.0, 0.0, clip_low, clip_high, drop_zero_weight)


@register("nsr", source="arXiv 2506.01347")
def nsr(*, clip_low: float = 0.2, clip_high: float = 0.2, drop_zero_weight: bool = True) -> Objective:
    """Negative Sample Reinforcement: learn from incorrect completions alone.

    `drop_zero_weight` removes correct ones from the denominators too, as the authors' code does.
    """
    return _label_weighted(0.0, 1.0, clip_low, clip_high, drop_zero_weight)


@register("w_reinforce", source="arXiv 2506.01347")
def w_reinforce(
    *,
    positive_weight: float = 0.1,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    drop_zero_weight: bool = True,
) -> Objective:
    """Weighted REINFORCE: correct completions at a small weight (the paper's lambda), incorrect ones at full weight."""
    return _label_weighted(positive_weight, 1.0, clip_low, clip_high, drop_zero_weight)


@register("rloo", source="arXiv 2402.14740")
def rloo() -> Objective:
    """REINFORCE leave-one-out: each reward against the mean of the others in its group, on whole sequences.

    The paper puts a k1 divergence into the reward; `kl_coef` here adds a k3 divergence to the loss.
    """
    return Objective(
        advantage=RelativeAdvantage(LeaveOneOut()),
        policy=Reinforce(),
        aggregation=seq_mean_token_sum,
    )


@register("reinforce", source="Williams 1992, doi:10.1007/BF00992696")
def reinforce() -> Objective:
    """The plain policy gradient on whole sequences: the reward itself, no baseline, no ratio, no clip."""
    return Objective(
        advantage=RelativeAdvantage(ZeroBaseline()),
        policy=Reinforce(),
        aggregation=seq_mean_token_sum,
    )


def _label_weighted(
    positive: float, negative: float, clip_low: float, clip_high: float, drop_zero_weight: bool
) -> Objective:
    """PSR, NSR and W-REINFORCE: reward +1 or -1 by label, weighted by label, no baseline."""
    return Objective(
        reward_transforms=(PlusMinusOne(),),
        advantage=RelativeAdvantage(ZeroBaseline(), weight=LabelWeight(positive, negative)),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=token_mean,
        drop_zero_weight=drop_zero_weight,
    )
