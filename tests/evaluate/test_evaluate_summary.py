"""From counts to numbers: by hand, and never over fewer prompts than there are."""

import json
import math

import numpy as np
import pytest
from evaluation_rows import make_folder, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.errors import ConfigError, DataError
from ngrpo.evaluate import read_counts, summarise
from ngrpo.evaluate.summary import quantity_names, values_by_prompt
from ngrpo.stats import mean_interval


def summary_of(folder, counts, num_samples, ks=(), **changes):
    """Of prompts with so many correct samples each."""
    rows = [row for name, correct in counts.items() for row in rows_of(name, correct, num_samples, **changes)]
    return summarise(read_counts(make_folder(folder, rows, prompts=list(counts), num_samples=num_samples)), ks)


def estimates(quantities):
    return {name: quantity.estimate for name, quantity in quantities.items()}


def test_two_prompts_by_hand(tmp_path):
    # n = 4; c = 1: pass@1 = 1/4, pass@2 = 1 - C(3,2)/C(4,2) = 1/2, pass@4 = 1; c = 4: always 1.
    summary = summary_of(tmp_path, {"a": 1, "b": 4}, 4)
    part = summary.overall
    assert summary.ks == (1, 2, 4)  # the grid, where none is given
    assert estimates(part.pass_at_k) == pytest.approx({1: 0.625, 2: 0.75, 4: 1.0})
    # Trapezoids over log2 k = 0, 1, 2: ((0.625 + 0.75) / 2 + (0.75 + 1) / 2) / 2.
    assert part.auc.estimate == pytest.approx(0.78125)
    assert part.mean.estimate == pytest.approx(5 / 8)
    assert part.groups == {}  # too few samples for groups of 8
    assert (part.num_prompts, part.min_num_samples, part.max_num_samples) == (2, 4, 4)
    assert (part.num_none_correct, part.num_all_correct) == (0, 1)
    # Values 1/4 and 1: their standard deviation is 0.75 / sqrt 2.
    assert part.pass_at_k[1].se == pytest.approx(0.75 / math.sqrt(2) / math.sqrt(2))
    expected = mean_interval([0.25, 1.0])
    assert (part.pass_at_k[1].low, part.pass_at_k[1].high) == pytest.approx((expected.low, expected.high))


def test_the_error_of_sampling_is_the_binomial_one(tmp_path):
    # c = 50 of 100 twice: p (1 - p) / n each, of a mean over two prompts; the error over prompts is 0.
    part = summary_of(tmp_path, {"a": 50, "b": 50}, 100, ks=(1,)).overall
    assert part.mean.sampling_se == pytest.approx(math.sqrt(0.25 / 100 / 2))
    assert part.pass_at_k[1].sampling_se == pytest.approx(part.mean.sampling_se)
    assert part.mean.se == 0.0


def test_what_one_prompt_or_one_sample_cannot_say_is_none(tmp_path):
    one_prompt = summary_of(tmp_path / "a", {"a": 3}, 8).overall
    assert (one_prompt.mean.se, one_prompt.auc.se) == (None, None)
    assert one_prompt.mean.sampling_se > 0
    one_sample = summary_of(tmp_path / "b", {"a": 1, "b": 0}, 1).overall
    assert one_sample.mean.sampling_se is None
    assert one_sample.auc is None
    assert one_sample.mean.se == pytest.approx(0.5)


def test_groups_by_hand(tmp_path):
    # n = 8: the one group of 8 is all wrong for c = 0, all right for c = 8, mixed otherwise.
    part = summary_of(tmp_path / "a", {"a": 0, "b": 8, "c": 3, "d": 5}, 8, ks=(1,)).overall
    assert estimates(part.groups) == pytest.approx({"all_wrong": 0.25, "mixed": 0.5, "all_right": 0.25})
    assert (part.num_none_correct, part.num_all_correct) == (1, 1)
    # n = 9, c = 1: a group of 8 leaves one sample out, the correct one with probability 1/9.
    part = summary_of(tmp_path / "b", {"a": 1}, 9, ks=(1,)).overall
    assert part.groups["all_wrong"].estimate == pytest.approx(1 / 9)


