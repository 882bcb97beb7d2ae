"""START HERE: the training loop. Sample, score, filter, advantage, update, record, validate, save."""

import contextlib
import time
from collections.abc import Callable

from ngrpo.errors import Interrupted, NothingToLearnError, NumericsError
from ngrpo.train.assemble import TrainingRun
from ngrpo.train.bar import step_bar
from ngrpo.train.checkpoint import save_run
from ngrpo.train.drafts import draft_metrics
from ngrpo.train.facts import rollout_facts
from ngrpo.train.greedy import greedy_metrics
from ngrpo.train.measure import (
    advantage_metrics,
    census_metrics,
    group_census,
    num_extra_completions,
    reward_kl_metrics,
    rollout_metrics,
    time_metrics,
    update_metrics,
)
from ngrpo.train.policy_update import update_policy
from ngrpo.train.rollout import collect
from ngrpo.train.rows import (
    advantages_of,
    group_rows,
    importance_cap,
    with_importance_weights,
    with_old_logprobs,
)
from ngrpo.train.signals import stop_on_signals
from ngrpo.train.validate import validate_when_due


def train(run: TrainingRun, *, on_step: Callable[[int], None] | None = None) -> None:
    """Trains until `train.num_steps`, or until asked to stop. What was learned is on disk when it returns or raises.

    Args:
        run: From `assemble`.
        on_step: Called with the number of steps done, at the start and after each; left out, a bar is shown.

    Raises:
        Interrupted: SIGINT or SIGTERM; the state was saved.
        NothingToLearnError: Several steps in a row kept no group; the state was saved.
        RewardError: The reward failed on too many completions of a step; the state was saved.
        NumericsError: Weights, loss or gradient are not finite; the last checkpoint stays good.
        CheckpointError: A checkpoint could not be written; earlier ones stay good.
    """
    with stop_on_signals() as stop, contextlib.ExitStack() as stack:
        stack.callback(run.recorder.close)
        try:
            if run.state.step == 0:  # before the bar of the steps, as companions may show one of their own
                start_companions(run, stop)
            _loop(run, stop, on_step or stack.enter_context(step_bar(run)))
        except NumericsError:
            run.is_sound = False
            raise
        except Interrupted:
            saved = "and saved" if run.is_sound else "before there was anything to save"
            again = "from the same seeds" if run.config.rollout.engine == "vllm" else "token for token"
            raise Interrupted(
                f"{stop.signal_name}: stopped after step {run.state.step} of {run.config.train.num_steps} {saved}. "
                f"What was under way will be sampled again, {again}. Go on with --resume."
            ) from None
        finally:
            if run.is_sound:
                save_run(run)


def start_companions(run: TrainingRun, should_stop: Callable[[], bool]) -> None:
    """What has to be there before the first step, saved at once where it took work."""
    run.is_sound = False  # a checkpoint of step 0 has all of it or is not written
    has_worked = [companion.start(run, should_stop) for companion in run.companions]
    run.is_sound = True
    if any(has_worked):
        save_run(run)


def _loop(run: TrainingRun, should_stop: Callable[[], bool], on_step: Callable[[int], None]) -> None:
    state, num_steps = run.state, run.config.train.num_steps
    while True:
        on_step(state.step)
        is_best = validate_when_due(run, should_stop)
        is_due = state.step % run.config.checkpoint.every_steps == 0
        if state.step > 0 and (is_due or is_best):
            save_run(run)
        if state.step == num_steps:
            return  # `train` saves whatever step is the last
        if should_stop():
            raise Interrupted("between two steps")
        train_step(run, should_stop)


def train_step(run: TrainingRun, should_stop: Callable[[], bool]) -> None:
    """One rollout step: sampling, several optimiser steps, records.

    Args:
        run: Changed in place.
        should_stop: Asked while sampling, before anything of the run has changed.

    Raises:
        RewardError: The reward failed on too many completions; nothing of the run has changed.
        NothingToLearnError: Too many steps in a row kept no group.
    """
    config, state, started = run.config, run.state, time.perf_counter()
    rollout = collect(run, should_stop)
    groups, mismatch = with_old_logprobs(run.policy, rollout.kept_groups, config)
    metrics = rollout_metrics(rollout.sampled) | mismatch
    facts = rollout_facts(run, groups, should_stop)
    rows = group_rows(run.objective, groups, facts)
    if (cap := importance_cap(config)) is not None:
        rows = with_importance_weights(rows, rollout.kept_groups, cap)
    metrics |= greedy_metrics(facts, groups) | reward_kl_metrics(facts)
    metrics |= draft_metrics(rollout.drafted, rollout.sampled)
    sampled = time.perf_counter()
    run.is_sound = False
    metrics |= update_metrics(update_policy(run, rows), with_reference=run.objective.needs_reference)
    for companion in run.companions:
        metrics |= companion.learn(run, groups)
    updated = time.perf_counter()
    state.step += 1
    state.prompt_position = rollout.prompt_position
    state.num_updates += config.update.num_updates_per_step
    state.num_completions += rollout.num_completions + num_extra_completions(metrics)
    if rollout.sampled:  # a step whose prompts were all pruned says nothing of what there is to learn
        state.num_empty_steps = 0 if rows else state.num_empty_steps + 1
    advantages = advantages_of(rows, rollout.kept)
    metrics |= {
        **group_census(rollout.groups),
        **census_metrics(rollout.kept, num_batches=rollout.num_batches, is_short=rollout.is_short),
        **advantage_metrics([value for group in advantages for value in group], rollout.num_completions),
        **time_metrics(sampled - started, updated - sampled, rollout.num_completion_tokens),
        "optim/lr": run.optimizer.param_groups[0]["lr"],
        "optim/num_updates": state.num_updates,
        "data/epoch": state.prompt_position / len(run.prompts),
        "data/num_completions": state.num_completions,
    }
    run.recorder.groups(state.step, rollout.groups, rollout.kept, advantages)
    run.recorder.metrics(state.step, metrics)
    run.is_sound = True
    run.last_correct_frac = metrics.get("reward/correct_frac", run.last_correct_frac)
    if state.num_empty_steps >= config.refill.max_empty_steps:
        raise NothingToLearnError(
            f"{state.num_empty_steps} rollout steps in a row kept no group, up to step {state.step}, which was saved: "
            f"the filter of {config.objective.name!r} dropped every one. The prompts are too easy now, or too hard for "
            "a method that drops all-wrong groups: change the data, or objective.params.group_filter."
        )
