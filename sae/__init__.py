"""Sparse dictionaries: build, train, evaluate, save and load them. Knows no text and no model."""

from activation_cache.common.errors import InputError
from sae.architectures import AnySAEConfig
from sae.base import SAE, SAEConfig
from sae.codes import Codes
from sae.evaluation import EvalReport, evaluate, evaluate_reconstruction
from sae.loading import load, save
from sae.provenance import Provenance
from sae.runs.attach import attach
from sae.training import StepRecord, TrainConfig, fit, train

__all__ = [
    "SAE",
    "AnySAEConfig",
    "Codes",
    "EvalReport",
    "InputError",
    "Provenance",
    "SAEConfig",
    "StepRecord",
    "TrainConfig",
    "attach",
    "evaluate",
    "evaluate_reconstruction",
    "fit",
    "load",
    "save",
    "train",
]
