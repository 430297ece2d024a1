"""What a backend computes, and what it knows of the features that each token names.

A token's features are a row of `indices` [batch, k], int32 or int64, each in [0, n), k at least 1;
one may occur twice in a row. Results are exact up to rounding; sums run in float32 or better, also
where the tensors are bfloat16. `values` may have another float dtype than the rows that they weigh.
No backend need record gradients: `sae.kernels` does, once for all.
"""

from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


class ByFeature:
    """The entries of `indices`, also grouped by feature; found when first needed, then kept.

    `sizes` is how many entries of each row count; those after them are padding. Rows of very
    different sizes are mostly padding, so a backend may leave it out. Without `sizes` every entry
    counts, and nothing here waits for the device.
    """

    def __init__(
        self,
        indices: Int[Tensor, "batch k"],
        n: int,
        sizes: Int[Tensor, " batch"] | None = None,
    ) -> None:
        self.indices = indices
        self.n = n
        self.sizes = sizes

    @cached_property
    def counted(self) -> Int[Tensor, " counted"] | None:
        """The entries of the flattened indices that count, row by row; None where all do."""
        if self.sizes is None:
            return None
        places = torch.arange(self.indices.shape[1], device=self.indices.device)
        return (places < self.sizes[:, None]).flatten().nonzero().squeeze(1)

    def counted_of(self, of: Shaped[Tensor, "batch k"]) -> Shaped[Tensor, " counted"]:
        """The entries that count of a tensor like the indices."""
        return of.flatten() if self.counted is None else of.flatten()[self.counted]

    @cached_property
    def row_starts(self) -> Int[Tensor, " batch"]:
        """Where among the entries that count each row begins."""
        batch, k = self.indices.shape
        sizes = self.indices.new_full((batch,), k) if self.sizes is None else self.sizes
        return (sizes.cumsum(0) - sizes).to(self.indices.dtype)

    @cached_property
    def entries(self) -> Int[Tensor, " entries"]:
        """The entries that count, those of feature 0 first, in order of tokens."""
        order = self.counted_of(self.indices).to(torch.int32).argsort(stable=True)
        return order if self.counted is None else self.counted[order]

    @cached_property
    def tokens(self) -> Int[Tensor, " entries"]:
        """The token that each of `entries` is of."""
        return self.entries // self.indices.shape[1]

    @cached_property
    def starts(self) -> Int[Tensor, " n"]:
        """Where in `entries` those of each feature begin."""
        # Not bincount: on CUDA it waits for the largest index, to know the length of its result.
        features = self.counted_of(self.indices).to(torch.int64)
        counts = features.new_zeros(self.n).scatter_add_(0, features, torch.ones_like(features))
        return counts.cumsum(0) - counts


@runtime_checkable
class Backend(Protocol):
    """The three sparse products; each backend is a module of these functions."""

    def sum_rows(
        self,
        features: ByFeature,
        values: Float[Tensor, "batch k"],
        table: Float[Tensor, "n d"],
    ) -> Float[Tensor, "batch d"]:
        """out[b] = sum_j values[b, j] * table[indices[b, j]], in the dtype of `table`."""
        ...

    def dot_rows(
        self,
        features: ByFeature,
        x: Float[Tensor, "batch d"],
        table: Float[Tensor, "n d"],
    ) -> Float[Tensor, "batch k"]:
        """out[b, j] = x[b] . table[indices[b, j]], in the dtype that `x` and `table` share.

        What it is for padding does not matter; it is finite.
        """
        ...

    def scatter_rows(
        self,
        features: ByFeature,
        values: Float[Tensor, "batch k"],
        x: Float[Tensor, "batch d"],
    ) -> Float[Tensor, "n d"]:
        """out[f] = sum of values[b, j] * x[b] where indices[b, j] = f, in the dtype of `x`."""
        ...
