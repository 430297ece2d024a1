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
from sae.toy.stream import SparseFeatures

__all__ = [
    "AnticorrelatedSets",
    "CorrelatedSets",
    "Features",
    "Hierarchical",
    "Independent",
    "SparseFeatures",
    "geometric",
    "zipf",
]
