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
    Aggregation,
    seq_mean_token_mean,
    seq_mean_token_sum,
    seq_mean_token_sum_norm,
    token_mean,
)
from ngrpo.objectives.baselines import ExternalBaseline, LengthWeightedMean
from ngrpo.objectives.confidence import AllWrongWeight, ConfidenceReward, ScaleMixedGroups
from ngrpo.objectives.filters import DropReferenceSolved, KeepKinds
from ngrpo.objectives.group_scores import HardNegatives, HingeKL, LabelShare
from ngrpo.objectives.groups import VirtualRewards
from ngrpo.objectives.objective import Objective
from ngrpo.objectives.plan import (
    Drafts,
    GoldAnchors,
    PrioritisedPrompts,
    PrunedPrompts,
    ReferenceValues,
    RolloutPlan,
    TrackerPlan,
)
from ngrpo.objectives.policy_terms import ClippedSurrogate, PolicyTerm, Reinforce
from ngrpo.objectives.pruning import InclusionWeighted, PrunedCompletions
from ngrpo.objectives.ratio_terms import DetachedWeight, SequenceClippedSurrogate
from ngrpo.objectives.registry import register
from ngrpo.objectives.returns import GAE, ReturnToGo
from ngrpo.objectives.scales import MixedScale
from ngrpo.objectives.ternary import HasRightAndWrong, TernaryChannel
from ngrpo.objectives.token_weights import NegativeTokenWeight
from ngrpo.objectives.transforms import LengthReward, OverlongPenalty, PlusMinusOne, SequenceKLPenalty
from ngrpo.objectives.value_learning import ValueLearning
from ngrpo.objectives.weights import DifficultyWeight, NoiseWeight
from ngrpo.objectives.whitening import SequenceWhitened, TokenWhitened


