"""The model: loading it, log-probabilities of given tokens under it, and a critic's values of them."""

from ngrpo.policy.critic import Critic, check_same_tokens, critic_of, load_critic
from ngrpo.policy.head import backward_through_head, body_of, has_plain_head, logprobs_of_states
from ngrpo.policy.load import (
    Policy,
    load_policy,
    load_reference,
    load_tokenizer,
    max_positions,
    no_progress_bars,
    recompute_activations,
    weights_fingerprint,
)
from ngrpo.policy.logprobs import TokenBatch, completion_logprobs, completion_states, pack_rows, pad_rows, spread
from ngrpo.policy.shared_prefix import (
    SharedBatch,
    can_share_prefix,
    share_rows,
    shared_logprobs,
    shared_states,
    shared_tokens,
)
from ngrpo.policy.threads import one_thread, sensible_threads

__all__ = [
    "Critic",
    "Policy",
    "SharedBatch",
    "TokenBatch",
    "backward_through_head",
    "body_of",
    "can_share_prefix",
    "check_same_tokens",
    "completion_logprobs",
    "completion_states",
    "critic_of",
    "has_plain_head",
    "load_critic",
    "load_policy",
    "load_reference",
    "load_tokenizer",
    "logprobs_of_states",
    "max_positions",
    "no_progress_bars",
    "one_thread",
    "pack_rows",
    "pad_rows",
    "recompute_activations",
    "sensible_threads",
    "share_rows",
    "shared_logprobs",
    "shared_states",
    "shared_tokens",
    "spread",
    "weights_fingerprint",
]
