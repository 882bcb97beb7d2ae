"""Memory: passes that do not fit are made smaller, and what is freed on a processor stays at hand."""

import contextlib
import ctypes
import os
from collections.abc import Callable
from typing import TypeVar

import torch

from ngrpo.errors import ConfigError
from ngrpo.policy import Policy, recompute_activations
from ngrpo.record import console

Result = TypeVar("Result")

SIGNS = ("out of memory", "can't allocate memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")
"""What allocators say where they raise nothing more telling than a RuntimeError."""


KEPT_BYTES = 2**25
"""Blocks up to this size are kept; 32 MiB is what the GNU C library itself may come to, block by block, at most."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Lets the C library keep freed blocks for the next pass, instead of giving them back to the system.

    Every pass frees what the next one allocates, some megabytes a time, and pages that come anew have to be zeroed when
    first written: 4 to 9 % of an update on a processor. Settings in the environment decide where there are any. Other C
    libraries than GNU's are left as they are.
    """
    is_set = any(name.startswith("MALLOC_") for name in os.environ)
    if is_set or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


class MemoryShortage(Exception):
    """A pass did not fit.

    Attributes:
        num_rows: Completions in it.
        num_tokens: Its size, padding included.
    """

    def __init__(self, num_rows: int, num_tokens: int) -> None:
        super().__init__(f"{num_rows} rows, {num_tokens} tokens")
        self.num_rows = num_rows
        self.num_tokens = num_tokens


def one_pass(work: Callable[[], Result], *, num_rows: int, num_tokens: int) -> Result:
    """Does the work of one microbatch, and says how large it was where memory runs out.

    Raises:
        MemoryShortage: It did.
    """
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Not in the handler: the allocator's error, if it were kept, would keep what the failed pass holds.
    raise MemoryShortage(num_rows, num_tokens)


def within_memory(
    work: Callable[[int], Result], policy: Policy, max_tokens: int, *, can_recompute: bool = False
) -> Result:
    """Does some work in passes of so many tokens at most; all of it again in smaller ones where memory runs out.

    What was found to be too much stays so: the policy keeps the bound. Where a single row does not fit, activations are
    recomputed in backward passes from then on.

    Args:
        work: Called with the budget; starts from nothing each time, and goes through `one_pass`.
        policy: Whose passes these are.
        max_tokens: The budget as the user set it.
        can_recompute: Whether there is a backward pass.

    Raises:
        ConfigError: One row alone does not fit.
    """
    while True:
        bound = policy.max_pass_tokens
        try:
            return work(max_tokens if bound is None else min(bound, max_tokens))
        except MemoryShortage as error:
            shortage = error.with_traceback(None)
        _make_room(policy, shortage, can_recompute=can_recompute)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in str(error) for sign in SIGNS)


def _make_room(policy: Policy, shortage: MemoryShortage, *, can_recompute: bool) -> None:
    """Makes the next attempt smaller, and says so."""
    if policy.device.type == "cuda":
        torch.cuda.empty_cache()
    is_recomputing = any(getattr(module, "gradient_checkpointing", False) for module in policy.model.modules())
    if shortage.num_rows > 1:
        policy.max_pass_tokens = max(1, shortage.num_tokens // 2)
        what = f"at most {policy.max_pass_tokens} tokens at a time (update.max_microbatch_tokens)"
    elif can_recompute and not is_recomputing:
        recompute_activations(policy.model)
        what = "activations are recomputed (model.gradient_checkpointing)"
    else:
        raise ConfigError(
            f"one row of {shortage.num_tokens} tokens, prompt and completion, does not fit into the memory of "
            f"{policy.device} even alone. Set model.gradient_checkpointing = true, train an adapter (model.lora), or "
            "lower rollout.max_completion_tokens."
        )
    console().print(
        f"memory ran out in a pass over {shortage.num_rows} rows, {shortage.num_tokens} tokens. From now on {what}; "
        "the results are the same up to rounding.",
        markup=False,
        soft_wrap=True,
    )
