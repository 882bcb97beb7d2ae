"""What a step measures, by hand: clip fractions, ratios, divergences, the census of groups."""

import math

import pytest
import torch
from update_helpers import (
    frozen_reference,
    logprobs_of,
    make_rows,
    method,
    take_step,
)

from helpers import make_completion, make_prompts, small_policy
from ngrpo import objectives
from ngrpo.train.measure import group_census, rollout_metrics, update_metrics
from ngrpo.train.step import TrainingRow
from ngrpo.types import Group, Outcome


def test_means_of_parts_are_over_what_the_verifier_did_not_fail_on():
    prompt = make_prompts()[0]
    outcomes = (
        Outcome(1.25, True, parts={"judge": 1.0, "form": 0.25}),
        Outcome(-0.25, False, parts={"judge": 0.0, "form": -0.25}),
        Outcome(0.0, False, "error"),
        Outcome(0.5, False, "unparsed", parts={"judge": 0.0, "form": 0.5}),
    )
    completions = tuple(make_completion(text) for text in "1234")
    groups = [Group(prompt, completions, outcomes), Group(prompt, completions[:1], (outcomes[0],))]
    metrics = rollout_metrics(groups)
    assert metrics["reward/part/judge"] == 2 / 4
    assert metrics["reward/part/form"] == 0.75 / 4
    assert (metrics["reward/error_frac"], metrics["reward/timeout_frac"]) == (1 / 5, 0.0)
    assert metrics["groups/failed_frac"] == 1 / 2
    plain = rollout_metrics([Group(prompt, completions[:1], (Outcome(1.0, True),))])
    assert not [name for name in plain if name.startswith("reward/part/")]


def rows_with_ratios(policy, ratios_by_advantage):
    """Rows whose current-to-old probability ratios are given, by advantage."""
    prompt = make_prompts()[0].token_ids
    rows = []
    for advantage, ratios in ratios_by_advantage:
        ids = tuple(range(4, 4 + len(ratios)))
        (current,) = logprobs_of(policy, [prompt], [ids])
        old = tuple(value - math.log(ratio) for value, ratio in zip(current, ratios, strict=True))
        rows.append(TrainingRow(prompt, ids, old, advantage))
    return rows


def test_clip_fractions_ratios_and_divergence_by_hand():
    policy = small_policy(torch.float64)
    # NGRPO's bounds are 0.84 and 1.24; each binds on its own side only.
    rows = rows_with_ratios(
        policy,
        [
            (1.0, [1.25, 1.23, 0.5, 2.0]),  # above 1.24: 2 of 4
            (-1.0, [0.83, 0.85, 1.5]),  # below 0.84: 1 of 3
            (-0.5, [0.1]),  # below: 1 of 1
            (0.0, [3.0, 0.1]),  # not looked at
        ],
    )
    metrics = update_metrics([take_step(policy, method("ngrpo"), rows)], with_reference=False)
    ratios = [1.25, 1.23, 0.5, 2.0, 0.83, 0.85, 1.5, 0.1]
    assert metrics["loss/clip_high_frac"] == 2 / 4
    assert metrics["loss/clip_low_frac"] == 2 / 4
    assert metrics["policy/ratio_mean"] == pytest.approx(sum(ratios) / 8, rel=1e-9)
    assert metrics["policy/ratio_max"] == pytest.approx(2.0, rel=1e-9)
    assert metrics["policy/old_kl_nats"] == pytest.approx(sum(r - 1 - math.log(r) for r in ratios) / 8, rel=1e-9)
    # Each token's -min(r A, clip(r) A): -1.24 - 1.23 - 0.5 - 1.24 + 0.84 + 0.85 + 1.5 + 0.84 / 2, over 10 tokens.
    assert metrics["loss/value"] == pytest.approx((-4.21 + 3.19 + 0.42) / 10, rel=1e-9)
    assert "policy/reference_kl_nats" not in metrics


