"""vLLM in the trainer's own process and on its GPU: awake while it samples, asleep while the policy learns.

The weights are the policy's, copied in each time it wakes. Nothing of vLLM is imported before an engine is made.
"""

import contextlib
import copy
import importlib.metadata
import importlib.util
import json
import math
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ngrpo.errors import ConfigError, Interrupted, MissingExtraError, ModelError, NumericsError
from ngrpo.policy import Policy
from ngrpo.policy.load import resolve_device
from ngrpo.rollout.engine import OnCompletions, SampleRequest, Sampling, seed_of
from ngrpo.rollout.weights import causal_model, named_weights
from ngrpo.types import Completion

VERSIONS = ((0, 24), (0, 34))
"""From the first, below the second: those whose source this was written against."""

TEMPERATURES = (0.01, 2.0)
"""What vLLM samples at, besides 0: it refuses higher ones, and takes lower ones for the first without a word."""

ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""The engine's core in this process, where the policy's weights are."""

QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}
"""Standard output is for results. What the user has set stays."""


def check_vllm(*, device: str, precision: str, temperatures: Iterable[float]) -> None:
    """Finds what keeps vLLM from sampling here, before a model is loaded.

    Args:
        device: As `model.device` has it.
        precision: As `model.precision` has it.
        temperatures: Those that will be sampled at.

    Raises:
        MissingExtraError: vLLM is not installed, or in a version that this was not written for.
        ConfigError: It cannot use the device, the precision or a temperature.
    """
    _require_vllm()
    place = resolve_device(device)
    if place.type != "cuda":
        raise ConfigError(
            f"engine 'vllm' samples on a GPU, and model.device = {device!r} is {place.type} here. "
            "Use engine 'native', or model.device = 'auto' on a machine with a GPU."
        )
    if place.index not in (None, 0):
        raise ConfigError(
            f"engine 'vllm' samples on the first GPU that it sees, and model.device is {device!r}. "
            f"Set CUDA_VISIBLE_DEVICES={place.index} and use model.device = 'auto'."
        )
    if precision == "float64":
        raise ConfigError(
            "engine 'vllm' has no float64 (model.precision). Use float32 or bfloat16, or engine 'native'."
        )
    low, high = TEMPERATURES
    for temperature in temperatures:
        if temperature != 0.0 and not low <= temperature <= high:
            raise ConfigError(
                f"engine 'vllm' samples at temperature 0 or from {low:g} to {high:g}, not at {temperature:g}. "
                "Choose one of these, or engine 'native'."
            )


def _require_vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtraError("engine 'vllm' needs a GPU and vllm: pip install \"ngrpo[vllm]\".")
    version = importlib.metadata.version("vllm")
    low, high = VERSIONS
    if not low <= tuple(int(part) for part in version.split(".")[:2]) < high:
        raise MissingExtraError(
            f"vllm {version} is installed; engine 'vllm' is written for {low[0]}.{low[1]} up to, and not including, "
            f'{high[0]}.{high[1]}. Get one of these: pip install "ngrpo[vllm]".'
        )


class VllmEngine:
    """Samples from a policy with vLLM, on the policy's GPU and in its process.

    Each call wakes vLLM, copies the policy's weights in (an adapter's share added), samples, and lets it sleep again:
    what it samples with is never older than the policy. While it sleeps its weights are in main memory and its cache is
    nowhere. Engines of one architecture share one vLLM.

    Its log-probabilities are of the distribution that it sampled from, temperature and truncation included, as its own
    kernels compute them; the policy's differ from them by rounding. `Completion.entropy_nats` is an estimate, the
    mean of the tokens' negative log-probabilities: vLLM does not tell the whole distribution.

    Each completion has a seed of its own, made from the request's key. vLLM does not promise the same tokens for the
    same seed: they depend on how it puts requests together.

    Args:
        policy: The model; always the current weights.
        max_rows: Completions decoded at the same time at most.
        cache_gib: Memory for their keys and values, in GiB.

    Raises:
        MissingExtraError: vLLM is not installed, or in a version that this was not written for.
        ModelError: vLLM does not have this architecture, does not take its weights by these names, or has no room.
    """

    def __init__(self, policy: Policy, *, max_rows: int = 512, cache_gib: float = 4.0) -> None:
        _require_vllm()
        self.policy = policy
        self._llm = _llm(_described(policy), _arithmetic(policy), max_rows, int(cache_gib * 2**30))
        with self._awake():  # weights that do not fit are found here, not in the first step
            pass

    def sample(
        self,
        requests: Sequence[SampleRequest],
        sampling: Sampling,
        *,
        on_completions: OnCompletions | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Completion]:
        """Samples every request; see `Engine.sample`.

        Raises:
            Interrupted: `should_stop` said so.
            ModelError: A prompt and its completion do not fit into the model or the cache, vLLM gave one up, or the GPU
                has no room for it beside the trainer.
            NumericsError: The model's log-probabilities are not finite.
        """
        self._check_room(requests, sampling)
        if not requests:
            return []
        placed: list[Completion | None] = [None] * len(requests)
        with self._awake(), contextlib.closing(self._steps(requests, sampling)) as steps:
            for ended in steps:
                if ended:
                    completions = self._completions(list(ended.values()), sampling)
                    for index, completion in zip(ended, completions, strict=True):
                        placed[index] = completion
                    if on_completions is not None:
                        on_completions(list(ended), completions)
                if should_stop is not None and should_stop():
                    raise Interrupted("sampling was asked to stop")
        return placed  # type: ignore[return-value]

    def _check_room(self, requests: Sequence[SampleRequest], sampling: Sampling) -> None:
        longest = max(requests, key=lambda request: len(request.prompt.token_ids), default=None)
        if longest is None:
            return
        num_tokens = len(longest.prompt.token_ids)
        limit = self._llm.llm_engine.model_config.max_model_len  # the model's own, or what the cache has room for
        if num_tokens + sampling.max_completion_tokens > limit:
            raise ModelError(
                f"prompt {longest.prompt.id!r} has {num_tokens} tokens; with {sampling.max_completion_tokens} of a "
                f"completion that is more than the {limit} that the model was made for or the cache has room for. "
                "Shorten either, or raise rollout.cache_gib (--cache-gib)."
            )

    @contextlib.contextmanager
    def _awake(self) -> Iterator[None]:
        """Wakes vLLM with the policy's weights, and lets it sleep again whatever happens."""
        torch.cuda.empty_cache()  # what the trainer's allocator keeps unused, vLLM's cannot have
        try:
            self._wake("weights")
            [missing] = self._llm.apply_model(partial(_load, policy=self.policy))
            if missing:
                raise ModelError(
                    f"{len(missing)} weights that vLLM has for {type(causal_model(self.policy)).__name__} are not the "
                    f"policy's, {missing[0]!r} first: they would be random. Use engine 'native'."
                )
            self._wake("kv_cache")
            self._llm.reset_prefix_cache()  # keys and values of older weights
            yield
        finally:
            # Level 1, not 2: what a model keeps beside its parameters is then as it was.
            self._llm.sleep(level=1)

    def _wake(self, tag: str) -> None:
        try:
            self._llm.wake_up(tags=[tag])
        except RuntimeError as error:  # so its allocator says that the GPU is full
            raise ModelError(
                f"vLLM does not wake ({str(error).strip() or type(error).__name__}): what the trainer keeps on the GPU "
                "leaves it no room. Lower rollout.cache_gib (--cache-gib) or update.max_microbatch_tokens; --resume "
                "goes on from the last checkpoint."
            ) from error

    def _steps(self, requests: Sequence[SampleRequest], sampling: Sampling) -> Iterator[dict[int, Any]]:
        """Steps vLLM until all requests have ended: after each step, the outputs of those that ended in it."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        engine = self._llm.llm_engine
        unfinished = {str(index) for index in range(len(requests))}
        try:
            for index, request in enumerate(requests):
                params = SamplingParams(
                    seed=seed_of(request.key, num_bits=63),
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    top_k=sampling.top_k,
                    max_tokens=sampling.max_completion_tokens,
                    stop_token_ids=list(self.policy.eos_token_ids),
                    logprobs=0,  # of the sampled token only
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                engine.add_request(str(index), {"prompt_token_ids": list(request.prompt.token_ids)}, params)
            while engine.has_unfinished_requests():
                ended = {output.request_id: output.outputs[0] for output in engine.step() if output.finished}
                unfinished -= ended.keys()
                yield {int(index): output for index, output in ended.items()}
        finally:
            engine.abort_request(list(unfinished))

    def _completions(self, outputs: Sequence[Any], sampling: Sampling) -> list[Completion]:
        ids = [tuple(output.token_ids) for output in outputs]
        texts = self.policy.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        completions = []
        for output, row, text in zip(outputs, ids, texts, strict=True):
            if output.finish_reason not in ("stop", "length"):
                raise ModelError(f"vLLM gave up on a completion: {output.finish_reason}. Its log says why.")
            logprobs = tuple(place[token].logprob for token, place in zip(row, output.logprobs, strict=True))
            if not all(map(math.isfinite, logprobs)):
                raise NumericsError(
                    "log-probabilities from vLLM are not finite: the model's weights are broken. "
                    "Go back to an older checkpoint."
                )
            if sampling.temperature == 0.0:
                logprobs = (0.0,) * len(row)  # the likeliest token was certain
            completions.append(
                Completion(
                    token_ids=row,
                    logprobs=logprobs,
                    text=text,
                    finish_reason="eos" if row[-1] in self.policy.eos_token_ids else "length",
                    entropy_nats=0.0 - sum(logprobs) / len(row),
                )
            )
        return completions


@torch.no_grad()
def _load(model: nn.Module, *, policy: Policy) -> list[str]:
    """Copies the policy's weights into vLLM's model; names of the model's own that got nothing."""
    try:
        loaded = model.load_weights(named_weights(policy))
    except ModelError:
        raise
    except (KeyError, ValueError, AttributeError, AssertionError) as error:
        raise ModelError(
            f"vLLM does not take the weights of a {type(causal_model(policy)).__name__} as the policy has them "
            f"({type(error).__name__}: {error}). Use engine 'native'."
        ) from error
    if loaded is None:
        return []  # a few of vLLM's models do not tell
    return sorted({name for name, _ in model.named_parameters()} - set(loaded))


