"""From settings to a run folder, and back from a saved dictionary to its numbers."""

from sae.runs.evaluation import evaluate_dictionary
from sae.runs.run import RunResult, run
from sae.runs.settings import RunSettings
from sae.runs.sweep import SweepSettings, sweep

__all__ = [
    "RunResult",
    "RunSettings",
    "SweepSettings",
    "evaluate_dictionary",
    "run",
    "sweep",
]
