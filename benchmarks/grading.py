"""Grading, one worker of ours against sequential math-verify: same texts, fresh processes, processor time.

Theirs is `parse` of gold and completion and `verify`, one after the other in one process, once configured as TRL's
accuracy reward does it and once with the defaults; its imports and its first parse are not counted. Ours is
`MathReward.grade_pairs` of the whole batch, counted with everything: this process, the worker, and the worker's start.
Every measurement is a process of its own, so that all caches are cold. Repeats are interleaved, medians reported.
What two workers gain is measured by the clock on the wall; the ratios of one are of processor time.

    python benchmarks/grading.py                             # golds like those of MATH, made up here
    python benchmarks/grading.py --data math_train.parquet   # the last box of each `solution`
    python benchmarks/grading.py --memory                    # does a worker grow over 50,000 gradings?
"""

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction

from ngrpo.rewards import MathReward
from ngrpo.rewards.math import final_answer

ROLLOUTS = 8
"""Completions per problem of the mix; 45 % are the gold, 40 % the gold written differently, 15 % something else."""

THOUGHTS = (
    "Let us call the number $n$ and see what the first condition says about it.",
    "There are 12 ways to choose the first and 7 to choose the second, which makes 84.",
    "Since $x^2 - 3x + 2 = 0$, either $x = 1$ or $x = 2$.",
    "By symmetry it is enough to look at one half, where the area is $\\frac{1}{2} \\cdot 6 \\cdot 4 = 12$.",
    "Wait, that counts every pair twice, so we divide by 2.",
    "Adding the equations gives $2a + 2b = 30$.",
)

Pairs = list[tuple[str, str]]


# What is graded.


def made_up_golds(num: int, chance: random.Random) -> list[str]:
    """Golds of the kinds and shares of MATH: 66 % integers, 13 % fractions, 2 % decimals, the rest formulas."""

    def one() -> str:
        a, b, c = chance.randint(2, 60), chance.randint(2, 12), chance.randint(1, 9)
        kinds: list[tuple[float, str]] = [
            (65.7, str(chance.choice([a, a, a * b, -c, a * b * 25]))),
            (13.2, f"\\frac{{{a}}}{{{a + c}}}"),
            (2.0, f"{a}.{c}5"),
            (4.0, f"{b}\\sqrt{{{c + 1}}}"),
            (2.5, f"\\frac{{{a}\\pi}}{{{b}}}"),
            (3.0, f"({c}, {a}, {b})"),
            (1.5, f"[{-c}, {a}) \\cup ({a + b}, \\infty)"),
            (3.0, f"{b}x^2 - {a}x + {c}"),
            (1.0, f"{a}^\\circ"),
            (1.5, f"{a} + {b}i"),
            (1.0, f"y = {b}x - {c}"),
            (0.6, "\\text{even}"),
            (1.0, f"\\frac{{{a} + \\sqrt{{{b}}}}}{{{c}}}"),
        ]
        return chance.choices([gold for _, gold in kinds], [share for share, _ in kinds])[0]

    return [one() for _ in range(num)]


def golds_of_file(path: str, num: int, chance: random.Random) -> list[str]:
    """The answers of a file with solutions."""
    from pyarrow import parquet

    solutions = parquet.read_table(path, columns=["solution"])["solution"].to_pylist()
    golds = [gold for gold in map(final_answer, solutions) if gold]
    return chance.sample(golds, num)


def variant(gold: str, chance: random.Random) -> str:
    """The gold, written differently."""
    forms = [f"x = {gold}", f" {gold} ", f"{gold}.", f"\\displaystyle {gold}", f"{gold}\\text{{ cm}}"]
    if "frac" in gold:
        forms = [gold.replace("\\frac", "\\dfrac"), gold.replace("\\frac", "\\tfrac"), f"\\displaystyle{gold}"]
    elif gold.lstrip("-").isdigit():
        forms = [f"{gold}.0", f"{int(gold):,}", f"\\text{{{gold}}}", f"n = {gold}", f"\\frac{{{2 * int(gold)}}}{{2}}"]
    elif "(" in gold:
        forms = [gold.replace("(", "\\left(").replace(")", "\\right)"), gold.replace(",", ", "), gold.replace(" ", "")]
    return chance.choice(forms)


