"""What a GPU makes of it, in one call of under 8 minutes: is it right, how fast, how near to what the machine can do.

The model has the shape of Qwen2.5-0.5B and random weights: the arithmetic does not care. Bounds are computed from the
rate of matrix products and the memory bandwidth measured first. A part that fails says so, and the others still run.

    PYTHONPATH=src python benchmarks/gpu.py                        # a plain checkout will do
    PYTHONPATH=src python benchmarks/gpu.py --json > gpu.jsonl
    PYTHONPATH=src python benchmarks/gpu.py --device cpu --small   # a tiny model: does the script itself work
"""

import argparse
import copy
import math
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils import logging

import bench
import step
from gpu_checks import gap_of_steps, plain_gradient, plain_logprobs
from ngrpo.policy import Policy
from ngrpo.rollout import NativeEngine, SampleRequest, Sampling, graphed, random_key
from ngrpo.rollout.graphed import GraphedDecoder
from ngrpo.rollout.native import draw
from ngrpo.train.assemble import TrainingRun
from ngrpo.train.step import TrainingRow, update
from ngrpo.types import Prompt
from shapes import SHAPES, Setting, Shape, make_run

SAMPLING = Sampling(1)

COLUMNS = {"part": "part", "what": "what", "value": "value", "unit": "unit", "share": "share of bound", "note": "note"}

Row = dict[str, object]


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    setting: Setting  # of the whole step; its shape is that of all parts
    gemm: int  # rows, columns and depth of the product that gives the peak rate
    copied: int  # numbers copied to measure the bandwidth
    batches: tuple[int, ...]  # rows decoded at a time
    context: int  # tokens in the cache of each row, where single steps are timed
    num_steps: int  # timed together
    prompt_tokens: int  # of a prompt, in sampling and update
    new_tokens: int  # sampled per row by ours
    generated_tokens: int  # and by `transformers.generate`, of which only the rate is wanted
    groups: int  # of 8 completions, in the update
    trained_tokens: int  # of each of these
    microbatch_tokens: int  # of the update
    memory_tokens: int  # of completions, in the update whose memory is measured

    @property
    def shape(self) -> Shape:
        """Of the model."""
        return self.setting.shape


FULL = Sizes(
    Setting(SHAPES["0.5B"], num_prompts=32, max_tokens=512, prompt_tokens=(100, 200)),
    gemm=8192, copied=2**30, batches=(64, 256, 1024), context=1024, num_steps=30, prompt_tokens=256, new_tokens=256,
    generated_tokens=64, groups=16, trained_tokens=512, microbatch_tokens=16384, memory_tokens=2048,
)  # fmt: skip
SMALL = Sizes(
    Setting(SHAPES["tiny"], num_prompts=4, group_size=4, max_tokens=8, prompt_tokens=(10, 20)),
    gemm=256, copied=2**20, batches=(4, 12), context=40, num_steps=3, prompt_tokens=12, new_tokens=6,
    generated_tokens=4, groups=2, trained_tokens=12, microbatch_tokens=256, memory_tokens=64,
)  # fmt: skip


