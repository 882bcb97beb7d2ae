"""A stand-in for vLLM: what `ngrpo.rollout.vllm` uses of it, and no more, computed by transformers.

Written from vLLM's source (0.24.0, 0.31.0, 0.33.0): names, arguments, defaults, what is refused, what sleep takes away,
what a request's output holds. Anything else that is asked of it is an error. It is stricter than vLLM where a mistake
would be silent there: weights that sleep are NaN, and what is sampled, loaded or reset at the wrong time is refused.
"""

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers

from vllm.sampling_params import RequestOutputKind, SamplingParams

__all__ = ["LLM", "SamplingParams"]

LOGITS_FACTOR = 1.0
"""What logits are multiplied with: other than 1, as if the kernels computed something a little different."""


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | None = None


@dataclass
class RequestOutput:
    request_id: str
    outputs: list[CompletionOutput]
    finished: bool


class ServedModel(torch.nn.Module):
    """As vLLM's models: the checkpoint's names are read one by one, and the names that got something are returned."""

    def __init__(self, config, dtype):
        super().__init__()
        kind = getattr(transformers, config.architectures[0])
        self.inner = kind(config).to(dtype).eval()
        self.is_resident = True

    def named_parameters(self, *arguments, **options):
        return self.inner.named_parameters(*arguments, **options)

    @torch.no_grad()
    def load_weights(self, weights):
        if not self.is_resident:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        own = dict(self.inner.named_parameters())
        loaded = set()
        for name, weight in weights:
            own[name].copy_(weight)  # KeyError: as vLLM's loaders have it
            loaded.add(name)
        return loaded


@dataclass
class _Request:
    id: str
    prompt: tuple[int, ...]
    params: SamplingParams
    generator: torch.Generator | None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)


class LLMEngine:
    """In the caller's process, as with `VLLM_ENABLE_V1_MULTIPROCESSING=0`."""

    def __init__(self, config, model, *, max_model_len, max_num_seqs, logprobs_mode):
        self.model_config = SimpleNamespace(max_model_len=max_model_len, hf_config=config)
        self.model, self.max_num_seqs, self.logprobs_mode = model, max_num_seqs, logprobs_mode
        self.requests: dict[str, _Request] = {}
        self.added: list[_Request] = []
        self.prefixes: dict[tuple[int, ...], torch.Tensor] = {}  # logits behind each prompt that was read
        self.has_cache = True

    def add_request(self, request_id, prompt, params):
        if not isinstance(request_id, str):
            raise TypeError(f"request_id must be a string, got {type(request_id)}")
        ids = tuple(prompt["prompt_token_ids"])
        if not ids or len(ids) >= self.model_config.max_model_len:
            raise ValueError(f"The decoder prompt has {len(ids)} tokens.")
        if request_id in self.requests:
            raise ValueError(f"request {request_id} is running already")
        generator = None if params.seed is None else torch.Generator().manual_seed(params.seed)
        self.requests[request_id] = _Request(request_id, ids, params, generator)
        self.added.append(self.requests[request_id])
        return f"{request_id}-0a1b2c3d"  # the engine's own name of it

    def abort_request(self, request_ids):
        for request_id in request_ids:
            self.requests.pop(request_id, None)

    def has_unfinished_requests(self):
        return bool(self.requests)

    @torch.no_grad()
    def step(self):
        if not (self.model.is_resident and self.has_cache):
            raise RuntimeError("the scheduler is paused: the engine sleeps")
        outputs = []
        for request in list(self.requests.values())[: self.max_num_seqs]:
            reason = self._advance(request)
            if reason is not None:
                del self.requests[request.id]
            if reason is not None or request.params.output_kind is not RequestOutputKind.FINAL_ONLY:
                assert not request.params.detokenize, "there is no tokenizer"
                logprobs = None if request.params.logprobs is None else request.logprobs
                output = CompletionOutput(0, "", list(request.token_ids), logprobs, finish_reason=reason)
                outputs.append(RequestOutput(request.id, [output], reason is not None))
        return outputs

    def _advance(self, request):
        """One more token; why the request ends with it, or None."""
        params = request.params
        raw = self._logits(request) * LOGITS_FACTOR
        processed = _processed(raw, params)
        if params.temperature == 0:
            token = int(processed.argmax())
        else:
            token = int(torch.multinomial(processed.softmax(-1), 1, generator=request.generator))
        shown = {"raw_logprobs": raw, "processed_logprobs": processed}[self.logprobs_mode].log_softmax(-1)
        rank = int((shown > shown[token]).sum()) + 1
        request.token_ids.append(token)
        request.logprobs.append({token: Logprob(float(shown[token]), rank)})
        eos = self.model_config.hf_config.eos_token_id
        if token in params.stop_token_ids or token == eos:
            return "stop"
        is_full = len(request.prompt) + len(request.token_ids) >= self.model_config.max_model_len
        return "length" if is_full or len(request.token_ids) >= params.max_tokens else None

    def _logits(self, request):
        ids = (*request.prompt, *request.token_ids)
        if ids not in self.prefixes:
            logits = self.model.inner(torch.tensor([ids])).logits[0, -1].float()
            if request.token_ids:
                return logits
            self.prefixes[ids] = logits
        return self.prefixes[ids]


