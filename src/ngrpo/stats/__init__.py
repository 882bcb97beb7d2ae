"""Statistics of evaluation: unbiased pass@k, its area, expected group kinds, bootstrap intervals. Numpy only.

from ngrpo import stats

stats.pass_at_k(num_samples=256, num_correct=[0, 3, 256], k=8)      # one estimate per problem, in [0, 1]
stats.pass_at_k_auc(ks, values)                                     # average height over log2 k
stats.bootstrap_interval(values_by_prompt)                          # of the mean, over prompts

Means over prompts are taken over a fixed set of prompts, never over those that happened to have enough samples.
"""

from ngrpo.stats.auc import k_grid, pass_at_k_auc
from ngrpo.stats.bootstrap import Interval, bootstrap_interval, hierarchical_bootstrap_interval
from ngrpo.stats.group_kinds import GroupKindFracs, group_kind_fracs
from ngrpo.stats.pass_at_k import pass_at_k

__all__ = [
    "GroupKindFracs",
    "Interval",
    "bootstrap_interval",
    "group_kind_fracs",
    "hierarchical_bootstrap_interval",
    "k_grid",
    "pass_at_k",
    "pass_at_k_auc",
]
