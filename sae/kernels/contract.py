"""What a backend computes, and the grouping of entries by feature that scattering takes.

A token's features are a row of `indices` [batch, k], int32 or int64, each in [0, n), k at least 1;
one may occur twice in a row. Results are exact up to rounding; sums run in float32 or better, also
where the tensors are bfloat16. `values` may have another float dtype than the rows that they weigh.
No backend need record gradients: `sae.kernels` does, once for all.
"""

from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


class ByFeature:
    """The entries of `indices` grouped by feature; found when first needed, then kept.

    Nothing here waits for the device.
    """

    def __init__(self, indices: Int[Tensor, "batch k"], n: int) -> None:
        self.indices = indices
        self.n = n

    @cached_property
    def entries(self) -> Int[Tensor, " entries"]:
        """The entries of the flattened indices, those of feature 0 first, in order of tokens."""
        return self.indices.flatten().to(torch.int32).argsort(stable=True)

    @cached_property
    def tokens(self) -> Int[Tensor, " entries"]:
        """The token that each of `entries` belongs to."""
        return self.entries // self.indices.shape[1]

    @cached_property
    def starts(self) -> Int[Tensor, " n"]:
        """Where in `entries` those of each feature begin."""
        # Not bincount: on CUDA it waits for the largest index, to know the length of its result.
        features = self.indices.flatten().to(torch.int64)
        counts = features.new_zeros(self.n).scatter_add_(0, features, torch.ones_like(features))
        return counts.cumsum(0) - counts


@runtime_checkable
class Backend(Protocol):
    """The three sparse products; each backend is a module of these functions."""

    def sum_rows(
        self,
        indices: Int[Tensor, "batch k"],
        values: Float[Tensor, "batch k"],
        table: Float[Tensor, "n d"],
    ) -> Float[Tensor, "batch d"]:
        """out[b] = sum_j values[b, j] * table[indices[b, j]], in the dtype of `table`."""
        ...

    def dot_rows(
        self,
        indices: Int[Tensor, "batch k"],
        x: Float[Tensor, "batch d"],
        table: Float[Tensor, "n d"],
    ) -> Float[Tensor, "batch k"]:
        """out[b, j] = x[b] . table[indices[b, j]], in the dtype that `x` and `table` share."""
        ...

    def scatter_rows(
        self,
        features: ByFeature,
        values: Float[Tensor, "batch k"],
        x: Float[Tensor, "batch d"],
    ) -> Float[Tensor, "n d"]:
        """out[f] = sum of values[b, j] * x[b] where indices[b, j] = f, in the dtype of `x`."""
        ...
