"""From samples to numbers: by hand, and never over fewer prompts than there are."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.errors import ConfigError, DataError
from ngrpo.evaluate import summarise
from ngrpo.evaluate.summary import correct_counts, quantity_names, values_by_prompt


def make_rows(counts, num_samples, **changes):
    """`num_samples` rows of each prompt, the first `counts[prompt]` of them correct."""
    defaults = {"tokens": 4, "entropy_nats": 0.5, "finish_reason": "eos", "kind": "scored"}
    return [
        {"prompt": name, "sample": sample, "correct": sample < correct, **defaults, **changes}
        for name, correct in counts.items()
        for sample in range(num_samples)
    ]


def estimates(summary):
    return {k: interval.estimate for k, interval in summary.pass_at_k.items()}


def test_two_prompts_by_hand():
    # n = 4; c = 1: pass@1 = 1/4, pass@2 = 1 - C(3,2)/C(4,2) = 1/2, pass@4 = 1; c = 4: always 1.
    summary = summarise(make_rows({"a": 1, "b": 4}, 4), (1, 2, 4), num_prompts=2)
    assert estimates(summary) == pytest.approx({1: 0.625, 2: 0.75, 4: 1.0})
    # Trapezoids over log2 k = 0, 1, 2: ((0.625 + 0.75) / 2 + (0.75 + 1) / 2) / 2.
    assert summary.auc.estimate == pytest.approx(0.78125)
    assert summary.groups == {}  # too few samples for groups of 8
    assert (summary.num_prompts, summary.num_samples) == (2, 4)
    # Two prompts: a resample is (a, a), (b, b) or a mixture; its 2.5 % quantile is the smaller, its 97.5 % the larger.
    assert (summary.pass_at_k[1].low, summary.pass_at_k[1].high) == pytest.approx((0.25, 1.0))


def test_groups_by_hand():
    # n = 8: the one group of 8 is all wrong for c = 0, all right for c = 8, mixed otherwise.
    summary = summarise(make_rows({"a": 0, "b": 8, "c": 3, "d": 5}, 8), (1,), num_prompts=4)
    found = {name: interval.estimate for name, interval in summary.groups.items()}
    assert found == pytest.approx({"all_wrong": 0.25, "mixed": 0.5, "all_right": 0.25})
    assert summary.auc is None
    # n = 9, c = 1: a group of 8 leaves one sample out, the correct one with probability 1/9.
    summary = summarise(make_rows({"a": 1}, 9), (1,), num_prompts=1)
    assert summary.groups["all_wrong"].estimate == pytest.approx(1 / 9)


def test_lengths_entropy_and_kinds_by_hand():
    rows = [
        *make_rows({"a": 0}, 1, tokens=2, entropy_nats=0.5, finish_reason="length", kind="unparsed"),
        *make_rows({"b": 1, "c": 0, "d": 1}, 1, tokens=6, entropy_nats=1.0),
    ]
    summary = summarise(rows, (1,), num_prompts=4)
    assert summary.mean_tokens == 5.0
    assert summary.entropy_nats == pytest.approx((2 * 0.5 + 18 * 1.0) / 20)  # per token, not per completion
    assert summary.truncated_frac == 0.25
    assert summary.kind_fracs == {"scored": 0.75, "unparsed": 0.25}
    written = json.loads(json.dumps(summary.as_dict(), allow_nan=False))
    assert written["pass_at_k"]["1"] == {"estimate": 0.5, "low": 0.0, "high": 1.0}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 16), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_intervals_contain_their_estimates_and_order_of_rows_is_nothing(correct, random):
    counts = {f"p{place}": value for place, value in enumerate(correct)}
    rows = make_rows(counts, 16)
    summary = summarise(rows, (1, 2, 4, 8, 16), num_prompts=len(correct))
    quantities = [*summary.pass_at_k.values(), summary.auc, *summary.groups.values()]
    for interval in quantities:
        assert interval.low - 1e-12 <= interval.estimate <= interval.high + 1e-12
    assert sorted(estimates(summary).values()) == list(estimates(summary).values())  # pass@k rises with k
    assert sum(interval.estimate for interval in summary.groups.values()) == pytest.approx(1.0)
    assert summary.pass_at_k[1].estimate == pytest.approx(np.mean(correct) / 16)
    assert summary.pass_at_k[16].estimate == pytest.approx(np.mean([value > 0 for value in correct]))
    shuffled = sorted(rows, key=lambda row: (row["sample"], row["prompt"] in counts))
    random.shuffle(shuffled)
    again = summarise(shuffled, (1, 2, 4, 8, 16), num_prompts=len(correct))
    assert estimates(again) == pytest.approx(estimates(summary))


def test_an_interval_narrows_with_prompts():
    def width(num_prompts):
        counts = {str(place): 4 * (place % 2) for place in range(num_prompts)}
        interval = summarise(make_rows(counts, 4), (1,), num_prompts=num_prompts).pass_at_k[1]
        return interval.high - interval.low

    # Values 0 and 1 half and half: standard error 0.5 / sqrt(P), the interval 2 * 1.96 of it.
    assert width(100) == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(100), rel=0.1)
    assert width(400) == pytest.approx(width(100) / 2, rel=0.1)


def test_names_and_columns_go_together():
    for num_samples, ks in [(4, (1,)), (4, (1, 2, 4)), (8, (1,)), (16, (1, 4))]:
        values = values_by_prompt(num_samples, np.array([0, 3]), ks)
        assert values.shape == (2, len(quantity_names(num_samples, ks)))
    assert quantity_names(8, (1, 2)) == ["pass@1", "pass@2", "auc", "all_wrong", "mixed", "all_right"]
    np.testing.assert_allclose(values_by_prompt(8, np.array([0, 8]), (1, 2)), [[0, 0, 0, 1, 0, 0], [1, 1, 1, 0, 0, 1]])


def test_counts_are_by_prompt():
    rows = [*make_rows({"a": 1}, 2), *make_rows({"b": 2}, 3)]
    assert correct_counts(rows) == {"a": (2, 1), "b": (3, 2)}


def test_a_sample_twice_is_refused():
    rows = make_rows({"a": 1}, 2)
    with pytest.raises(DataError, match=r"sample 1 of prompt 'a' occurs twice in samples\.jsonl"):
        summarise([*rows, rows[1]], (1,), num_prompts=1)


@pytest.mark.parametrize(
    ("rows", "num_prompts", "message"),
    [
        (make_rows({"a": 1}, 2), 2, r"has 1 of 2 prompts, with \[2\] samples each"),
        (make_rows({"a": 1, "b": 1}, 2), 1, r"has 2 of 1 prompts"),
        ([*make_rows({"a": 1}, 2), *make_rows({"b": 1}, 3)], 2, r"with \[2, 3\] samples each"),
        ([], 1, r"has 0 of 1 prompts"),
    ],
)
def test_missing_prompts_or_samples_are_never_a_mean_over_the_rest(rows, num_prompts, message):
    with pytest.raises(DataError, match=message):
        summarise(rows, (1,), num_prompts=num_prompts)


def test_more_than_was_sampled_is_refused():
    with pytest.raises(ConfigError, match="k = 3 needs at least 3 samples of every problem"):
        summarise(make_rows({"a": 1}, 2), (1, 3), num_prompts=1)
