"""Streaming moments of activations, in float64, merged chunk by chunk without cancellation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class ActivationStatistics:
    """Mean vector, per-channel variance and mean norm of all rows seen.

    Chunks are merged as in Chan, Golub and LeVeque (1979), so the result does not depend on how the
    rows were split beyond float64 rounding.
    """

    def __init__(self, width: int) -> None:
        self.n_rows = 0
        self.mean: Tensor = torch.zeros(width, dtype=torch.float64)
        self._squares = torch.zeros(width, dtype=torch.float64)
        self._norms = 0.0

    def update(self, rows: Float[Tensor, "rows width"]) -> None:
        if len(rows) == 0:
            return
        # NumPy adds up in the same order however many threads there are; torch does not.
        x = rows.to("cpu", torch.float64).numpy()
        chunk = ActivationStatistics(x.shape[1])
        chunk.n_rows = len(x)
        chunk.mean = torch.from_numpy(x.mean(axis=0))
        chunk._norms = float(np.sqrt(np.einsum("ij,ij->i", x, x)).sum())
        x = x - chunk.mean.numpy()
        chunk._squares = torch.from_numpy(np.einsum("ij,ij->j", x, x))
        self.merge(chunk)

    def merge(self, other: "ActivationStatistics") -> None:
        """Count the rows that another one has seen as well."""
        shift = other.mean - self.mean
        total = self.n_rows + other.n_rows
        self._squares += other._squares + shift**2 * (self.n_rows * other.n_rows / total)
        self.mean += shift * (other.n_rows / total)
        self._norms += other._norms
        self.n_rows = total

    @property
    def variance(self) -> Float[Tensor, " width"]:
        """Per channel, divided by the number of rows."""
        return self._squares / max(self.n_rows, 1)

    @property
    def mean_norm(self) -> float:
        return self._norms / max(self.n_rows, 1)

    def to_dict(self) -> dict[str, Any]:
        """In plain numbers, for JSON."""
        return {
            "n_rows": self.n_rows,
            "mean_norm": self.mean_norm,
            "mean": self.mean.tolist(),
            "variance": self.variance.tolist(),
        }

    @classmethod
    def from_dict(cls, numbers: Mapping[str, Any]) -> "ActivationStatistics":
        statistics = cls(len(numbers["mean"]))
        statistics.n_rows = numbers["n_rows"]
        statistics.mean = torch.tensor(numbers["mean"], dtype=torch.float64)
        variance = torch.tensor(numbers["variance"], dtype=torch.float64)
        statistics._squares = variance * statistics.n_rows
        statistics._norms = numbers["mean_norm"] * statistics.n_rows
        return statistics
