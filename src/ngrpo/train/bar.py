"""The progress bar of a training run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.markup import escape

from ngrpo.record import progress_bar
from ngrpo.train.assemble import TrainingRun


@contextmanager
def step_bar(run: TrainingRun) -> Iterator[Callable[[int], None]]:
    """A bar over the steps, with the share of correct completions beside it.

    Args:
        run: What is trained.

    Yields:
        What to call with the number of steps done.
    """
    config = run.config
    with progress_bar() as progress:
        bar = progress.add_task(
            escape(config.run.name), total=config.train.num_steps, completed=run.state.step, unit="step", note=""
        )

        def on_step(step: int) -> None:
            share = run.last_correct_frac
            progress.update(bar, completed=step, note="" if share is None else f"correct {share:.3f}")

        yield on_step
