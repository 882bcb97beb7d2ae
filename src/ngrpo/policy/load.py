"""A Hugging Face causal language model and its tokenizer, ready to be sampled from and trained."""

import contextlib
import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from ngrpo.errors import ConfigError, MissingExtraError, ModelError
from ngrpo.policy.hub import hub_answers

LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    ImportError,
    EOFError,
    SafetensorError,
    StrictDataclassError,
    pickle.UnpicklingError,
)
"""How the libraries say that a folder is broken, incomplete, of an unknown kind, or in need of another package."""

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(eq=False)
class Policy:
    """A model with what sampling and training need to know of it.

    Attributes:
        model: The causal language model; float32 (or float64) weights.
        tokenizer: Its tokenizer.
        eos_token_ids: Every token that ends a completion.
        pad_token_id: Fills padded positions; never attended to.
        max_positions: Longest sequence the model was made for, in tokens; None where it does not say.
        autocast_dtype: Arithmetic of the forward pass where it is not the weights' own, else None.
        max_pass_tokens: Most tokens that one pass may have, once memory has run out at more; else None.
    """

    model: Any
    tokenizer: Any
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    max_positions: int | None
    autocast_dtype: torch.dtype | None = None
    max_pass_tokens: int | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def arithmetic(self) -> contextlib.AbstractContextManager:
        """The context every forward pass runs in: autocast where asked for, else nothing."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves: all weights, or the adapter's."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


def load_tokenizer(path: str, setting: str = "model.path") -> Any:
    """Loads the tokenizer of a model folder or hub name.

    Args:
        path: The folder or name.
        setting: What names it, for messages.

    Raises:
        ModelError: Nothing is there, or the tokenizer has no vocabulary or no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, path, "tokenizer", setting)
    if len(tokenizer) == len(tokenizer.all_special_ids):  # what transformers makes of a folder without tokenizer files
        raise ModelError(
            f"the tokenizer of {path!r} ({setting}) knows no text. Put the model's tokenizer files into the folder."
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {path!r} has no end-of-sequence token, so no completion could ever end. "
            "Set eos_token in its tokenizer_config.json."
        )
    return tokenizer


def max_positions(path: str, setting: str = "model.path") -> int | None:
    """Longest sequence, in tokens, that a model was made for; None where its configuration does not say.

    Reads the configuration only, so that prompts can be checked before the weights are loaded.

    Args:
        path: A model or adapter folder, or a hub name.
        setting: What names it, for messages.

    Raises:
        ModelError: Nothing is there.
    """
    from transformers import AutoConfig

    adapter = Path(path).expanduser() / "adapter_config.json"
    if adapter.is_file():
        try:
            path = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        except (ValueError, KeyError) as error:
            raise ModelError(f"{adapter} names no base model ({error!r}). It is not a usable adapter.") from error
    return _max_positions(_from_pretrained(AutoConfig, path, "model configuration", setting))


def load_policy(
    path: str,
    tokenizer: Any,
    *,
    device: str = "auto",
    precision: str = "auto",
    gradient_checkpointing: bool = False,
    lora: dict[str, Any] | None = None,
    adapter: Path | None = None,
) -> Policy:
    """Loads a model for sampling and training.

    Weights are float32 (float64 on request) and stay so: at a learning rate of 1e-6 bfloat16 weights never move. The
    model's own `generation_config` gives end-of-sequence ids and nothing else. Dropout is off: the ratio of the first
    update must be one.

    Args:
        path: A model folder or hub name.
        tokenizer: From `load_tokenizer`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        precision: `auto`, `float32`, `float64`, `bfloat16` (autocast).
        gradient_checkpointing: Recompute activations in the backward pass.
        lora: `rank`, `alpha`, `target_modules` of an adapter to train instead of the weights.
        adapter: Folder of an adapter already begun, to go on with.

    Raises:
        ModelError: Nothing is there, it is no causal language model, or some of its weights are missing.
        ConfigError: The device does not exist here, or the adapter does not fit the model.
        MissingExtraError: An adapter is asked for without `peft`.
    """
    place = resolve_device(device)
    if precision == "auto":
        precision = "bfloat16" if place.type == "cuda" else "float32"
    weights = torch.float64 if precision == "float64" else torch.float32
    model = load_model(path, weights).to(place)
    eos = end_of_sequence_ids(tokenizer, model)
    switch_off_dropout(model)
    if lora is not None:
        model = _with_adapter(model, adapter, **lora)
    if gradient_checkpointing:
        recompute_activations(model)
    model.eval()
    return Policy(
        model=model,
        tokenizer=tokenizer,
        eos_token_ids=eos,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos[0],
        max_positions=_max_positions(model.config),
        autocast_dtype=torch.bfloat16 if precision == "bfloat16" else None,
    )