@register("ngrpo", source="arXiv 2509.18851")
def ngrpo(
    *,
    num_virtual: int = 1,
    virtual_reward: float = 1.0,
    clip_low: float = 0.16,
    clip_high: float = 0.24,
    ddof: int = 1,
    eps: float = 1e-6,
    virtual_below_best: bool = False,
) -> Objective:
    """Negative-enhanced GRPO: a virtual best completion joins every group, so that failing wholly is a signal too.

    Sections 4.1 and 4.2 of the paper. `num_virtual = 0` gives GRPO's advantages bit for bit, `clip_low = clip_high` its
    clip. `ddof = 1` is what the reference code computes and the paper's figure 3 shows; equation 6 as printed is
    `ddof = 0`. The aggregation of the reference code depends on how microbatches were packed; the token mean is its
    clean reading. A `virtual_reward` below a real one is refused, unless `virtual_below_best` says that it is meant.
    """
    return Objective(
        group_filter=KeepKinds(all_right=False),
        advantage=RelativeAdvantage(
            GroupMean(), GroupStd(ddof, eps), virtual=VirtualRewards(num_virtual, virtual_reward, virtual_below_best)
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
    return Objective(
        advantage=RelativeAdvantage(GroupMean()),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=_over_budget(budget_tokens),
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
    """Weighted REINFORCE: correct completions at a small weight (the paper's lambda), incorrect ones at full weight.

    `drop_zero_weight` matters for `positive_weight = 0` only, which is NSR.
    """
    return _label_weighted(positive_weight, 1.0, clip_low, clip_high, drop_zero_weight)


@register("rloo", source="arXiv 2402.14740")
def rloo(*, reward_kl_coef: float = 0.0) -> Objective:
    """REINFORCE leave-one-out: each reward against the mean of the others in its group, on whole sequences.

    `reward_kl_coef` takes a k1 divergence from each reward, as in the paper (0.03 for summaries, 0.10 for dialogue);
    the `kl_coef` that every method has adds a k3 divergence to the loss instead.
    """
    return Objective(
        reward_transforms=_kl_in_reward(reward_kl_coef),
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


@register("grpo_unnormalised", source="arXiv 2508.11800")
def grpo_unnormalised(*, clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """GRPO without the division by the standard deviation, which the paper finds to make models over-confident.

    Dr. GRPO's advantage with GRPO's mean over each completion's own length. A group of one has advantage 0.
    """
    return Objective(
        advantage=RelativeAdvantage(GroupMean()),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=seq_mean_token_mean,
    )


@register("s_grpo", source="arXiv 2508.05928")
def s_grpo(
    *,
    noise_rate: float = 0.1,
    budget_tokens: int = 4096,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ddof: int = 1,
    eps: float = 1e-8,
) -> Objective:
    """Noise-aware GRPO: a group counts less where the verifier's errors could have made its rewards differ.

    `noise_rate` is the probability with which the verifier is taken to flip a label: 0.1 in the authors' scripts for
    7B models, 0.15 for smaller ones. Groups whose accuracy is at most that, or at least one minus that, get 0. Not the
    S-GRPO of arXiv 2505.07686.
    """
    return Objective(
        advantage=RelativeAdvantage(GroupMean(), GroupStd(ddof, eps), NoiseWeight(noise_rate)),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=_over_budget(budget_tokens),
    )


@register("mapo", source="arXiv 2509.18849")
def mapo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.3,
    dual_clip: float | None = 3.0,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Objective:
    """Mixed advantages: scaled by the standard deviation where a group is half right, by its mean reward elsewhere.

    Rewards are to be 0 or more: a group whose mean is negative is refused. Clips and aggregation are the defaults of
    the trainer that the authors built on (EasyR1), which their script leaves as they are.
    """
    return Objective(
        advantage=RelativeAdvantage(GroupMean(), MixedScale(ddof, eps)),
        policy=ClippedSurrogate(clip_low, clip_high, dual_clip),
        aggregation=token_mean,
    )


@register("grpo_lead", source="arXiv 2504.09696")
def grpo_lead(
    *,
    alpha: float = 0.05,
    weight_low: float = 0.4,
    weight_high: float = 1.5,
    midpoint: float = 0.75,
    slope: float = 10.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Objective:
    """GRPO that prefers short answers, and gives weight to right ones on hard prompts and to mistakes on easy ones.

    `alpha` is the price of one standard deviation of length; it tells right answers apart even in a group that is all
    right. The weight falls from `weight_high` to `weight_low` around an accuracy of `midpoint`.
    """
    return Objective(
        reward_transforms=(LengthReward(alpha),),
        advantage=RelativeAdvantage(
            GroupMean(), GroupStd(ddof, eps), DifficultyWeight(weight_low, weight_high, midpoint, slope)
        ),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=token_mean,
    )


@register("raft", source="arXiv 2504.11343")
def raft() -> Objective:
    """Reward-ranked fine-tuning: the likelihood of correct completions, and nothing else.

    All others leave the update, denominators included, as in the authors' code. The paper's equation takes the best
    reward of each group, which in an all-wrong group would be every completion.
    """
    return _right_only(Reinforce())


@register("raft_pp", source="arXiv 2504.11343")
def raft_pp(*, clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """RAFT++: RAFT with PPO's ratio and clip, of which only the upper bound can ever bind.

    Equation 6 of the paper, for correct completions only, as in the authors' code.
    """
    return _right_only(ClippedSurrogate(clip_low, clip_high))


@register("reinforce_rej", source="arXiv 2504.11343")
def reinforce_rej(*, clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """Reinforce-Rej: rewards of +1 and -1 on mixed groups only, no baseline, PPO's clip."""
    return Objective(
        reward_transforms=(PlusMinusOne(),),
        group_filter=KeepKinds(all_wrong=False, all_right=False),
        advantage=RelativeAdvantage(ZeroBaseline()),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=token_mean,
    )


@register("cispo", source="arXiv 2506.13585")
def cispo(*, weight_max: float = 5.0, ddof: int = 1, eps: float = 1e-6) -> Objective:
    """REINFORCE on GRPO's advantages, weighted by the ratio up to a cap: no token ever loses its gradient.

    `weight_max` caps the ratio itself. MiniMax did not disclose theirs; 5.0 is ScaleRL's, as TRL's documentation
    gives it.
    """
    return Objective(
        advantage=RelativeAdvantage(GroupMean(), GroupStd(ddof, eps)),
        policy=DetachedWeight(weight_max),
        aggregation=token_mean,
    )


@register("gspo", source="arXiv 2507.18071")
def gspo(*, clip_low: float = 3e-4, clip_high: float = 4e-4, ddof: int = 1, eps: float = 1e-6) -> Objective:
    """Group Sequence Policy Optimization: GRPO with one ratio, and one clip, for a whole completion.

    The ratio is the geometric mean over its tokens, which moves far less than a token's: hence the narrow clip.
    """
    return Objective(
        advantage=RelativeAdvantage(GroupMean(), GroupStd(ddof, eps)),
        policy=SequenceClippedSurrogate(clip_low, clip_high),
        aggregation=seq_mean_token_mean,
    )


@register("ppo", source="arXiv 1707.06347")
def ppo(
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    value_clip: float = 0.5,
    reward_kl_coef: float = 0.0,
) -> Objective:
    """Proximal Policy Optimization: a critic's values are the baseline, token by token; whitened over the batch.

    Defaults are the practice with language models (verl); the paper has `gamma = 0.99` and `lam = 0.95`, and a plain
    squared error for the critic. `reward_kl_coef` takes a k1 divergence from the reward at each token, commonly 0.001.
    """
    returns = GAE(gamma, lam, reward_kl_coef)
    return Objective(
        advantage=TokenWhitened(returns),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=token_mean,
        critic=ValueLearning(returns, value_clip),
    )


@register("reinforce_pp", source="arXiv 2501.03262")
def reinforce_pp(
    *, gamma: float = 1.0, clip_low: float = 0.2, clip_high: float = 0.2, reward_kl_coef: float = 0.0
) -> Objective:
    """REINFORCE++: PPO without a critic, the reward itself whitened over all tokens of the batch.

    Equations 4 and 5 of the paper, with its `reward_kl_coef` of 0.001 off. The aggregation is the paper's too; its
    authors' code (OpenRLHF) takes the token mean, and the biased standard deviation.
    """
    return Objective(
        advantage=TokenWhitened(ReturnToGo(gamma, reward_kl_coef)),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=seq_mean_token_mean,
    )


@register("reinforce_pp_baseline", source="arXiv 2501.03262")
def reinforce_pp_baseline(*, clip_low: float = 0.2, clip_high: float = 0.2, reward_kl_coef: float = 0.0) -> Objective:
    """REINFORCE++ with baseline: each reward less its group's mean, then whitened over all tokens of the batch.

    `reward_kl_coef` takes a k1 divergence from each reward before the group's mean is taken, as verl does; OpenRLHF
    takes it afterwards, token by token.
    """
    return Objective(
        reward_transforms=_kl_in_reward(reward_kl_coef),
        advantage=TokenWhitened(RelativeAdvantage(GroupMean())),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=seq_mean_token_mean,
    )


@register("remax", source="arXiv 2310.10505")
def remax() -> Objective:
    """REINFORCE on whole sequences, with the reward of the prompt's greedy completion as the baseline.

    Costs one more completion per prompt. The authors' code also clamps the advantage to 5 either way, discounts it by
    0.99 per token, takes a k1 divergence per token, and uses the token mean of each device's batch.
    """
    return Objective(
        advantage=RelativeAdvantage(ExternalBaseline("greedy_rewards")),
        policy=Reinforce(),
        aggregation=seq_mean_token_sum,
    )


@register("spo", source="arXiv 2509.13232")
def spo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = 10.0,
    eps: float = 1e-8,
    prompt_floor: float = 0.05,
    half_life_nats: float = 0.06,
    min_decay: float = 0.875,
    max_decay: float = 0.96,
    num_initial_samples: int = 8,
) -> Objective:
    """Single-stream Policy Optimization: one completion per prompt, against an estimate kept over the whole run.

    Prompts of which the estimate is least sure are drawn more often. `min_decay`, `max_decay` and `half_life_nats` say
    how fast the estimate forgets as the policy moves; `num_initial_samples` completions per prompt start it.
    """
    return Objective(
        advantage=SequenceWhitened(RelativeAdvantage(ExternalBaseline("tracker_values")), eps),
        policy=ClippedSurrogate(clip_low, clip_high, dual_clip),
        aggregation=token_mean,
        rollout=RolloutPlan(
            prompts=PrioritisedPrompts(prompt_floor),
            group_size=1,
            tracker=TrackerPlan(half_life_nats, min_decay, max_decay, num_initial_samples),
        ),
    )


@register("pvpo", source="arXiv 2508.21104")
def pvpo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    num_reference_samples: int = 16,
    refresh_every_steps: int | None = None,
    best_reward: float = 1.0,
    gold_anchors: bool = True,
) -> Objective:
    """GRPO with the reference model's mean reward as the baseline, measured before training; no scale.

    Prompts that the reference model always solves (mean reward `best_reward`) are dropped; in groups it never solves, a
    given solution replaces a completion (`gold_anchors`). 16 samples are the paper's for mathematics, 5 for question
    answering. It states no clip; 0.2 is the convention. Its KL term is on (`kl_coef`), with a weight it does not state.
    """
    return Objective(
        group_filter=DropReferenceSolved(best_reward),
        advantage=RelativeAdvantage(ExternalBaseline("reference_rewards")),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=seq_mean_token_mean,
        rollout=RolloutPlan(
            reference_values=ReferenceValues(num_reference_samples, refresh_every_steps),
            anchors=GoldAnchors() if gold_anchors else None,
        ),
    )


@register("lens", source="arXiv 2510.08696")
def lens(
    *,
    all_wrong_weight: float = 0.25,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Objective:
    """GRPO in which confident mistakes earn less than others, so that groups without a correct answer teach too.

    `all_wrong_weight` is the paper's alpha, on groups without a correct completion: centred, not scaled, and averaged
    together with the mixed ones (how the two means relate is not stated). Neither `ddof` nor `eps` is stated: GRPO's.
    """
    return Objective(
        reward_transforms=(ConfidenceReward(),),
        group_filter=KeepKinds(all_right=False),
        advantage=RelativeAdvantage(
            GroupMean(), ScaleMixedGroups(GroupStd(ddof, eps)), weight=AllWrongWeight(all_wrong_weight)
        ),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=seq_mean_token_mean,
    )


@register("nthr", source="arXiv 2505.18830")
def nthr(
    *,
    beta: float = 1.0,
    eta: float | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Objective:
    """GRPO that spares those tokens of wrong answers whose gradients resemble the ones of correct answers.

    `eta` is what is left of their advantage; left out, it is `2 |1/2 - p|` of the group's accuracy p, with which the
    paper trains. The paper divides by the tokens of the group; the token mean is that over the whole step.
    """
    return Objective(
        advantage=NegativeTokenWeight(RelativeAdvantage(GroupMean(), GroupStd(ddof, eps)), beta, eta),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=token_mean,
    )


@register("disco", source="arXiv 2505.12366")
def disco(*, tau: float = 10.0, delta: float = 1e-4, beta: float = 1e3) -> Objective:
    """Correct answers' likelihood against that of the likeliest wrong ones, within a trust region; no clip.

    The log-likelihood score, section 4 of the paper. Groups of one kind have no score but stay: they are in the
    denominators and in the trust region, as in the authors' code. `delta` is in nats, `beta` weighs what exceeds it.
    """
    return Objective(
        advantage=LabelShare(),
        policy=Reinforce(),
        aggregation=seq_mean_token_mean,
        step_weight=HardNegatives(tau),
        regularisers=(HingeKL(delta, beta),),
    )


@register("disco_b", source="arXiv 2505.12366")
def disco_b(*, delta: float = 1e-4, beta: float = 1e3) -> Objective:
    """DisCO with the plain mean over wrong answers: the limit of a large `tau`."""
    return Objective(
        advantage=LabelShare(),
        policy=Reinforce(),
        aggregation=seq_mean_token_mean,
        regularisers=(HingeKL(delta, beta),),
    )


@register("ucpo", source="arXiv 2601.22648")
def ucpo(*, abstention_weight: float, clip_low: float = 0.2, clip_high: float = 0.2, eps: float = 1e-6) -> Objective:
    """GRPO among right and wrong answers; declining to answer earns a share of what a right one does.

    Needs a verifier with three verdicts. `abstention_weight` is the paper's w, whose value no source we could read
    gives; its special treatment of small groups is not known either, and is left out.
    """
    return Objective(
        group_filter=HasRightAndWrong(),
        advantage=TernaryChannel(abstention_weight, eps),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=token_mean,
    )


@register("dppo", source="arXiv 2603.04135")
def dppo(
    *,
    prompt_prune_prob: float,
    completion_prune_prob: float,
    low_advantage: float,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Objective:
    """GRPO that leaves out prompts and completions of low advantage at random, weighted so that the mean stays.

    The paper's formulas for the two probabilities could not be found: one number each here, for whatever has an
    absolute advantage of `low_advantage` or less, without a default.
    """
    return Objective(
        advantage=InclusionWeighted(
            PrunedCompletions(RelativeAdvantage(GroupMean(), GroupStd(ddof, eps)), completion_prune_prob, low_advantage)
        ),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=seq_mean_token_mean,
        rollout=RolloutPlan(pruning=PrunedPrompts(prompt_prune_prob, low_advantage)),
    )


@register("igrpo", source="arXiv 2602.09000")
def igrpo(
    *,
    num_drafts: int = 4,
    template: str = "{prompt}{draft}",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Objective:
    """GRPO on refinements: the best of a few drafts is shown with the prompt, and only what follows is trained on.

    The paper halves 8 completions into 4 drafts and groups of 4. It states no clip; 0.2 is the convention.
    """
    return Objective(
        advantage=RelativeAdvantage(GroupMean(), GroupStd(ddof, eps)),
        policy=ClippedSurrogate(clip_low, clip_high),
        aggregation=seq_mean_token_mean,
        rollout=RolloutPlan(drafts=Drafts(num_drafts, template)),
    )


@register("opo", source="arXiv 2505.23585")
def opo() -> Objective:
    """REINFORCE on whole sequences against the group's mean reward weighted by length, which has the least variance.

    The paper is exactly on-policy: set `update.num_updates_per_step = 1`.
    """
    return Objective(
        advantage=RelativeAdvantage(LengthWeightedMean()),
        policy=Reinforce(),
        aggregation=seq_mean_token_sum,
    )


def _kl_in_reward(coef: float) -> tuple[SequenceKLPenalty, ...]:
    """The penalty as reward transforms: none where it is off, so that the log-probabilities are not asked for."""
    return () if coef == 0 else (SequenceKLPenalty(coef),)


def _over_budget(budget_tokens: int) -> Aggregation:
    """Dr. GRPO's aggregation: sums over sequences, divided by a constant length."""
    if budget_tokens < 1:
        raise ConfigError(f"budget_tokens must be 1 or more, got {budget_tokens!r}: the loss is divided by it.")
    return partial(seq_mean_token_sum_norm, budget_tokens=budget_tokens)


def _right_only(policy: PolicyTerm) -> Objective:
    """RAFT and RAFT++: reward +1 for correct completions, which alone are in the update."""
    return Objective(
        reward_transforms=(PlusMinusOne(),),
        group_filter=KeepKinds(all_wrong=False),
        advantage=RelativeAdvantage(ZeroBaseline(), weight=LabelWeight(1.0, 0.0)),
        policy=policy,
        aggregation=token_mean,
        drop_zero_weight=True,
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
