r"""Errors of verifiers: ours, math-verify as its users configure it, and NGRPO's published grader.

Without `--data`, the hand-made pairs of tests/rewards/pairs.jsonl are graded: how many equal answers are rejected (FN)
and how many others accepted (FP). With `--data`, so are all distinct golds of the files: against themselves in
renderings that are equal by construction, and against mutations that are not (tests/rewards/gold_variants.py says how
that is known); shares are of rows, so a gold that occurs twice counts twice.

math-verify is given the gold in the form each user gives it. The published grader runs as `eval.py` calls it, in a
process of its own with the given python (latex2sympy2 1.5.4, antlr4-python3-runtime 4.9.3, sympy 1.13.1, regex), in an
empty folder because it evaluates text as code, and with 10 s where it allows 1 s, so that load decides nothing.

    python benchmarks/verifiers.py
    python benchmarks/verifiers.py --data math_train.parquet math_test.parquet --exceptions exceptions.jsonl
    python benchmarks/verifiers.py --reference NGRPO_CHECKOUT --reference-python PYTHON
"""

import argparse
import functools
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests" / "rewards"
sys.path.append(str(TESTS))
from gold_variants import MUTATIONS, RENDERINGS, variants  # noqa: E402  (it lives with the tests)

Verdicts = Callable[[Sequence[tuple[str, str]]], list[bool]]
"""`(completion, gold)` pairs to whether each is correct."""


def boxed(answer: str) -> str:
    """A completion with this answer."""
    return f"We find \\boxed{{{answer}}}."


# --- Graders ---------------------------------------------------------------------------------------------------------


