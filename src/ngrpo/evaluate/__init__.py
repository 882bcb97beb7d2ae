"""Evaluation: many samples per prompt, graded, summarised with intervals; resumable at any byte."""

from ngrpo.evaluate.counts import Counts, read_counts
from ngrpo.evaluate.folder import EvaluationSettings
from ngrpo.evaluate.runner import evaluate
from ngrpo.evaluate.summary import Part, Quantity, Summary, summarise

__all__ = ["Counts", "EvaluationSettings", "Part", "Quantity", "Summary", "evaluate", "read_counts", "summarise"]
