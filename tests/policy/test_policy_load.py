"""Loading models and tokenizers: what is made of a good folder, and what is said of a bad one."""

import json
import shutil
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from helpers import EOS, MAX_POSITIONS, PAD, make_prompts, save_checkpoint, small_model, small_tokenizer
from model_kinds import KINDS, kind_config
from ngrpo.errors import ConfigError, MissingExtraError, ModelError
from ngrpo.policy import (
    completion_logprobs,
    load_policy,
    load_reference,
    load_tokenizer,
    max_positions,
    no_progress_bars,
    pad_rows,
    weights_fingerprint,
)
from ngrpo.policy.load import ignored_generation_settings

LORA = {"rank": 2, "alpha": 4.0, "target_modules": "all-linear"}


@pytest.fixture
def folder(model_folder, tmp_path):
    """A copy of the model folder, to be broken."""
    return shutil.copytree(model_folder, tmp_path / "broken")


def some_rows(policy):
    prompts = [prompt.token_ids for prompt in make_prompts()]
    return pad_rows(prompts, [row[:5] for row in prompts], pad_token_id=PAD, device=policy.device)


def some_logprobs(policy):
    logprobs, _ = completion_logprobs(policy, some_rows(policy), temperature=1.0)
    return logprobs


def load(path, **options):
    return load_policy(str(path), small_tokenizer(), device="cpu", **options)


# --- a good folder ---


def test_a_loaded_policy_is_the_saved_model(model_folder, policy):
    tokenizer = load_tokenizer(str(model_folder))
    loaded = load_policy(str(model_folder), tokenizer)
    assert (loaded.eos_token_ids, loaded.pad_token_id, loaded.max_positions) == ((EOS,), PAD, MAX_POSITIONS)
    assert loaded.device.type == "cuda" if torch.cuda.is_available() else loaded.device.type == "cpu"
    assert loaded.autocast_dtype == (torch.bfloat16 if torch.cuda.is_available() else None)
    assert not loaded.model.training
    for (name, weight), (_, saved) in zip(
        loaded.model.named_parameters(), policy.model.named_parameters(), strict=True
    ):
        assert torch.equal(weight.cpu(), saved), name
    assert len(loaded.trainable_parameters()) == len(list(loaded.model.parameters()))
    assert tokenizer("1,2=3:")["input_ids"] == small_tokenizer()("1,2=3:")["input_ids"]


@pytest.mark.parametrize(
    ("precision", "weights", "arithmetic"),
    [
        ("auto", torch.float32, None),
        ("float32", torch.float32, None),
        ("float64", torch.float64, None),
        ("bfloat16", torch.float32, torch.bfloat16),
    ],
)
def test_weights_are_float32_whatever_the_checkpoint(tmp_path, precision, weights, arithmetic):
    with no_progress_bars():
        small_model().to(torch.bfloat16).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    policy = load(tmp_path, precision=precision)
    assert {weight.dtype for weight in policy.model.parameters()} == {weights}
    assert policy.autocast_dtype == arithmetic


def test_a_folder_is_found_from_the_home_folder_too(model_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(model_folder.parent))
    assert max_positions(f"~/{model_folder.name}") == MAX_POSITIONS


def test_max_positions_is_read_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert max_positions(str(folder)) == MAX_POSITIONS


def test_a_reference_is_the_frozen_starting_model(model_folder):
    policy = load(model_folder, precision="float64")
    reference = load_reference(str(model_folder), policy)
    assert reference.model is not policy.model
    assert {weight.dtype for weight in reference.model.parameters()} == {torch.float64}
    assert reference.trainable_parameters() == []
    before = some_logprobs(reference)
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(2.0)
    assert torch.equal(some_logprobs(reference), before)
    assert not torch.equal(some_logprobs(policy), before)
    assert (reference.tokenizer, reference.eos_token_ids) == (policy.tokenizer, policy.eos_token_ids)


# --- end of sequence and generation settings ---


def test_every_end_of_sequence_id_is_found_once(folder):
    GenerationConfig(eos_token_id=[EOS, 7, 9]).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 9}))
    assert load(folder).eos_token_ids == (EOS, 9, 7)  # the tokenizer's, the configuration's, the generation settings'


def test_shipped_generation_settings_are_reported(folder):
    assert ignored_generation_settings(load(folder).model) == {}
    GenerationConfig(do_sample=True, temperature=0.1, top_k=1, eos_token_id=EOS).save_pretrained(folder)
    model = load(folder).model
    assert ignored_generation_settings(model) == {"do_sample": True, "temperature": 0.1, "top_k": 1}
    model.generation_config = None
    assert ignored_generation_settings(model) == {}