class Bench:
    """What the parts have in common: the run, and what the machine was measured to do."""

    def __init__(self, run: TrainingRun, sizes: Sizes, options: argparse.Namespace) -> None:
        self.run, self.sizes, self.options = run, sizes, options
        self.policy: Policy = run.policy
        self.device = run.policy.device
        self.dtype = run.policy.autocast_dtype or torch.float32
        self.flops_per_s = self.bytes_per_s = math.nan

    def seconds(self, work: Callable[[], object]) -> float:
        """Median over repeats, one more before them to warm up."""
        laps = bench.interleave({"": lambda _: work() is None or 1}, repeats=self.options.repeats)
        return statistics.median(lap.wall_s for lap in laps[""])

    def seconds_of_each(self, work: Callable[[], object]) -> float:
        """The same where one is too short to be timed."""
        return self.seconds(lambda: len([work() for _ in range(self.sizes.num_steps)])) / self.sizes.num_steps

    def prompts(self, count: int, num_tokens: int) -> list[Prompt]:
        """Of random tokens."""
        random = torch.Generator().manual_seed(count)
        ids = torch.randint(2, self.sizes.shape.vocabulary // 2, (count, num_tokens), generator=random).tolist()
        return [Prompt(str(place), "", tuple(row), "") for place, row in enumerate(ids)]

    def requests(self, count: int) -> list[SampleRequest]:
        """Eight completions of each prompt, as in a rollout."""
        prompts = self.prompts(-(-count // 8), self.sizes.prompt_tokens)
        return [
            SampleRequest(prompts[row // 8], random_key(seed=0, stream=0, step=0, occurrence=row // 8, sample=row % 8))
            for row in range(count)
        ]

    def step_bound_s(self, num_rows: int, context: int) -> float:
        """The least time of one decoding step: matrices and cache read once, or the products computed."""
        shape, size = self.sizes.shape, self.dtype.itemsize
        num_weights = shape.num_layer_weights + shape.num_head_weights
        read = size * (num_weights + num_rows * context * shape.num_kv)
        return max(read / self.bytes_per_s, 2 * num_weights * num_rows / self.flops_per_s)


def machine_rates(b: Bench) -> Iterator[Row]:
    """Peak rate of matrix products in the dtype of the forward passes, and memory bandwidth."""
    one, other = torch.randn((2, b.sizes.gemm, b.sizes.gemm), device=b.device).to(b.dtype)
    b.flops_per_s = 2 * b.sizes.gemm**3 / b.seconds(lambda: [one @ other for _ in range(5)]) * 5
    yield {"what": f"matrix product {b.dtype}", "value": round(b.flops_per_s / 1e12, 3), "unit": "TFLOP/s"}
    source = torch.ones(b.sizes.copied, device=b.device)
    target = torch.empty_like(source)
    b.bytes_per_s = 8 * b.sizes.copied / b.seconds(lambda: [target.copy_(source) for _ in range(5)]) * 5
    yield {"what": "copy, bytes read and written", "value": round(b.bytes_per_s / 1e9, 1), "unit": "GB/s"}


def decode_is_right(b: Bench) -> Iterator[Row]:
    """Recorded steps, and what is sampled, against the forward pass in float32."""
    plain = replace(b.policy, autocast_dtype=None)
    with torch.inference_mode():
        rows = [list(prompt.token_ids) for prompt in b.prompts(5, 20)]
        for policy, tolerance in ((plain, 1e-3), (b.policy, 0.05)):
            decoder = GraphedDecoder(policy, num_positions=30, max_rows=5)
            gap = max(gap_of_steps(policy, plain, decoder, rows))
            name = "float32" if policy is plain else str(b.dtype)
            yield checked(f"logits of a step, {name}, against float32 (relative)", gap, tolerance)
        yield {"what": "flash attention over the columns in use", "value": decoder.new_cache().reads_own_columns_only}
        yield {"what": "CUDA graphs recorded", "value": len(decoder._recorded)}
        requests = b.requests(8)
        completions = NativeEngine(b.policy, max_rows=8).sample(requests, Sampling(b.sizes.trained_tokens // 4))
        gaps = []
        for request, completion in zip(requests, completions, strict=True):
            expected = plain_logprobs(plain, request.prompt.token_ids, completion.token_ids)
            gaps.append((torch.tensor(completion.logprobs) - expected.cpu()).abs())
    gaps = torch.cat(gaps)
    yield checked("log-probabilities as sampled, against float32 (mean)", float(gaps.mean()), 0.05)
    yield {"what": "the same, largest", "value": round(float(gaps.max()), 5), "unit": "nats"}


def checked(what: str, error: float, tolerance: float) -> Row:
    """A row that says whether an error is small enough; NaN is not."""
    return {
        "what": what,
        "value": float(f"{error:.2g}"),
        "note": "right" if error <= tolerance else f"WRONG, more than {tolerance}",
    }


def training_rows(b: Bench, groups: int, num_tokens: int, group_size: int = 8) -> list[TrainingRow]:
    """Completions of random tokens, half of them good; old log-probabilities are those of equal chances."""
    prompts = b.prompts(groups, b.sizes.prompt_tokens)
    texts = b.prompts(groups * group_size, num_tokens)
    chance = -math.log(b.sizes.shape.vocabulary)
    return [
        TrainingRow(
            prompts[place // group_size].token_ids, text.token_ids, (chance,) * num_tokens, 1.0 - 2.0 * (place % 2),
            group=place // group_size,
        )
        for place, text in enumerate(texts)
    ]  # fmt: skip


def one_update(b: Bench, policy: Policy, rows: list[TrainingRow], optimizer: torch.optim.Optimizer) -> None:
    """As the trainer does it; gradients are not clipped."""
    update(
        policy, optimizer, b.run.objective, rows,
        temperature=1.0, max_microbatch_tokens=b.sizes.microbatch_tokens, max_grad_norm=1e9,
    )  # fmt: skip


def update_is_right(b: Bench) -> Iterator[Row]:
    """Gradients of an update against automatic differentiation of a plain loss in float32."""
    plain = replace(b.policy, autocast_dtype=None)
    rows = []
    for row in training_rows(b, 2, b.sizes.trained_tokens // 8, group_size=2):
        with torch.no_grad():  # the policy itself as the old one: no ratio is clipped
            old = plain_logprobs(plain, row.prompt_ids, row.completion_ids)
        rows.append(replace(row, old_logprobs=tuple(old.tolist())))
    expected = plain_gradient(plain, rows)
    size = math.sqrt(sum(float(gradient.square().sum()) for gradient in expected))
    parameters = b.policy.trainable_parameters()
    stays = torch.optim.SGD(parameters, lr=0.0)
    for policy, tolerance in ((plain, 1e-3), (b.policy, 0.1)):
        one_update(b, policy, rows, stays)
        error = sum(float((p.grad - e).square().sum()) for p, e in zip(parameters, expected, strict=True))
        name = "float32" if policy is plain else str(b.dtype)
        yield checked(f"gradient of an update, {name}, against float32 (relative)", math.sqrt(error) / size, tolerance)


def single_steps(b: Bench) -> Iterator[Row]:
    """One decoding step at each batch: all of it, and its parts."""
    with torch.inference_mode():
        for num_rows in b.sizes.batches:
            yield from parts_of_a_step(b, num_rows)


def parts_of_a_step(b: Bench, num_rows: int) -> Iterator[Row]:
    """Of so many rows."""
    context, device = b.sizes.context, b.device
    decoder = GraphedDecoder(b.policy, num_positions=context + 1, max_rows=num_rows)
    cache = fill(decoder, num_rows, context)
    tokens = torch.ones(num_rows, dtype=torch.long, device=device)
    positions = torch.full((num_rows,), context, device=device)
    logits = decoder.step(tokens, positions, cache)
    states = torch.randn((num_rows, b.sizes.shape.hidden), device=device)
    randoms = torch.rand(num_rows, dtype=torch.float64, device=device)
    taken = b.seconds_of_each(lambda: decoder.step(tokens, positions, cache))
    share = round(b.step_bound_s(num_rows, context) / taken, 3)
    yield {"what": f"step, {num_rows} rows, context {context}", **milliseconds(taken), "share": share}
    ways = {
        "of it the head": lambda: decoder.logits(states),
        "to draw from it": lambda: draw(logits, randoms, SAMPLING),
    }
    for name, work in ways.items():
        yield {"what": f"{name}, {num_rows} rows", **milliseconds(b.seconds_of_each(work))}
    decoder._records = False
    taken = b.seconds_of_each(lambda: decoder.step(tokens, positions, cache))
    yield {"what": f"step without a graph, {num_rows} rows", **milliseconds(taken)}


def compiled_draw(b: Bench) -> Iterator[Row]:
    """What there would be to gain from compiling the operations that go over the whole vocabulary."""
    if b.device.type != "cuda":
        yield {"what": "drawing, compiled", "note": "tried on a GPU only"}
        return
    with torch.inference_mode():
        logits = torch.randn((b.sizes.batches[-2], b.sizes.shape.vocabulary), device=b.device)
        randoms = torch.rand(len(logits), dtype=torch.float64, device=b.device)
        for name, way in {"as it is": draw, "compiled": torch.compile(draw, dynamic=False)}.items():
            taken = b.seconds_of_each(lambda: way(logits, randoms, SAMPLING))  # noqa: B023  called at once
            yield {"what": f"drawing {name}, {len(logits)} rows", **milliseconds(taken)}


def fill(decoder: GraphedDecoder, num_rows: int, context: int) -> graphed.SlotCache:
    """A cache with rows of so many tokens, zeros all of them."""
    cache = decoder.new_cache()
    layers, _, _, _, heads, size = cache.stored.shape
    prompt = torch.zeros((1, heads, context, size), dtype=cache.stored.dtype, device=cache.stored.device)
    places = torch.zeros(num_rows, dtype=torch.long, device=prompt.device)
    cache.rebuild(places[:0], [(prompt, prompt)] * layers, places[:1] + context, places)
    return cache


def milliseconds(seconds: float) -> Row:
    """A time as rows show it."""
    return {"value": round(1e3 * seconds, 3), "unit": "ms"}


def attention_kernels(b: Bench) -> Iterator[Row]:
    """Both ways of reading the cache, one layer of a step."""
    sizes, shape = b.sizes, b.sizes.shape
    num_rows, size = sizes.batches[-2], shape.hidden // shape.heads
    keys, values = torch.randn((2, num_rows, sizes.context, shape.kv_heads, size), device=b.device).to(b.dtype)
    queries = torch.randn((num_rows, shape.heads, size), device=b.device).to(b.dtype)
    bias = torch.zeros((num_rows, sizes.context), dtype=b.dtype, device=b.device)
    lengths = torch.full((num_rows,), sizes.context, dtype=torch.int32, device=b.device)
    starts = [graphed._starts(num_rows, each, b.device) for each in (1, sizes.context)]
    ways = {"masked": lambda: graphed.masked_attention(queries, keys, values, bias, 0.1)}
    if graphed.flash_works((shape.heads, shape.kv_heads), size, b.dtype, b.device):
        ways["flash"] = lambda: graphed.flash_attention(queries, keys, values, starts, lengths, 0.1)
    bound = 2 * keys.numel() * b.dtype.itemsize / b.bytes_per_s
    for name, work in ways.items():
        taken = b.seconds_of_each(work)
        row = {"what": f"{name} attention of one layer, {num_rows} rows", **milliseconds(taken)}
        yield row | {"share": round(bound / taken, 3)}


def sampling_rates(b: Bench) -> Iterator[Row]:
    """Whole completions by our engine and by `generate` with weights in the run's dtype; none ends early."""
    model = copy.deepcopy(b.policy.model).to(b.dtype).eval()
    for num_rows in b.sizes.batches:
        requests = b.requests(num_rows)
        ours, row = rate_of_ours(b, requests)
        yield row
        theirs = rate_of_generate(b, model, requests)
        note = f"ours {ours / theirs:.1f} times as fast"
        yield {"what": f"generate, {num_rows} rows", "value": round(theirs), "unit": "tokens/s", "note": note}


def rate_of_ours(b: Bench, requests: list[SampleRequest]) -> tuple[float, Row]:
    """Tokens per second, reading of prompts included."""
    num_rows, sizes = len(requests), b.sizes
    policy = replace(b.policy, eos_token_ids=(sizes.shape.vocabulary,))
    engine = NativeEngine(policy, max_rows=num_rows, cache_gib=32.0)
    taken = b.seconds(lambda: engine.sample(requests, Sampling(sizes.new_tokens)))
    rate = num_rows * sizes.new_tokens / taken
    bound = sizes.new_tokens * b.step_bound_s(num_rows, sizes.prompt_tokens + sizes.new_tokens // 2)
    what = f"ours, {num_rows} rows, {sizes.prompt_tokens} + {sizes.new_tokens} tokens"
    return rate, {"what": what, "value": round(rate), "unit": "tokens/s", "share": round(bound / taken, 3)}


def rate_of_generate(b: Bench, model: Any, requests: list[SampleRequest]) -> float:
    """Tokens per second, reading of prompts included."""
    ids = torch.tensor([request.prompt.token_ids for request in requests], device=b.device)
    config = GenerationConfig(
        do_sample=True, top_k=0, top_p=1.0, max_new_tokens=b.sizes.generated_tokens, eos_token_id=None, pad_token_id=0
    )
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        taken = b.seconds(lambda: model.generate(ids, attention_mask=mask, generation_config=config))
    return len(ids) * b.sizes.generated_tokens / taken


def update_rate(b: Bench) -> Iterator[Row]:
    """Tokens per second of an update, and its share of the peak: products with matrices, each prompt counted once."""
    sizes, shape = b.sizes, b.sizes.shape
    rows = training_rows(b, sizes.groups, sizes.trained_tokens)
    num_tokens = len(rows) * sizes.trained_tokens
    taken = b.seconds(lambda: one_update(b, b.policy, rows, b.run.optimizer))
    num_read = num_tokens + sizes.groups * sizes.prompt_tokens
    flops = 6 * (shape.num_layer_weights * num_read + shape.num_head_weights * num_tokens)
    what = f"{sizes.groups} groups of 8, {sizes.prompt_tokens} + {sizes.trained_tokens} tokens"
    share = round(flops / b.flops_per_s / taken, 3)
    yield {"what": what, "value": round(num_tokens / taken), "unit": "completion tokens/s", "share": share}


def update_memory(b: Bench) -> Iterator[Row]:
    """What an update takes beyond weights, gradients and optimiser, against a loss over all logits at once."""
    if b.device.type != "cuda":
        yield {"what": "peak memory of an update", "note": "measured on a GPU only"}
        return
    rows = training_rows(b, 1, b.sizes.memory_tokens // 8)
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids] for row in rows], device=b.device)
    signs = torch.tensor([[row.advantage] for row in rows], device=b.device)

    def with_all_logits() -> None:
        b.policy.model.zero_grad(set_to_none=False)
        with b.policy.arithmetic():
            logits = b.policy.model(ids, use_cache=False).logits[:, b.sizes.prompt_tokens - 1 : -1].float()
        logprobs = logits.log_softmax(-1).gather(-1, ids[:, b.sizes.prompt_tokens :, None]).squeeze(-1)
        (-(signs * logprobs).mean()).backward()

    ways = {"ours": lambda: one_update(b, b.policy, rows, b.run.optimizer), "all logits": with_all_logits}
    extra = {}
    for name, work in ways.items():
        work()  # gradients and the optimiser's state exist from now on
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        extra[name] = (torch.cuda.max_memory_allocated() - before) / 2**30
        what = f"{name}, {b.sizes.memory_tokens} tokens, vocabulary {b.sizes.shape.vocabulary}"
        yield {"what": what, "value": round(extra[name], 3), "unit": "GiB"}
    yield {"what": "ours over all logits", "value": round(extra["ours"] / extra["all logits"], 3)}


def whole_step(b: Bench) -> Iterator[Row]:
    """Sampling, rewards and four updates as `ngrpo train` does them, and TRL's where it is installed."""
    ways = {"ours": step.train_ours} | ({} if step.trl is None else {"trl": step.train_trl})
    turns = step.take_turns(
        {way: (train, b.sizes.setting, b.options) for way, train in ways.items()}, b.options.repeats
    )
    row = bench.compare({way: [turn.lap for turn in each] for way, each in turns.items()})
    setting = b.sizes.setting
    what = f"{setting.num_prompts} prompts, {setting.group_size} completions each, {setting.max_tokens} tokens at most"
    note = f"TRL {row['trl_per_s']}: {row['trl_ratio']} times" if "trl_ratio" in row else "TRL is not installed"
    yield {"what": what, "value": row["ours_per_s"], "unit": "completion tokens/s", "note": note}


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "machine": machine_rates,
    "check": decode_is_right,
    "check of the update": update_is_right,
    "one step": single_steps,
    "attention": attention_kernels,
    "sampling": sampling_rates,
    "update": update_rate,
    "memory": update_memory,
    "whole step": whole_step,
    "compiling": compiled_draw,
}


def report_all(b: Bench, report: bench.Report, until: float) -> list[str]:
    """Runs every part. Returns what went wrong, one line each."""
    wrong = []
    for name, part in PARTS.items():
        if time.monotonic() > until:
            report.add({"part": name, "note": "left out: the time is up"})
            continue
        began = time.monotonic()
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                for row in part(b):
                    report.add({"part": name, **row})
                    wrong += [f"{name}: {row['what']} is wrong"] if "WRONG" in str(row.get("note")) else []
            for text in dict.fromkeys(str(each.message) for each in said if each.category is UserWarning):
                report.add({"part": name, "note": text})
        except Exception as error:  # noqa: BLE001  whatever it is, the other parts are still wanted
            traceback.print_exc()
            wrong.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            report.add({"part": name, "note": f"FAILED: {wrong[-1]}"})
        report.add({"part": name, "what": "the part itself", "value": round(time.monotonic() - began, 1), "unit": "s"})
        if b.device.type == "cuda":
            torch.cuda.empty_cache()
    return wrong


def main() -> None:
    """Prints a table, or JSON lines; fails where a part did or a check says wrong."""
    began = time.monotonic()
    parser = bench.arguments(__doc__, repeats=3, threads=4)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny model and short runs")
    parser.add_argument("--minutes", type=float, default=7.0, help="no part begins later (default: %(default)s)")
    options = parser.parse_args()
    options.precision = "bfloat16" if torch.device(options.device).type == "cuda" else "float32"
    logging.set_verbosity_error()
    sizes = SMALL if options.small else FULL
    report = bench.Report(options, COLUMNS, device=options.device)
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), sizes.setting, device=options.device, precision=options.precision)
        made = {"what": "model made and loaded", "value": round(time.monotonic() - began, 1), "unit": "s"}
        report.add({"part": "machine", **made})
        wrong = report_all(Bench(run, sizes, options), report, until=began + 60 * options.minutes)
        run.close()
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
