"""Synthetic data with known truth, and toy models of superposition."""

from sae.toy.features import (
    AnticorrelatedSets,
    CorrelatedSets,
    Features,
    Hierarchical,
    Independent,
    geometric,
    zipf,
)
from sae.toy.models import Kind, ToyConfig, ToyModels
from sae.toy.strata import stratified
from sae.toy.stream import SparseFeatures
from sae.toy.training import ToyTrainConfig, train_toy

__all__ = [
    "AnticorrelatedSets",
    "CorrelatedSets",
    "Features",
    "Hierarchical",
    "Independent",
    "Kind",
    "SparseFeatures",
    "ToyConfig",
    "ToyModels",
    "ToyTrainConfig",
    "geometric",
    "stratified",
    "train_toy",
    "zipf",
]
