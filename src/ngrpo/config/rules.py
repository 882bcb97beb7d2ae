"""Settings that are fine alone and do not go together.

Each rule is a function named as a sentence that must hold. It returns None, or the complaint: both values by their
dotted keys, why they do not go together, and what to do. A new rule is a function and its place in `RULES`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ngrpo.config.models import RunConfig


def training_samples_from_the_whole_distribution(config: "RunConfig") -> str | None:
    """The update's log-probabilities are of the whole distribution, so the sampler's must be too."""
    rollout = config.rollout
    if rollout.top_p == 1.0 and rollout.top_k == 0:
        return None
    return (
        f"rollout.top_p = {rollout.top_p} and rollout.top_k = {rollout.top_k} cut the distribution sampled from, which "
        "the update does not account for: its ratios would be wrong from the first step. Set rollout.top_p = 1.0 and "
        "rollout.top_k = 0; validation and eval may use both."
    )


def every_update_has_a_group(config: "RunConfig") -> str | None:
    """Fewer prompts than updates would leave updates without any group."""
    num_prompts, num_updates = config.rollout.num_prompts_per_step, config.update.num_updates_per_step
    if num_prompts >= num_updates:
        return None
    return (
        f"rollout.num_prompts_per_step = {num_prompts} is below update.num_updates_per_step = {num_updates}: some "
        "updates would have no group. Sample more prompts or make fewer updates."
    )


def warmup_ends_before_the_run(config: "RunConfig") -> str | None:
    """A warm-up as long as the run never reaches the learning rate."""
    warmup_steps, num_steps = config.optim.warmup_steps, config.train.num_steps
    if warmup_steps == 0 or warmup_steps < num_steps:
        return None
    return (
        f"optim.warmup_steps = {warmup_steps} is not below train.num_steps = {num_steps}: the learning rate would "
        "never be reached. Warm up for fewer rollout steps or train for more."
    )


def anchor_logprobs_have_anchors(config: "RunConfig") -> str | None:
    """Log-probabilities of given solutions say nothing without the solutions."""
    data = config.data
    if data.anchor_logprobs_column is None or data.anchor_column is not None:
        return None
    return (
        f"data.anchor_logprobs_column = {data.anchor_logprobs_column!r} has no effect without data.anchor_column: it "
        "is about the solutions there. Name their column too, or leave both out."
    )


def anchors_are_for_training(config: "RunConfig") -> str | None:
    """Given solutions join groups that are trained on, which validation's are not."""
    data = config.validation.data if config.validation is not None else None
    if data is None or (data.anchor_column is None and data.anchor_logprobs_column is None):
        return None
    return (
        f"validation.data.anchor_column = {data.anchor_column!r} and validation.data.anchor_logprobs_column = "
        f"{data.anchor_logprobs_column!r} have no effect: validation prompts are not trained on. Leave them out; "
        "data.anchor_column is about the training prompts."
    )


def reward_settings_are_read(config: "RunConfig") -> str | None:
    """A setting that the judge does not read would be believed to hold."""
    reward = config.reward
    if ".py:" in reward.name:
        return None  # a function of the user's reads none of them, and goes with any
    for setting, judges in READERS_OF_REWARD_SETTINGS.items():
        value = getattr(reward, setting)
        if value != type(reward).model_fields[setting].default and reward.name not in judges:
            return (
                f"reward.{setting} = {value!r} has no effect with reward.name = {reward.name!r}: it is about "
                f"{' and '.join(judges)}. Leave it out, or choose another judge."
            )
    return None


READERS_OF_REWARD_SETTINGS = {
    "profile": ("math", "auto"),
    "absolute_tolerance": ("numeric",),
    "relative_tolerance": ("numeric",),
    "choices": ("choice",),
    "fractional": ("gym", "auto"),
}
"""Settings that only some judges read, and which."""

RULES = (
    training_samples_from_the_whole_distribution,
    every_update_has_a_group,
    warmup_ends_before_the_run,
    anchor_logprobs_have_anchors,
    anchors_are_for_training,
    reward_settings_are_read,
)


def broken_rules(config: "RunConfig") -> list[str]:
    """Says which rules a configuration breaks.

    Args:
        config: Sections that are valid one by one.

    Returns:
        One complaint for each broken rule, in the order of `RULES`.
    """
    return [complaint for rule in RULES if (complaint := rule(config)) is not None]
