"""Summarising a large evaluation: time and memory of ours against reading every line with `json` into a list.

Rows are as `ngrpo eval` writes them, with completions of about 500 characters. Each way runs in a process of its own,
whose peak of resident memory is what is reported: interpreter and imports included. The list is what the first version
of `ngrpo eval` did; of it only reading and counting are timed, which is less than it did.

    python benchmarks/summary.py                                    # 5,000 problems x 256 samples: a file of 1 GB
    python benchmarks/summary.py --problems 500 --samples 64
"""

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SUBJECTS = ("Algebra", "Counting & Probability", "Geometry", "Number Theory", "Prealgebra", "Precalculus")


def write_evaluation(folder: Path, num_problems: int, num_samples: int, num_chars: int) -> None:
    """An evaluation folder: rates of success from 0 to 1, a few answers per problem, some without an answer."""
    chance = random.Random(0)
    settings = {"num_prompts": num_problems, "num_samples": num_samples, "ks": []}
    (folder / "eval.json").write_text(json.dumps({"settings": settings}))
    with (folder / "problems.jsonl").open("w") as file:
        for problem in range(num_problems):
            strata = {"level": f"Level {problem % 5 + 1}", "subject": SUBJECTS[problem % len(SUBJECTS)]}
            file.write(json.dumps({"prompt": f"math-{problem:05d}", "gold": "17", "problem": "What?", **strata}) + "\n")
    words = ["so we have", "\\frac{1}{2}", "of the", "\u03c0", "and", "\u221a", "therefore", "it is\nclear that"]
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
        for problem in range(num_problems):
            rate = chance.random() ** 2
            for sample in range(num_samples):
                is_right = chance.random() < rate
                answer = "17" if is_right else str(chance.randrange(12))
                is_cut = chance.random() < 0.03
                start = chance.randrange(len(words))
                text = " ".join(words[start:] + words * (num_chars // 50))[:num_chars]
                row = {
                    "prompt": f"math-{problem:05d}",
                    "sample": sample,
                    "completion": text + f" \\boxed{{{answer}}}",
                    "gold": "17",
                    "correct": is_right and not is_cut,
                    "value": float(is_right and not is_cut),
                    "kind": "unparsed" if is_cut else "scored",
                    "extracted": None if is_cut else answer,
                    "rule": "" if is_cut else "boxed",
                    "normal_form": None if is_cut else answer,
                    "detail": "no complete box" if is_cut else "",
                    "finish_reason": "length" if is_cut else "eos",
                    "tokens": 4096 if is_cut else chance.randrange(100, 3000),
                    "entropy_nats": round(chance.random(), 12),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def summarise_folder(folder: Path) -> float:
    """Ours: everything that `ngrpo eval` reports. Returns pass@1."""
    from ngrpo.evaluate import read_counts, summarise

    return summarise(read_counts(folder)).overall.mean.estimate


def read_as_list(folder: Path) -> float:
    """Every row as a dictionary in a list, then correct ones counted by prompt. Returns pass@1."""
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_bytes().split(b"\n") if line]
    counts: dict[str, list[int]] = {}
    for row in rows:
        count = counts.setdefault(row["prompt"], [0, 0])
        count[0] += 1
        count[1] += row["correct"]
    return sum(correct / total for total, correct in counts.values()) / len(counts)


def measure(work: Callable[[Path], float], folder: Path, results: multiprocessing.SimpleQueue) -> None:
    """Runs in a process of its own."""
    import ngrpo.evaluate  # noqa: F401  (both pay for it in memory, none in time)

    imported_mib = _peak_mib()
    started = time.perf_counter(), time.process_time()
    found = work(folder)
    times = time.perf_counter() - started[0], time.process_time() - started[1]
    results.put((found, *times, imported_mib, _peak_mib()))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Writes the file, measures both, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--chars", type=int, default=500)
    parser.add_argument("--only-ours", action="store_true", help="the other needs gigabytes")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_evaluation(folder, given.problems, given.samples, given.chars)
        size_mib = (folder / "samples.jsonl").stat().st_size / 2**20
        print(f"{given.problems} problems x {given.samples} samples, {size_mib:.0f} MiB")
        print(f"{'':24}{'wall s':>8}{'CPU s':>8}{'peak MiB':>10}   pass@1")
        ways = {"ours, whole summary": summarise_folder, "json into a list": read_as_list}
        for title, work in list(ways.items())[: 1 if given.only_ours else None]:
            results = context.SimpleQueue()
            process = context.Process(target=measure, args=(work, folder, results))
            process.start()
            process.join()
            if process.exitcode != 0:
                print(f"{title:24}  ended with {process.exitcode}: -9 is out of memory")
                continue
            found, wall_s, cpu_s, imported_mib, peak_mib = results.get()
            print(
                f"{title:24}{wall_s:8.1f}{cpu_s:8.1f}{peak_mib:10.0f}   {found:.6f}   (imports: {imported_mib:.0f} MiB)"
            )


if __name__ == "__main__":
    main()
