"""How often intervals hold the truth: simulated evaluations of 30, 40 and 500 problems.

A problem is a chance p of a correct sample, drawn from a population; its n samples are drawn with it. A quantity is a
mean over problems, its true value the mean over the population. Of every simulated evaluation each method makes a 95 %
interval, and what counts is the share of intervals that hold the true value, and how wide they are. Pairs of models are
drawn with p of the second shifted and scattered on the logit scale. The methods that were not chosen are written out
here; the chosen ones are `ngrpo.stats.mean_interval` and `paired_interval` themselves.

    python benchmarks/coverage.py              # prints the tables, some minutes on one core
    python benchmarks/coverage.py --write      # and puts them into docs/statistics.md
"""

import argparse
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from ngrpo.stats import k_grid, mean_interval, paired_interval, pass_at_k, pass_at_k_auc, sampling_variances
from ngrpo.stats.intervals import student_quantile

DOCUMENT = Path(__file__).parent.parent / "docs" / "statistics.md"
SIZES = (30, 40, 500)
NUMS_SAMPLES = (1, 16, 256)
SHOWN_KS = (1, 8, 64, 256)
TRIALS = 2000
RESAMPLES = 1000
POPULATION_SIZE = 400_000
LEVEL = 0.95

Ends = tuple[np.ndarray, np.ndarray]
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def aime(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Most problems never or hardly ever solved, some often."""
    kind = rng.random(size)
    return np.where(
        kind < 0.4, 0.0, np.where(kind < 0.85, rng.beta(0.25, 2.5, size), rng.beta(2.0, 1.5, size))
    )  # fmt: skip


def amc(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """From never to always."""
    return rng.beta(0.7, 0.6, size)


def math500(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Most problems nearly always solved, one in twenty hardly ever."""
    return np.where(rng.random(size) < 0.05, rng.beta(0.3, 4.0, size), rng.beta(3.0, 0.25, size))


def small(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """A small model: every problem seldom, none often."""
    return rng.beta(0.5, 8.0, size)


def unsolved(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """All but one in fourteen out of reach."""
    return np.where(rng.random(size) < 0.93, rng.beta(0.02, 3.0, size), rng.random(size))


def solved(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """All but one in seventeen within reach."""
    return np.where(rng.random(size) < 0.94, 1 - rng.beta(0.05, 5.0, size), rng.beta(0.5, 1.0, size))


POPULATIONS: dict[str, Draw] = {
    "AIME-like": aime, "AMC-like": amc, "MATH-like": math500, "small model": small, "nearly unsolved": unsolved,
    "nearly solved": solved,
}  # fmt: skip
PAIRS = {"the same model": (0.0, 0.0), "somewhat better": (0.4, 0.5), "much better": (1.5, 1.0)}
"""Shift and scatter of the second model's logits."""


# ------------------------------------------------------------------------------------------------------- quantities


def quantities(num_samples: int) -> tuple[list[str], np.ndarray]:
    """Names, and [n + 1, M] values by the number of correct samples. maj@n is of wrong samples that all agree."""
    ks = k_grid(num_samples)
    counts = np.arange(num_samples + 1)
    passed = np.stack([pass_at_k(num_samples, counts, k) for k in ks], axis=1)
    columns = {f"pass@{k}": passed[:, ks.index(k)] for k in SHOWN_KS if k in ks}
    if num_samples > 1:
        columns["AUC"] = pass_at_k_auc(ks, passed)
        columns[f"maj@{num_samples}"] = np.sign(2 * counts - num_samples) / 2 + 0.5
    return list(columns), np.stack(list(columns.values()), axis=1)


def true_values(p: np.ndarray, num_samples: int) -> np.ndarray:
    """[M] expected quantities of a population: unbiased, so means over the binomial of each problem.

    Averaged over a fine histogram of p, whose bins are narrow where p is near 0 or 1.
    """
    _, table = quantities(num_samples)
    edges = (1 - np.cos(np.linspace(0, np.pi, 20_001))) / 2
    weights, _ = np.histogram(p, edges)
    sums, _ = np.histogram(p, edges, weights=p)
    used = weights > 0
    centres = np.clip(sums[used] / weights[used], 0.0, 1.0)
    return (
        weights[used]
        / len(p)
        @ np.concatenate([binomial(num_samples, part) @ table for part in np.array_split(centres, 20)])
    )


def binomial(num_samples: int, p: np.ndarray) -> np.ndarray:
    """[len(p), n + 1] probabilities of every number of successes."""
    counts = np.arange(num_samples + 1)
    log_factorials = np.array([math.lgamma(count + 1) for count in counts])
    log_ways = log_factorials[-1] - log_factorials - log_factorials[::-1]
    inside = np.clip(p, 1e-300, 1 - 1e-16)[:, None]
    return np.exp(log_ways + counts * np.log(inside) + counts[::-1] * np.log1p(-inside))


# ---------------------------------------------------------------------------------------------------------- methods


def student(x: np.ndarray) -> Ends:
    """Mean give or take t standard errors."""
    half = student_quantile(LEVEL, len(x) - 1) * x.std(axis=0, ddof=1) / math.sqrt(len(x))
    return x.mean(axis=0) - half, x.mean(axis=0) + half


def bootstraps(x: np.ndarray) -> dict[str, Ends]:
    """[P, trials] -> percentile, expanded percentile (Hesterberg 2015), BCa and bootstrap-t (Efron) intervals.

    Every trial sees the same resamples: they are drawn apart from the data.
    """
    size, normal = len(x), NormalDist()
    weights = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), size=RESAMPLES) / size
    mean, means = x.mean(axis=0), weights @ x
    ordered = np.sort(means, axis=0)
    tail = (1 - LEVEL) / 2
    z = normal.inv_cdf(tail)
    wider = normal.cdf(-math.sqrt(size / (size - 1)) * student_quantile(LEVEL, size - 1))
    below = np.clip((means < mean).mean(axis=0) + (means == mean).mean(axis=0) / 2, 1 / RESAMPLES, 1 - 1 / RESAMPLES)
    bias = np.array([normal.inv_cdf(chance) for chance in below])
    deviations = x - mean
    skew = (deviations**3).sum(axis=0) / np.maximum(6 * (deviations**2).sum(axis=0) ** 1.5, 1e-300)
    moved = [bias + (bias + end) / np.maximum(1 - skew * (bias + end), 1e-9) for end in (z, -z)]
    corrected = [np.array([normal.cdf(value) for value in values]) for values in moved]
    variances = np.maximum(weights @ x**2 - means**2, 0.0) * size / (size - 1)
    studentised = np.quantile((means - mean) / np.sqrt(np.maximum(variances, 1e-12) / size), [tail, 1 - tail], axis=0)
    error = x.std(axis=0, ddof=1) / math.sqrt(size)
    return {
        "percentile bootstrap": (_at(ordered, tail), _at(ordered, 1 - tail)),
        "expanded percentile": (_at(ordered, wider), _at(ordered, 1 - wider)),
        "BCa bootstrap": (_at(ordered, corrected[0]), _at(ordered, corrected[1])),
        "bootstrap-t": (mean - studentised[1] * error, mean - studentised[0] * error),
    }


def _at(ordered: np.ndarray, quantile: np.ndarray | float) -> np.ndarray:
    """Quantiles of sorted columns, another one for each column."""
    columns = np.arange(ordered.shape[1])
    place = np.broadcast_to(quantile, columns.shape) * (len(ordered) - 1)
    under = np.floor(place).astype(int)
    over = np.minimum(under + 1, len(ordered) - 1)
    return ordered[under, columns] * (1 - place + under) + ordered[over, columns] * (place - under)


def methods_of_a_mean(x: np.ndarray) -> dict[str, Ends]:
    """Every method's ends, cut to what a share can be."""
    found = bootstraps(x) | {"Student's t": student(x)}
    chosen = mean_interval(x)
    cut = {name: (np.clip(low, 0, 1), np.clip(high, 0, 1)) for name, (low, high) in found.items()}
    return cut | {"chosen": (chosen.low, chosen.high)}


def methods_of_a_difference(x: np.ndarray, y: np.ndarray) -> dict[str, Ends]:
    """As of a mean, of the differences."""
    resampled = bootstraps(x - y)
    chosen = paired_interval(x, y)
    found = {name: resampled[name] for name in ("percentile bootstrap", "BCa bootstrap")}
    return found | {"Student's t": student(x - y), "chosen": (chosen.low, chosen.high)}


# ------------------------------------------------------------------------------------------------------- simulation


@dataclass(frozen=True)
class Case:
    """One cell of the experiment: what was measured of every method there.

    Attributes:
        population: Its name, and for pairs that of the pair.
        num_samples: Of each problem.
        quantity: Its name.
        coverage: Share of intervals with the truth, by method.
        width: Mean width, by method.
        excludes_zero: Share of intervals without zero, by method.
    """

    population: tuple[str, ...]
    num_samples: int
    quantity: str
    coverage: dict[str, float]
    width: dict[str, float]
    excludes_zero: dict[str, float]


def measured(names: tuple[str, ...], num_samples: int, quantity: str, ends: dict[str, Ends], truth: float) -> Case:
    """Counts hits. A rounding error is no miss."""
    hits = {name: float(((low <= truth + 1e-9) & (truth - 1e-9 <= high)).mean()) for name, (low, high) in ends.items()}
    widths = {name: float((high - low).mean()) for name, (low, high) in ends.items()}
    excludes = {name: float(((low > 1e-12) | (high < -1e-12)).mean()) for name, (low, high) in ends.items()}
    return Case(names, num_samples, quantity, hits, widths, excludes)


def simulate_means(size: int) -> Iterator[Case]:
    """Every population, number of samples and quantity."""
    rng = np.random.default_rng(size)
    for name, draw in POPULATIONS.items():
        p, population = draw(rng, (size, TRIALS)), draw(np.random.default_rng(0), (POPULATION_SIZE,))
        for num_samples in NUMS_SAMPLES:
            labels, table = quantities(num_samples)
            correct, truths = rng.binomial(num_samples, p), true_values(population, num_samples)
            for column, label in enumerate(labels):
                yield measured((name,), num_samples, label, methods_of_a_mean(table[correct, column]), truths[column])


def simulate_pairs(size: int) -> Iterator[Case]:
    """Every population, pair of models, number of samples and quantity."""
    rng = np.random.default_rng(size)
    for name, draw in POPULATIONS.items():
        for pair, (shift, scatter) in PAIRS.items():
            p, population = draw(rng, (size, TRIALS)), draw(np.random.default_rng(0), (POPULATION_SIZE,))
            other, other_population = shifted(rng, p, shift, scatter), shifted(rng, population, shift, scatter)
            for num_samples in NUMS_SAMPLES:
                labels, table = quantities(num_samples)
                correct, other_correct = rng.binomial(num_samples, p), rng.binomial(num_samples, other)
                truths = true_values(population, num_samples) - true_values(other_population, num_samples)
                for column, label in enumerate(labels):
                    ends = methods_of_a_difference(table[correct, column], table[other_correct, column])
                    yield measured((name, pair), num_samples, label, ends, truths[column])


def shifted(rng: np.random.Generator, p: np.ndarray, shift: float, scatter: float) -> np.ndarray:
    """Chances moved on the logit scale; what is impossible or certain stays so."""
    if shift == scatter == 0:
        return p
    odds = p / np.maximum(1 - p, 1e-300) * np.exp(shift + scatter * rng.normal(size=p.shape))
    return np.where(p >= 1, 1.0, odds / (1 + odds))


def sampling_error_ratios(size: int = 500, num_samples: int = 256) -> list[list[str]]:
    """Estimated over true standard error with problems fixed, by population."""
    rng = np.random.default_rng(1)
    labels, table = quantities(num_samples)
    rows = []
    for name, draw in POPULATIONS.items():
        correct = rng.binomial(num_samples, draw(rng, (size,)), size=(TRIALS, size))
        true = table[correct].mean(axis=1).std(axis=0)
        by_count = sampling_variances(table, np.arange(num_samples + 1))
        estimated = np.sqrt(by_count[correct].sum(axis=1)).mean(axis=0) / size
        rows.append([name, *(f"{ratio:.2f}" for ratio in (estimated / true)[: len(labels) - 1])])
    return [["", *labels[:-1]], *rows]


# ----------------------------------------------------------------------------------------------------------- tables


def as_table(rows: list[list[str]]) -> str:
    """Markdown; the first row is the head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def overview(cases: dict[int, list[Case]], *, only: Callable[[Case], bool] = lambda case: True) -> str:
    """Per method and number of problems: mean and lowest coverage, cases below 93 %, width."""
    head = ["", *(f"{size} problems: mean, lowest, below 93 %, width" for size in cases)]
    rows = [head]
    for method in next(iter(cases.values()))[0].coverage:
        row = [method]
        for found in cases.values():
            chosen = [case for case in found if only(case)]
            hits = np.array([case.coverage[method] for case in chosen])
            width = np.mean([case.width[method] for case in chosen])
            low = int((hits < 0.93).sum())
            row.append(f"{100 * hits.mean():.1f} %, {100 * hits.min():.0f} %, {low} of {len(hits)}, {100 * width:.1f}")
        rows.append(row)
    return as_table(rows)


def detail(cases: list[Case], *, pair: str | None = None) -> str:
    """Coverage of the percentile bootstrap and of the chosen interval, and the latter's width, by quantity."""
    rows = [["n", "quantity", *POPULATIONS]]
    for key in dict.fromkeys((case.num_samples, case.quantity) for case in cases):
        row = [str(key[0]), key[1]]
        for case in cases:
            if (case.num_samples, case.quantity) == key and (pair is None or case.population[1] == pair):
                old, new = 100 * case.coverage["percentile bootstrap"], 100 * case.coverage["chosen"]
                row.append(f"{old:.1f} / **{new:.1f}** ({100 * case.width['chosen']:.1f})")
        rows.append(row)
    return as_table(rows)


def false_alarms(cases: dict[int, list[Case]]) -> str:
    """Of the same model twice: mean and largest share of intervals that leave zero out."""
    rows = [["", *(f"{size} problems: mean, largest" for size in cases)]]
    for method in next(iter(cases.values()))[0].coverage:
        row = [method]
        for found in cases.values():
            shares = [case.excludes_zero[method] for case in found if case.population[1] == "the same model"]
            row.append(f"{100 * np.mean(shares):.1f} %, {100 * max(shares):.1f} %")
        rows.append(row)
    return as_table(rows)


def report() -> Iterator[tuple[str, str]]:
    """Title and table, one after the other."""
    means = {size: list(simulate_means(size)) for size in SIZES}
    yield "One model, all cases", overview(means)
    three = ("AIME-like", "AMC-like", "MATH-like")
    yield (
        "One model, pass@1 of AIME-, AMC- and MATH-like problems",
        overview(means, only=lambda case: case.quantity == "pass@1" and case.population[0] in three),
    )
    for size, cases in means.items():
        yield f"One model, {size} problems", detail(cases)
    pairs = {size: list(simulate_pairs(size)) for size in SIZES}
    yield "Two models, all cases", overview(pairs)
    yield (
        "Two models, AIME- and AMC-like problems and a small model",
        overview(pairs, only=lambda case: case.population[0] in ("AIME-like", "AMC-like", "small model")),
    )
    yield "The same model twice: intervals that leave zero out", false_alarms(pairs)
    for size, cases in pairs.items():
        yield f"Two models, one much better, {size} problems", detail(cases, pair="much better")
    yield "Sampling error, 500 problems of 256 samples: estimated over true", as_table(sampling_error_ratios())


def main() -> None:
    """Prints the tables, and writes them where asked to."""
    parser = argparse.ArgumentParser(description="Coverage of intervals over problems, by simulation.")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {DOCUMENT.name}")
    is_written = parser.parse_args().write
    sections = []
    for title, table in report():
        sections.append(f"### {title}\n\n{table}\n")
        print(sections[-1], flush=True)
    if is_written:
        text = DOCUMENT.read_text(encoding="utf-8")
        head, end = "<!-- tables: from here on written by benchmarks/coverage.py -->", "<!-- tables end -->"
        tables = f"{head}\n\n" + "\n".join(sections) + f"\n{end}"
        DOCUMENT.write_text(re.sub(f"{head}.*{end}", lambda _: tables, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