def test_a_tokenizer_without_padding_pads_with_the_end_of_sequence(model_folder):
    tokenizer = load_tokenizer(str(model_folder))
    tokenizer.pad_token = None
    assert load_policy(str(model_folder), tokenizer).pad_token_id == EOS


# --- train mode ---


@pytest.mark.parametrize("kind", KINDS)
def test_train_mode_computes_what_eval_mode_does(tmp_path, kind):
    with torch.random.fork_rng(), no_progress_bars():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(kind_config(kind)).save_pretrained(tmp_path)
    policy = load(tmp_path)
    still = some_logprobs(policy)
    policy.model.train()
    assert torch.equal(some_logprobs(policy), some_logprobs(policy))
    assert torch.equal(some_logprobs(policy), still)


def gradients(policy):
    policy.model.train()
    some_logprobs(policy).sum().backward()
    return [weight.grad for weight in policy.trainable_parameters()]


def seeded(path, **options):
    torch.manual_seed(0)
    policy = load(path, precision="float64", **options)
    if "lora" in options:  # an adapter starts at zero, where half of its gradients are zero too
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight)
    return policy


@pytest.mark.parametrize("lora", [{}, {"lora": LORA}], ids=["weights", "adapter"])
def test_gradient_checkpointing_gives_the_same_gradients(model_folder, lora):
    policy = seeded(model_folder, gradient_checkpointing=True, **lora)
    recomputed = []
    policy.model.get_submodule("base_model.model" if lora else "").model.layers[0].mlp.register_forward_pre_hook(
        lambda *_: recomputed.append(True)
    )
    for checkpointed, plain in zip(gradients(policy), gradients(seeded(model_folder, **lora)), strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(checkpointed, plain, rtol=1e-12, atol=1e-13)
    assert len(recomputed) == 2  # once forward, once again on the way back


# --- adapters ---


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_only_the_adapter_is_trained(model_folder, precision):
    policy = load(model_folder, lora=LORA, precision=precision)
    names = [name for name, weight in policy.model.named_parameters() if weight.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    assert len(policy.trainable_parameters()) == len(names)
    assert {weight.dtype for weight in policy.model.parameters()} == {getattr(torch, precision)}
    # An adapter that was not trained yet changes nothing.
    torch.testing.assert_close(some_logprobs(policy), some_logprobs(load(model_folder, precision=precision)))
    assert not policy.model.training


def test_an_adapter_has_no_dropout_either(model_folder):
    policy = seeded(model_folder, lora=LORA)
    still = some_logprobs(policy)
    policy.model.train()
    assert torch.equal(some_logprobs(policy), still)


def test_an_adapter_is_taken_up_where_it_was_left(model_folder, tmp_path):
    begun = seeded(model_folder, lora=LORA)
    begun.model.save_pretrained(tmp_path)
    resumed = load(model_folder, precision="float64", lora=LORA, adapter=tmp_path)
    assert torch.equal(some_logprobs(resumed), some_logprobs(begun))
    assert not torch.equal(some_logprobs(resumed), some_logprobs(load(model_folder, precision="float64")))
    assert len(resumed.trainable_parameters()) == len(begun.trainable_parameters())
    # The adapter's folder is a model too.
    assert max_positions(str(tmp_path)) == MAX_POSITIONS
    assert torch.equal(some_logprobs(load(tmp_path, precision="float64")), some_logprobs(begun))


def test_a_lora_that_does_not_fit_is_refused(model_folder):
    with pytest.raises(ConfigError, match=r"target_modules = \['nothing_here'\] does not fit this model: .*not found"):
        load(model_folder, lora={**LORA, "target_modules": ["nothing_here"]})


def test_an_adapter_without_peft_names_the_extra(model_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"pip install \"ngrpo\[lora\]\""):
        load(model_folder, lora=LORA)


# --- bad folders ---


def remove(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def overwrite(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut_weights(num_bytes):
    def change(folder):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:num_bytes])

    return change


def drop_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def only_pickled(content):
    def change(folder):
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("config.json"), r"cannot load a causal language model from '.*broken' .*model_type"),
        (remove("model.safetensors"), r"no file named model\.safetensors.*not a usable folder"),
        (overwrite("config.json", b"{"), r"not a valid JSON file"),
        (overwrite("config.json", b"[]"), r"model_type"),
        (overwrite("config.json", b'{"model_type": "unheard_of"}'), r"`unheard_of`"),
        (overwrite("config.json", b'{"model_type": "clip"}'), r"CLIPConfig"),
        (change_config(num_hidden_layers=1), r"not a usable folder"),
        (change_config(hidden_size=64), r"not a usable folder"),
        (cut_weights(0), r"header too small"),
        (cut_weights(1000), r"cannot load a causal language model"),
        (cut_weights(-1), r"incomplete metadata, file not fully covered"),
        (overwrite("model.safetensors", b"\xff" * 1000), r"header too large"),
        (drop_a_weight, r"1 weights of '.*broken' .* missing, 'model\.layers\.1\.mlp\.up_proj\.weight' first"),
        (only_pickled(b""), r"cannot load a causal language model"),
        (only_pickled(b"not a pickle"), r"cannot load a causal language model"),
    ],
)
def test_a_broken_model_folder_is_a_model_error(folder, change, message):
    change(folder)
    with pytest.raises(ModelError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("tokenizer.json", "tokenizer_config.json"), r"tokenizer of '.*broken' .*knows no text"),
        (overwrite("tokenizer.json", b"{"), r"cannot load a tokenizer from '.*broken'"),
        (overwrite("tokenizer.json", b"{}"), r"cannot load a tokenizer from '.*broken'"),
        (overwrite("tokenizer_config.json", b"{"), r"cannot load a tokenizer from '.*broken'"),
    ],
)
def test_a_broken_tokenizer_is_a_model_error(folder, change, message):
    change(folder)
    with pytest.raises(ModelError, match=message):
        load_tokenizer(str(folder))


