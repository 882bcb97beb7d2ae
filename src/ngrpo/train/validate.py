"""Periodic evaluation on held-out prompts, with the same engine."""

import time
from collections.abc import Callable

import numpy as np

from ngrpo.rollout import sample_groups
from ngrpo.rollout.engine import EVALUATION
from ngrpo.stats import pass_at_k
from ngrpo.train.assemble import TrainingRun
from ngrpo.train.measure import mean_entropy_nats


def validate_when_due(run: TrainingRun, should_stop: Callable[[], bool]) -> bool:
    """Validates before the first step, every so many steps and after the last, once each, and records it.

    Args:
        run: Its state remembers the best validation.
        should_stop: Asked between tokens.

    Returns:
        Whether this was the best validation so far.
    """
    state = run.state
    if run.validation is None or state.validated_step == state.step:
        return False
    if state.step % run.validation.every_steps and state.step != run.config.train.num_steps:
        return False
    started = time.perf_counter()
    metrics = validate(run, should_stop)
    run.recorder.metrics(state.step, {**metrics, "time/validation_s": time.perf_counter() - started})
    state.validated_step = state.step
    is_best = metrics["validation/pass_at_1"] > state.best_pass_at_1
    if is_best:
        state.best_step, state.best_pass_at_1 = state.step, metrics["validation/pass_at_1"]
    return is_best


def validate(run: TrainingRun, should_stop: Callable[[], bool]) -> dict[str, float]:
    """Samples every validation prompt and returns the validation metrics.

    The same random numbers are used at every step, so that a change is the model's.
    """
    assert run.validation is not None, "assemble made validation prompts"
    num_samples = run.validation.num_samples
    groups = sample_groups(
        run.engine,
        run.validation.reward,
        run.validation.prompts,
        num_samples=num_samples,
        sampling=run.validation.sampling,
        seed=run.config.run.seed,
        stream=EVALUATION,
        step=0,
        should_stop=should_stop,
    )
    num_correct = np.array([group.num_correct for group in groups])
    lengths = [len(completion.token_ids) for group in groups for completion in group.completions]
    truncated = [completion.is_truncated for group in groups for completion in group.completions]
    return {
        "validation/pass_at_1": float(np.mean(pass_at_k(num_samples, num_correct, 1))),
        "validation/pass_at_n": float(np.mean(pass_at_k(num_samples, num_correct, num_samples))),
        "validation/mean_tokens": float(np.mean(lengths)),
        "validation/truncated_frac": float(np.mean(truncated)),
        "validation/entropy_nats": mean_entropy_nats(groups),
    }
