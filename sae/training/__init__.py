"""Fitting dictionaries to activations."""

from sae.training.config import TrainConfig
from sae.training.fit import fit
from sae.training.health import NotFinite
from sae.training.record import StepRecord
from sae.training.train import Training, train
from sae.training.trainer import Trainer

__all__ = ["NotFinite", "StepRecord", "TrainConfig", "Trainer", "Training", "fit", "train"]
