"""How many processor threads a tiny model should use: one."""

import contextlib
import os
from collections.abc import Iterator

import torch

from ngrpo.policy.load import Policy

SMALL_PARAMETERS = 1_000_000
"""Below this a second thread gains little on a quiet machine and loses much on a busy one."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Runs what is inside on one thread, and gives the threads back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def sensible_threads(policy: Policy) -> contextlib.AbstractContextManager[None]:
    """One thread for a tiny model on the processor, else what torch chose. `OMP_NUM_THREADS`, where set, decides.

    Args:
        policy: What will run.
    """
    num_parameters = sum(parameter.numel() for parameter in policy.model.parameters())
    is_tiny = policy.device.type == "cpu" and num_parameters < SMALL_PARAMETERS
    return one_thread() if is_tiny and "OMP_NUM_THREADS" not in os.environ else contextlib.nullcontext()