def load_reference(path: str, policy: Policy) -> Policy:
    """The frozen model that a KL term measures against: the one training started from.

    Args:
        path: The starting model's folder or hub name.
        policy: The policy; gives tokenizer, device and arithmetic.
    """
    weights = next(policy.model.parameters()).dtype
    model = load_model(path, weights).to(policy.device).requires_grad_(False).eval()
    return replace(policy, model=model)


def weights_fingerprint(path: str) -> str:
    """Tells two sets of weights in the same folder apart, without reading all of them.

    Hashes the size, the first and the last MiB of each weights file: training changes every one of them.

    Args:
        path: A model or adapter folder, or a hub name.

    Returns:
        16 hexadecimal digits; empty where there is no such folder.
    """
    digest = hashlib.sha256()
    folder = Path(path).expanduser()
    files = sorted(file for suffix in ("safetensors", "bin") for file in folder.glob(f"*.{suffix}"))
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as weights:
            digest.update(weights.read(2**20))
            weights.seek(max(0, size - 2**20))
            digest.update(weights.read())
    return digest.hexdigest()[:16] if files else ""


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keeps transformers' bars for reading and writing weights out of ours."""
    from transformers.utils import logging

    were_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            logging.enable_progress_bar()


def resolve_device(device: str) -> torch.device:
    """Turns `auto` into the best device here, and refuses one that is not.

    Raises:
        ConfigError: No such device on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"model.device = {device!r} is not usable here ({str(error).splitlines()[0]}). Use 'auto' or 'cpu'."
        ) from None
    return place


def end_of_sequence_ids(tokenizer: Any, model: Any) -> tuple[int, ...]:
    """Every token id that ends a completion: the tokenizer's and those the model's configurations name."""
    ids: list[int] = []
    for value in (
        tokenizer.eos_token_id,
        getattr(model.config, "eos_token_id", None),
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
    ):
        values: Sequence[int] = () if value is None else value if isinstance(value, list | tuple) else (value,)
        ids.extend(int(token) for token in values)
    return tuple(dict.fromkeys(ids))


def ignored_generation_settings(model: Any) -> dict[str, Any]:
    """Sampling settings the model ships with and this package does not use, for the one line that says so."""
    config = getattr(model, "generation_config", None)
    if config is None:
        return {}
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "do_sample", "max_new_tokens")
    shipped = config.to_diff_dict()
    return {name: shipped[name] for name in names if shipped.get(name) is not None}


def load_model(path: str, dtype: torch.dtype, setting: str = "model.path") -> Any:
    """A causal language model with all its weights.

    Args:
        path: A model or adapter folder, or a hub name.
        dtype: Of the weights.
        setting: What names it, for messages.

    Raises:
        ModelError: Nothing is there, it is no causal language model, or some of its weights are missing.
    """
    from transformers import AutoModelForCausalLM

    what = "causal language model"
    model, found = _from_pretrained(AutoModelForCausalLM, path, what, setting, dtype=dtype, output_loading_info=True)
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{len(missing)} weights of {path!r} ({setting}) are missing, {missing[0]!r} first: they would be random. "
            "Give the folder of a whole causal language model."
        )
    return model


def recompute_activations(model: Any) -> None:
    """Switches gradient checkpointing on; it works in train mode only."""
    # The new name since transformers 5.2x, where the old one warns; 5.10 knows the old one only.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def switch_off_dropout(model: nn.Module) -> None:
    """No noise anywhere, so that train mode (which gradient checkpointing needs) computes what eval mode does."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        # Many models keep a rate (dropout, attention_dropout, layerdrop, router jitter) as a number of their own.
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or "jitter" in name):
                setattr(module, name, 0.0)


def _from_pretrained(loader: Any, path: str, what: str, setting: str, **options: Any) -> Any:
    folder = Path(path).expanduser()
    is_local = folder.is_dir()
    if not is_local and (folder.exists() or not HUB_NAME.fullmatch(path)):
        raise ModelError(f"no model folder at {path!r} ({setting}). Give a Hugging Face model folder or a hub name.")
    try:
        with no_progress_bars():
            only_here = is_local or not hub_answers()
            return loader.from_pretrained(str(folder) if is_local else path, local_files_only=only_here, **options)
    except LOADING_ERRORS as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        hint = "It is not a usable folder." if is_local else "No such folder here, and the hub gave nothing."
        raise ModelError(f"cannot load a {what} from {path!r} ({setting}): {first.rstrip('.:!')}. {hint}") from error


def _max_positions(config: Any) -> int | None:
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _with_adapter(model: Any, adapter: Path | None, *, rank: int, alpha: float, target_modules: list[str] | str) -> Any:
    try:
        import peft
    except ImportError:
        raise MissingExtraError('model.lora needs peft: pip install "ngrpo[lora]".') from None
    settings = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=target_modules, task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        # peft asks transformers by a name that newer versions of it warn of; the user can do nothing about it.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        if adapter is not None:
            return peft.PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
        try:
            return peft.get_peft_model(model, settings)
        except ValueError as error:
            raise ConfigError(
                f"model.lora.target_modules = {target_modules!r} does not fit this model: {error}"
            ) from None
