"""The setups: one for every world, whose run files load and whose splits are the world's."""

from dataclasses import replace
from pathlib import Path

import pytest

from ngrpo import worlds
from ngrpo.config import load_config
from ngrpo.errors import DataError
from ngrpo.evaluate import read_counts
from ngrpo.lab import setups
from ngrpo.lab.base import _checked_recipe
from ngrpo.lab.setups import WarmStart
from ngrpo.stats import k_grid
from ngrpo.worlds.misconception import HARD_PERCENT_BY_TRAIN_SPLIT

NAMES = setups.names()
PAGE = Path(__file__).parents[2] / "docs" / "worlds.md"


def test_every_world_has_a_setup_and_no_other():
    assert worlds.names() == NAMES
    with pytest.raises(DataError, match=r"no laboratory setup for 'chess'\. There is one for: countdown"):
        setups.get("chess")


@pytest.mark.parametrize("name", NAMES)
def test_run_files_load_and_are_of_the_world(name):
    setup, world = setups.get(name), worlds.get(name)
    config = load_config("tiny", list(setup.run_overrides))
    assert config.model.path == config.data.source == config.validation.data.source == f"world:{name}"
    assert config.rollout.max_completion_tokens == world.max_completion_tokens
    # What the run draws is there: rows to train on and to validate on, prompts to test on.
    world.problems("train", config.data.size, config.data.seed)
    world.problems("validation", config.validation.data.size, 0)
    world.problems("test", setup.num_test_prompts, 0)


@pytest.mark.parametrize("name", NAMES)
def test_pass_at_k_can_be_estimated_and_the_base_is_specified(name):
    setup = setups.get(name)
    assert setup.max_k <= setup.num_samples
    assert setup.max_k in k_grid(setup.max_k)
    # Wrong by a factor of two in what the world is for would be seen.
    share = "hard/all_wrong_frac" if "misconception" in name else "all_wrong_frac"
    assert {"pass@1", "entropy_nats", share} <= set(setup.expected)
    assert all(0 <= low < high for low, high in setup.expected.values())


def test_overtrained_goes_over_its_problems_twenty_times():
    setup = setups.get("overtrained")
    config = load_config("tiny", list(setup.run_overrides))
    assert setup.num_steps * config.rollout.num_prompts_per_step == 20 * config.data.size


def test_train_splits_are_the_world_s_with_their_share_of_hard_prompts():
    for name in NAMES:
        for percent, split in setups.get(name).train_splits.items():
            rows = worlds.get(name).problems(split, 100, 0)
            assert sum(row["difficulty"] == "hard" for row in rows) == percent
    assert set(setups.get("misconception").train_splits.values()) == {"train", *HARD_PERCENT_BY_TRAIN_SPLIT}


# --- the page about the worlds ---


def documented():
    """The table of docs/worlds.md: name of the row to its cells."""
    text = PAGE.read_text(encoding="utf-8").partition("<!-- written by")[2].partition("<!-- end")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


@pytest.mark.parametrize("name", NAMES)
def test_documented_statistics_are_of_this_recipe_and_expected(name):
    """`python docs/make_worlds.py` after a recipe has changed."""
    base = _checked_recipe(name, seed=0)
    rows = documented()
    found = rows[f"{name} ({base.warm_start.world}-{base.key()})"]
    for quantity, (low, high) in setups.get(name).expected.items():
        is_hard = quantity.startswith("hard/")
        cells = rows[f"{name}, hard prompts"] if is_hard else found
        assert low <= float(cells[quantity.removeprefix("hard/")]) <= high, quantity


def test_every_world_has_a_section_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    for name in NAMES:
        assert f"`{name}`" in text


# --- a run in another world ---


def test_train_and_evaluate_in_the_misconception_world(tmp_path, monkeypatch):
    """By the commands of the user, with the world's name as data and as model, and divided by difficulty."""
    from typer.testing import CliRunner

    from ngrpo.cli.main import app

    few_steps = WarmStart("misconception", num_steps=3, rows_per_step=8, hidden_size=16)
    short = replace(setups.get("misconception"), warm_start=few_steps, expected={})
    monkeypatch.setitem(setups._SETUPS, "misconception", short)
    monkeypatch.setenv("NGRPO_CACHE", str(tmp_path / "cache"))
    overrides = [
        *short.run_overrides, f"run.dir={tmp_path}", "run.name=one", "train.num_steps=2", "optim.warmup_steps=1",
        "rollout.num_prompts_per_step=4", "data.size=8", "validation.data.size=4", "record.tensorboard=false",
    ]  # fmt: skip
    invoke = CliRunner().invoke
    trained = invoke(app, ["train", "tiny", *overrides], catch_exceptions=False)
    assert trained.exit_code == 0, trained.output
    assert len((tmp_path / "one" / "metrics.jsonl").read_text().splitlines()) >= 2
    out = tmp_path / "eval"
    evaluated = invoke(
        app,
        ["eval", "world:misconception", "--data", "world:misconception", "data.size=6", "--samples", "8", "--out",
         str(out), "--max-completion-tokens", "6"],
        catch_exceptions=False,
    )  # fmt: skip
    assert evaluated.exit_code == 0, evaluated.output
    counts = read_counts(next(out.rglob("eval.json")).parent)
    assert counts.strata["difficulty"] == ["easy", "hard"] * 3
    assert [path.name for path in (tmp_path / "cache" / "bases").iterdir()] == [
        f"misconception-{_checked_recipe('misconception', seed=0).key()}"
    ]
