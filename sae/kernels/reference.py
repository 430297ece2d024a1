"""The backend of PyTorch's own kernels: embedding_bag, and the product that is its gradient."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sae.kernels.contract import ByFeature


def sum_rows(
    indices: Int[Tensor, "batch k"], values: Float[Tensor, "batch k"], table: Float[Tensor, "n d"]
) -> Float[Tensor, "batch d"]:
    weights = values.to(table.dtype)
    return F.embedding_bag(indices, table, per_sample_weights=weights, mode="sum")


def dot_rows(
    indices: Int[Tensor, "batch k"], x: Float[Tensor, "batch d"], table: Float[Tensor, "n d"]
) -> Float[Tensor, "batch k"]:
    # What autograd calls for the weights of embedding_bag. It reads every row where it lies, and
    # takes a fifth of the time of table[indices] with a product.
    batch, k = indices.shape
    tokens = torch.arange(batch, dtype=indices.dtype, device=indices.device)
    products = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        x,
        table,
        indices.flatten(),
        tokens * k,
        tokens.repeat_interleave(k),
        0,  # 0: "sum"
    )
    return products.view(batch, k)


def scatter_rows(
    features: ByFeature, values: Float[Tensor, "batch k"], x: Float[Tensor, "batch d"]
) -> Float[Tensor, "n d"]:
    # Every row of the result is written once, in an order that is the same every time.
    return F.embedding_bag(
        features.tokens,
        x,
        features.starts,
        per_sample_weights=values.flatten()[features.entries].to(x.dtype),
        mode="sum",
    )
