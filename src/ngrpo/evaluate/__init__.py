"""Evaluation: many samples per prompt, graded, summarised with intervals; resumable at any byte."""

from ngrpo.evaluate.runner import EvaluationSettings, evaluate
from ngrpo.evaluate.summary import Summary, summarise

__all__ = ["EvaluationSettings", "Summary", "evaluate", "summarise"]
