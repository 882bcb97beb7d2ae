"""The rollout half of a step: sample groups, filter them, refill up to a bound."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ngrpo.errors import RewardError
from ngrpo.rollout import sample_groups
from ngrpo.rollout.engine import TRAINING
from ngrpo.train.assemble import TrainingRun
from ngrpo.train.drafts import sample_drafts
from ngrpo.train.facts import columns, filter_facts
from ngrpo.types import Group

NUM_DETAILS = 3
"""Failures of the verifier that are told with their details when a run stops because of them."""


@dataclass(frozen=True)
class Rollout:
    """What one step sampled.

    Attributes:
        drafted: Drafts of each prompt, where the method has any; they are trained on in no way.
        sampled: Every group as the policy sampled it, in that order.
        groups: The same as the method has it: with given solutions in, where it puts any in.
        kept: Whether each enters the update.
        num_batches: Rollout batches it took.
        prompt_position: Where the prompt order stands afterwards.
        is_short: Whether the bound left fewer groups than asked for.
    """

    drafted: list[Group]
    sampled: list[Group]
    groups: list[Group]
    kept: list[bool]
    num_batches: int
    prompt_position: int
    is_short: bool

    @property
    def num_completions(self) -> int:
        """Completions sampled, filtered groups included."""
        return sum(len(group.completions) for group in self.sampled)

    @property
    def num_completion_tokens(self) -> int:
        """Tokens sampled, filtered groups included."""
        return sum(len(completion.token_ids) for group in self.sampled for completion in group.completions)

    @property
    def kept_groups(self) -> list[Group]:
        """The groups that enter the update."""
        return [group for group, is_kept in zip(self.groups, self.kept, strict=True) if is_kept]


def collect(run: TrainingRun, should_stop: Callable[[], bool]) -> Rollout:
    """Samples groups until the step is full or the refill bound is reached. Groups are kept or dropped whole.

    Nothing of the run changes: a rollout that is interrupted leaves no trace and is sampled again: token for
    token by the native engine, from the same seeds by vLLM.

    Raises:
        RewardError: The verifier failed on more than `reward.max_failed_frac` of the completions.
    """
    rollout, wanted = run.config.rollout, run.config.rollout.num_prompts_per_step
    drafted: list[Group] = []
    sampled: list[Group] = []
    groups: list[Group] = []
    kept: list[bool] = []
    position, num_batches = run.state.prompt_position, 0
    while sum(kept) < wanted and num_batches < run.config.refill.max_batches:
        missing = wanted - sum(kept)
        drawn = run.prompt_choice.draw(run, position, missing, batch=num_batches)
        prompts = [run.prompts[index] for index in drawn.indices]
        occurrences = range(len(groups), len(groups) + len(prompts))
        if run.objective.rollout.drafts is not None:
            drafts = sample_drafts(run, prompts, occurrences, should_stop)
            drafted += drafts
            prompts = run.refiner.refine(drafts)
        batch = sample_groups(
            run.engine,
            run.reward,
            prompts,
            num_samples=rollout.num_samples_per_prompt,
            sampling=run.sampling,
            seed=run.config.run.seed,
            stream=TRAINING,
            step=run.state.step,
            occurrences=occurrences,
            should_stop=should_stop,
        )
        sampled += batch
        refuse_failures(run, [*drafted, *sampled])
        for companion in run.companions:
            batch = companion.amend(run, batch, should_stop)
        groups += batch
        kept += keep_flags(run, batch, should_stop)
        position = drawn.position
        wanted -= drawn.num_pruned
        num_batches += 1
    return Rollout(drafted, sampled, groups, kept, num_batches, position, is_short=sum(kept) < wanted)


def keep_flags(run: TrainingRun, groups: list[Group], should_stop: Callable[[], bool]) -> list[bool]:
    """Which groups enter the update: those that the method's filter lets in, and whose rewards are all known.

    Where the verifier failed on a completion it is neither right nor wrong, and neither is the group's mean known: the
    group stays out, whole, and another takes its place.
    """
    if not groups:
        return []
    rewards, ids, labels = columns(groups)
    flags = run.objective.keep(rewards, ids, correct=labels, rollout=filter_facts(run, groups, should_stop))
    parts = torch.split(flags, [len(group.outcomes) for group in groups])
    return [bool(part[0]) and group.num_failures == 0 for part, group in zip(parts, groups, strict=True)]


def refuse_failures(run: TrainingRun, groups: list[Group]) -> None:
    """Stops a run whose verifier fails too often, before anything is learned from the step.

    Args:
        run: Its records get completions that the verifier failed on; nothing else of it changes.
        groups: What was sampled in this step so far, drafts included.

    Raises:
        RewardError: Too large a share of the outcomes is a failure.
    """
    pairs = [(group, outcome) for group in groups for outcome in group.outcomes]
    failed = [(group, outcome) for group, outcome in pairs if outcome.is_failure]
    allowed = run.config.reward.max_failed_frac
    if not failed or len(failed) <= allowed * len(pairs):
        return
    run.recorder.failures(run.state.step + 1, groups)
    counts = Counter(outcome.kind for _, outcome in failed)
    details = "".join(
        f"\n  {group.prompt.source or group.prompt.id}: {outcome.kind}: {outcome.detail}"
        for group, outcome in failed[:NUM_DETAILS]
    )
    raise RewardError(
        f"the reward failed on {len(failed)} of {len(pairs)} completions of step {run.state.step + 1} "
        f"({', '.join(f'{count} {kind}' for kind, count in sorted(counts.items()))}), more than "
        f"reward.max_failed_frac = {allowed:g} allows:{details}\n"
        f"Nothing was learned from them, and step {run.state.step} is saved; samples.jsonl has the completions. Mend "
        "the reward, give it more time (reward.timeout_s), or allow more failures, and go on with --resume."
    )