def test_tokens_without_advantage_are_in_no_clip_fraction():
    """They go through the model where a regulariser moves them, too."""
    policy, objective = small_policy(torch.float64), objectives.get("ngrpo", entropy_coef=0.1)
    rows = rows_with_ratios(policy, [(1.0, [2.0, 1.0]), (-1.0, [0.5, 1.0]), (0.0, [2.0, 0.5, 1.0])])
    stats = take_step(policy, objective, rows)
    assert (stats.num_tokens, stats.num_positive_tokens, stats.num_negative_tokens) == (7, 2, 2)
    assert (stats.clipped_high_tokens, stats.clipped_low_tokens) == (1, 1)


def test_fractions_are_over_all_updates_of_a_step():
    policy = small_policy(torch.float64)
    first = take_step(policy, method("ngrpo"), rows_with_ratios(policy, [(1.0, [2.0])]))
    second = take_step(policy, method("ngrpo"), rows_with_ratios(policy, [(1.0, [1.0, 1.0, 1.0]), (-1.0, [0.5])]))
    metrics = update_metrics([first, second], with_reference=False)
    assert metrics["loss/clip_high_frac"] == 1 / 4  # not the mean of 1 and 0
    assert metrics["loss/clip_low_frac"] == 1.0
    assert metrics["loss/grad_norm"] == pytest.approx((first.grad_norm + second.grad_norm) / 2)
    assert metrics["loss/grad_norm_max"] == max(first.grad_norm, second.grad_norm)


def test_a_step_without_tokens_has_no_ratios():
    policy = small_policy(torch.float64)
    metrics = update_metrics([take_step(policy, method("ngrpo"), [])], with_reference=True)
    assert metrics == {
        "loss/value": 0.0,
        "loss/grad_norm": 0.0,
        "loss/grad_norm_max": 0.0,
        "loss/clip_high_frac": 0.0,
        "loss/clip_low_frac": 0.0,
    }


def test_the_census_by_hand_adds_up_to_1():
    def group(*labels):
        completions = (make_completion("1"),) * len(labels)
        return Group(make_prompts()[0], completions, tuple(Outcome(0.7, bool(label)) for label in labels))

    groups = [group(0, 0), group(1, 0), group(0, 0, 1), group(1, 1), group(1), group(0), group(0, 0, 0)]
    assert group_census(groups) == {
        "groups/all_wrong_frac": 3 / 7,
        "groups/mixed_frac": 2 / 7,
        "groups/all_right_frac": 2 / 7,
    }
    for size in range(1, 60):  # 1 - 0.9 - 0.1 is below 0
        shares = group_census([group(0)] * (size // 10) + [group(1)] * (size - size // 10))
        assert shares["groups/mixed_frac"] == 0.0
        assert sum(shares.values()) == pytest.approx(1.0)


def test_divergence_from_the_reference_by_hand():
    policy, objective = small_policy(torch.float64), objectives.get("ngrpo", kl_coef=0.1)
    rows = make_rows(policy, objective)
    same = update_metrics(
        [take_step(policy, objective, rows, reference=small_policy(torch.float64))], with_reference=True
    )
    assert same["policy/reference_kl_nats"] == pytest.approx(0.0, abs=1e-12)
    reference = frozen_reference()
    told = update_metrics([take_step(policy, objective, rows, reference=reference)], with_reference=True)
    divergences = []
    for row in rows:  # every row, those of zero advantage included: the KL term moves them too
        (ref,) = logprobs_of(reference, [row.prompt_ids], [row.completion_ids])
        (current,) = logprobs_of(policy, [row.prompt_ids], [row.completion_ids])
        gaps = [a - b for a, b in zip(ref, current, strict=True)]
        divergences += [math.exp(gap) - gap - 1 for gap in gaps]
    assert told["policy/reference_kl_nats"] == pytest.approx(sum(divergences) / len(divergences), rel=1e-9)
    assert all(parameter.grad is None for parameter in reference.model.parameters())
