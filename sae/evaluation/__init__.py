"""Measuring dictionaries."""

from sae.evaluation.advice import advice
from sae.evaluation.evaluate import (
    evaluate,
    evaluate_all,
    evaluate_reconstruction,
    evaluate_sites,
)
from sae.evaluation.metric import Metric
from sae.evaluation.metrics import METRICS
from sae.evaluation.report import EvalReport

__all__ = [
    "METRICS",
    "EvalReport",
    "Metric",
    "advice",
    "evaluate",
    "evaluate_all",
    "evaluate_reconstruction",
    "evaluate_sites",
]
