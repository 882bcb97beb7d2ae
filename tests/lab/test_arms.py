import pytest
from experiment_helpers import small_plan, small_setup

from ngrpo.errors import ConfigError
from ngrpo.lab import setups
from ngrpo.lab.arms import (
    check_names,
    evaluation_of,
    held_equal,
    resized,
    run_config,
    run_name,
    run_settings,
    with_settings,
)
from ngrpo.lab.controls import control_arms
from ngrpo.lab.plan import Arm
from ngrpo.train.schedule import learning_rate


def config_of(arm, tmp_path, **sizes):
    plan = small_plan("world:countdown", arm, setup=small_setup(**sizes))
    return run_config(plan, arm, 3, base="base", folder=tmp_path / run_name(arm, 3))


def test_what_is_held_equal_is_in_every_run_file(tmp_path):
    arm = Arm("mine", "ngrpo", {"clip_low": 0.1, "num_virtual": 2}, overrides=("optim.lr=0.01",))
    config = config_of(arm, tmp_path, num_steps=40)
    assert config.objective.params == {"aggregation": "token_mean", "clip_low": 0.1, "num_virtual": 2}
    assert (config.refill.max_batches, config.run.seed, config.model.path) == (1, 3, "base")
    assert (config.train.num_steps, config.optim.lr, config.run.name) == (40, 0.01, "mine_seed3")
    assert not config.record.tensorboard


def test_no_run_is_stopped_for_empty_steps(tmp_path):
    """A method that drops every group goes on, as one that keeps them with advantages of zero does."""
    assert config_of(Arm("dapo", "dapo"), tmp_path, num_steps=40).refill.max_empty_steps == 4 * 40 + 1  # lengthened


def test_warm_up_counts_rollout_steps(tmp_path):
    """Whatever a method leaves of its updates, its warm-up is over after the same rollout steps."""
    for arm in (Arm("grpo", "grpo"), Arm("psr", "psr")):
        config = config_of(arm, tmp_path, num_steps=40)
        assert config.optim.warmup_steps == 5
        rates = [
            learning_rate(step, peak=1.0, num_steps=40, warmup_steps=5, schedule="constant", min_lr_frac=0.0)
            for step in range(7)
        ]
        assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1])
    assert config_of(Arm("grpo", "grpo"), tmp_path, num_steps=3).optim.warmup_steps == 2


def test_all_is_said_that_is_held(tmp_path):
    told = " ".join(held_equal(small_setup(), [Arm("grpo", "grpo")]))
    for word in ("same base", "random numbers", "2 rollout steps of 4 prompts x 4", "0.0001", "zero gradients",
                 "token-mean", "no KL", "no entropy bonus", "no refill"):  # fmt: skip
        assert word in told


def test_what_can_vary_is_told_as_it_is():
    setup = small_setup(run_overrides=("optim.schedule=linear",))
    told = held_equal(setup, [Arm("grpo", "grpo"), Arm("bonus", "grpo", {"entropy_coef": 0.01})])
    assert "a linear schedule" in told[2]
    assert told[3].endswith("no entropy bonus but for: bonus")


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (Arm("x", "no_such_method"), "no objective is named 'no_such_method'"),
        (Arm("x", "grpo", {"clip": 0.1}), "grpo has no parameter 'clip'"),
        (Arm("x", "grpo", overrides=("optim.lr=-1",)), "optim.lr"),
    ],
)
def test_an_arm_that_cannot_be_is_refused(arm, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        config_of(arm, tmp_path)


def test_arms_do_not_share_a_folder():
    with pytest.raises(ConfigError, match=r"'clip 0\.1' and 'clip_0\.1', which is the same folder"):
        check_names([Arm("clip 0.1", "grpo"), Arm("clip_0.1", "grpo")])


@pytest.mark.parametrize("world", setups.names())
def test_every_world_gives_run_files(world):
    setup = setups.get(world)
    config = run_settings(setup)
    assert config.data.source == config.validation.data.source == f"world:{world}"
    assert config.train.num_steps == setup.num_steps


def test_the_evaluation_is_of_the_split_that_was_asked_for():
    plan = small_plan("world:countdown", split="validation")
    data = evaluation_of(plan).data
    assert (data.source, data.split, data.size) == ("world:countdown", "validation", 5)


def test_a_smaller_number_of_samples_lowers_the_largest_k():
    setup = resized(setups.get("countdown"), num_steps=7, num_samples=16)
    assert (setup.num_steps, setup.num_samples, setup.max_k) == (7, 16, 16)
    assert resized(setups.get("countdown")) == setups.get("countdown")


def test_settings_of_ones_own_are_laid_over_the_worlds():
    setup = with_settings(setups.get("misconception"), ["optim.lr=0.5", "data.split=train_hard90"])
    assert run_settings(setup).optim.lr == 0.5
    assert run_settings(setup).data.split == "train_hard90"
    assert with_settings(setup, []) == setup


@pytest.mark.parametrize(
    "override",
    [
        "objective.name=psr",
        "train.num_steps=3",
        "model.path=x",
        "run.seed=1",
        "reward.name=exact",
        "refill.max_batches=2",
        "rollout.temperature=0.5",
        "rollout.max_completion_tokens=5",
        "rollout.engine=gold",
        "validation=none",
        "refill={ max_batches = 2 }",
    ],
)
def test_what_the_experiment_decides_cannot_be_set(override):
    with pytest.raises(ConfigError, match="is decided by the experiment"):
        with_settings(setups.get("countdown"), [override])


def test_a_setting_that_cannot_be_is_found_at_once():
    with pytest.raises(ConfigError, match="lrr"):
        with_settings(setups.get("countdown"), ["optim.lrr=0.5"])


def test_a_run_has_its_seed_where_an_arm_asks_for_it(tmp_path):
    config = config_of(control_arms()[1], tmp_path)
    assert [(term.name, term.params) for term in config.reward.shaping] == [("coin", {"seed": 3})]
