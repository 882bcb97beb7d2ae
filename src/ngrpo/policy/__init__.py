"""The model: loading it, and log-probabilities of given tokens under it."""

from ngrpo.policy.load import (
    Policy,
    load_policy,
    load_reference,
    load_tokenizer,
    max_positions,
    no_progress_bars,
    weights_fingerprint,
)
from ngrpo.policy.logprobs import TokenBatch, completion_logprobs, pad_rows
from ngrpo.policy.threads import one_thread, sensible_threads

__all__ = [
    "Policy",
    "TokenBatch",
    "completion_logprobs",
    "load_policy",
    "load_reference",
    "load_tokenizer",
    "max_positions",
    "no_progress_bars",
    "one_thread",
    "pad_rows",
    "sensible_threads",
    "weights_fingerprint",
]
