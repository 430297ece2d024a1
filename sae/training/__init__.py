"""Fitting dictionaries to activations."""

from sae.training.train import StepRecord, TrainConfig, train

__all__ = ["StepRecord", "TrainConfig", "train"]
