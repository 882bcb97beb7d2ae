import json

import pytest
from experiment_helpers import write_evaluation

from ngrpo.lab.results import read_row
from ngrpo.lab.tables import (
    Cell,
    as_markdown,
    cell_text,
    difference_cell,
    difference_table,
    print_tables,
    seeds_caveat,
    value_table,
    with_failed,
    write_results,
)
from ngrpo.stats import Interval


def right(count: int) -> list[int]:
    return [1] * count + [0] * (8 - count)


@pytest.fixture
def rows(tmp_path):
    """Two seeds of `strong` (every prompt 8 or 6 of 8 right) and of `weak` (2 or 0 of 8), and one base (4 of 8)."""
    counts = {"strong": [[8, 6], [6, 8]], "weak": [[2, 0], [0, 2]], "base": [[4, 4]]}
    return {
        name: read_row(
            name,
            [
                write_evaluation(tmp_path / name / str(seed) / "eval", [right(count) for count in of_seed])
                for seed, of_seed in enumerate(seeds)
            ],
        )
        for name, seeds in counts.items()
    }


def test_values_are_those_of_the_counts(rows):
    table = value_table("t", list(rows.values()), quantities=["pass@1", "pass@8", "entropy", "length", "all wrong"])
    strong, weak, base = table.rows.values()
    assert strong["pass@1"].estimate == pytest.approx(100 * 7 / 8)
    assert weak["pass@1"].estimate == pytest.approx(100 / 8)
    assert weak["pass@8"].estimate == pytest.approx(50)  # a prompt with 2 of 8 right, one without any
    assert base["pass@1"] == Cell(*[pytest.approx(50)] * 3, "percent")  # no prompt differs: the interval is a point
    assert (base["entropy"].estimate, base["entropy"].unit) == (0.5, "nats")
    assert (base["length"].estimate, base["length"].unit) == (3.0, "tokens")
    assert weak["all wrong"].estimate == pytest.approx(50)
    assert (table.num_seeds, table.num_prompts, table.num_samples, table.max_k, table.temperature) == (2, 2, 8, 8, 1.0)
    assert table.footer.startswith("n: 2 seeds x 2 prompts x 8 samples at T = 1; k from 1 to 8.")


def test_differences_are_paired_by_seed_and_prompt(rows):
    table = difference_table("t", [rows["strong"]], rows["weak"])
    cell = table.rows["strong - weak"]["pass@1"]
    # 6 of 8 in every seed and prompt: paired, nothing is left to vary.
    assert (cell.estimate, cell.low, cell.high) == pytest.approx((75, 75, 75))
    assert cell.established is True
    assert cell.unit == "points"


def test_a_difference_to_a_single_model_is_paired_by_prompt(rows):
    cell = difference_table("t", [rows["weak"]], rows["base"]).rows["weak - base"]["pass@1"]
    assert cell.estimate == pytest.approx(100 / 8 - 50)
    assert cell.low < cell.estimate < cell.high
    assert cell.established is (cell.high < 0)


def test_an_interval_that_holds_zero_is_printed_as_not_established(capsys, rows):
    table = difference_table("gains", [rows["weak"]], rows["weak"])
    cell = table.rows["weak - weak"]["pass@1"]
    assert cell.established is False
    assert cell_text(cell)[0] == "not established"
    print_tables([table])
    assert "not established" in capsys.readouterr().out
    assert "not established" in as_markdown(table)


@pytest.mark.parametrize(
    ("low", "high", "is_established"),
    [(0.0, 0.1, False), (-0.1, 0.0, False), (0.001, 0.1, True), (-0.1, -0.001, True), (-0.1, 0.1, False)],
)
def test_established_means_that_zero_is_outside(low, high, is_established):
    interval = Interval(0.5 * (low + high), low, high)
    assert difference_cell("pass@1", interval, num_seeds=2).established is is_established


def test_one_seed_establishes_nothing(rows):
    assert difference_cell("pass@1", Interval(0.5, 0.4, 0.6), num_seeds=1).established is False
    table = difference_table("t", [rows["base"]], rows["base"])
    (cells,) = table.rows.values()
    assert not any(cell.established for cell in cells.values())
    assert "so no difference is established" in table.footer


def test_differences_have_their_own_units(rows):
    cells = difference_table("t", [rows["weak"]], rows["base"]).rows["weak - base"]
    assert {name: cell.unit for name, cell in cells.items()} == {
        "pass@1": "points", "pass@8": "points", "AUC 1..8": "points", "entropy": "nats", "length": "tokens",
    }  # fmt: skip
    assert cell_text(difference_cell("entropy", Interval(0.1, 0.05, 0.2), 2)) == ("+0.100", "+0.050..+0.200")


def test_what_is_no_difference_is_neither(rows):
    table = value_table("t", [rows["base"]], quantities=["pass@1"])
    assert table.rows["base"]["pass@1"].established is None
    assert "not established" not in as_markdown(table)


def test_few_seeds_are_said_to_be_few():
    assert "over prompts only" in seeds_caveat(1)
    assert "With fewer than 5 seeds" in seeds_caveat(4)
    assert seeds_caveat(5) == ""


def test_a_table_of_one_seed_says_so(rows):
    assert "One seed: intervals are over prompts only" in value_table("t", [rows["base"]], quantities=["pass@1"]).footer


def test_an_arm_that_failed_has_a_line(capsys, rows):
    table = value_table("t", [rows["base"]], quantities=["pass@1", "pass@8"])
    assert with_failed(table, []) == table
    table = with_failed(table, ["broken [arm]"])
    assert table.caption == "Left out, because a run failed: broken [arm]."
    assert "| broken [arm] | failed | - |" in as_markdown(table)
    print_tables([table])
    assert "broken [arm]" in capsys.readouterr().out


def test_tables_are_narrow(capsys, rows):
    values = ["pass@1", "pass@8", "AUC 1..8"]
    long_name = type(rows["strong"])(**{**vars(rows["strong"]), "name": "grpo + entropy bonus"})
    tables = [value_table("t", [long_name], quantities=values), difference_table("t", [long_name], rows["base"])]
    print_tables(tables, width=60)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 60
    for column in tables[1].columns:  # what does not fit is shown below
        assert column in out
    assert "…" not in out


def test_results_are_written_as_json_and_as_text(tmp_path, rows):
    write_results(tmp_path, [value_table("Values", [rows["base"]], quantities=["pass@1"])], {"failed": {}})
    told = json.loads((tmp_path / "results.json").read_text())
    assert told["failed"] == {}
    (table,) = told["tables"]
    assert set(table) == {
        "title", "caption", "columns", "rows", "num_seeds", "num_prompts", "num_samples", "max_k", "temperature",
        "footer",
    }  # fmt: skip
    assert table["rows"][0]["cells"]["pass@1"] == {
        "estimate": pytest.approx(50), "low": pytest.approx(50), "high": pytest.approx(50), "unit": "percent",
        "established": None,
    }  # fmt: skip
    assert "| base | 50.0 |" in (tmp_path / "results.md").read_text()
