"""Codes: the active features of a batch as (indices, values). Dense only on request."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.kernels import ByFeature, sum_rows


@dataclass(frozen=True)
class Codes:
    """The features of each token that may be active, padded to the same number for each.

    An entry whose value is 0 is padding: its feature is not active.
    """

    indices: Int[Tensor, "*tokens k"]
    values: Float[Tensor, "*tokens k"]
    d_sae: int
    known: ByFeature | None = field(default=None, repr=False, compare=False)
    """How the entries lie, feature by feature, where that was found before."""

    def __repr__(self) -> str:
        *tokens, k = self.indices.shape
        return f"Codes(n_tokens={math.prod(tokens)}, k={k}, d_sae={self.d_sae})"

    @classmethod
    def from_dense(cls, acts: Float[Tensor, "*tokens d_sae"]) -> "Codes":
        """The active entries of dense features, as wide as the busiest token needs, at least 1."""
        k = max(1, int((acts != 0).sum(dim=-1).max())) if acts.numel() else 1
        indices = acts.abs().topk(k, dim=-1).indices  # a feature may be negative
        return cls(indices, acts.gather(-1, indices), acts.shape[-1])

    def dense(self) -> Float[Tensor, "*tokens {self.d_sae}"]:
        empty = self.values.new_zeros(*self.indices.shape[:-1], self.d_sae)
        return empty.scatter_add(-1, self.indices, self.values)

    def decode(self, W_dec: Float[Tensor, "{self.d_sae} d_in"]) -> Float[Tensor, "*tokens d_in"]:
        """The sum of each token's decoder rows times their values, touching no other row."""
        *tokens, k = self.values.shape
        rows = sum_rows(self.by_feature, self.values.reshape(-1, k), W_dec)
        return rows.view(*tokens, W_dec.shape[1])

    def view(self, *tokens: int) -> "Codes":
        """The same with the tokens in another shape."""
        indices, values = (of.reshape(*tokens, of.shape[-1]) for of in (self.indices, self.values))
        return Codes(indices, values, self.d_sae, self.known)

    def sorted(self) -> "Codes":
        """The same with the entries of each token in the order of the features."""
        indices, order = self.indices.sort(dim=-1)
        return Codes(indices, self.values.gather(-1, order), self.d_sae)

    @cached_property
    def by_feature(self) -> ByFeature:
        return self.known or ByFeature(self.indices.reshape(-1, self.indices.shape[-1]), self.d_sae)

    @property
    def counts(self) -> Int[Tensor, " *tokens"]:
        """Active features of each token."""
        return (self.values != 0).sum(dim=-1)


def indices_of(mask: Bool[Tensor, "batch d_sae"]) -> Int[Tensor, "batch k"]:
    """Where each row is true, padded with -1 to as many as the busiest row has, at least 1."""
    rows, features = mask.nonzero(as_tuple=True)
    return pad_rows(rows, features, len(mask))


def pad_rows(
    rows: Int[Tensor, " n"], features: Int[Tensor, " n"], batch: int
) -> Int[Tensor, "{batch} k"]:
    """The features of each row, which come row by row, padded with -1 to the same number."""
    counts = torch.bincount(rows, minlength=batch)
    width = max(1, int(counts.max())) if batch else 1
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    indices = features.new_full((batch, width), -1)
    indices[rows, place] = features
    return indices


TOP_K_GROUP = 8
"""Features in each group of `top_k` on the CPU; 4 and 16 were slower at widths of 1.5k to 24k."""


def top_k(x: Float[Tensor, "batch d"], k: int) -> tuple[Tensor, Tensor]:
    """Values and indices [batch, k] of the k largest entries of each row, unsorted and exact.

    On a CPU, finding the k groups with the largest maxima (in groups of groups again) and searching
    only those takes half the time: an entry outside them is smaller than k others, the maxima.
    """
    batch, d = x.shape
    n_groups = d // TOP_K_GROUP
    if x.device.type != "cpu" or d % TOP_K_GROUP or n_groups < 2 * k:
        values, indices = x.topk(k, dim=1, sorted=False)
        return values, indices
    with torch.no_grad():
        groups = x.view(batch, TOP_K_GROUP, n_groups)
        best = top_k(groups.amax(dim=1), k)[1]
        of_best = best[:, None, :].expand(batch, TOP_K_GROUP, k)
        within = groups.gather(2, of_best).flatten(1).topk(k, dim=1, sorted=False).indices
        indices = (within // k) * n_groups + best.gather(1, within % k)
    return x.gather(1, indices), indices


def fire_counts(acts: Tensor | Codes) -> Int[Tensor, " d_sae"]:
    """On how many tokens of the batch each feature is active. Their sum / batch is L0."""
    if isinstance(acts, Codes):
        empty = torch.zeros(acts.d_sae, dtype=torch.int64, device=acts.indices.device)
        active = (acts.values != 0).to(torch.int64)
        return empty.scatter_add_(0, acts.indices.flatten(), active.flatten())
    return (acts != 0).sum(dim=0)
