"""What runs in the worker processes of a Ray cluster: a model, loaded once, that samples lots and streams them back."""

import queue
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import ngrpo
from ngrpo.errors import ConfigError, UserError
from ngrpo.policy import load_policy, load_tokenizer, weights_fingerprint
from ngrpo.rollout import SampleRequest, Sampling, engine_for
from ngrpo.types import Completion

SECONDS_PER_BATCH = 0.2
"""Completions that end within this time travel together: a message costs about as much as sampling a few tokens."""

Ended = tuple[int, Completion]
"""The index of a request, and its completion."""


@dataclass(frozen=True)
class WorkerModel:
    """What every worker loads.

    Attributes:
        path: Model folder, which all machines see under this path, or hub name.
        weights: Its `weights_fingerprint` on the driver.
        engine: Name of the engine.
        device: As `model.device`.
        precision: As `model.precision`.
        max_rows: Completions that a worker decodes at the same time at most.
        cache_gib: Memory for keys and values of these, in GiB.
        version: Of ngrpo on the driver.
    """

    path: str
    weights: str
    engine: str
    device: str
    precision: str
    max_rows: int
    cache_gib: float
    version: str = ngrpo.__version__


class SamplingWorker:
    """One worker process."""

    def load(self, model: WorkerModel) -> str:
        """Loads the model.

        Returns:
            The name of this machine.

        Raises:
            ConfigError: Another version of ngrpo, or other weights at the same path.
            UserError: The model cannot be loaded.
        """
        host = socket.gethostname()
        if ngrpo.__version__ != model.version:
            raise ConfigError(
                f"the worker on {host} has ngrpo {ngrpo.__version__}, the driver {model.version}. Install the same."
            )
        try:
            tokenizer = load_tokenizer(model.path)
            if weights_fingerprint(model.path) != model.weights:
                raise ConfigError(
                    f"{model.path!r} holds other weights than on the driver. Copy the model to every machine, or put "
                    "it on a file system that all of them share."
                )
            self.policy = load_policy(model.path, tokenizer, device=model.device, precision=model.precision)
        except UserError as error:
            raise type(error)(
                f"the worker on {host}: {error} Every worker reads the model under the same path: it must be there on "
                "each machine."
            ) from error
        # Kept: on a GPU an engine records its passes once.
        self.engine_for = cache(
            lambda answers_are_boxed: engine_for(
                model.engine,
                self.policy,
                max_rows=model.max_rows,
                cache_gib=model.cache_gib,
                answers_are_boxed=answers_are_boxed,
            )
        )
        return host

    def sample(
        self, lot: Sequence[tuple[int, SampleRequest]], sampling: Sampling, answers_are_boxed: bool
    ) -> Iterator[list[Ended]]:
        """Samples a lot and gives its completions as they end.

        Args:
            lot: Requests, with the indices that they go by.
            sampling: How tokens are drawn.
            answers_are_boxed: See `rollout.engine_for`.
        """
        engine = self.engine_for(answers_are_boxed)
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def on_completions(indices: list[int], completions: list[Completion]) -> None:
            told.put([(lot[index][0], each) for index, each in zip(indices, completions, strict=True)])

        def work() -> None:
            try:
                engine.sample([request for _, request in lot], sampling, on_completions=on_completions)
                told.put(None)
            except BaseException as error:  # noqa: BLE001  raised by `in_batches`, where Ray sees it
                told.put(error)

        threading.Thread(target=work, name="sampling", daemon=True).start()
        yield from in_batches(told, SECONDS_PER_BATCH)


def in_batches(told: "queue.SimpleQueue[Any]", seconds: float) -> Iterator[list[Ended]]:
    """Lists out of a queue, those of a while put together.

    Args:
        told: Gives lists; then None, or an error, which is raised when all before it was given.
        seconds: The while.

    Example:
        >>> told = queue.SimpleQueue()
        >>> for each in ([1], [2, 3], None):
        ...     told.put(each)
        >>> list(in_batches(told, 1.0))
        [[1, 2, 3]]
    """
    batch: list[Ended] = []
    until = 0.0
    while True:
        try:
            item = told.get(timeout=max(0.0, until - time.monotonic()) if batch else None)
        except queue.Empty:
            yield batch
            batch = []
            continue
        if isinstance(item, list):
            if not batch:
                until = time.monotonic() + seconds
            batch = batch + item
            continue
        if batch:
            yield batch
        if item is None:
            return
        raise item
