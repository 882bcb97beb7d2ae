"""START HERE: the training loop. Sample, score, filter, advantage, update, record, validate, save."""

import contextlib
import time
from collections.abc import Callable

from ngrpo.errors import Interrupted, NothingToLearnError, NumericsError
from ngrpo.train.assemble import TrainingRun
from ngrpo.train.bar import step_bar
from ngrpo.train.checkpoint import save_checkpoint
from ngrpo.train.measure import advantage_metrics, census_metrics, rollout_metrics, time_metrics, update_metrics
from ngrpo.train.rollout import collect
from ngrpo.train.rows import advantages_of, even_parts, group_rows, with_retaken_logprobs
from ngrpo.train.schedule import learning_rate
from ngrpo.train.signals import stop_on_signals
from ngrpo.train.step import TrainingRow, UpdateStats, update
from ngrpo.train.validate import validate_when_due


def train(run: TrainingRun, *, on_step: Callable[[int], None] | None = None) -> None:
    """Trains until `train.num_steps`, or until asked to stop. What was learned is on disk when it returns or raises.

    Args:
        run: From `assemble`.
        on_step: Called with the number of steps done, at the start and after each; left out, a bar is shown.

    Raises:
        Interrupted: SIGINT or SIGTERM; the state was saved.
        NothingToLearnError: Several steps in a row kept no group; the state was saved.
        NumericsError: Weights, loss or gradient are not finite; the last checkpoint stays good.
        CheckpointError: A checkpoint could not be written; earlier ones stay good.
    """
    with stop_on_signals() as stop, contextlib.ExitStack() as stack:
        stack.callback(run.recorder.close)
        try:
            _loop(run, stop, on_step or stack.enter_context(step_bar(run)))
        except NumericsError:
            run.is_sound = False
            raise
        except Interrupted:
            raise Interrupted(
                f"{stop.signal_name}: stopped after step {run.state.step} of {run.config.train.num_steps} and saved. "
                "What was under way will be sampled again, token for token. Go on with --resume."
            ) from None
        finally:
            if run.is_sound:
                save(run)


def _loop(run: TrainingRun, should_stop: Callable[[], bool], on_step: Callable[[int], None]) -> None:
    state, num_steps = run.state, run.config.train.num_steps
    while True:
        on_step(state.step)
        is_best = validate_when_due(run, should_stop)
        is_due = state.step % run.config.checkpoint.every_steps == 0
        if state.step > 0 and (is_due or is_best):
            save(run)
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
        NothingToLearnError: Too many steps in a row kept no group.
    """
    config, state, started = run.config, run.state, time.perf_counter()
    rollout = collect(run, should_stop)
    rows = group_rows(run.objective, rollout.kept_groups)
    metrics = rollout_metrics(rollout.groups)
    sampled = time.perf_counter()
    if run.policy.autocast_dtype is not None:
        rows, metrics["policy/sampler_gap_nats"] = with_retaken_logprobs(
            run.policy, rows, config.rollout.temperature, config.update.max_microbatch_tokens
        )
    run.is_sound = False
    metrics |= update_metrics(update_policy(run, rows), with_reference=run.reference is not None)
    updated = time.perf_counter()
    state.step += 1
    state.prompt_position = rollout.prompt_position
    state.num_updates += config.update.num_updates_per_step
    state.num_completions += rollout.num_completions
    state.num_empty_steps = 0 if rows else state.num_empty_steps + 1
    advantages = advantages_of(rows, rollout.kept)
    metrics |= {
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
    run.last_correct_frac = metrics["reward/correct_frac"]
    if state.num_empty_steps >= config.refill.max_empty_steps:
        raise NothingToLearnError(
            f"{state.num_empty_steps} rollout steps in a row kept no group, up to step {state.step}, which was saved: "
            f"the filter of {config.objective.name!r} dropped every one. The prompts are too easy now, or too hard for "
            "a method that drops all-wrong groups: change the data, or objective.params.group_filter."
        )


def update_policy(run: TrainingRun, rows: list[list[TrainingRow]]) -> list[UpdateStats]:
    """The optimiser steps of one rollout step, each on its share of the groups.

    Args:
        run: Its policy is trained in place.
        rows: The rows of each kept group.
    """
    config = run.config
    rate = learning_rate(
        run.state.step,
        peak=config.optim.lr,
        num_steps=config.train.num_steps,
        warmup_steps=config.optim.warmup_steps,
        schedule=config.optim.schedule,
        min_lr_frac=config.optim.min_lr_frac,
    )
    for parameters in run.optimizer.param_groups:
        parameters["lr"] = rate
    return [
        update(
            run.policy,
            run.optimizer,
            run.objective,
            [row for group in part for row in group],
            temperature=config.rollout.temperature,
            max_microbatch_tokens=config.update.max_microbatch_tokens,
            max_grad_norm=config.update.max_grad_norm,
            reference=run.reference,
        )
        for part in even_parts(rows, config.update.num_updates_per_step)
    ]


def save(run: TrainingRun) -> None:
    """Writes a checkpoint of the last finished step; where it is on disk already, only what changed since."""
    checkpoints = run.folder / "checkpoints"
    save_checkpoint(checkpoints, run.policy, run.optimizer, run.state, keep_last=run.config.checkpoint.keep_last)
