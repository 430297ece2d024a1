"""What tells weights from all others."""

from collections.abc import Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor


def hash_of(weights: Mapping[str, Tensor]) -> str:
    """A hash of names and bytes, in the order of the names."""
    found = xxhash.xxh3_128()
    for name, tensor in sorted(weights.items()):
        found.update(name.encode())
        data: Any = tensor.cpu().contiguous().flatten().view(torch.uint8).numpy()
        found.update(data)
    return found.hexdigest()
