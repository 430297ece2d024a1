"""From settings to a run folder, and back from a saved dictionary to its numbers."""

from sae.runs.evaluation import evaluate_dictionary
from sae.runs.members import RunResult
from sae.runs.run import run
from sae.runs.settings.run_settings import RunSettings
from sae.runs.sweep import SweepSettings, sweep

__all__ = [
    "RunResult",
    "RunSettings",
    "SweepSettings",
    "evaluate_dictionary",
    "run",
    "sweep",
]