def ours(profile: str, use_exact_path: bool) -> Verdicts:
    """Our verifier; a gold it refuses is graded wrong, whatever the answer."""
    from ngrpo.rewards.math import MathReward

    reward = MathReward(profile, num_workers=1, use_exact_path=use_exact_path)

    def verdicts(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        golds = list(dict.fromkeys(gold for _, gold in pairs))
        refused = {gold for gold, objection in zip(golds, reward.check_golds(golds), strict=True) if objection}
        outcomes = iter(reward.grade_pairs([pair for pair in pairs if pair[1] not in refused]))
        return [gold not in refused and bool(next(outcomes).correct) for _, gold in pairs]

    return verdicts


def math_verify(
    gold_form: str, parse_gold: dict[str, object], parse_answer: dict[str, object], judge: Callable[..., bool]
) -> Verdicts:
    """math-verify with the gold put into `gold_form`, and what its user passes to `parse` for either side."""
    from math_verify import parse

    logging.disable(logging.CRITICAL)

    @functools.lru_cache(maxsize=20_000)
    def parsed(gold: str) -> list[object]:
        return parse(gold_form.replace("X", gold), **parse_gold)

    def verdict(completion: str, gold: str) -> bool:
        try:
            gold_side, answer_side = parsed(gold), parse(completion, **parse_answer)
            return bool(gold_side and answer_side and judge(gold_side, answer_side))
        except Exception:  # noqa: BLE001  as every one of its users does: what cannot be graded is wrong
            return False

    return lambda pairs: [verdict(*pair) for pair in pairs]


def math_verify_default() -> Verdicts:
    """As it comes, both sides in a box."""
    from math_verify import verify

    return math_verify(r"\boxed{X}", {}, {}, verify)


def trl(gold_form: str) -> Verdicts:
    """`accuracy_reward` of TRL 1.16."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, verify

    latex = LatexExtractionConfig(
        normalization_config=NormalizationConfig(units=True), boxed_match_priority=0, try_extract_without_anchor=False
    )
    return math_verify(gold_form, {}, {"extraction_config": [latex], "extraction_mode": "first_match"}, verify)


def open_r1() -> Verdicts:
    """`accuracy_reward` of open-r1; its `verify` has the sides the other way round."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, verify

    normalization = NormalizationConfig(
        nits=False, malformed_operators=False, basic_latex=True, equations=True, boxed="all", units=True
    )
    latex = LatexExtractionConfig(
        normalization_config=normalization, boxed_match_priority=0, try_extract_without_anchor=False
    )
    return math_verify(
        "$X$",
        {"extraction_config": [LatexExtractionConfig()], "extraction_mode": "first_match"},
        {"extraction_config": [latex], "extraction_mode": "first_match"},
        lambda gold, answer: verify(answer, gold),
    )


def verl() -> Verdicts:
    """The `math_verify` score of verl: every reading of the answer against every reading of the gold."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, verify

    return math_verify(
        r"\boxed{X}",
        {"extraction_config": (LatexExtractionConfig(),)},
        {"extraction_config": (ExprExtractionConfig(), LatexExtractionConfig())},
        lambda golds, answers: any(verify(gold, answer) for answer in answers for gold in golds),
    )


GRADERS: dict[str, Callable[[], Verdicts]] = {
    **{
        f"ours, {profile}{'' if use_exact_path else ', no exact path'}": functools.partial(
            ours, profile, use_exact_path
        )
        for profile in ("strict", "lenient", "paper")
        for use_exact_path in (True, False)
    },
    "math-verify, defaults": math_verify_default,
    "TRL, gold as it is": functools.partial(trl, "X"),
    "TRL, gold in dollars": functools.partial(trl, "$X$"),
    "open-r1": open_r1,
    "verl": verl,
}

ON_GOLDS = ("ours, strict", "ours, strict, no exact path", "math-verify, defaults", "TRL, gold in dollars", "verl")

PUBLISHED_GRADER = r"""
import json, sys
import grader
from utils import extract_answer_math
grader.call_with_timeout_original.__kwdefaults__["timeout"] = 10
out, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    completion, gold = json.loads(line)
    try:
        answer, gold = extract_answer_math(completion), extract_answer_math(gold)
        verdict = bool(grader.math_equal(answer, gold, timeout=True))
    except Exception:
        verdict = False
    print(int(verdict), file=out, flush=True)
"""


def published(folder: Path, python: str) -> Verdicts:
    """The grader of NGRPO's published code as its evaluation on MATH calls it, the gold in a box."""

    def verdicts(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        lines = "".join(json.dumps([completion, f"\\boxed{{{gold}}}"]) + "\n" for completion, gold in pairs)
        command = [python, "-c", PUBLISHED_GRADER]
        environment = os.environ | {"PYTHONPATH": str(folder.resolve())}
        with tempfile.TemporaryDirectory() as empty:
            done = subprocess.run(
                command, input=lines, cwd=empty, env=environment, capture_output=True, text=True, check=False
            )
        replies = done.stdout.split()
        if len(replies) != len(pairs):
            raise SystemExit(
                f"the published grader answered {len(replies)} of {len(pairs)} pairs:\n{done.stderr[-2000:]}"
            )
        return [reply == "1" for reply in replies]

    return verdicts


# --- Reports ---------------------------------------------------------------------------------------------------------


def count_pairs(name: str, grade: Verdicts) -> dict[str, object]:
    """Errors on the hand-made pairs: against what is beyond dispute, and against what either profile chose."""
    rows = [json.loads(line) for line in (TESTS / "pairs.jsonl").read_text("utf-8").splitlines()]
    verdicts = grade(
        [(row["completion"] if "completion" in row else boxed(row["answer"]), row["gold"]) for row in rows]
    )
    result: dict[str, object] = {"grader": name}
    for label, tier, field in (
        ("must", "must", "correct"),
        ("strict", "policy", "strict"),
        ("lenient", "policy", "lenient"),
    ):
        judged = [(row[field], got) for row, got in zip(rows, verdicts, strict=True) if row["tier"] == tier]
        result[f"{label} FN"] = sum(expected and not got for expected, got in judged)
        result[f"{label} FP"] = sum(got and not expected for expected, got in judged)
        result[f"{label} equal"] = sum(expected for expected, _ in judged)
        result[f"{label} other"] = sum(not expected for expected, _ in judged)
    return result


def read_golds(files: Sequence[Path], sample: int | None) -> Counter[str]:
    """How many rows have each gold; blank golds are left out, and how many were is printed."""
    import pandas as pd

    golds = [gold for file in files for gold in pd.read_parquet(file, columns=["answer"])["answer"]]
    kept = [gold for gold in golds if gold.strip()]
    print(f"{len(golds)} golds, {len(golds) - len(kept)} of them blank and left out, {len(set(kept))} distinct")
    return Counter(kept if sample is None else random.Random(0).sample(kept, min(sample, len(kept))))


def count_golds(name: str, grade: Verdicts, golds: Counter[str]) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Shares of rows accepted in their renderings and rejected in their mutations, and the exceptions."""
    jobs = [
        (kind, change, gold, text)
        for gold in golds
        for kind, of in (("rendering", RENDERINGS), ("mutation", MUTATIONS))
        for change, text in variants(gold, of)
    ]
    started = time.perf_counter()
    verdicts = grade([(boxed(text), gold) for _, _, gold, text in jobs])
    result: dict[str, object] = {"grader": name, "seconds": round(time.perf_counter() - started)}
    exceptions, all_rows, right = [], Counter(), Counter()
    for (kind, change, gold, text), accepted in zip(jobs, verdicts, strict=True):
        is_right = accepted == (kind == "rendering")
        for key in (kind, change):
            all_rows[key] += golds[gold]
            right[key] += golds[gold] * is_right
        if not is_right:
            row = {"grader": name, "kind": kind, "change": change, "gold": gold, "answer": text, "rows": golds[gold]}
            exceptions.append(row)
    result |= {key: f"{right[key]}/{rows} = {100 * right[key] / rows:.3f} %" for key, rows in all_rows.items()}
    return result, exceptions


def print_pairs(row: dict[str, object]) -> None:
    """One line per grader."""
    shares = [
        f"{label} FN {row[f'{label} FN']}/{row[f'{label} equal']} FP {row[f'{label} FP']}/{row[f'{label} other']}"
        for label in ("must", "strict", "lenient")
    ]
    print(f"{row['grader']:32} {'   '.join(shares)}", flush=True)


def print_golds(row: dict[str, object], exceptions: list[dict[str, object]]) -> None:
    """One line per kind of change."""
    print(f"\n{row['grader']}: {row['seconds']} s, {len(exceptions)} exceptions")
    for key, share in row.items():
        if key not in ("grader", "seconds"):
            print(f"    {key:20} {share}", flush=True)


def main() -> None:
    """Prints the errors on the pairs and, with --data, the shares on the golds; exceptions go to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="parquet files with a column `answer`")
    parser.add_argument("--sample", type=int, help="so many random rows of the data, instead of all")
    parser.add_argument("--graders", nargs="+", metavar="NAME", help=f"some of: {'; '.join(GRADERS)}")
    parser.add_argument("--reference", type=Path, help="a checkout of NGRPO's published code")
    parser.add_argument("--reference-python", default="python", help="a python that can run it")
    parser.add_argument("--exceptions", type=Path, help="where to write the exceptions on the golds, JSON lines")
    options = parser.parse_args()
    if unknown := set(options.graders or ()) - set(GRADERS):
        parser.error(f"no such graders: {sorted(unknown)}; there are {list(GRADERS)}")
    for name in options.graders or GRADERS:
        print_pairs(count_pairs(name, GRADERS[name]()))
    if options.reference:
        print_pairs(count_pairs("NGRPO as published", published(options.reference, options.reference_python)))
    if not options.data:
        return
    golds, exceptions = read_golds(options.data, options.sample), []
    for name in options.graders or ON_GOLDS:
        row, new = count_golds(name, GRADERS[name](), golds)
        print_golds(row, new)
        exceptions += new
    if options.exceptions:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in exceptions)
        options.exceptions.write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
