"""Statistics of evaluation: unbiased pass@k, its area, maj@k, expected group kinds, intervals. Numpy only.

from ngrpo import stats

stats.pass_at_k(num_samples=256, num_correct=[0, 3, 256], k=8)      # one estimate per problem, in [0, 1]
stats.pass_at_k_auc(ks, values)                                     # average height over log2 k
stats.mean_interval(values)                                         # of the mean over problems
stats.paired_interval(values, others)                               # of the difference of two models

Which interval for what: `mean_interval` and `paired_interval` for one number in [0, 1] per problem, which is all that
is reported of one or two models; `crossed_interval` where there are several training seeds, too;
`bootstrap_interval` for means of numbers without bounds, such as lengths and entropies. `sampling_variances` is another
question: how far would other samples of the very same problems have come out? docs/statistics.md has how often each
interval holds the truth.

Means over prompts are taken over a fixed set of prompts, never over those that happened to have enough samples.
"""

from ngrpo.stats.auc import k_grid, pass_at_k_auc
from ngrpo.stats.bootstrap import bootstrap_interval
from ngrpo.stats.group_kinds import GroupKindFracs, group_kind_fracs
from ngrpo.stats.intervals import Interval, crossed_interval, mean_interval, paired_interval
from ngrpo.stats.majority import majority_at_k
from ngrpo.stats.pass_at_k import pass_at_k
from ngrpo.stats.sampling import sampling_variances

__all__ = [
    "GroupKindFracs",
    "Interval",
    "bootstrap_interval",
    "crossed_interval",
    "group_kind_fracs",
    "k_grid",
    "majority_at_k",
    "mean_interval",
    "paired_interval",
    "pass_at_k",
    "pass_at_k_auc",
    "sampling_variances",
]