def test_majorities_by_hand(tmp_path):
    # a: 7 7 5 -> maj@3: 1. b: 5 - 7 with 7 correct: a tie of two; the one without an answer has no vote.
    rows = [
        *(row | {"correct": form == "7", "normal_form": form} for row, form in
          zip(rows_of("a", 0, 3), ("7", "7", "5"), strict=True)),
        *(row | {"correct": form == "7", "normal_form": form} for row, form in
          zip(rows_of("b", 0, 3), ("5", None, "7"), strict=True)),
    ]  # fmt: skip
    part = summarise(read_counts(make_folder(tmp_path, rows, prompts=["a", "b"], num_samples=3)), (1, 3)).overall
    assert estimates(part.maj_at_k) == pytest.approx({3: (1 + 0.5) / 2})  # maj@1 is pass@1
    assert part.maj_at_k[3].sampling_se is None
    assert part.num_answers == 2.0
    entropy_of_a = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert part.answer_entropy_nats == pytest.approx((entropy_of_a + math.log(2)) / 2)


def test_where_no_normal_form_is_told_there_is_no_majority(tmp_path):
    part = summary_of(tmp_path / "a", {"a": 1}, 2, normal_form=None).overall
    assert (part.maj_at_k, part.num_answers, part.answer_entropy_nats) == ({}, None, None)
    part = summary_of(tmp_path / "b", {"a": 0}, 2, normal_form=None, kind="unparsed").overall
    assert estimates(part.maj_at_k) == {2: 0.0}  # nobody gave an answer: wrong, not unknown


def test_lengths_entropy_and_kinds_by_hand(tmp_path):
    rows = [
        *rows_of("a", 0, 1, tokens=2, entropy_nats=0.5, finish_reason="length", kind="unparsed", normal_form=None),
        *rows_of("b", 1, 1, tokens=6, entropy_nats=1.0),
        *rows_of("c", 0, 1, tokens=6, entropy_nats=1.0),
        *rows_of("d", 1, 1, tokens=10, entropy_nats=1.0),
    ]
    counts = read_counts(make_folder(tmp_path, rows, prompts=["a", "b", "c", "d"], num_samples=1))
    summary = summarise(counts, (1,))
    part = summary.overall
    assert (part.mean_tokens, part.p50_tokens) == (6.0, 6.0)
    assert part.p95_tokens == pytest.approx(6 + 4 * 0.85)  # between the third and the fourth of four
    assert part.entropy_nats == pytest.approx((2 * 0.5 + 22 * 1.0) / 24)  # per token, not per completion
    assert part.truncated_frac == 0.25
    assert part.not_truncated_correct_frac == pytest.approx(2 / 3)
    assert part.kind_fracs == {"scored": 0.75, "unparsed": 0.25}
    written = json.loads(json.dumps(summary.as_dict(), allow_nan=False))
    assert written["pass_at_k"]["1"]["estimate"] == 0.5
    assert written["pass_at_k"] == {"1": written["mean"]}


def test_what_a_file_does_not_say_is_none(tmp_path):
    part = summary_of(tmp_path, {"a": 1, "b": 0}, 2, tokens=None, finish_reason=None, entropy_nats=None).overall
    unknown = (part.truncated_frac, part.not_truncated_correct_frac, part.mean_tokens, part.p95_tokens)
    assert (*unknown, part.entropy_nats) == (None,) * 5
    assert part.mean.estimate == 0.25


def test_by_level_and_subject(tmp_path):
    rows = [row for name, correct in (("a", 0), ("b", 2), ("c", 1)) for row in rows_of(name, correct, 2)]
    strata = {"a": {"level": "1", "subject": "x"}, "b": {"level": "2"}, "c": {"level": "1", "subject": "x"}}
    summary = summarise(read_counts(make_folder(tmp_path, rows, prompts=["a", "b", "c"], num_samples=2, strata=strata)))
    assert {name: list(parts) for name, parts in summary.strata.items()} == {"level": ["1", "2"], "subject": ["", "x"]}
    first, second = summary.strata["level"].values()
    assert (first.num_prompts, first.mean.estimate, first.pass_at_k[2].estimate) == (2, 0.25, 0.5)
    assert (second.num_prompts, second.mean.estimate, second.num_all_correct) == (1, 1.0, 1)
    weighted = sum(part.num_prompts * part.mean.estimate for part in (first, second)) / 3
    assert weighted == pytest.approx(summary.overall.mean.estimate)
    assert summary.as_dict()["strata"]["level"]["1"]["num_prompts"] == 2


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 16), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_intervals_contain_their_estimates_and_order_of_rows_is_nothing(tmp_path_factory, correct, random):
    counts = {f"p{place}": value for place, value in enumerate(correct)}
    rows = [row for name, value in counts.items() for row in rows_of(name, value, 16)]
    folder = make_folder(tmp_path_factory.mktemp("one"), rows, prompts=list(counts), num_samples=16)
    summary = summarise(read_counts(folder))
    part = summary.overall
    for quantity in [*part.pass_at_k.values(), part.auc, *part.groups.values(), *part.maj_at_k.values()]:
        assert quantity.low - 1e-12 <= quantity.estimate <= quantity.high + 1e-12
    found = estimates(part.pass_at_k)
    assert sorted(found.values()) == list(found.values())  # pass@k rises with k
    assert sum(estimates(part.groups).values()) == pytest.approx(1.0)
    assert found[1] == pytest.approx(part.mean.estimate) == pytest.approx(np.mean(correct) / 16)
    assert found[16] == pytest.approx(np.mean([value > 0 for value in correct]))
    random.shuffle(rows)
    other = make_folder(tmp_path_factory.mktemp("other"), rows, prompts=list(counts), num_samples=16)
    again = summarise(read_counts(other)).as_dict()
    assert again == summary.as_dict()


