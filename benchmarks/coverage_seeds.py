"""How often intervals over training seeds and prompts miss a difference of zero, by the number of seeds.

Differences of two methods are simulated as seed + prompt + rest, normal, with a true mean of 0; each line is a mixture
of the three. Beside `stats.crossed_interval` the usual percentile bootstrap that resamples seeds and prompts. A 95 %
interval should miss 5 times in 100.

    python benchmarks/coverage_seeds.py
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from bench import as_line
from ngrpo.stats import crossed_interval

NUM_PROMPTS = 128

MIXTURES = {
    "seeds differ, prompts do not": (0.02, 0.0, 0.05),
    "seeds differ much": (0.05, 0.1, 0.2),
    "seeds and prompts": (0.02, 0.1, 0.2),
    "seeds differ little": (0.01, 0.1, 0.2),
    "prompts alone": (0.0, 0.1, 0.2),
}
"""Standard deviations of seeds, of prompts, and of what is left, as shares: 0.02 is two points of pass@k."""


def bootstrap_interval(
    values: NDArray[np.float64], random: np.random.Generator, num_resamples: int
) -> tuple[float, float]:
    """[S, P] -> percentiles of the means of resampled seeds and prompts, the latter shared by all seeds."""
    num_seeds, num_prompts = values.shape
    seeds = random.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_resamples) / num_seeds
    prompts = random.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), size=num_resamples) / num_prompts
    low, high = np.quantile(np.einsum("rs,sp,rp->r", seeds, values, prompts, optimize=True), [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000, help="simulated comparisons a line (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap (default: %(default)s)")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    head = ["mixture", "seeds", "crossed misses, %", "bootstrap misses, %", "width, crossed / bootstrap"]
    print(as_line(head), as_line("---" for _ in head), sep="\n")
    for name, (of_seeds, of_prompts, rest) in MIXTURES.items():
        for num_seeds in (2, 3, 5, 8):
            missed, widths = np.zeros(2), np.zeros(2)
            for _ in range(options.draws):
                values = of_seeds * random.normal(size=(num_seeds, 1)) + of_prompts * random.normal(size=NUM_PROMPTS)
                values = values + rest * random.normal(size=(num_seeds, NUM_PROMPTS))
                crossed = crossed_interval(values)
                ends = [(crossed.low, crossed.high), bootstrap_interval(values, random, options.resamples)]
                missed += [not low <= 0 <= high for low, high in ends]
                widths += [high - low for low, high in ends]
            shares = (f"{100 * share:.1f}" for share in missed / options.draws)
            print(as_line([name, num_seeds, *shares, f"{widths[0] / widths[1]:.2f}"]), flush=True)


if __name__ == "__main__":
    main()
