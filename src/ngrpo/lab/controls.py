"""Runs that explain a gain away, where they have it too: an entropy bonus, and a reward that ignores the answer."""

from ngrpo.lab.plan import Arm

ENTROPY_COEF = 0.01


def control_arms(*overrides: str) -> tuple[Arm, ...]:
    """GRPO with an entropy bonus, and GRPO under a random reward; both are evaluated by the true checker.

    What an entropy bonus gives too is not due to a method's other ideas. The random reward is a coin for each sampled
    completion (`rewards.shaping.CoinTerm`): what it gives is not learned from answers. The third control, the base at
    lower temperature, is in every experiment.

    Args:
        *overrides: `key=value` of their run files.
    """
    shaping = '[{ name = "coin", weight = 1.0, params = { seed = {seed} } }]'
    return (
        Arm("grpo + entropy bonus", "grpo", {"entropy_coef": ENTROPY_COEF}, overrides, role="control"),
        Arm("grpo, random reward", "grpo", {}, (*overrides, f"reward.shaping={shaping}"), role="control"),
    )
