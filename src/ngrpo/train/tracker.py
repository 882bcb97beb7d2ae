"""The value tracker of SPO (arXiv 2509.13232): an estimate of every training prompt's reward, kept over the run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ngrpo.errors import RewardError
from ngrpo.objectives.plan import TrackerPlan
from ngrpo.record import progress_bar
from ngrpo.rollout import sample_groups
from ngrpo.rollout.engine import TRACKER_START
from ngrpo.train.companion import Companion
from ngrpo.train.step import logprobs_of
from ngrpo.types import Group, Prompt

if TYPE_CHECKING:
    from ngrpo.train.assemble import TrainingRun


@dataclass(frozen=True, slots=True)
class Previous:
    """A prompt's completion when it was last trained on.

    Attributes:
        token_ids: Of the completion.
        logprobs: Of its tokens, by the policy after the update that it took part in; nats.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class Tracker(Companion):
    """Counts of reward had and missed for every training prompt, which fade as the policy moves.

    Before a step, its estimates are read. After the step's update, the counts of the prompts in it fade by how far the
    updated policy has moved on their previous completion, and take in the new reward; then completion and
    log-probabilities are stored for the next time. A prompt that is in a step twice is counted from the same old counts
    both times, and the later one stays, as with the authors.

    Args:
        plan: The formulas.
    """

    name = "tracker"
    provides: ClassVar[frozenset[str]] = frozenset({"tracker_values"})

    def __init__(self, plan: TrackerPlan) -> None:
        self.plan = plan
        self.counts: dict[str, tuple[float, float]] = {}
        self.previous: dict[str, Previous] = {}

    def start(self, run: "TrainingRun", should_stop: Callable[[], bool]) -> bool:
        """Samples every training prompt for a first estimate, with the run's own sampling settings.

        The authors sample at temperature 0.6, top-p 0.95 and top-k 20, for rewards of 0 and 1; here rewards between
        count as what they are.

        Raises:
            Interrupted: `should_stop` said so; nothing was kept.
            RewardError: A reward is not between 0 and 1.
        """
        if self.counts:  # a checkpoint of step 0 had them
            return False
        sums = [0.0] * len(run.prompts)
        if self.plan.num_initial_samples:
            sums = _initial_reward_sums(run, self.plan.num_initial_samples, should_stop)
        alpha, beta = self.plan.initial_counts(torch.tensor(sums, dtype=torch.float64))
        counts = zip(alpha.tolist(), beta.tolist(), strict=True)
        self.counts = {prompt.id: pair for prompt, pair in zip(run.prompts, counts, strict=True)}
        return self.plan.num_initial_samples > 0

    def values(self, prompts: Sequence[Prompt]) -> Tensor:
        """[P] float64: the estimate of each prompt's reward as it is now, in [0, 1]."""
        return self.plan.values(*self._counts_of(prompts))

    def facts(self, run: "TrainingRun", groups: list[Group], should_stop: Callable[[], bool]) -> dict[str, Tensor]:
        """The estimates from before this step, one per completion.

        Raises:
            RewardError: A reward is not between 0 and 1.
        """
        _check_rewards(groups)
        sizes = torch.tensor([len(group.completions) for group in groups])
        return {"tracker_values": self.values([group.prompt for group in groups]).repeat_interleave(sizes)}

    def learn(self, run: "TrainingRun", groups: list[Group]) -> dict[str, float]:
        """Moves the counts of the step's prompts, and stores what the next visit of each is compared with."""
        prompts = [group.prompt for group in groups]
        divergence = self._divergence_nats(run, prompts)
        decay = self.plan.decay(divergence)
        rewards = torch.tensor([group.outcomes[0].value for group in groups], dtype=torch.float64)
        alpha, beta = self.plan.next_counts(*self._counts_of(prompts), rewards, decay)
        completions = [group.completions[0].token_ids for group in groups]
        logprobs = _logprobs(run, list(zip(prompts, completions, strict=True)))
        for place, prompt in enumerate(prompts):
            self.counts[prompt.id] = (float(alpha[place]), float(beta[place]))
            self.previous[prompt.id] = Previous(completions[place], logprobs[place])
        metrics = {"tracker/value_mean": float(self.values(run.prompts).mean())}
        if groups:
            metrics["tracker/divergence_nats_mean"] = float(divergence.mean())
            metrics["tracker/decay_mean"] = float(decay.mean())
        if run.state.step == 0 and self.plan.num_initial_samples:
            metrics["tracker/num_initial_completions"] = len(run.prompts) * self.plan.num_initial_samples
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Counts of every prompt; previous completions one behind the other, as one tensor each."""
        stored = self.previous.values()
        return {
            "counts": dict(self.counts),
            "previous_ids": list(self.previous),
            "previous_lengths": torch.tensor([len(each.token_ids) for each in stored], dtype=torch.long),
            "previous_tokens": torch.tensor([token for each in stored for token in each.token_ids], dtype=torch.long),
            "previous_logprobs": torch.tensor(
                [value for each in stored for value in each.logprobs], dtype=torch.float64
            ),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what `state_dict` gave."""
        lengths = state["previous_lengths"].tolist()
        tokens, logprobs = state["previous_tokens"].split(lengths), state["previous_logprobs"].split(lengths)
        self.counts = {name: (alpha, beta) for name, (alpha, beta) in state["counts"].items()}
        self.previous = {
            name: Previous(tuple(own_tokens.tolist()), tuple(own_logprobs.tolist()))
            for name, own_tokens, own_logprobs in zip(state["previous_ids"], tokens, logprobs, strict=True)
        }

    def _counts_of(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Alpha and beta, [P] float64 each."""
        counts = torch.tensor([self.counts[prompt.id] for prompt in prompts], dtype=torch.float64).reshape(-1, 2)
        return counts[:, 0], counts[:, 1]

    def _divergence_nats(self, run: "TrainingRun", prompts: Sequence[Prompt]) -> Tensor:
        """[P] float64: mean |stored - now| over the tokens of each prompt's previous completion; 0 where none is."""
        seen = [prompt for prompt in prompts if prompt.id in self.previous]
        now = iter(_logprobs(run, [(prompt, self.previous[prompt.id].token_ids) for prompt in seen]))
        found = [
            _mean_distance(self.previous[prompt.id].logprobs, next(now)) if prompt.id in self.previous else 0.0
            for prompt in prompts
        ]
        return torch.tensor(found, dtype=torch.float64)


def _initial_reward_sums(run: "TrainingRun", num_samples: int, should_stop: Callable[[], bool]) -> list[float]:
    """Sum of the rewards of `num_samples` completions of each training prompt, in the order of the prompts."""
    sums = [0.0] * len(run.prompts)
    # Like lengths together, and no more completions in memory than are decoded at a time.
    by_length = sorted(range(len(run.prompts)), key=lambda index: len(run.prompts[index].token_ids))
    with progress_bar() as progress:
        bar = progress.add_task(
            "first estimates", total=len(sums) * num_samples, completed=0, unit="completion", note=""
        )
        num_prompts = max(1, run.config.rollout.max_rows // num_samples)
        for place in range(0, len(by_length), num_prompts):
            indices = by_length[place : place + num_prompts]
            groups = sample_groups(
                run.engine,
                run.reward,
                [run.prompts[index] for index in indices],
                num_samples=num_samples,
                sampling=run.sampling,
                seed=run.config.run.seed,
                stream=TRACKER_START,
                step=0,
                occurrences=indices,
                should_stop=should_stop,
            )
            progress.advance(bar, len(indices) * num_samples)
            _check_rewards(groups)
            for index, group in zip(indices, groups, strict=True):
                sums[index] = sum(outcome.value for outcome in group.outcomes)
    return sums


def _check_rewards(groups: Sequence[Group]) -> None:
    for group in groups:
        for outcome in group.outcomes:
            if not 0.0 <= outcome.value <= 1.0:
                raise RewardError(
                    f"prompt {group.prompt.id!r} ({group.prompt.source}) got the reward {outcome.value!r}. A value "
                    "tracker counts rewards between 0 and 1: rescale them, or choose a method without a tracker."
                )


def _logprobs(run: "TrainingRun", pairs: Sequence[tuple[Prompt, tuple[int, ...]]]) -> list[tuple[float, ...]]:
    """Log-probabilities of completions by the policy as it is now, nats."""
    return logprobs_of(
        run.policy,
        [(prompt.token_ids, completion) for prompt, completion in pairs],
        temperature=run.config.rollout.temperature,
        max_microbatch_tokens=run.config.update.max_microbatch_tokens,
        packing_window=run.config.update.packing_window,
    )


def _mean_distance(stored: Sequence[float], now: Sequence[float]) -> float:
    return sum(abs(one - other) for one, other in zip(stored, now, strict=True)) / max(1, len(stored))
