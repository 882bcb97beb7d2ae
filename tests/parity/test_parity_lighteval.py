"""Against lighteval's own pass@k (0.13.0), its formula and its metric over samples.

Needs lighteval beside this package, which is a large installation: skipped where it is not there. What it printed once
is kept in tests/stats/test_pass_at_k_of_others.py. By design we differ where a problem has fewer than n samples:
lighteval counts the missing ones as wrong, we refuse.
"""

import warnings

import numpy as np
import pytest

from ngrpo.errors import ConfigError
from ngrpo.stats import pass_at_k

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("lighteval", reason="lighteval is not installed here")
    from lighteval.metrics.metrics_sample import PassAtK
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc

pytestmark = pytest.mark.filterwarnings("ignore")  # lighteval's and its dependencies' own


@pytest.mark.parametrize("num_samples", [1, 2, 7, 16, 64, 256])
def test_the_formula(num_samples):
    for k in range(1, num_samples + 1, max(1, num_samples // 16)):
        metric = PassAtK(k=k, n=num_samples)
        for num_correct in range(0, num_samples + 1, max(1, num_samples // 16)):
            theirs = metric.pass_at_k([1] * num_correct + [0] * (num_samples - num_correct))
            assert pass_at_k(num_samples, num_correct, k) == pytest.approx(float(theirs), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("k", [1, 2, 8])
def test_the_metric_over_the_same_samples(k):
    random = np.random.default_rng(0)
    is_right = random.random((30, 8)) < random.random((30, 1))
    metric = PassAtK(k=k, n=8, sample_scoring_function=lambda doc, model_response: int(model_response.text[0] == "2"))
    doc = Doc(query="1+1=", choices=["2"], gold_index=0)
    theirs = [metric.compute(doc, ModelResponse(text=["2" if right else "3" for right in row])) for row in is_right]
    assert pass_at_k(8, is_right.sum(axis=1), k) == pytest.approx(np.array(theirs, dtype=float), rel=1e-12)


def test_missing_samples_count_as_wrong_there_and_are_refused_here():
    doc, two = Doc(query="1+1=", choices=["2"], gold_index=0), ModelResponse(text=["2", "2"])
    metric = PassAtK(k=4, n=8, sample_scoring_function=lambda doc, model_response: 1)
    assert metric.compute(doc, two) == pytest.approx(pass_at_k(8, 2, 4))
    with pytest.raises(ConfigError, match="needs at least 4 samples"):
        pass_at_k(2, 2, 4)
