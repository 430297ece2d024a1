"""Synthetic data with known truth."""

from sae.toy.features import SparseFeatures

__all__ = ["SparseFeatures"]
