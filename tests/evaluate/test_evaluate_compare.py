"""Comparing two evaluations: numbers by hand, what is told, what is refused."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.errors import DataError, RunFolderError
from ngrpo.evaluate.compare import compare, compare_folders, evaluation_folders, sign_test_p
from ngrpo.stats import mean_interval, paired_interval, pass_at_k

SETTINGS = {
    "model": "base", "data": "three", "fingerprint": "f00d", "num_prompts": 3, "num_samples": 4, "ks": [],
    "temperature": 0.6, "top_p": 0.95, "top_k": 0, "max_completion_tokens": 64, "seed": 1, "reward": "math",
    "engine": "native", "precision": "auto", "template": "boxed", "judge": {"profile": "strict"},
}  # fmt: skip


def write_evaluation(folder, verdicts, *, problems=None, golds=None, votes=True, **changes):
    """An evaluation folder as `ngrpo eval` writes it; `verdicts` is prompt -> one text per sample, "1" for correct."""
    folder.mkdir(parents=True)
    described = SETTINGS | {"num_prompts": len(verdicts), "num_samples": None} | changes
    (folder / "eval.json").write_text(json.dumps({"settings": described}))
    rows = [
        {"prompt": name, "gold": (golds or {}).get(name, f"gold {name}"), "problem": (problems or {}).get(name, name)}
        for name in verdicts
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [
        {"prompt": name, "sample": sample, "correct": verdict == "1", "kind": "scored", "finish_reason": "stop",
         "tokens": 3, "entropy_nats": 0.1, "normal_form": verdict if votes else None}
        for name, given in verdicts.items() for sample, verdict in enumerate(given)
    ]  # fmt: skip
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def two(tmp_path):
    first = write_evaluation(tmp_path / "first", {"a": "1111", "b": "1020", "c": "0000", "d": "0110"})
    second = write_evaluation(tmp_path / "second", {"a": "1110", "b": "0230", "c": "0100", "d": "1100"}, model="new")
    return first, second


def test_numbers_by_hand(two):
    found = compare(*two)
    assert (found.num_problems, found.num_samples, found.num_only) == (4, (4, 4), (0, 0))
    assert found.models == ("base", "new")
    # Correct of 4: 4, 1, 0, 2 against 3, 0, 1, 2.
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.sign_test_p == 1.0  # 2 of 3: every split is at least as even as 2 to 1
    assert list(found.quantities) == ["pass@1", "pass@2", "pass@4", "auc", "maj@2", "maj@4"]
    # pass@2 of 0..4 correct of 4: 0, 1/2, 5/6, 1, 1.
    expected = {
        "pass@1": (7 / 16, 6 / 16),
        "pass@2": ((1 + 1 / 2 + 5 / 6) / 4, (1 + 1 / 2 + 5 / 6) / 4), "pass@4": (3 / 4, 3 / 4),
        "maj@2": (7 / 16, 6 / 16),  # all have an answer and ties are shared: as often right as one sample
        # Votes 1111 right, 1020 is led by 0, 0000 wrong, 0110 tied; 1110 right, 0230 and 0100 led by 0, 1100 tied.
        "maj@4": (1.5 / 4, 1.5 / 4),
    }  # fmt: skip
    for name, (ours, theirs) in expected.items():
        quantity = found.quantities[name]
        assert (quantity.first.estimate, quantity.second.estimate) == pytest.approx((ours, theirs))
        assert quantity.difference.estimate == pytest.approx(ours - theirs, abs=1e-12)
    assert found.quantities["auc"].first.estimate == pytest.approx((7 / 32 + expected["pass@2"][0] + 3 / 8) / 2)
    assert [problem.prompt for problem in found.only_first_solved] == ["b"]
    (changed,) = found.only_second_solved
    assert (changed.prompt, changed.gold, changed.num_correct, changed.num_samples) == ("c", "gold c", (0, 1), (4, 4))
    assert found.differing == ()


def test_intervals_are_paired_and_of_the_same_order_of_problems(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"p{place}" for place in range(40)]
    chances = rng.random(40)
    ours = {name: "".join(rng.choice(["0", "1"], 4, p=[1 - p, p])) for name, p in zip(names, chances, strict=True)}
    theirs = {name: text[::-1] if name != "p3" else "1111" for name, text in ours.items()}
    theirs["p3"], ours["p3"] = "1111", "0000"
    first = write_evaluation(tmp_path / "first", ours)
    second = write_evaluation(tmp_path / "second", {name: theirs[name] for name in reversed(names)})
    found = compare(first, second)
    assert (found.wins, found.ties, found.losses) == (0, 39, 1)
    counts = np.array([[text[name].count("1") for name in names] for text in (ours, theirs)])
    by_problem = pass_at_k(4, counts, 2)
    difference, alone = paired_interval(*by_problem), mean_interval(by_problem[0])
    quantity = found.quantities["pass@2"]
    assert (quantity.difference.low, quantity.difference.high) == pytest.approx((difference.low, difference.high))
    assert (quantity.first.low, quantity.first.high) == pytest.approx((alone.low, alone.high))
    assert not quantity.is_established
    assert quantity.difference.high - quantity.difference.low < alone.high - alone.low  # pairing pays


def test_established_is_an_interval_without_zero(tmp_path):
    first = write_evaluation(tmp_path / "first", {f"p{place}": "11" for place in range(30)})
    second = write_evaluation(tmp_path / "second", {f"p{place}": "00" for place in range(30)})
    quantity = compare(first, second).quantities["pass@1"]
    assert quantity.is_established
    assert quantity.difference.low > 0.9
    assert compare(second, first).quantities["pass@1"].is_established
    written = compare(first, second).as_dict()
    assert written["quantities"]["pass@1"]["is_established"] is True
    assert json.loads(json.dumps(written))["wins"] == 30


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 30), st.integers(0, 30))
def test_the_sign_test_is_exact(wins, losses):
    total = wins + losses
    chances = [math.comb(total, count) / 2**total for count in range(total + 1)]
    as_uneven = [chance for count, chance in enumerate(chances) if abs(2 * count - total) >= abs(wins - losses)]
    assert sign_test_p(wins, losses) == pytest.approx(sum(as_uneven))
    assert sign_test_p(wins, losses) == sign_test_p(losses, wins)


def test_a_thousand_wins_do_not_overflow():
    assert sign_test_p(5000, 0) == 0.0
    assert sign_test_p(2600, 2400) == pytest.approx(0.0049, abs=2e-4)


def test_everything_that_differs_is_told(tmp_path):
    first = write_evaluation(tmp_path / "first", {"a": "10", "b": "11"})
    second = write_evaluation(
        tmp_path / "second", {"a": "1011", "b": "1100"}, golds={"b": "8"}, votes=False, fingerprint="beef",
        template="plain", temperature=1.0, max_completion_tokens=4096, judge={"profile": "paper"}, seed=2,
        precision="float32", model="new", top_p=None,
    )  # fmt: skip
    found = compare(first, second)
    assert found.differing == (
        "fingerprint of the data: 'f00d' and 'beef'",
        "prompt template: 'boxed' and 'plain'",
        "temperature: 0.6 and 1.0",
        "top-p: 0.95 and not known",
        "largest number of tokens: 64 and 4096",
        "reward settings: {profile = 'strict'} and {profile = 'paper'}",
        "precision: 'auto' and 'float32'",
        "seed: 1 and 2",
        "gold answers, of 1 of 2 problems, such as 'b'",
        "only one has the normal forms of answers, so there is no maj@k",
    )
    assert (found.ks, found.num_samples) == ((1, 2), (2, 4))
    assert list(found.quantities) == ["pass@1", "pass@2", "auc"]
    # 1 of 2 against 3 of 4, and 2 of 2 against 2 of 4: shares are compared, not counts.
    assert (found.wins, found.losses) == (1, 1)


def test_uneven_samples_end_the_ks_and_are_named(tmp_path):
    first = write_evaluation(tmp_path / "first", {"a": "10110000", "b": "111"})
    second = write_evaluation(tmp_path / "second", {"a": "10110000", "b": "11110000"})
    found = compare(first, second)
    assert found.ks == (1, 2, 3)
    assert found.differing == ("samples per problem within the first: 3 ('b') to 8, so k ends at 3",)
    # Of the first, a: 101 right, 100 wrong; b: 111 right, and nothing behind it that could vote.
    assert found.quantities["maj@3"].first.estimate == pytest.approx(0.75)


def test_other_problems_are_refused_or_left_out(tmp_path):
    first = write_evaluation(tmp_path / "first", {"a": "11", "b": "10", "x": "00"})
    second = write_evaluation(tmp_path / "second", {"b": "11", "a": "01", "y": "10", "z": "11"})
    with pytest.raises(DataError, match=r"2 are in both, 1 only in the first, 2 only in the second, such as 'x', 'y'"):
        compare(first, second)
    found = compare(first, second, only_shared=True)
    assert (found.num_problems, found.num_only) == (2, (1, 2))
    assert (found.wins, found.ties, found.losses) == (1, 0, 1)
    assert found.quantities["pass@1"].first.estimate == pytest.approx(0.75)


def test_an_equal_id_of_another_text_is_another_problem(tmp_path):
    first = write_evaluation(tmp_path / "first", {"1": "11", "2": "10"}, problems={"1": "1 + 1", "2": "2 + 2"})
    second = write_evaluation(tmp_path / "second", {"1": "11", "2": "10"}, problems={"1": "1 + 1", "2": "3 + 3"})
    with pytest.raises(DataError, match=r"1 are in both.*'2'\. 1 of them have an id in common, but another text"):
        compare(first, second)
    assert compare(first, second, only_shared=True).num_problems == 1
    unknown = write_evaluation(tmp_path / "unknown", {"1": "11", "2": "10"}, problems={"1": "", "2": ""})
    assert compare(first, unknown).num_problems == 2


def test_nothing_in_common_is_refused_even_where_shared_is_enough(tmp_path):
    first = write_evaluation(tmp_path / "first", {"a": "1"})
    second = write_evaluation(tmp_path / "second", {"b": "1"})
    with pytest.raises(DataError, match=r"0 are in both.*There is nothing to compare"):
        compare(first, second, only_shared=True)


def test_an_incomplete_evaluation_is_refused_by_name(tmp_path):
    first = write_evaluation(tmp_path / "first", {"a": "1111", "b": "1010"}, num_samples=4)
    second = write_evaluation(tmp_path / "second", {"a": "1111", "b": "10"}, num_samples=4)
    with pytest.raises(DataError, match=r"second: 1 of 2 prompts lack samples: 'b' \(2 of 4\)"):
        compare(first, second)


def test_a_single_sample_has_pass_at_1_only(tmp_path):
    first = write_evaluation(tmp_path / "first", {"a": "1", "b": "0"})
    assert list(compare(first, first).quantities) == ["pass@1"]


def test_folders_of_data_sets_are_paired_by_name(tmp_path):
    for side, sets in (("first", ("amc", "math")), ("second", ("math", "amc")), ("third", ("math", "aime"))):
        for name in sets:
            write_evaluation(tmp_path / side / name, {"a": "10"}, data=name)
    first, second, third = (tmp_path / side for side in ("first", "second", "third"))
    assert list(evaluation_folders(first)) == ["amc", "math"]
    assert [found.data for found in compare_folders(first, second)] == ["amc", "math"]
    with pytest.raises(DataError, match=r"only one of .* has an evaluation named aime, amc\..*--shared"):
        compare_folders(first, third)
    assert [found.data for found in compare_folders(first, third, only_shared=True)] == ["math"]
    with pytest.raises(DataError, match=r"math is one evaluation, .*first holds several: amc, math\. Give one"):
        compare_folders(first, second / "math")
    with pytest.raises(RunFolderError, match=r"holds no evaluation: neither it nor a folder in it has an eval\.json"):
        compare_folders(first, tmp_path)