def _processed(logits, params):
    if params.temperature not in (0, 1):
        logits = logits / params.temperature
    ranked, order = logits.sort(descending=True, stable=True)
    if params.top_k > 0:
        ranked[params.top_k :] = -torch.inf
    probabilities = ranked.softmax(-1)
    ranked = ranked.masked_fill(probabilities.cumsum(-1) - probabilities >= params.top_p, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, order, ranked)


class LLM:
    """Takes the arguments that the engine gives. What vLLM's own does not know goes to `EngineArgs`, which refuses."""

    def __init__(
        self,
        model: str,
        *,
        skip_tokenizer_init: bool = False,
        dtype: str = "auto",
        gpu_memory_utilization: float = 0.92,
        kv_cache_memory_bytes: int | None = None,
        load_format: str = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        enable_prefix_caching: bool | None = None,
        enable_sleep_mode: bool = False,
        logprobs_mode: str = "raw_logprobs",
    ) -> None:
        assert os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0", "the engine's core would be elsewhere"
        assert load_format == "dummy", "there are no weights in the folder"
        assert skip_tokenizer_init, "there is no tokenizer in the folder"
        assert 0 < gpu_memory_utilization < 0.05, "the trainer has the rest of the memory"
        self.arguments = {key: value for key, value in locals().items() if key not in ("self", "model")}
        self.folder = Path(model)
        config = transformers.AutoConfig.from_pretrained(model)
        if not hasattr(transformers, config.architectures[0]):
            raise ValueError(f"Model architectures {config.architectures} are not supported for now.\nSupported: ...")
        random.seed(0)  # as vLLM's worker does, in the caller's process
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        served = ServedModel(config, getattr(torch, dtype))
        for parameter in served.named_parameters():
            torch.nn.init.uniform_(parameter[1], -1e-3, 1e-3)
        num_bytes = (
            2
            * config.num_hidden_layers
            * config.num_key_value_heads
            * served.inner.model.layers[0].self_attn.head_dim
            * getattr(torch, dtype).itemsize
        )
        if (most := kv_cache_memory_bytes // num_bytes) < 1:
            raise ValueError("Cannot auto-fit max_model_len: not enough GPU memory for even a single token.")
        assert max_model_len == -1
        self.llm_engine = LLMEngine(
            config,
            served,
            max_model_len=min(config.max_position_embeddings, most),
            max_num_seqs=max_num_seqs,
            logprobs_mode=logprobs_mode,
        )
        self.can_sleep = enable_sleep_mode
        self.calls: list[str] = []
        self._backup: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def sleep(self, level: int = 1, mode: str = "abort") -> None:
        assert self.can_sleep
        self.calls.append(f"sleep {level}")
        engine = self.llm_engine
        parameters = dict(engine.model.named_parameters())
        if engine.model.is_resident:
            self._backup = {name: value.clone() for name, value in parameters.items()} if level == 1 else {}
        for value in parameters.values():
            value.fill_(torch.nan)
        engine.model.is_resident = engine.has_cache = False
        engine.prefixes.clear()

    @torch.no_grad()
    def wake_up(self, tags: list[str] | None = None) -> None:
        self.calls.append(f"wake {tags}")
        engine = self.llm_engine
        if tags is None or "weights" in tags:
            for name, value in engine.model.named_parameters():
                if name in self._backup:
                    value.copy_(self._backup[name])
            engine.model.is_resident = True
        if tags is None or "kv_cache" in tags:
            engine.has_cache = True

    def apply_model(self, func):
        self.calls.append("apply")
        return [func(self.llm_engine.model)]

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset")
        self.llm_engine.prefixes.clear()
        return True