def _described(policy: Policy) -> str:
    """The policy's architecture as the text of a config.json.

    Raises:
        ModelError: A mixture of experts.
    """
    model = causal_model(policy)
    config = copy.deepcopy(model.config)
    experts = [name for name in EXPERTS if (getattr(config.get_text_config(), name, None) or 0) > 1]
    if experts:
        raise ModelError(
            f"{type(model).__name__} is a mixture of experts ({experts[0]}), whose weights vLLM lays out in its own "
            "way: they cannot be copied in each step. Use engine 'native'."
        )
    config.architectures = [type(model).__name__]
    return config.to_json_string()


EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""What configurations of transformers call the number of experts."""


def _arithmetic(policy: Policy) -> str:
    """What vLLM is to compute in: weights are rounded to it as they are copied in."""
    dtype = policy.autocast_dtype or next(policy.model.parameters()).dtype
    return str(dtype).removeprefix("torch.")


@lru_cache(maxsize=1)  # a process has room for one, and what wakes it brings its own weights
def _llm(described: str, dtype: str, max_rows: int, cache_bytes: int) -> Any:
    """Makes vLLM's own object, and lets it sleep.

    Args:
        described: Text of the model's config.json. The weights come later: until then they are random.
        dtype: Of weights and arithmetic.
        max_rows: Completions decoded at the same time at most.
        cache_bytes: Memory for keys and values.

    Raises:
        ModelError: vLLM does not have this architecture, or has no room.
    """
    os.environ.update(ENVIRONMENT)  # read when vLLM is imported, or when an engine is made
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    import vllm

    with _random_numbers_kept(), tempfile.TemporaryDirectory(prefix="ngrpo-vllm-") as folder:
        (Path(folder) / "config.json").write_text(described, encoding="utf-8")
        try:
            llm = vllm.LLM(
                model=folder,
                load_format="dummy",
                skip_tokenizer_init=True,
                dtype=dtype,
                max_model_len=-1,  # the model's own, or what the cache has room for
                max_num_seqs=max_rows,
                kv_cache_memory_bytes=cache_bytes,
                gpu_memory_utilization=0.01,  # says nothing beside the size of the cache, but must be free
                enable_prefix_caching=True,  # a prompt is read once for all its samples
                enable_sleep_mode=True,
                logprobs_mode="processed_logprobs",  # of the distribution sampled from
            )
        except (ImportError, ValueError, RuntimeError, AssertionError) as error:
            name = json.loads(described)["architectures"][0]
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ModelError(f"vLLM cannot serve a {name} here: {first}. Use engine 'native'.") from error
    llm.sleep(level=1)
    return llm


@contextlib.contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """The process's own random numbers go on as before: vLLM sets every generator in it to the seed 0."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (those that others draw from)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002
