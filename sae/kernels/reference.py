"""The backend of PyTorch's own kernels: embedding_bag, and the product that is its gradient."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sae.kernels.contract import ByFeature


def sum_rows(
    features: ByFeature, values: Float[Tensor, "batch k"], table: Float[Tensor, "n d"]
) -> Float[Tensor, "batch d"]:
    weights = features.counted_of(values).to(table.dtype)
    indices, starts = features.counted_of(features.indices), features.row_starts
    return F.embedding_bag(indices, table, starts, per_sample_weights=weights, mode="sum")


def dot_rows(
    features: ByFeature, x: Float[Tensor, "batch d"], table: Float[Tensor, "n d"]
) -> Float[Tensor, "batch k"]:
    # What autograd calls for the weights of embedding_bag, which copies no rows: here with a bag
    # for each feature, so that each row of the table is read once and those of x from a cache.
    entries = features.entries.to(torch.int64)
    products = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        table,
        x,
        features.tokens.to(torch.int64),
        features.starts,
        features.indices.flatten()[entries].to(torch.int64),
        0,  # 0: "sum"
    )
    everywhere = products.new_zeros(features.indices.numel())
    return everywhere.index_copy_(0, entries, products).view(features.indices.shape)


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
