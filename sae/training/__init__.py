"""Fitting dictionaries to activations."""

from sae.training.config import TrainConfig
from sae.training.train import train
from sae.training.trainer import StepRecord, Trainer

__all__ = ["StepRecord", "TrainConfig", "Trainer", "train"]
