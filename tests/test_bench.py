"""The harness of the benchmarks: what it computes from laps."""

import argparse
import doctest
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import bench
import roofline
import shapes
from bench import Lap


def test_exponents_are_those_of_power_laws():
    sizes = [3, 7, 20, 100]
    assert bench.power(sizes, [5 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert bench.power(sizes, [0.3 for _ in sizes]) == pytest.approx(0.0)


def test_the_exponent_of_scattered_costs_is_that_of_least_squares():
    # Logarithms to base 2: (0, 0), (1, 2), (2, 1); the slope is sum((x - 1) * (y - 1)) / sum((x - 1)^2) = 1 / 2.
    assert bench.power([1, 2, 4], [1, 4, 2]) == pytest.approx(0.5)


def test_ways_take_turns_and_warm_ups_do_not_count():
    calls = []

    def way(name):
        def run(repeat):
            calls.append((name, repeat))
            return 10 * repeat + (name == "theirs")

        return run

    laps = bench.interleave({"ours": way("ours"), "theirs": way("theirs")}, repeats=2, warm_ups=1)
    assert calls == [(name, repeat) for repeat in range(3) for name in ("ours", "theirs")]
    assert [lap.amount for lap in laps["ours"]] == [10, 20]
    assert [lap.amount for lap in laps["theirs"]] == [11, 21]
    assert all(lap.wall_s > 0 and lap.cpu_s >= 0 for each in laps.values() for lap in each)


def test_ratios_are_of_pairs_and_their_median_is_taken():
    ours = [Lap(100, 1.0, 2.0), Lap(100, 1.0, 2.0), Lap(100, 4.0, 2.0)]  # 100, 100, 25 per second; 50 per CPU second
    theirs = [Lap(100, 2.0, 4.0), Lap(50, 4.0, 4.0), Lap(100, 16.0, 5.0)]  # 50, 12.5, 6.25; 25, 12.5, 20
    row = bench.compare({"ours": ours, "theirs": theirs})
    assert row == {
        "ours_per_s": 100.0,
        "ours_per_cpu_s": 50.0,
        "theirs_per_s": 12.5,
        "theirs_per_cpu_s": 20.0,
        "theirs_ratio": 4.0,  # of 2, 8 and 4; the ratio of the medians would be 8
        "theirs_ratio_low": 2.0,
        "theirs_ratio_high": 8.0,
        "theirs_cpu_ratio": 2.5,  # of 2, 4 and 2.5
    }


@pytest.mark.parametrize(
    ("rate", "shown"), [(12345.6, 12346), (123.4, 123), (12.345, 12.3), (0.012345, 0.0123), (0, 0)]
)
def test_rates_have_three_digits_that_count(rate, shown):
    assert bench.compare({"ours": [Lap(rate, 1.0, 1.0)]})["ours_per_s"] == pytest.approx(shown, abs=0)


def test_a_report_prints_columns_as_a_table_and_everything_as_json(capsys):
    row = {"setting": "tiny", "rate": 3.5, "beside": 1}
    columns = {"setting": "what", "rate": "tokens/s", "other": "not in this row"}
    for as_json in (False, True):
        report = bench.Report(argparse.Namespace(json=as_json, threads=1), columns)
        report.add(row)
        report.note("said to people only")
    table, line = capsys.readouterr().out.rstrip("\n").rsplit("\n", 1)
    facts, *rest = table.split("\n")
    assert "torch" in facts
    assert "threads 1" in facts
    assert rest == [
        "",
        "| what | tokens/s | not in this row |",
        "| --- | --- | --- |",
        "| tiny | 3.5 |  |",
        "",
        "said to people only",
    ]
    read = json.loads(line)
    assert {key: read[key] for key in row} == row
    assert read["machine"]["threads"] == 1


def test_docstring_examples_hold():
    assert doctest.testmod(bench).failed == 0


def test_operations_of_an_update_are_those_that_torch_counts():
    shape = shapes.Shape(32, 3, 4, 2, 48, 1000, 50)
    setting = shapes.Setting(shape, num_prompts=1, group_size=1, max_tokens=30, prompt_tokens=(20, 20))
    model = shapes.make_model(setting)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(50).unsqueeze(0), logits_to_keep=30).logits.sum().backward()
    counts = counter.get_flop_counts()["Global"]
    products, attention = counts[torch.ops.aten.mm] + counts[torch.ops.aten.addmm], counts[torch.ops.aten.bmm]
    # All pairs of positions are computed here, of which half are later than the one that looks.
    assert roofline.update_operations(setting) == products + attention / 2


def test_sampling_is_bound_by_memory_or_by_arithmetic():
    shape = shapes.Shape(32, 3, 4, 2, 48, 1000, 50)
    assert (shape.num_layer_weights, shape.num_head_weights, shape.num_kv) == (23_040, 32_000, 96)
    # One row, a prompt of one token, two tokens to sample: the prompt is read and one step is decoded, at position 2.
    setting = shapes.Setting(shape, num_prompts=1, group_size=1, max_tokens=2, prompt_tokens=(1, 1))
    reading, decoding = 2 * 55_040 + 2 * 96, 2 * 55_040 + 4 * 2 * 96
    num_bytes = 4 * (55_040 + 2 * 96)
    slow_arithmetic = roofline.Machine(float32=1.0, bfloat16=1.0, copied=1e12, read=1e12)
    assert roofline.sampling_bound(setting, slow_arithmetic, is_gpu=False) == (reading + decoding, "arithmetic")
    slow_memory = roofline.Machine(float32=1e12, bfloat16=1e12, copied=1.0, read=1.0)
    bound_s, waits_for = roofline.sampling_bound(setting, slow_memory, is_gpu=False)
    assert (bound_s, waits_for) == (pytest.approx(num_bytes), "memory")


def test_a_tokenizer_has_a_text_for_every_token_of_the_model():
    tokenizer = shapes.make_tokenizer(300)
    assert len(tokenizer) == 300
    texts = tokenizer.batch_decode([[token] for token in range(258, 300)])
    assert len(set(texts)) == 42
    assert all(texts)


def test_hopeless_prompts_earn_nothing_and_others_earn_by_their_completion():
    prompts = shapes.make_prompts(shapes.Setting(shapes.SHAPES["tiny"], num_prompts=8, hopeless_frac=0.25))
    assert sum(prompt.startswith("z") for prompt in prompts) == 2
    assert len(set(prompts)) == 8
    completions = [str(number) for number in range(1000)]
    assert set(shapes.score(["zab"] * 1000, completions)) == {0.0}
    assert 400 < sum(shapes.score(["abc"] * 1000, completions)) < 600
