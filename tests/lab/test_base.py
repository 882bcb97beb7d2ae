"""The tiny base model: its tokenizer, its warm start, and that its folder appears whole or not at all."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from ngrpo import worlds
from ngrpo.errors import ConfigError, DataError, RunFolderError
from ngrpo.lab import base
from ngrpo.lab.tokenizer import character_tokenizer

WORLD = worlds.get("countdown")
# Golds of one length, so one batch; the second prompt is one character longer, so the first row is padded.
PADDED_ROWS = [
    {"id": "a", "prompt": "1,2,3=6:", "gold": "1+2+3"},
    {"id": "b", "prompt": "9,2,1=19:", "gold": "9*2+1"},
]
SMALL = {"num_steps": 3, "rows_per_step": 8}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer(WORLD.alphabet, max_tokens=base.MAX_POSITIONS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return base.build_base(tmp_path_factory.mktemp("bases") / "small", **SMALL)


@pytest.fixture(scope="module")
def loaded_tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def fail_if_called(*_):
    pytest.fail("a training step was made")


# --- tokenizer ---


@given(st.text(alphabet=WORLD.alphabet, max_size=30))
def test_loaded_tokenizer_gives_back_what_it_encoded(loaded_tokenizer, text):
    ids = loaded_tokenizer(text)["input_ids"]
    assert len(ids) == len(text)  # one token per character, no special tokens added
    assert loaded_tokenizer.decode(ids) == text


def test_loaded_tokenizer_is_the_one_that_was_saved(tokenizer, loaded_tokenizer):
    # AutoTokenizer rebuilds the tokenizer of any Qwen2 folder as its own class: nothing may be added or lost in that.
    assert type(loaded_tokenizer) is type(tokenizer)
    assert loaded_tokenizer.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert len(loaded_tokenizer) == len(WORLD.alphabet) + 2


def test_loaded_tokenizer_special_tokens_are_distinct_and_left_out_of_text(loaded_tokenizer):
    assert (loaded_tokenizer.pad_token_id, loaded_tokenizer.eos_token_id) == (0, 1)
    assert loaded_tokenizer.decode([4, 1, 0], skip_special_tokens=True) == loaded_tokenizer.decode([4])
    assert loaded_tokenizer.bos_token_id is None
    assert loaded_tokenizer.chat_template is None


@pytest.mark.parametrize("text", ["3,z5=8:", "3, 5=8:\n", "3,5=8:\N{SNOWMAN}"])
def test_loaded_tokenizer_leaves_unknown_characters_out(loaded_tokenizer, text):
    assert loaded_tokenizer(text)["input_ids"] == loaded_tokenizer("3,5=8:")["input_ids"]


def test_batched_prompts_are_padded_on_the_left(loaded_tokenizer):
    batch = loaded_tokenizer(["1", "1,2"], padding=True)
    one, comma, two = (loaded_tokenizer(character)["input_ids"][0] for character in "1,2")
    assert batch["input_ids"] == [[0, 0, one], [one, comma, two]]


@pytest.mark.parametrize(("alphabet", "message"), [("121", "must differ"), ("1 2", "visible ASCII"), ("é", "ASCII")])
def test_character_tokenizer_refuses_an_alphabet_it_cannot_keep(alphabet, message):
    with pytest.raises(AssertionError, match=message):
        character_tokenizer(alphabet, max_tokens=8)


# --- what is trained ---


def test_batches_learn_the_completion_and_its_end_only(tokenizer):
    rows = WORLD.problems("warm", 60, 0)
    learned, seen = [], []
    for input_ids, is_target in base._batches(rows, tokenizer):
        for ids, targets in zip(input_ids, is_target, strict=True):
            learned.append(tokenizer.decode(ids[targets]))
            seen.append(tokenizer.decode(ids).replace(tokenizer.pad_token, ""))
    eos = tokenizer.eos_token
    assert sorted(learned) == sorted(row["gold"] + eos for row in rows)
    assert sorted(seen) == sorted(row["prompt"] + row["gold"] + eos for row in rows)


def test_batches_leave_little_padding(tokenizer):
    batches = base._batches(WORLD.problems("warm", 256, 0), tokenizer)
    num_padding = sum(int((input_ids == tokenizer.pad_token_id).sum()) for input_ids, _ in batches)
    assert num_padding < 0.05 * sum(input_ids.numel() for input_ids, _ in batches)


def test_loss_sum_of_a_padded_batch_is_the_sum_of_its_rows(tokenizer):
    model = base._new_model(tokenizer, 0).double()
    ((input_ids, is_target),) = base._batches(PADDED_ROWS, tokenizer)
    assert (input_ids == tokenizer.pad_token_id).sum() == 1
    expected = 0.0
    for row in PADDED_ROWS:
        ids = tokenizer(row["prompt"] + row["gold"] + tokenizer.eos_token)["input_ids"]
        logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
        expected -= sum(logprobs[i - 1, ids[i]].item() for i in range(len(row["prompt"]), len(ids)))
    assert base._loss_sum(model, input_ids, is_target).item() == pytest.approx(expected, rel=1e-12)


def test_loss_sum_runs_the_causal_kernel_without_a_mask(tokenizer, monkeypatch):
    calls = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def spy(*tensors, **options):
        calls.append((options["attn_mask"], options["is_causal"]))
        return kernel(*tensors, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    ((input_ids, is_target),) = base._batches(PADDED_ROWS, tokenizer)
    base._loss_sum(base._new_model(tokenizer, 0), input_ids, is_target)
    assert calls == [(None, True)] * base.ARCHITECTURE["num_hidden_layers"]


def test_build_base_learns(tmp_path):
    losses = []
    base.build_base(tmp_path / "base", num_steps=60, rows_per_step=32, on_step=lambda *call: losses.append(call))
    assert [call[:2] for call in losses] == [(step, 60) for step in range(1, 61)]
    # Untrained it guesses: ln 18 = 2.89 nats among 18 symbols. To know the shape (a digit, an operator of three) and
    # to guess within it is below 1.5.
    assert losses[0][2] == pytest.approx(math.log(len(WORLD.alphabet) + 2), abs=0.15)
    assert losses[-1][2] < 1.5
    record = json.loads((tmp_path / "base" / "base.json").read_text())
    assert record["final_loss_nats"] == pytest.approx(sum(call[2] for call in losses[-20:]) / 20)


# --- the folder ---


def test_folder_loads_with_identical_logits(tmp_path, tokenizer):
    model = base._new_model(tokenizer, 5).eval()
    base._write(tmp_path / "base", model, tokenizer, {})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    assert loaded.dtype == torch.float32
    input_ids = torch.tensor(tokenizer(["3,5,7,2=14:7+2*5-3"])["input_ids"])
    with torch.inference_mode():
        assert torch.equal(loaded(input_ids).logits, model(input_ids).logits)


def test_folder_is_a_genuine_checkpoint(folder):
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "base.json"} <= names
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["vocab_size"] == len(WORLD.alphabet) + 2
    assert config["tie_word_embeddings"] is True
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (1, 0)
    assert config["max_position_embeddings"] >= 2 * (WORLD.max_prompt_chars + WORLD.max_completion_tokens)


def test_folder_records_how_it_was_made(folder):
    record = json.loads((folder / "base.json").read_text())
    expected = {"world": "countdown", "world_version": WORLD.version, "seed": 0, "num_steps": 3, "rows_per_step": 8}
    assert record["recipe"].items() >= expected.items()
    # Embeddings 18 x 64; per layer 4 x 64 x 64 + 3 x 64 biases, 3 x 64 x 192, two norms of 64; a last norm of 64.
    assert record["num_parameters"] == 18 * 64 + 2 * (4 * 64 * 64 + 3 * 64 + 3 * 64 * 192 + 2 * 64) + 64
    assert {"ngrpo", "torch", "transformers", "tokenizers", "python"} == set(record["versions"])
    assert record["wall_s"] > 0


def test_build_base_is_deterministic_and_leaves_random_numbers_alone(tmp_path, folder):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    again = base.build_base(tmp_path / "again", **SMALL)
    other = base.build_base(tmp_path / "other", seed=1, **SMALL)
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [(path / "model.safetensors").read_bytes() for path in (folder, again, other)]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_build_base_interrupted_leaves_nothing(tmp_path):
    def interrupt(step, num_steps, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        base.build_base(tmp_path / "base", on_step=interrupt, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_build_base_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_text", full_disk)
    with pytest.raises(RunFolderError, match=r"could not be written to .*base: .*No space left on device"):
        base.build_base(tmp_path / "base", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_build_base_killed_while_writing_leaves_no_base_and_can_be_repeated(tmp_path):
    code = """
        import os, pathlib, signal, sys
        from ngrpo.lab import base

        # The weights are written, base.json is not.
        pathlib.Path.write_text = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        base.cached_base(num_steps=3, rows_per_step=8)
    """
    environment = {**os.environ, "NGRPO_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NGRPO_CACHE", str(tmp_path))
        folder, was_cached = base.cached_base(**SMALL)
    assert not was_cached
    AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"world": "chess"}, DataError, "there is no world 'chess'"),
        ({"num_steps": 0}, ConfigError, "num_steps must be at least 1, got 0"),
        ({"rows_per_step": 0}, ConfigError, "rows_per_step must be at least 1, got 0"),
        ({"seed": -1}, ConfigError, "seed must be at least 0, got -1"),
        ({"lr": math.nan}, ConfigError, "lr must be a finite number above 0, got nan"),
    ],
)
def test_build_base_refuses_impossible_numbers(tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        base.build_base(tmp_path / "base", on_step=fail_if_called, **settings)


def test_build_base_refuses_a_folder_with_something_in_it(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="exists and is not an empty folder"):
        base.build_base(tmp_path, on_step=fail_if_called, **SMALL)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_build_base_refuses_a_place_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be made"):
        base.build_base(tmp_path / "file" / "sub" / "base", on_step=fail_if_called, **SMALL)


def test_build_base_fills_an_empty_folder(tmp_path):
    (tmp_path / "base").mkdir()
    assert (base.build_base(tmp_path / "base", **SMALL) / "base.json").exists()


# --- the cache ---


def test_cached_base_is_built_once(tmp_path, monkeypatch):
    monkeypatch.setenv("NGRPO_CACHE", str(tmp_path))
    folder, was_cached = base.cached_base(**SMALL)
    assert not was_cached
    assert base.cached_base(on_step=fail_if_called, **SMALL) == (folder, True)
    assert folder.parent == tmp_path / "bases"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_cached_base_of_two_builders_at_once_is_the_first_to_finish(tmp_path, monkeypatch):
    monkeypatch.setenv("NGRPO_CACHE", str(tmp_path))
    finished_first = []

    def build_the_same_meanwhile(step, num_steps, loss):
        if step == num_steps:
            folder, _ = base.cached_base(**SMALL)
            (folder / "mark").write_text("first")
            finished_first.append(folder)

    folder, was_cached = base.cached_base(on_step=build_the_same_meanwhile, **SMALL)
    assert (folder, was_cached) == (finished_first[0], False)
    assert (folder / "mark").read_text() == "first"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing is left of the other


def test_build_base_never_takes_a_folder_that_another_wrote_meanwhile_for_its_own(tmp_path):
    def write_another_meanwhile(step, num_steps, loss):
        if step == num_steps:
            base.build_base(tmp_path / "base", seed=1, **SMALL)

    with pytest.raises(RunFolderError, match="could not be written"):
        base.build_base(tmp_path / "base", on_step=write_another_meanwhile, **SMALL)
    assert json.loads((tmp_path / "base" / "base.json").read_text())["recipe"]["seed"] == 1


def test_recipe_key_depends_on_every_field():
    recipe = {"world": "countdown", "world_version": 1, "seed": 0, **SMALL, "lr": 1e-3, "recipe_version": 1}
    others = [{**recipe, field: "other" if isinstance(value, str) else value + 1} for field, value in recipe.items()]
    assert len({base.Recipe(**fields).key() for fields in (recipe, *others)}) == 1 + len(recipe)


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [
        ("/own", "/shared", "/own/bases"),
        ("", "/shared", "/shared/ngrpo/bases"),
        ("", "", "/home/me/.cache/ngrpo/bases"),
    ],
)
def test_cache_folder_own_before_shared_before_home(monkeypatch, own, shared, expected):
    monkeypatch.setenv("NGRPO_CACHE", own)
    monkeypatch.setenv("XDG_CACHE_HOME", shared)
    monkeypatch.setenv("HOME", "/home/me")
    assert str(base.cache_folder()) == expected
