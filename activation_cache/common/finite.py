"""Whether tensors hold NaN or Inf, at the cost of one sum."""

from collections.abc import Iterable

import torch
from torch import Tensor


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no entry is NaN or infinite; on CUDA the host waits once where all is well."""
    # A sum is NaN or infinite where an entry is, and seldom else.
    tensors = list(tensors)
    if torch.isfinite(torch.stack([_sum(x) for x in tensors])).all():
        return True
    return all(bool(torch.isfinite(x).all()) for x in tensors)  # the sums may have overflowed


def _sum(x: Tensor) -> Tensor:
    """In float32 at the end; one of float16 would soon overflow, and casting others takes time."""
    return x.sum(dtype=torch.float32) if x.dtype == torch.float16 else x.sum().to(torch.float32)