def test_an_interval_narrows_with_prompts(tmp_path):
    def width(num_prompts):
        counts = {str(place): 4 * (place % 2) for place in range(num_prompts)}
        interval = summary_of(tmp_path / str(num_prompts), counts, 4, ks=(1,)).overall.pass_at_k[1]
        return interval.high - interval.low

    # Values 0 and 1 half and half: standard error 0.5 / sqrt(P), the interval 2 * 1.96 of it.
    of_100 = width(100)
    assert of_100 == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(100), rel=0.1)
    assert width(400) == pytest.approx(of_100 / 2, rel=0.1)


def test_names_and_columns_go_together():
    for num_samples, ks in [(4, (1,)), (4, (1, 2, 4)), (8, (1,)), (16, (1, 4))]:
        values = values_by_prompt(num_samples, np.array([0, 3]), ks)
        assert values.shape == (2, len(quantity_names(num_samples, ks)))
    assert quantity_names(8, (1, 2)) == ["pass@1", "pass@2", "auc", "all_wrong", "mixed", "all_right"]
    np.testing.assert_allclose(values_by_prompt(8, np.array([0, 8]), (1, 2)), [[0, 0, 0, 1, 0, 0], [1, 1, 1, 0, 0, 1]])


# --- uneven numbers of samples, and missing ones ---


def test_uneven_samples_are_summarised_up_to_the_fewest(tmp_path):
    rows = [*rows_of("a", 1, 2), *rows_of("b", 2, 9)]
    counts = read_counts(make_folder(tmp_path, rows, prompts=["a", "b"], num_samples=None))
    summary = summarise(counts)
    part = summary.overall
    assert summary.ks == (1, 2)
    assert (part.min_num_samples, part.max_num_samples) == (2, 9)
    assert part.mean.estimate == pytest.approx((1 / 2 + 2 / 9) / 2)  # over prompts, not over samples
    assert part.pass_at_k[2].estimate == pytest.approx((1 + 1 - (7 * 6) / (9 * 8)) / 2)
    assert part.groups == {}  # of 8 there are none for one of the prompts
    with pytest.raises(ConfigError, match=r"pass@4 needs 4 samples of every prompt; prompt 'a' has 2\. Lower --ks"):
        summarise(counts, (1, 4))


@pytest.mark.parametrize(
    ("rows", "prompts", "num_samples", "message"),
    [
        (rows_of("a", 1, 2), ["a", "b"], 2, r"1 of 2 prompts lack samples: 'b' \(0 of 2\)\. Run the same command"),
        ([*rows_of("a", 1, 2), *rows_of("b", 1, 3)], ["a", "b"], 3, r"1 of 2 prompts lack samples: 'a' \(2 of 3\)"),
        ([], ["a"], 4, r"1 of 1 prompts lack samples: 'a' \(0 of 4\)"),
        ([], ["a"], None, r"1 of 1 prompts lack samples: 'a' \(0 of 1\)"),
        (rows_of("a", 1, 3)[::2], ["a"], None, r"'a' \(2 of 3\)"),
        ([], list("abcdefg"), 1, r"7 of 7 prompts lack samples: 'a' \(0 of 1\), .*'e' \(0 of 1\) and 2 more\."),
    ],
)
def test_missing_prompts_or_samples_are_never_a_mean_over_the_rest(tmp_path, rows, prompts, num_samples, message):
    counts = read_counts(make_folder(tmp_path, rows, prompts=prompts, num_samples=num_samples))
    with pytest.raises(DataError, match=message):
        summarise(counts)


def test_problems_of_another_number_than_said_are_refused(tmp_path):
    folder = make_folder(tmp_path, rows_of("a", 1, 2), prompts=["a"], num_samples=2, num_prompts=2)
    with pytest.raises(DataError, match=r"is of 2 prompts, but problems\.jsonl has 1\. Run the same command again"):
        summarise(read_counts(folder))
