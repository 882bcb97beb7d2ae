"""Objectives of reinforcement learning with verifiable rewards: pure functions of tensors, composed of a few parts.

    from ngrpo import objectives

    objective = objectives.get("ngrpo")                       # or get("ngrpo", clip_low=0.2, num_virtual=2)
    kept = objective.keep(rewards, groups)                    # [N] bool: which groups enter the update
    advantages = objective.advantages(rewards, groups)        # [N]
    terms = objective.token_terms(current_logprobs, old_logprobs, advantages, mask)      # [N, T] each
    loss = objective.reduce(terms, mask)                      # a scalar, to be minimised

Read `catalog` first. Torch is the only dependency.
"""

from ngrpo.objectives import catalog as _catalog  # noqa: F401  (registers the methods)
from ngrpo.objectives.advantages import (
    AdvantageEstimator,
    GroupMean,
    GroupStd,
    LabelWeight,
    LeaveOneOut,
    NoScale,
    NoWeight,
    RelativeAdvantage,
    ZeroBaseline,
)
from ngrpo.objectives.aggregation import (
    Aggregation,
    Counts,
    seq_mean_token_mean,
    seq_mean_token_sum,
    seq_mean_token_sum_norm,
    token_mean,
)
from ngrpo.objectives.batch import RewardBatch, RolloutFacts
from ngrpo.objectives.explain import explain
from ngrpo.objectives.filters import FILTERS, GroupFilter, KeepKinds
from ngrpo.objectives.groups import (
    NO_VIRTUAL,
    Census,
    GroupIndex,
    GroupKind,
    GroupStats,
    VirtualRewards,
    census,
    group_kinds,
    group_statistics,
)
from ngrpo.objectives.objective import Objective
from ngrpo.objectives.policy_terms import ClippedSurrogate, PolicyTerm, Reinforce, TokenInputs, TokenTerms
from ngrpo.objectives.registry import Description, Parameter, describe, get, names, register
from ngrpo.objectives.regularisers import EntropyBonus, ReferenceKL, Regulariser, k3_kl
from ngrpo.objectives.transforms import OverlongPenalty, PlusMinusOne, RewardTransform

__all__ = [
    "FILTERS",
    "NO_VIRTUAL",
    "AdvantageEstimator",
    "Aggregation",
    "Census",
    "ClippedSurrogate",
    "Counts",
    "Description",
    "EntropyBonus",
    "GroupFilter",
    "GroupIndex",
    "GroupKind",
    "GroupMean",
    "GroupStats",
    "GroupStd",
    "KeepKinds",
    "LabelWeight",
    "LeaveOneOut",
    "NoScale",
    "NoWeight",
    "Objective",
    "OverlongPenalty",
    "Parameter",
    "PlusMinusOne",
    "PolicyTerm",
    "ReferenceKL",
    "Regulariser",
    "Reinforce",
    "RelativeAdvantage",
    "RewardBatch",
    "RewardTransform",
    "RolloutFacts",
    "TokenInputs",
    "TokenTerms",
    "VirtualRewards",
    "ZeroBaseline",
    "census",
    "describe",
    "explain",
    "get",
    "group_kinds",
    "group_statistics",
    "k3_kl",
    "names",
    "register",
    "seq_mean_token_mean",
    "seq_mean_token_sum",
    "seq_mean_token_sum_norm",
    "token_mean",
]
