"""The tiny base model: its tokenizer, its warm start, and that its folder appears whole or not at all."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import warnings
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from ngrpo import worlds
from ngrpo.errors import ConfigError, DataError, RunFolderError
from ngrpo.lab import base, base_statistics, setups
from ngrpo.lab.tokenizer import character_tokenizer
from ngrpo.lab.warm_start import MAX_POSITIONS, new_model

WORLD = worlds.get("countdown")
SMALL = {"num_steps": 3, "rows_per_step": 8}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def few_prompts():
    """Statistics of three prompts: nothing here is about their values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_statistics, "NUM_PROMPTS", 3)
        yield


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer(WORLD.alphabet, max_tokens=MAX_POSITIONS)


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


# --- the folder ---


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


def test_folder_loads_with_identical_logits(tmp_path, tokenizer):
    model = new_model(tokenizer, 5).eval()
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
        from ngrpo.lab import base, base_statistics

        base_statistics.NUM_PROMPTS = 3
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
    warm_start = setups.get("countdown").warm_start
    recipe = base.Recipe(warm_start, world_version=1, seed=0)
    others = [
        replace(recipe, **{name: getattr(recipe, name) + 1}) for name in ("world_version", "seed", "recipe_version")
    ]
    others += [
        replace(recipe, warm_start=replace(warm_start, **{name: "misconception" if name == "world" else 2 * value}))
        for name, value in asdict(warm_start).items()
    ]
    assert len({each.key() for each in (recipe, *others)}) == 1 + len(others) == 9


def test_recipe_key_of_the_published_base_is_what_it_was():
    """Caches of earlier releases stay good: a change here makes every user build the countdown base again."""
    recipe = base._checked_recipe("countdown", seed=0)
    assert recipe.key() == "0f35ccaa41d9"
    # What went into it then, written out.
    assert recipe.as_dict() == {
        "architecture": {
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 64,
            "tie_word_embeddings": True,
        },
        "recipe": {
            "world": "countdown",
            "world_version": 1,
            "seed": 0,
            "num_steps": 1000,
            "rows_per_step": 128,
            "lr": 0.002,
            "recipe_version": 1,
        },
    }


@pytest.mark.parametrize("names", [("countdown", "overtrained"), ("gym_chain_sum_easy", "gym_chain_sum_hard")])
def test_worlds_with_the_same_warm_start_share_a_base(names):
    assert len({base._checked_recipe(name, seed=3).key() for name in names}) == 1


def test_every_other_world_has_a_base_of_its_own():
    keys = {setups.get(name).warm_start.world: base._checked_recipe(name, seed=0).key() for name in worlds.names()}
    assert len(set(keys.values())) == len(keys) == 5


# --- statistics ---


def test_statistics_are_written_for_every_world_that_the_base_serves(folder):
    record = json.loads((folder / "base.json").read_text())
    assert set(record["statistics"]) == {"countdown", "overtrained"}
    for found in record["statistics"].values():
        assert found["all_wrong_frac"] + found["mixed_frac"] + found["all_right_frac"] == pytest.approx(1, abs=2e-3)
        assert 0 <= found["pass@1"] <= found["pass@8"] <= found["pass@64"] <= 1
        assert 0 < found["entropy_nats"] <= math.log(len(WORLD.alphabet) + 2) + 1e-6


def test_statistics_of_hard_prompts_stand_apart(tmp_path):
    folder = base.build_base(tmp_path / "base", world="misconception", **SMALL)
    record = json.loads((folder / "base.json").read_text())
    assert record["architecture"]["hidden_size"] == 32
    found = record["statistics"]["misconception"]
    assert {name for name in found if name.startswith("hard/")} == {
        f"hard/{name}" for name in found if not name.startswith("hard/") and name != "entropy_nats"
    }


def test_statistics_of_a_base_built_before_there_were_any_are_added(tmp_path, folder):
    old = shutil.copytree(folder, tmp_path / "old")
    record = json.loads((old / "base.json").read_text())
    known = record.pop("statistics")
    (old / "base.json").write_text(json.dumps(record))
    assert base.read_statistics(old, "countdown") == known["countdown"]
    assert json.loads((old / "base.json").read_text()) == record | {"statistics": {"countdown": known["countdown"]}}


@pytest.mark.parametrize(("low", "is_as_documented"), [(0.0, True), (0.999, False)])
def test_a_base_unlike_the_documented_one_warns_and_is_kept(tmp_path, monkeypatch, low, is_as_documented):
    own = replace(setups.get("misconception").warm_start, **SMALL)
    setup = replace(setups.get("misconception"), warm_start=own, expected={"pass@1": (low, 1.0)})
    monkeypatch.setitem(setups._SETUPS, "misconception", setup)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = base.build_base(tmp_path / "base", world="misconception")
    assert (folder / "base.json").exists()
    messages = [str(each.message) for each in caught]
    if is_as_documented:
        assert messages == []
    else:
        (message,) = messages
        assert "base model of 'misconception' is not like the documented one: pass@1 is" in message
        assert "documented as 0.999 to 1" in message


def test_a_base_made_otherwise_is_not_compared(tmp_path, monkeypatch):
    setup = replace(setups.get("misconception"), expected={"pass@1": (0.999, 1.0)})
    monkeypatch.setitem(setups._SETUPS, "misconception", setup)
    base.build_base(tmp_path / "base", world="misconception", **SMALL)  # warnings are errors here


# --- the cache's place ---


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
