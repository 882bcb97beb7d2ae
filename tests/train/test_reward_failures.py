"""When the verifier fails: its group stays out of the update, and too many failures end the run with nothing lost."""

import json
import re

import pytest
from run_helpers import assert_same_run, records, run_to_end, short_config

from ngrpo.config import load_config
from ngrpo.errors import RewardError
from ngrpo.rollout import reward_for
from ngrpo.train import assemble, train
from ngrpo.types import Outcome

ONE_STEP = ["train.num_steps=1", "optim.warmup_steps=0"]

# Right when there is a product in it; from the batch BROKEN_FROM on it fails on some completions.
FLAKY = """
calls = 0

def score(completions, **_):
    global calls
    calls += len(completions) > 1
    if calls >= {broken_from} and len(completions) > 1:
        raise ValueError("one by one, please")
    if calls >= {broken_from} and {is_bad}:
        raise RuntimeError("no verdict on " + repr(completions[0]))
    return [float("*" in text) for text in completions]
"""


def write_flaky(folder, *, broken_from=1, is_bad="False"):
    """`is_bad`: which completions it fails on, as Python."""
    (folder / "flaky.py").write_text(FLAKY.format(broken_from=broken_from, is_bad=is_bad))
    return [f"reward.name={folder / 'flaky.py'}:score", "validation=none"]


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_too_many_failures_end_the_run_and_mended_it_is_the_run_that_never_failed(runs, base, tmp_path):
    keep_all = "objective.params.group_filter=keep_all"  # a batch is a step
    whole = run_to_end(short_config(runs, base, "run.name=whole", keep_all, *write_flaky(tmp_path))).folder
    # From the third batch on, every completion without a product fails.
    overrides = [keep_all, *write_flaky(tmp_path, broken_from=3, is_bad="'*' not in completions[0]")]
    config = short_config(runs, base, *overrides)
    run = assemble(config)
    message = (
        r"^the reward failed on (\d+) of 16 completions of step (\d) \((\d+) error\), more than "
        r"reward\.max_failed_frac = 0\.1 allows:"
        r"(\n  .*: error: RuntimeError: no verdict on '.*' \(flaky\.py line \d+\)){3}\n"
        r"Nothing was learned from them, and step (\d) is saved; samples\.jsonl has the completions\. .*--resume\.$"
    )
    with pytest.raises(RewardError, match=message) as told:
        train(run, on_step=lambda _: None)
    run.close()
    assert told.value.exit_code == 2
    number, failing_step, same_number, saved_step = map(int, re.match(message, str(told.value)).group(1, 2, 3, 5))
    assert number == same_number
    assert (failing_step, saved_step, run.state.step) == (3, 2, 2)
    failed = [row for row in lines(runs / "run", "samples.jsonl") if row["step"] == failing_step]
    assert len(failed) == number
    assert {row["kind"] for row in failed} == {"error"}
    assert all("*" not in row["completion"] and repr(row["completion"]) in row["detail"] for row in failed)
    assert max(row["step"] for row in lines(runs / "run", "groups.jsonl")) == saved_step

    write_flaky(tmp_path)  # mended
    run_to_end(config, resume=True)
    assert_same_run(runs / "run", whole)


def test_a_few_failures_leave_their_groups_out(runs, base, tmp_path):
    overrides = [*write_flaky(tmp_path, is_bad="'-' in completions[0]"), "reward.max_failed_frac=1.0"]
    run = run_to_end(short_config(runs, base, "objective.params.group_filter=keep_all", *overrides))
    groups = lines(run.folder, "groups.jsonl")
    for row in groups:
        assert row["kept"] == ("error" not in row["kinds"])
        assert len(row["kinds"]) == 4  # groups stay whole
        assert bool(row["advantages"]) == row["kept"]
        assert all(value == 0.0 for value, kind in zip(row["rewards"], row["kinds"], strict=True) if kind == "error")
    assert {row["kept"] for row in groups} == {True, False}
    for metrics in records(run.folder)["metrics"]:
        own = [row for row in groups if row["step"] == metrics["step"]]
        kinds = [kind for row in own for kind in row["kinds"]]
        assert metrics["reward/error_frac"] == pytest.approx(kinds.count("error") / len(kinds))
        assert metrics["groups/failed_frac"] == pytest.approx(sum(not row["kept"] for row in own) / len(own))
        assert metrics["groups/num_kept"] == sum(row["kept"] for row in own)


@pytest.mark.parametrize(("allowed", "stops"), [(0.0, True), (0.24, True), (0.25, False), (1.0, False)])
def test_the_share_is_of_a_step_and_may_be_reached(runs, base, allowed, stops):
    """One completion of each group of four times out: a quarter."""
    run = assemble(short_config(runs, base, f"reward.max_failed_frac={allowed}", "validation=none", *ONE_STEP))
    judge = run.reward

    def quarter(prompts, completions):
        outcomes = judge(prompts, completions)
        return [
            Outcome(0.0, False, "timeout", detail="too slow") if place % 4 == 3 else outcome
            for place, outcome in enumerate(outcomes)
        ]

    run.reward = quarter
    quarter.close = judge.close
    try:
        if stops:
            with pytest.raises(RewardError, match=r"failed on 4 of 16 completions of step 1 \(4 timeout\)"):
                train(run, on_step=lambda _: None)
        else:
            train(run, on_step=lambda _: None)
            (row,) = records(run.folder)["metrics"]
            assert (row["reward/timeout_frac"], row["groups/failed_frac"], row["groups/num_kept"]) == (0.25, 1.0, 0)
    finally:
        run.close()


def test_validation_only_reports(runs, base):
    """Failures there cost a score, not the run."""
    run = assemble(short_config(runs, base, "train.num_steps=2"))

    def never(prompts, completions):
        return [Outcome(0.0, False, "timeout") for _ in completions]

    never.close = run.validation.reward.close
    run.validation = type(run.validation)(
        run.validation.prompts, never, run.validation.sampling, run.validation.num_samples, run.validation.every_steps
    )
    train(run, on_step=lambda _: None)
    run.close()
    assert [row["validation/pass_at_1"] for row in records(run.folder)["metrics"] if "validation/pass_at_1" in row] == [
        0.0, 0.0,
    ]  # fmt: skip


def test_what_does_not_change_verdicts_may_change_on_resume(runs, base):
    run_to_end(short_config(runs, base, *ONE_STEP))
    changes = ["reward.max_failed_frac=0.5", "reward.timeout_s=20.0", "reward.num_workers=1", "train.num_steps=2"]
    assert run_to_end(short_config(runs, base, *ONE_STEP, *changes), resume=True).state.step == 2


def test_settings_of_other_judges_are_refused():
    from ngrpo.errors import ConfigError

    for setting, judge in {
        "profile=lenient": "math and auto", "absolute_tolerance=0.1": "numeric", "relative_tolerance=0.1": "numeric",
        "choices=AB": "choice", "fractional=true": "gym and auto",
    }.items():  # fmt: skip
        with pytest.raises(
            ConfigError, match=rf"reward\.{setting.split('=')[0]} = .* has no effect .*is about {judge}"
        ):
            load_config("tiny", ["reward.name=exact", f"reward.{setting}"])
    config = load_config("tiny", ["reward.name=numeric", "reward.absolute_tolerance=0.5"])
    assert reward_for(config.reward, config.data).grade("2.5", "2").correct
