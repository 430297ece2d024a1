"""Measuring dictionaries."""

from sae.evaluation.evaluate import evaluate, evaluate_all, evaluate_reconstruction
from sae.evaluation.report import CONVENTIONS, EvalReport

__all__ = ["CONVENTIONS", "EvalReport", "evaluate", "evaluate_all", "evaluate_reconstruction"]
