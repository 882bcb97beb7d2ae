import json
from dataclasses import replace

import numpy as np
import pytest
from experiment_helpers import write_evaluation

from ngrpo.errors import DataError
from ngrpo.lab.exact import Exact, write_exact
from ngrpo.lab.results import Row, compare, compared_columns, exact_values, read_row
from ngrpo.stats import Interval

HALF = float(np.log(0.5))


def exact(*logprobs: float, ks=(1, 2, 4, 8)) -> Exact:
    ids = tuple(map(str, range(len(logprobs))))
    return Exact(prompt_ids=ids, strata={}, ks=ks, temperature=1.0, logprob=np.array(logprobs))


def test_exact_scores_take_the_place_of_counts(tmp_path):
    folder = write_evaluation(tmp_path / "eval", [[0] * 8, [0] * 8])
    write_exact(tmp_path / "exact.json", exact(HALF, HALF))
    row = read_row("r", [folder])
    assert [row.pass_at_k[k].estimate for k in (1, 2, 4, 8)] == pytest.approx([0.5, 0.75, 1 - 2**-4, 1 - 2**-8])
    # Trapezoids over log2 k, of equal width.
    area = (0.5 / 2 + 0.75 + (1 - 2**-4) + (1 - 2**-8) / 2) / 3
    assert row.values["AUC 1..8"].estimate == pytest.approx(area)
    assert row.values["all wrong"].estimate == pytest.approx(2**-8)
    assert row.values["all right"].estimate == pytest.approx(2**-8)
    assert row.values["mixed"].estimate == pytest.approx(1 - 2**-7)
    assert row.values["entropy"].estimate == 0.5  # samples still tell this
    assert row.is_exact


def test_exact_values_of_certain_prompts():
    values = exact_values(exact(0.0, -np.inf), num_samples=8)
    assert values[0] == pytest.approx([1, 1, 1, 1, 1, 0, 0, 1])
    assert values[1] == pytest.approx([0, 0, 0, 0, 0, 1, 0, 0])


def test_few_samples_have_no_group_shares():
    assert exact_values(exact(HALF, ks=(1, 2)), num_samples=4).shape == (1, 3)


def test_only_prompts_of_one_difficulty(tmp_path):
    folder = write_evaluation(tmp_path / "eval", [[1] * 8, [0] * 8, [0] * 8])
    lines = [json.loads(line) for line in (folder / "problems.jsonl").read_text().splitlines()]
    marked = [{**line, "difficulty": kind} for line, kind in zip(lines, ("easy", "hard", "hard"), strict=True)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(line) + "\n" for line in marked))
    assert read_row("r", [folder]).pass_at_k[1].estimate == pytest.approx(1 / 3)
    hard = read_row("r", [folder], difficulty="hard")
    assert (hard.num_prompts, hard.pass_at_k[1].estimate) == (2, 0.0)


def test_one_seed_has_an_interval_over_prompts(tmp_path):
    row = read_row("r", [write_evaluation(tmp_path / "eval", [[1] * 8, [0] * 8])])
    assert (row.pass_at_k[1].low, row.pass_at_k[1].high) == (0.0, 1.0)


def test_other_seeds_or_prompts_are_not_compared(tmp_path):
    two = read_row("two", [write_evaluation(tmp_path / f"a{seed}" / "eval", [[1] * 8]) for seed in range(2)])
    three = read_row("three", [write_evaluation(tmp_path / f"b{seed}" / "eval", [[1] * 8]) for seed in range(3)])
    wide = read_row("wide", [write_evaluation(tmp_path / "c" / "eval", [[1] * 8, [0] * 8])])
    with pytest.raises(DataError, match="two and three have not the same seeds and prompts"):
        compare(two, three)
    with pytest.raises(DataError, match="two and wide have not"):
        compare(two, wide)


@pytest.mark.parametrize(("ids", "ks"), [(("0", "other"), (1, 2, 4, 8)), (("0", "1"), (1, 2, 4))])
def test_exact_scores_of_another_evaluation_are_refused(tmp_path, ids, ks):
    folder = write_evaluation(tmp_path / "eval", [[0] * 8, [0] * 8])
    write_exact(tmp_path / "exact.json", replace(exact(HALF, HALF, ks=ks), prompt_ids=ids))
    with pytest.raises(DataError, match=r"exact\.json has other prompts or other k"):
        read_row("r", [folder])


def row_of(ks, num_samples, values):
    point = Interval(0.0, 0.0, 0.0)
    return Row("r", *np.shape(values)[:2], num_samples, ks, {1: point}, {}, 1.0, np.array(values))


def test_the_largest_k_is_shown_whatever_it_is():
    ks = tuple(2**power for power in range(9))
    columns = compared_columns(row_of(ks, 256, np.zeros((1, 1, 15))))
    assert list(columns) == ["pass@1", "pass@8", "pass@64", "pass@256", "AUC 1..256", "entropy", "length"]
    assert list(columns.values()) == [0, 3, 6, 8, 9, 13, 14]
    assert list(compared_columns(row_of((1, 2), 2, np.zeros((1, 1, 5))))) == [
        "pass@1", "pass@2", "AUC 1..2", "entropy", "length",
    ]  # fmt: skip


def test_entropy_and_length_weigh_every_prompt_alike_and_are_compared(tmp_path):
    """Two prompts of 8 samples: of 1 token at 0.2 nats, and of 3 tokens at 0.6: by token it would be 0.5, not 0.4."""
    folder = write_evaluation(tmp_path / "a" / "eval", [[0] * 8, [0] * 8])
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    told = {"0": {"tokens": 1, "entropy_nats": 0.2}, "1": {"tokens": 3, "entropy_nats": 0.6}}
    (folder / "samples.jsonl").write_text(
        "".join(json.dumps({**line, **told[line["prompt"]]}) + "\n" for line in lines)
    )
    row = read_row("a", [folder])
    assert (row.values["entropy"].estimate, row.values["length"].estimate) == pytest.approx((0.4, 2.0))
    other = read_row("b", [write_evaluation(tmp_path / "b" / "eval", [[0] * 8, [0] * 8], tokens=2)])
    found = compare(row, other)  # 0.5 nats and 2 tokens everywhere
    assert found["entropy"].estimate == pytest.approx(-0.1)
    assert (found["entropy"].low, found["entropy"].high) == pytest.approx((-0.3, 0.1))
    assert (found["length"].estimate, found["length"].low, found["length"].high) == pytest.approx((0, -1, 1))
