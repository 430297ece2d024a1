"""Sparse products: decoding codes, and the gradients that touch only active features.

Everything is exact. A token's features are rows of `indices` [batch, k]; an entry whose value is 0
is padding and adds nothing. Three products are all that a training step needs beside the encoder's
one dense product:

    sum_rows      out[b]    = sum_j values[b, j] * table[indices[b, j]]    (decode)
    dot_rows      out[b, j] = x[b] . table[indices[b, j]]                  (gradients of values)
    scatter_rows  out[f]   += values[b, j] * x[b]  for f = indices[b, j]   (gradients of tables)

Backends (`contract.Backend`) compute them; here they get their gradients.
"""

from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae.kernels import chunked, reference
from sae.kernels.contract import Backend, ByFeature

__all__ = ["ByFeature", "backend_for", "dot_rows", "sum_rows", "values_at"]

HAS_TRITON = find_spec("triton") is not None


def backend_for(device: torch.device) -> Backend:
    """What computes the products of tensors on `device`."""
    if device.type == "cuda" and HAS_TRITON:
        from sae.kernels import triton_backend  # here: elsewhere Triton need not be installed

        return triton_backend
    # CUDA has PyTorch's own kernels too, which copy no rows and add in a fixed order. Apple's mps
    # has no embedding_bag with weights, and what others have is not known.
    return reference if device.type in ("cpu", "cuda") else chunked


def sum_rows(
    features: ByFeature, values: Float[Tensor, "batch k"], table: Float[Tensor, "n d"]
) -> Float[Tensor, "batch d"]:
    """The rows of `table` that each token names, weighted and summed. Differentiable in both."""
    return _SumRows.apply(values, table, features, backend_for(table.device))


def dot_rows(
    indices: Int[Tensor, "batch k"], x: Float[Tensor, "batch d"], table: Float[Tensor, "n d"]
) -> Float[Tensor, "batch k"]:
    """The product of each token's x with the rows of `table` that it names. Without gradient."""
    with torch.no_grad():
        return backend_for(table.device).dot_rows(ByFeature(indices, len(table)), x, table)


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
    return _ValuesAt.apply(values, rows, bias, x, features, backend_for(rows.device))


class _SumRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, table: Tensor, features: ByFeature, backend: Backend
    ) -> Tensor:
        ctx.save_for_backward(values, table)
        ctx.features, ctx.backend = features, backend
        return backend.sum_rows(features, values, table)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        values, table = ctx.saved_tensors
        features, backend = ctx.features, ctx.backend
        of_values = of_table = None
        if ctx.needs_input_grad[0]:
            of_values = backend.dot_rows(features, grad, table).to(values.dtype)
        if ctx.needs_input_grad[1]:
            of_table = backend.scatter_rows(features, values, grad)
        return of_values, of_table, None, None


class _ValuesAt(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        rows: Tensor,
        bias: Tensor,
        x: Tensor,
        features: ByFeature,
        backend: Backend,
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.features, ctx.backend = features, backend
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[None, Tensor, Tensor, None, None, None]:
        (grad,) = grads
        (x,) = ctx.saved_tensors
        features, backend = ctx.features, ctx.backend
        # The bias is a row of width 1, so that its sums too have the same order every time.
        of_bias = backend.scatter_rows(features, grad, x.new_ones(len(x), 1)).squeeze(1)
        return None, backend.scatter_rows(features, grad, x), of_bias, None, None, None