def test_a_tokenizer_without_end_of_sequence_is_refused(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a"))).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"has no end-of-sequence token.*Set eos_token in its tokenizer_config\.json"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_broken_adapter_is_a_model_error(tmp_path, content):
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"adapter_config\.json names no base model"):
        max_positions(str(tmp_path))


LOADERS = pytest.mark.parametrize("loader", [load, load_tokenizer, max_positions], ids=["model", "tokenizer", "size"])


@LOADERS
@pytest.mark.parametrize("path", ["no/such/folder", "/no/such/folder", "a-name-without-owner", "bad name/model", "."])
def test_nothing_there_is_a_model_error(tmp_path, monkeypatch, loader, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"model folder|not a usable folder"):
        loader(path)


@LOADERS
def test_a_file_is_no_folder(tmp_path, loader):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelError, match=r"no model folder at '.*model\.safetensors' \(model\.path\)"):
        loader(str(file))


@LOADERS
def test_a_hub_name_that_gives_nothing_is_a_model_error_at_once(loader):
    started = time.perf_counter()
    with pytest.raises(ModelError, match=r"'nobody-at-all/nothing-here' \(model\.path\).*the hub gave nothing"):
        loader("nobody-at-all/nothing-here")
    assert time.perf_counter() - started < 10.0


@pytest.mark.parametrize("device", ["cuda:99", "no_such_device", "xla"])
def test_a_device_that_is_not_here_is_a_config_error(model_folder, device):
    with pytest.raises(ConfigError, match=rf"model\.device = '{device}' is not usable here .*Use 'auto' or 'cpu'"):
        load_policy(str(model_folder), small_tokenizer(), device=device)


def test_transformers_bars_are_off_inside_and_back_afterwards(tmp_path, capfd):
    from transformers.utils import logging

    assert logging.is_progress_bar_enabled()
    save_checkpoint(tmp_path)
    load(tmp_path)
    assert logging.is_progress_bar_enabled()
    assert "it/s" not in capfd.readouterr().err


def test_weights_fingerprint_is_of_the_weights_not_of_the_folder(tmp_path):
    first = save_checkpoint(tmp_path / "first")
    copy = save_checkpoint(tmp_path / "copy")
    other = save_checkpoint(tmp_path / "other", seed=1)
    assert len(weights_fingerprint(str(first))) == 16
    assert weights_fingerprint(str(first)) == weights_fingerprint(str(copy))
    assert weights_fingerprint(str(first)) != weights_fingerprint(str(other))
    assert weights_fingerprint("org/name") == ""


def test_weights_fingerprint_sees_the_end_of_a_large_file(tmp_path):
    for name, last in (("a", b"x"), ("b", b"y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"0" * (3 * 2**20) + last)
    assert weights_fingerprint(str(tmp_path / "a")) != weights_fingerprint(str(tmp_path / "b"))
