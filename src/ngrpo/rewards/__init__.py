"""Rewards: prompts and completions in, outcomes out. No torch.

`grade` judges one text against one gold. The classes share the protocol `Reward`.
"""

from ngrpo.rewards.abstention import AbstentionReward
from ngrpo.rewards.answers import AnswerReward, choice_reward, exact_reward, numeric_reward
from ngrpo.rewards.function import FunctionReward, load_function
from ngrpo.rewards.math import MathReward, grade
from ngrpo.rewards.protocol import Reward, judges_elsewhere
from ngrpo.rewards.reasoning_gym import GymReward
from ngrpo.rewards.shaping import Term, make_term
from ngrpo.rewards.weighted import ShapedReward, WeightedTerm, part_names
from ngrpo.rewards.world import WorldReward

__all__ = [
    "AbstentionReward",
    "AnswerReward",
    "FunctionReward",
    "GymReward",
    "MathReward",
    "Reward",
    "ShapedReward",
    "Term",
    "WeightedTerm",
    "WorldReward",
    "choice_reward",
    "exact_reward",
    "grade",
    "judges_elsewhere",
    "load_function",
    "make_term",
    "numeric_reward",
    "part_names",
]
