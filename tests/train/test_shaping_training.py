"""Shaped rewards in training: refused before a run where they cannot work, on record part by part, resumed bitwise."""

import json
import math
from dataclasses import replace

import pytest
from run_helpers import assert_same_run, run_to_end, short_config, stop_at

from ngrpo import objectives
from ngrpo.config import load_config
from ngrpo.errors import CheckpointError, ConfigError, Interrupted, RewardError
from ngrpo.objectives import registry
from ngrpo.objectives.transforms import OverlongPenalty
from ngrpo.train import assemble, train
from ngrpo.train.needs import make_objective

# Over what the tiny world's completions look like: products, lengths of 4 to 8 tokens.
SHAPING = (
    'reward.shaping=[{name="regex", weight=0.25, params={pattern="[*]"}}, '
    '{name="length", weight=0.5, params={budget_tokens=3, span_tokens=5}}]'
)
SHAPED = ["reward.name=world", SHAPING]
METHODS = {
    "ngrpo": ["objective.name=ngrpo_overlong", "objective.params.virtual_reward=1.25"],
    "dapo": [
        "objective.name=dapo", "objective.params.overlong_max_tokens=10", "objective.params.overlong_buffer_tokens=6",
        "objective.params.group_filter=keep_all", "refill.max_empty_steps=9",
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def ngrpo_overlong(monkeypatch):
    """NGRPO with DAPO's soft overlong punishment besides."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    @objectives.register("ngrpo_overlong")
    def ngrpo_overlong(virtual_reward: float = 1.0):
        """A method of one's own."""
        base = objectives.get("ngrpo", virtual_reward=virtual_reward)
        return replace(base, reward_transforms=(OverlongPenalty(max_tokens=10, buffer_tokens=6, penalty=0.5),))


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def config_of(*overrides):
    return load_config("tiny", ["reward.name=world", *overrides])


@pytest.mark.parametrize("method", METHODS)
def test_a_shaped_run_resumes_bitwise_with_its_parts_on_record(runs, base, method):
    overrides = [*SHAPED, *METHODS[method]]
    whole = run_to_end(short_config(runs, base, *overrides)).folder
    config = short_config(runs, base, "run.name=stopped", *overrides)
    run = assemble(config)
    with pytest.raises(Interrupted):
        train(run, on_step=stop_at(3))
    run.close()
    run_to_end(config, resume=True)
    assert_same_run(runs / "stopped", whole)

    groups = lines(whole, "groups.jsonl")
    assert any(value != 0 for row in groups for value in row["advantages"])
    for row in groups:
        assert list(row["parts"]) == ["judge", "regex", "length"]
        for value, correct, tokens, *parts in zip(
            row["rewards"], row["correct"], row["tokens"], *row["parts"].values(), strict=True
        ):
            assert value == math.fsum(parts)
            assert parts[0] == float(correct)  # the label is the judge's
            assert parts[1] in (0.0, 0.25)
            assert parts[2] == -0.5 * min(1.0, max(0, tokens - 3) / 5)
    means = [row for row in lines(whole, "metrics.jsonl") if "reward/mean" in row]
    for row in means:
        parts = [row[f"reward/part/{name}"] for name in ("judge", "regex", "length")]
        assert row["reward/mean"] == pytest.approx(sum(parts), abs=1e-12)
        assert row["reward/part/judge"] == row["reward/correct_frac"]
    assert len(means) == 5


def test_another_weight_is_another_run(runs, base):
    run_to_end(short_config(runs, base, "train.num_steps=1", "optim.warmup_steps=0", *SHAPED, *METHODS["ngrpo"]))
    other = SHAPING.replace("weight=0.25", "weight=0.2")
    with pytest.raises(CheckpointError, match=r"reward\.shaping: "):
        assemble(
            short_config(runs, base, "optim.warmup_steps=0", "reward.name=world", other, *METHODS["ngrpo"]), resume=True
        )


def shaping(*terms):
    return f"reward.shaping=[{', '.join(terms)}]"


BOX = '{name="one_box", weight=0.25}'
LENGTH = '{name="length", weight=0.5, params={budget_tokens=4, span_tokens=4}}'


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [shaping(BOX)],
            r"'ngrpo' cannot train on groups of 8 .* with rewards from 0 to 1\.25 "
            r"\(the judge 0 to 1, one_box 0 to 0\.25\): virtual_reward 1 is below the best reward 1\.25",
        ),
        (
            [shaping(BOX, LENGTH), "objective.params.virtual_reward=1.2"],
            r"rewards from -0\.5 to 1\.25 \(the judge 0 to 1, one_box 0 to 0\.25, length -0\.5 to 0\): "
            r"virtual_reward 1\.2 is below",
        ),
        (
            [shaping('{name="length", weight=-0.5, params={budget_tokens=4, span_tokens=4}}')],
            r"length 0 to 0\.5\): virtual_reward 1 is below the best reward 1\.5",
        ),
        (
            [shaping(LENGTH), "objective.name=psr"],
            r"'psr' .*it reads the labels and not the rewards, so reward\.shaping would have no effect",
        ),
        ([shaping(LENGTH), "objective.name=grpo_lead"], r"reads the labels and not the rewards"),
        (
            [shaping(LENGTH), "objective.name=spo", "rollout.num_samples_per_prompt=1"],
            r"'spo' needs rewards from 0 to 1, which its tracker counts\. Leave out the terms of reward\.shaping",
        ),
        ([shaping('{name="one_bx", weight=1}')], r"reward\.shaping 'one_bx' is none of one_box, think_tags"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_objective(config_of(*overrides))


def test_the_largest_reward_may_be_the_virtual_one():
    make_objective(config_of(shaping(BOX, LENGTH), "objective.params.virtual_reward=1.25"))
    make_objective(config_of(shaping(LENGTH)))  # penalties only: the best reward is still 1
    terms = shaping('{name="one_box", weight=0.1}', '{name="think_tags", weight=0.1}')
    make_objective(config_of(terms, "objective.params.virtual_reward=1.2"))


def test_bounds_of_a_function_are_what_it_promises(tmp_path):
    (tmp_path / "terms.py").write_text("def brief(completions, **_):\n    return [-0.5 for _ in completions]\n")
    term = f'name="{tmp_path}/terms.py:brief", weight=1.0'
    with pytest.raises(ConfigError, match=r"brief -1 to 1\): virtual_reward 1 is below the best reward 2"):
        make_objective(config_of(shaping(f"{{{term}}}")))
    make_objective(config_of(shaping(f"{{{term}, params={{high=0.0}}}}")))


def test_where_the_users_function_judges_only_the_run_can_tell(runs, base, tmp_path):
    (tmp_path / "rich.py").write_text("def rich(completions, **_):\n    return [9.0 for _ in completions]\n")
    overrides = [shaping(LENGTH), f"reward.name={tmp_path}/rich.py:rich", "reward.correct_at=10.0", "validation=none"]
    with pytest.raises(ConfigError, match=r"virtual_reward 1 is below the best reward"):
        run_to_end(short_config(runs, base, *overrides))
    assert (runs / "run" / "checkpoints" / "step_000000").is_dir()  # nothing lost


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [float('nan') for _ in completions]", "shaping function .*terms.py:term returned nan for .* row"),
        ("return ['high' for _ in completions]", "returned 'high' for"),
        ("return [0.0]", r"returned 1 scores for \d+ completions"),
        ("return None", "returned None and not a list"),
        ("return [1 / 0]", r"raised for each of \d+ rows, first for .*ZeroDivisionError: division by zero \(terms.py"),
    ],
)
def test_a_hostile_term_stops_the_run_with_its_name_and_everything_saved(runs, base, tmp_path, body, message):
    (tmp_path / "terms.py").write_text(f"def term(completions, **_):\n    {body}\n")
    term = f'{{name="{tmp_path}/terms.py:term", weight=0.5, params={{high=0.0}}}}'
    with pytest.raises(RewardError, match=message):
        run_to_end(short_config(runs, base, "reward.name=world", "validation=none", shaping(term)))
    assert (runs / "run" / "checkpoints" / "step_000000").is_dir()
