"""What the reference model earns on each prompt: PVPO's baseline (arXiv 2508.21104)."""

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ngrpo.objectives.plan import GoldAnchors, ReferenceValues
from ngrpo.rollout import Engine, engine_for, is_boxed, sample_groups
from ngrpo.rollout.engine import REFERENCE_VALUES
from ngrpo.train.anchors import with_anchors
from ngrpo.train.companion import Companion
from ngrpo.types import Group, Prompt

if TYPE_CHECKING:
    from ngrpo.train.assemble import TrainingRun


@dataclass(frozen=True, slots=True)
class Measured:
    """What one round of the reference model's completions of a prompt earned.

    Attributes:
        period: Number of the round: how often values had been refreshed before.
        mean_reward: Over the completions.
        num_correct: By the verifier's labels.
    """

    period: int
    mean_reward: float
    num_correct: int


class ReferenceBaseline(Companion):
    """Mean reward of the reference model's completions of each prompt, sampled when the prompt is first drawn and kept.

    The paper samples all prompts before training; a prompt's values are the same either way, as its random numbers
    belong to the prompt and the refresh period. A refresh samples the same frozen model again.

    Args:
        plan: How many completions, and how often anew.
        anchors: Which prompts get a given solution, for methods that have them.
    """

    name = "reference_values"
    provides: ClassVar[frozenset[str]] = frozenset({"reference_rewards"})

    def __init__(self, plan: ReferenceValues, anchors: GoldAnchors | None = None) -> None:
        self.plan = plan
        self.anchors = anchors
        self.measured: dict[str, Measured] = {}
        self._pending: dict[str, Measured] = {}  # of a step that is not finished: no state yet

    def amend(self, run: "TrainingRun", groups: list[Group], should_stop: Callable[[], bool]) -> list[Group]:
        """Puts a given solution into the groups of prompts that the reference model never solves."""
        if self.anchors is None:
            return groups
        num_correct = [each.num_correct for each in self._values(run, groups, should_stop)]
        return with_anchors(run, groups, self.anchors.applies(torch.tensor(num_correct)).tolist())

    def facts(self, run: "TrainingRun", groups: list[Group], should_stop: Callable[[], bool]) -> dict[str, Tensor]:
        """The reference model's mean reward, one per completion."""
        found = zip(groups, self._values(run, groups, should_stop), strict=True)
        rewards = [each.mean_reward for group, each in found for _ in group.completions]
        return {"reference_rewards": torch.tensor(rewards, dtype=torch.float64)}

    def learn(self, run: "TrainingRun", groups: list[Group]) -> dict[str, float]:
        """Keeps what was measured for this step."""
        self.measured |= self._pending
        metrics: dict[str, float] = {"baseline/num_reference_completions": len(self._pending) * self.plan.num_samples}
        self._pending = {}
        if groups:
            means = [self.measured[group.prompt.id].mean_reward for group in groups]
            metrics["baseline/reference_reward_mean"] = sum(means) / len(means)
        if self.anchors is not None:
            metrics["anchors/num_anchors"] = sum(each.is_anchor for group in groups for each in group.completions)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Period, mean reward and number of correct completions of every prompt drawn so far."""
        return {"measured": {name: astuple(each) for name, each in self.measured.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what `state_dict` gave."""
        self.measured = {name: Measured(*each) for name, each in state["measured"].items()}

    def _values(self, run: "TrainingRun", groups: list[Group], should_stop: Callable[[], bool]) -> list[Measured]:
        """What is known of each group's prompt in this period; what is not yet is sampled."""
        period = self.plan.period(run.state.step)
        known = {name: each for name, each in (self.measured | self._pending).items() if each.period == period}
        missing = {group.prompt.id: group.prompt for group in groups if group.prompt.id not in known}
        found = _measure(run, list(missing.values()), self.plan.num_samples, period, should_stop)
        self._pending |= found
        return [(known | found)[group.prompt.id] for group in groups]


def _measure(
    run: "TrainingRun", prompts: list[Prompt], num_samples: int, period: int, should_stop: Callable[[], bool]
) -> dict[str, Measured]:
    """One round of completions of these prompts by the reference model, by prompt id."""
    if not prompts:
        return {}
    index_of = {prompt.id: index for index, prompt in enumerate(run.prompts)}
    groups = sample_groups(
        reference_engine(run),
        run.reward,
        prompts,
        num_samples=num_samples,
        sampling=run.sampling,
        seed=run.config.run.seed,
        stream=REFERENCE_VALUES,
        step=period,
        occurrences=[index_of[prompt.id] for prompt in prompts],
        should_stop=should_stop,
    )
    return {
        group.prompt.id: Measured(
            period, sum(outcome.value for outcome in group.outcomes) / num_samples, group.num_correct
        )
        for group in groups
    }


def reference_engine(run: "TrainingRun") -> Engine:
    """The run's kind of engine, over the reference model."""
    assert run.reference is not None, "assemble loads a reference where the objective needs one"
    return engine_for(
        run.config.rollout.engine,
        run.reference,
        max_rows=run.config.rollout.max_rows,
        cache_gib=run.config.rollout.cache_gib,
        answers_are_boxed=is_boxed(run.reward),
    )
