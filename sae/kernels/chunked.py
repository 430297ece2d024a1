"""The backend of bounded memory, out of operations that every device has.

It copies the rows that entries name, so many at a time that no tensor but the result is larger than
LIMIT_BYTES, down to one row. `scatter_rows` adds in a fixed order on a CPU, elsewhere in whichever
order the device's index_add_ takes.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from sae.kernels.contract import ByFeature

LIMIT_BYTES = 64 * 2**20


def sum_rows(
    features: ByFeature, values: Float[Tensor, "batch k"], table: Float[Tensor, "n d"]
) -> Float[Tensor, "batch d"]:
    dtype, indices = _sum_dtype(table), features.indices
    out = torch.zeros(len(indices), table.shape[1], dtype=dtype, device=table.device)
    for tile in _tiles(indices, table.shape[1], dtype):
        rows = table[indices[tile]].to(dtype)
        out[tile[0]] += torch.bmm(values[tile].to(dtype)[:, None, :], rows).squeeze(1)
    return out.to(table.dtype)


def dot_rows(
    features: ByFeature, x: Float[Tensor, "batch d"], table: Float[Tensor, "n d"]
) -> Float[Tensor, "batch k"]:
    dtype, indices = _sum_dtype(table), features.indices
    out = torch.empty(indices.shape, dtype=table.dtype, device=table.device)
    for tile in _tiles(indices, table.shape[1], dtype):
        rows = table[indices[tile]].to(dtype)
        out[tile] = torch.bmm(rows, x[tile[0], :, None].to(dtype)).squeeze(2).to(table.dtype)
    return out


def scatter_rows(
    features: ByFeature, values: Float[Tensor, "batch k"], x: Float[Tensor, "batch d"]
) -> Float[Tensor, "n d"]:
    dtype, indices = _sum_dtype(x), features.indices
    out = torch.zeros(features.n, x.shape[1], dtype=dtype, device=x.device)
    for tile in _tiles(indices, x.shape[1], dtype):
        weighted = values[tile].to(dtype)[:, :, None] * x[tile[0], None, :].to(dtype)
        out.index_add_(0, indices[tile].flatten(), weighted.flatten(0, 1))
    return out.to(x.dtype)


def _sum_dtype(rows: Tensor) -> torch.dtype:
    return torch.promote_types(rows.dtype, torch.float32)


def _tiles(indices: Tensor, d: int, dtype: torch.dtype) -> Iterator[tuple[slice, slice]]:
    """Tiles that make up `indices` [batch, k], of so many entries that a row of each fits."""
    batch, k = indices.shape
    n_entries = max(1, LIMIT_BYTES // (d * dtype.itemsize))
    width = min(k, n_entries)
    height = n_entries // width
    for top in range(0, batch, height):
        for left in range(0, k, width):
            yield slice(top, top + height), slice(left, left + width)
