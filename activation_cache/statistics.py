"""Streaming moments of activations, in float64, merged chunk by chunk without cancellation."""

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
        x = rows.to("cpu", torch.float64)
        mean = x.mean(dim=0)
        shift = mean - self.mean
        total = self.n_rows + len(x)
        self._squares += ((x - mean) ** 2).sum(dim=0)
        self._squares += shift**2 * (self.n_rows * len(x) / total)
        self.mean += shift * (len(x) / total)
        self._norms += x.norm(dim=1).sum().item()
        self.n_rows = total

    @property
    def variance(self) -> Float[Tensor, " width"]:
        """Per channel, divided by the number of rows."""
        return self._squares / max(self.n_rows, 1)

    @property
    def mean_norm(self) -> float:
        return self._norms / max(self.n_rows, 1)
