"""The rollout half of a step: sample groups, filter them, refill up to a bound."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ngrpo.rollout import sample_groups
from ngrpo.rollout.engine import TRAINING
from ngrpo.train.assemble import TrainingRun
from ngrpo.types import Group


@dataclass(frozen=True)
class Rollout:
    """What one step sampled.

    Attributes:
        groups: Every sampled group, in the order sampled.
        kept: Whether each enters the update.
        num_batches: Rollout batches it took.
        prompt_position: Where the prompt order stands afterwards.
        is_short: Whether the bound left fewer groups than asked for.
    """

    groups: list[Group]
    kept: list[bool]
    num_batches: int
    prompt_position: int
    is_short: bool

    @property
    def num_completions(self) -> int:
        """Completions sampled, filtered groups included."""
        return sum(len(group.completions) for group in self.groups)

    @property
    def num_completion_tokens(self) -> int:
        """Tokens sampled, filtered groups included."""
        return sum(len(completion.token_ids) for group in self.groups for completion in group.completions)

    @property
    def kept_groups(self) -> list[Group]:
        """The groups that enter the update."""
        return [group for group, is_kept in zip(self.groups, self.kept, strict=True) if is_kept]


def collect(run: TrainingRun, should_stop: Callable[[], bool]) -> Rollout:
    """Samples groups until the step is full or the refill bound is reached. Groups are kept or dropped whole.

    Nothing of the run changes: a rollout that is interrupted leaves no trace and is sampled again, token for token.
    """
    rollout, wanted = run.config.rollout, run.config.rollout.num_prompts_per_step
    groups: list[Group] = []
    kept: list[bool] = []
    position, num_batches = run.state.prompt_position, 0
    while sum(kept) < wanted and num_batches < run.config.refill.max_batches:
        missing = wanted - sum(kept)
        prompts = [run.prompts[index] for index in run.order.take(position, missing)]
        batch = sample_groups(
            run.engine,
            run.reward,
            prompts,
            num_samples=rollout.num_samples_per_prompt,
            sampling=run.sampling,
            seed=run.config.run.seed,
            stream=TRAINING,
            step=run.state.step,
            first_occurrence=len(groups),
            should_stop=should_stop,
        )
        groups += batch
        kept += keep_flags(run, batch)
        position += missing
        num_batches += 1
    return Rollout(groups, kept, num_batches, position, is_short=sum(kept) < wanted)


def keep_flags(run: TrainingRun, groups: list[Group]) -> list[bool]:
    """Which groups the method's filter lets into the update."""
    rewards, ids, labels = columns(groups)
    flags = run.objective.keep(rewards, ids, correct=labels)
    return [bool(part[0]) for part in torch.split(flags, [len(group.outcomes) for group in groups])]


def columns(groups: list[Group]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, group ids and labels of every completion of these groups, as the objectives take them."""
    outcomes = [outcome for group in groups for outcome in group.outcomes]
    ids = [place for place, group in enumerate(groups) for _ in group.outcomes]
    rewards = torch.tensor([outcome.value for outcome in outcomes], dtype=torch.float64)
    labels = torch.tensor([outcome.correct for outcome in outcomes], dtype=torch.bool)
    return rewards, torch.tensor(ids), labels