def completion(answer: str, chance: random.Random) -> str:
    """An answer in a box, after about a hundred words."""
    return " ".join([*chance.choices(THOUGHTS, k=8), f"So the answer is $\\boxed{{{answer}}}$."])


def integers(num: int, data: str | None, chance: random.Random) -> Pairs:
    """As in AIME: numbers from 0 to 999, a good third right."""
    golds = [chance.randint(0, 999) for _ in range(num)]
    return [
        (completion(str(gold if chance.random() < 0.4 else chance.randint(0, 999)), chance), str(gold))
        for gold in golds
    ]


def math_mix(num: int, data: str | None, chance: random.Random) -> Pairs:
    """As in training on MATH."""
    num_problems = -(-num // ROLLOUTS)
    golds = made_up_golds(num_problems, chance) if data is None else golds_of_file(data, num_problems, chance)
    pairs = []
    for gold in golds:
        for _ in range(ROLLOUTS):
            luck = chance.random()
            answer = gold if luck < 0.45 else variant(gold, chance) if luck < 0.85 else wrong(gold, golds, chance)
            pairs.append((completion(answer, chance), gold))
    chance.shuffle(pairs)
    return pairs[:num]


def wrong(gold: str, golds: list[str], chance: random.Random) -> str:
    """Another problem's answer, another number, or nothing that can be read."""
    return chance.choice(
        [chance.choice(golds), str(Fraction(chance.randint(1, 99), chance.randint(1, 9))), gold + "?1"]
    )


def formulas(num: int, data: str | None, chance: random.Random) -> Pairs:
    """Only what computer algebra has to decide, no pair twice: the work that several workers share."""
    pairs = []
    for number in range(1, num + 1):
        b, c = chance.choice([2, 3, 5, 7]), chance.randint(1, 9)
        gold = chance.choice([f"{number}\\sqrt{{{b}}}", f"x^2 - {number}x + {c}", f"\\frac{{{number}\\pi}}{{{b}}}"])
        answer = gold.replace("x^2", "x^{2}") + " + 0" if chance.random() < 0.5 else gold + f" + {c}"
        pairs.append((completion(answer, chance), gold))
    return pairs


WORKLOADS = {"integers": integers, "MATH mix": math_mix, "formulas": formulas}


# Who grades.


def sequential(config: str) -> Callable[[Pairs], int]:
    """math-verify, one pair after the other."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    settings = {}
    if config == "trl":  # trl.rewards.accuracy_reward
        extraction = LatexExtractionConfig(
            normalization_config=NormalizationConfig(units=True),
            boxed_match_priority=0,
            try_extract_without_anchor=False,
        )
        settings = {"extraction_config": [extraction], "extraction_mode": "first_match"}
    parse("$\\frac{1}{2}$")

    def grade(pairs: Pairs) -> int:
        return sum(verify(parse(f"${gold}$"), parse(text, **settings)) for text, gold in pairs)

    return grade


def ours(num_workers: int) -> Callable[[Pairs], int]:
    """Everything from nothing: the worker is started, and ended."""

    def grade(pairs: Pairs) -> int:
        reward = MathReward(num_workers=num_workers)
        outcomes = reward.grade_pairs(pairs)
        reward.close()
        return sum(outcome.correct for outcome in outcomes)

    return grade


GRADERS: dict[str, Callable[[], Callable[[Pairs], int]]] = {
    "ours": lambda: ours(1),
    "ours_2": lambda: ours(2),
    "trl": lambda: sequential("trl"),
    "defaults": lambda: sequential("defaults"),
}


# Measuring.


def measure_here(workload: str, grader: str, num: int, seed: int, data: str | None) -> dict[str, float]:
    """One measurement, in this process."""
    pairs = WORKLOADS[workload](num, data, random.Random(seed))
    grade = GRADERS[grader]()
    cpu_s, wall_s = processor_s(), time.perf_counter()
    correct = grade(pairs)
    return {
        "cpu_s": processor_s() - cpu_s,
        "wall_s": time.perf_counter() - wall_s,
        "correct_frac": correct / len(pairs),
        "checks": len(pairs),
    }


def processor_s() -> float:
    """Processor time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(workload: str, options: argparse.Namespace) -> dict[str, object]:
    """All graders, interleaved; medians, and ratios of rates repeat by repeat."""
    num = min(options.checks, 2000) if workload == "formulas" else options.checks
    sizes = {"ours": num, "ours_2": num, "trl": options.their_checks, "defaults": options.their_checks}
    cpu_rates: dict[str, list[float]] = {grader: [] for grader in GRADERS}
    wall_rates: dict[str, list[float]] = {grader: [] for grader in GRADERS}
    row: dict[str, object] = {"workload": workload, "checks": num, "their_checks": options.their_checks}
    for repeat in range(options.repeats):
        for grader in GRADERS:
            order = [workload, grader, str(sizes[grader]), str(repeat), *([options.data] if options.data else [])]
            done = subprocess.run(
                [sys.executable, __file__, "--one", *order], check=True, stdout=subprocess.PIPE, text=True
            )
            found = json.loads(done.stdout)
            cpu_rates[grader].append(found["checks"] / found["cpu_s"])
            wall_rates[grader].append(found["checks"] / found["wall_s"])
            row[f"{grader}_correct_frac"] = round(found["correct_frac"], 3)
    for grader, rates in cpu_rates.items():
        row[f"{grader}_per_cpu_s"] = round(statistics.median(rates), 1)
    for theirs in ("trl", "defaults"):
        ratios = [a / b for a, b in zip(cpu_rates["ours"], cpu_rates[theirs], strict=True)]
        row[f"{theirs}_ratio"] = round(statistics.median(ratios), 1)
    gains = [b / a for a, b in zip(wall_rates["ours"], wall_rates["ours_2"], strict=True)]
    row["two_workers_ratio"] = round(statistics.median(gains), 2)
    return row


def line(row: dict[str, object]) -> str:
    """A row of the table."""
    return (
        f"{row['workload']:10} {row['checks']:>7} {row['ours_per_cpu_s']:>9} "
        f"{row['trl_per_cpu_s']:>8} {row['trl_ratio']:>7}x {row['defaults_per_cpu_s']:>9} {row['defaults_ratio']:>7}x "
        f"{row['two_workers_ratio']:>8}x"
    )


def watch_memory(num: int) -> None:
    """Grades pairs that are all different and need the worker, and prints what both processes hold."""
    reward = MathReward(num_workers=1)
    print(f"{'graded':>7} {'worker MiB':>11} {'here MiB':>9}")
    step = max(num // 10, 1)
    for start in range(1, num + 1, step):
        pairs = [
            (f"\\boxed{{{a}\\sqrt{{{a % 97 + 2}}}}}", f"{a}\\sqrt{{{a % 89 + 3}}}") for a in range(start, start + step)
        ]
        kinds = {outcome.kind for outcome in reward.grade_pairs(pairs)}
        worker_mib, here_mib = (resident_mib(pid) for pid in (reward._pool.pids[0], os.getpid()))
        print(f"{start + step - 1:>7} {worker_mib:>11.1f} {here_mib:>9.1f}  {', '.join(sorted(kinds))}", flush=True)
    reward.close()


def resident_mib(pid: int) -> float:
    """Memory that a process holds."""
    listing = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], check=True, capture_output=True, text=True)
    return int(listing.stdout) / 1024


def main() -> None:
    """Prints a table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FILE", help="parquet with solutions, for the golds of the mix")
    parser.add_argument("--checks", type=int, default=8192, help="pairs for ours: a step's (default: %(default)s)")
    parser.add_argument("--their-checks", type=int, default=600, help="of these, for theirs (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--memory", nargs="?", type=int, const=50_000, metavar="NUM", help="watch memory instead")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        workload, grader, num, seed, *data = options.one
        print(json.dumps(measure_here(workload, grader, int(num), int(seed), data[0] if data else None)))
        return
    if options.memory:
        watch_memory(options.memory)
        return
    if not options.json:
        print(f"python {platform.python_version()}, {platform.machine()}; gradings per second of processor time")
        print(f"{'workload':10} {'checks':>7} {'ours':>9} {'trl':>8} {'':>8} {'defaults':>9} {'':>8} {'2 workers':>9}")
    for workload in options.workloads:
        row = measure(workload, options)
        print(json.dumps(row) if options.json else line(row), flush=True)


if __name__ == "__main__":
    main()
