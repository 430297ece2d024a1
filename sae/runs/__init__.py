"""From settings to a run folder, and back from a saved dictionary to its numbers."""

from sae.runs.evaluation import evaluate_dictionary
from sae.runs.run import RunResult, run
from sae.runs.settings import RunSettings

__all__ = ["RunResult", "RunSettings", "evaluate_dictionary", "run"]
