"""Sparse products: decoding codes, and the gradients that touch only active features.

Everything is exact. A token's features are rows of `indices` [batch, k]; an entry whose value is 0
is padding and adds nothing. Two primitives are all that a training step needs beside the encoder's
one dense product:

    sum_rows      out[b]  = sum_j values[b, j] * table[indices[b, j]]      (decode)
    scatter_rows  out[f] += values[b, j] * x[b]  for f = indices[b, j]     (gradients)
"""

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


class ByFeature:
    """The entries of `indices` grouped by feature; found when first needed, then kept."""

    def __init__(self, indices: Int[Tensor, "batch k"], n: int) -> None:
        self.indices = indices
        self.n = n

    @cached_property
    def entries(self) -> Int[Tensor, " entries"]:
        """The entries of the flattened indices, those of feature 0 first."""
        return self.indices.flatten().to(torch.int32).argsort(stable=True)

    @cached_property
    def starts(self) -> Int[Tensor, " n"]:
        """Where in `entries` those of each feature begin."""
        counts = torch.bincount(self.indices.flatten(), minlength=self.n)
        return counts.cumsum(0) - counts


def sum_rows(
    features: ByFeature, values: Float[Tensor, "batch k"], table: Float[Tensor, "n d"]
) -> Float[Tensor, "batch d"]:
    """The rows of `table` that each token names, weighted and summed. Differentiable in both."""
    # PyTorch's own gradient for the weights is fast; the one for the table is ours.
    rows = F.embedding_bag(
        features.indices, table.detach(), per_sample_weights=values.to(table.dtype), mode="sum"
    )
    if not (torch.is_grad_enabled() and table.requires_grad):
        return rows
    return _TableGradient.apply(rows, table, features, values.detach())


def values_at(
    values: Float[Tensor, "batch k"],
    x: Float[Tensor, "batch d"],
    rows: Float[Tensor, "n d"],
    bias: Float[Tensor, " n"],
    features: ByFeature,
) -> Float[Tensor, "batch k"]:
    """`values`, which are x @ rows.T + bias at `features`, with their gradients in rows and bias.

    Only those features get one, so nothing of size [batch, n] is kept for it. `x` is taken as a
    constant.
    """
    return _ValuesAt.apply(values, rows, bias, x, features)


def scatter_rows(
    features: ByFeature, values: Float[Tensor, "batch k"], x: Float[Tensor, "batch d"]
) -> Float[Tensor, "n d"]:
    """For each feature, the sum over the tokens that name it of value times x.

    The transpose of `sum_rows`, and done as such: tokens are grouped by feature, and every row of
    the result is written once, in an order that is the same every time.
    """
    entries = features.entries
    return F.embedding_bag(
        entries // features.indices.shape[1],
        x,
        features.starts,
        per_sample_weights=values.flatten()[entries].to(x.dtype),
        mode="sum",
    )


class _TableGradient(torch.autograd.Function):
    """Passes rows on, and sends the gradient of the table that they were summed from."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, table: Tensor, features: ByFeature, values: Tensor
    ) -> Tensor:
        ctx.save_for_backward(values)
        ctx.features = features
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grads
        (values,) = ctx.saved_tensors
        return grad, scatter_rows(ctx.features, values, grad), None, None


class _ValuesAt(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, rows: Tensor, bias: Tensor, x: Tensor, features: ByFeature
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.features = features
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, None, None]:
        (grad,) = grads
        (x,) = ctx.saved_tensors
        features: ByFeature = ctx.features
        of_bias = grad.new_zeros(features.n)
        of_bias.index_add_(0, features.indices.flatten(), grad.flatten())
        return None, scatter_rows(features, grad, x), of_bias, None, None
