"""pass@k and its area against numbers that other people's code printed for the same counts.

The paper's script: `calculate_metrics.py` of the NGRPO repository at e7a3804, run on labels with these counts of
correct samples per question; it rounds to two decimals of a percent. lighteval: `PassAtK(k, n).pass_at_k` of 0.13.0.
"""

import numpy as np
import pytest

from ngrpo.stats import k_grid, pass_at_k, pass_at_k_auc

SCRIPT = [
    (8, [4, 0, 0, 0, 0], [10.00, 15.71, 19.71, 20.00], 16.81),
    (
        16,
        [1, 0, 0, 0, 4, 0, 14, 5, 0, 0, 7, 5, 5, 3, 9, 10, 0, 1, 0, 1, 15, 1, 0, 5, 2, 7, 0, 1, 6, 15],
        [24.38, 35.17, 46.76, 56.91, 66.67],
        46.09,
    ),
    (
        256,
        [
            177,
            153,
            169,
            175,
            7,
            1,
            2,
            53,
            184,
            18,
            12,
            13,
            43,
            108,
            98,
            7,
            18,
            217,
            63,
            45,
            177,
            1,
            7,
            52,
            46,
            230,
            198,
            29,
            68,
            108,
        ],
        [32.28, 45.62, 58.04, 69.15, 78.49, 85.91, 91.63, 95.76, 100.00],
        73.84,
    ),
]

LIGHTEVAL = [
    (8, 1, 2, 0.25),
    (8, 2, 2, 0.4642857142857143),
    (8, 4, 2, 0.7857142857142857),
    (8, 1, 4, 0.5),
    (8, 2, 4, 0.7857142857142857),
    (8, 4, 4, 0.9857142857142858),
    (64, 1, 2, 0.03125),
    (64, 2, 2, 0.062003968253968256),
    (64, 21, 2, 0.5520833333333331),
    (64, 1, 4, 0.0625),
    (64, 2, 4, 0.12202380952380953),
    (64, 21, 4, 0.8057685527939361),
    (64, 1, 8, 0.125),
    (64, 2, 8, 0.23611111111111116),
    (64, 21, 8, 0.9672383426863413),
    (64, 1, 16, 0.25),
    (64, 2, 16, 0.44047619047619047),
    (64, 21, 16, 0.9994571800875439),
    (256, 1, 2, 0.0078125),
    (256, 2, 2, 0.015594362745098067),
    (256, 85, 2, 0.5546874999999997),
    (256, 1, 4, 0.015625),
    (256, 2, 4, 0.03106617647058818),
    (256, 85, 4, 0.803253672465843),
    (256, 1, 8, 0.03125),
    (256, 2, 8, 0.0616421568627451),
    (256, 85, 8, 0.9625160484389044),
    (256, 1, 16, 0.0625),
    (256, 2, 16, 0.12132352941176472),
    (256, 85, 16, 0.9987711638651974),
    (256, 1, 64, 0.25),
    (256, 2, 64, 0.43823529411764706),
    (256, 85, 64, 0.9999999999999581),
]


@pytest.mark.parametrize(("num_samples", "num_correct", "percents", "area"), SCRIPT)
def test_the_papers_script(num_samples, num_correct, percents, area):
    ks = k_grid(num_samples)
    ours = [100 * float(np.mean(pass_at_k(num_samples, num_correct, k))) for k in ks]
    assert ours == pytest.approx(percents, abs=0.005 + 1e-9)
    assert float(pass_at_k_auc(ks, ours)) == pytest.approx(area, abs=0.005 + 1e-9)


@pytest.mark.parametrize(("num_samples", "num_correct", "k", "value"), LIGHTEVAL)
def test_lighteval(num_samples, num_correct, k, value):
    assert pass_at_k(num_samples, num_correct, k) == pytest.approx(value, rel=1e-13, abs=1e-15)
