"""Which updates count, and runs made longer until they have as many."""

import json
from dataclasses import replace

import pytest
from experiment_helpers import small_plan, small_setup, write_run

from ngrpo.config import load_config
from ngrpo.errors import ConfigError
from ngrpo.lab.arms import evaluation_of, run_config
from ngrpo.lab.jobs import Job, run_job
from ngrpo.lab.plan import Arm
from ngrpo.lab.updates import MAX_STRETCH, Extension, check_extendable, gradient_updates, is_extended, run_extension
from ngrpo.train import assemble
from ngrpo.train.checkpoint import checkpoint_steps
from ngrpo.train.loop import train_step

ZERO, SIGNAL = [0.0, 0.0], [0.0, -1.0]


def test_updates_with_an_advantage_count(tmp_path):
    steps = [
        [SIGNAL, ZERO, ZERO, ZERO],  # two groups an update: the first has a gradient
        [SIGNAL, ZERO, ZERO, SIGNAL],
        [ZERO] * 4,
        [None, None, SIGNAL, SIGNAL],  # what was dropped makes no place: one kept group for each update
        [None, None, None, SIGNAL],  # one group for two updates
        [None] * 4,
    ]
    assert gradient_updates(write_run(tmp_path / "run", steps)) == [1, 2, 0, 2, 1, 0]


def test_under_an_entropy_bonus_every_update_with_a_completion_counts(tmp_path):
    steps = [[ZERO, ZERO], [None, ZERO], [None, None]]
    assert gradient_updates(write_run(tmp_path / "run", steps, params={"entropy_coef": 0.01})) == [2, 1, 0]


def test_a_schedule_that_ends_with_the_run_cannot_be_lengthened():
    check_extendable(load_config("tiny"))
    with pytest.raises(ConfigError, match=r"optim\.schedule = 'cosine' ends at train\.num_steps"):
        check_extendable(load_config("tiny", ["optim.schedule=cosine"]))


@pytest.mark.parametrize("method", ["dapo", "grpo", "psr"])
def test_the_optimiser_steps_on_zero_gradients_as_momentum_says(method, tmp_path, weak_base):
    """All groups are wrong: dropped, of advantage zero, of weight zero. All move on alike, by AdamW's momentum."""
    import torch

    arm = Arm(method, method)
    config = run_config(small_plan(weak_base, arm), arm, 0, base=weak_base, folder=tmp_path / "run")
    mean, square, made = 0.01, 0.0004, 10
    run = assemble(config)
    try:
        parameters = run.policy.trainable_parameters()
        before = [parameter.detach().clone() for parameter in parameters]
        for parameter in parameters:
            run.optimizer.state[parameter] = {
                "step": torch.tensor(float(made)),
                "exp_avg": torch.full_like(parameter, mean),
                "exp_avg_sq": torch.full_like(parameter, square),
            }
        train_step(run, lambda: False)
        (lr,) = {group["lr"] for group in run.optimizer.param_groups}
        moved = 0.0
        for count in range(1, config.update.num_updates_per_step + 1):
            mean_hat = mean * 0.9**count / (1 - 0.9 ** (made + count))
            square_hat = square * 0.999**count / (1 - 0.999 ** (made + count))
            moved -= lr * mean_hat / (square_hat**0.5 + 1e-8)
        for parameter, old in zip(parameters, before, strict=True):
            assert (parameter - old).mean().item() == pytest.approx(moved, rel=0.01)  # float32 weights round
            assert run.optimizer.state[parameter]["step"] == made + config.update.num_updates_per_step
    finally:
        run.close()
    assert gradient_updates(tmp_path / "run") == [0]


def test_a_lengthened_run_is_the_longer_run(tmp_path, weak_base):
    """It stops at the first step with enough updates, and is what a run of that length would have been."""
    arm = Arm("ngrpo", "ngrpo")
    plan = small_plan(weak_base, arm)
    config = run_config(plan, arm, 0, base=weak_base, folder=tmp_path / "short")
    run_job(lambda *_: None, Job(tmp_path / "short", weak_base, config, evaluation_of(plan)))
    short = sum(gradient_updates(tmp_path / "short"))
    assert short == 2 * 4  # NGRPO learns from all-wrong groups: every update counts
    place = tmp_path / "long"
    renamed = config.model_copy(update={"run": config.run.model_copy(update={"name": place.name})})
    extension = Extension(Job(place, weak_base, renamed, evaluation_of(plan)), tmp_path / "short", short + 5)
    samples = []
    run_extension(lambda name, count: samples.append(count), extension)
    assert checkpoint_steps(place / "checkpoints")[-1] == 4  # 5 updates more take 2 steps of 4
    assert sum(gradient_updates(place)) == 16
    assert sum(samples) == 5 * 8
    straight = config.model_copy(update={
        "run": config.run.model_copy(update={"name": "straight"}),
        "train": config.train.model_copy(update={"num_steps": 4}),
    })  # fmt: skip
    run_job(lambda *_: None, Job(tmp_path / "straight", weak_base, straight, None))
    assert (place / "groups.jsonl").read_text() == (tmp_path / "straight" / "groups.jsonl").read_text()
    assert (tmp_path / "short" / "groups.jsonl").read_text() == "".join(
        line for line in (place / "groups.jsonl").read_text().splitlines(keepends=True) if json.loads(line)["step"] <= 2
    )


def test_a_method_without_gradient_is_not_lengthened_for_ever(tmp_path, weak_base):
    arm = Arm("psr", "psr")
    plan = small_plan(weak_base, arm, setup=small_setup(num_steps=1))
    config = run_config(plan, arm, 0, base=weak_base, folder=tmp_path / "short")
    run_job(lambda *_: None, Job(tmp_path / "short", weak_base, config, None))
    renamed = config.model_copy(update={"run": config.run.model_copy(update={"name": "long"})})
    run_extension(
        lambda *_: None,
        Extension(Job(tmp_path / "long", weak_base, renamed, evaluation_of(plan)), tmp_path / "short", 1000),
    )
    assert checkpoint_steps(tmp_path / "long" / "checkpoints")[-1] == MAX_STRETCH


def test_a_run_that_drops_every_group_is_lengthened_to_its_end(tmp_path, weak_base):
    """Not stopped for empty steps on the way; and for another number of updates it is made anew."""
    arm = Arm("dapo", "dapo")
    plan = small_plan(weak_base, arm, setup=small_setup(num_steps=1))
    config = run_config(plan, arm, 0, base=weak_base, folder=tmp_path / "short")
    run_job(lambda *_: None, Job(tmp_path / "short", weak_base, config, None))
    long = tmp_path / "long"
    renamed = config.model_copy(update={"run": config.run.model_copy(update={"name": long.name})})
    job = Job(long, weak_base, renamed, evaluation_of(plan))
    extension = Extension(job, tmp_path / "short", 1000)
    run_extension(lambda *_: None, extension)
    assert checkpoint_steps(long / "checkpoints")[-1] == MAX_STRETCH
    assert not (long / "failed.json").exists()
    assert is_extended(extension)
    other = replace(extension, num_updates=0)
    assert not is_extended(other)
    run_extension(lambda *_: None, other)
    assert checkpoint_steps(long / "checkpoints")[-1] == 1  # nothing was missing
    assert is_extended(other)
    (long / "extension.json").unlink()  # of before it was kept
    assert is_extended(extension)
