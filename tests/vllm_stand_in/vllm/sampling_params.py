"""See `vllm/__init__.py` beside this."""

from dataclasses import dataclass, field
from enum import Enum


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass(kw_only=True)
class SamplingParams:
    """The fields that the engine sets, with vLLM's names, defaults, refusals and silent changes."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: list[int] = field(default_factory=list)
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE

    def __post_init__(self) -> None:
        if 0 < self.temperature < 0.01:
            self.temperature = 0.01
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
        if not 0 < self.top_p <= 1 or self.top_k < -1 or self.max_tokens < 1:
            raise ValueError(f"out of range: {self}")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise OverflowError("the sampler keeps seeds in int64")
        if self.temperature == 0:
            self.top_p, self.top_k = 1.0, 0
