"""Activations as people have them: tensors, arrays, mapped files, loaders, lists, streams."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.errors import InputError

Batch = Any
"""Activations [..., d_in], as a tensor or an array; a tuple or list that begins with them, as
loaders of datasets give it; or a mapping from hook names to them."""

BATCH_ROWS = 512
"""Rows in each batch that is made of an array."""

KINDS = "a tensor or an array [..., d_in], or an iterable of such batches"


def batches_of(source: Any, *, n_rows: int | None = None) -> Iterable[Batch]:
    """What can be iterated for batches: an array as shuffled rows, anything else as it is.

    Of an array `n_rows` are served, by default each row once; it is gone through again, in another
    order, where there are fewer. `InputError` where the source is neither array nor iterable.
    """
    if _is_array(source):
        return Shuffled(source, n_rows)
    if isinstance(source, str | bytes | Mapping) or not isinstance(source, Iterable):
        raise InputError(f"activations must be {KINDS}, got {_called(source)}")
    return source


def rows_of_batch(
    batch: Batch, d_in: int | None, hook_name: str | None = None
) -> Float[Tensor, "rows _"]:
    """The rows of a batch that are of a site; `InputError` where there are none of this width."""
    if isinstance(batch, Mapping):
        if hook_name is None or hook_name not in batch:
            sites = ", ".join(map(str, batch))
            raise InputError(
                f"the stream has no site {hook_name!r}, only {sites}: "
                f"set sae.provenance = Provenance(hook_name=...) to one of them"
            )
        batch = batch[hook_name]
    if isinstance(batch, tuple | list) and batch and _is_array(batch[0]):
        batch = batch[0]  # of a loader that gives labels, too
    if not _is_array(batch):
        raise InputError(f"a batch of activations must be {KINDS}, got {_called(batch)}")
    if batch.ndim < 2 or d_in not in (None, batch.shape[-1]):
        raise InputError(
            f"activations of shape {tuple(batch.shape)} do not fit a dictionary with d_in "
            f"{d_in}: give tensors [batch, {d_in}]"
        )
    x = as_tensor(batch)
    return x if x.ndim == 2 else x.reshape(-1, x.shape[-1])


def as_tensor(x: Any) -> Tensor:
    """A tensor of floats, sharing memory where that is possible."""
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(x if x.flags.writeable else x.copy())
    return x if x.is_floating_point() else x.to(torch.float32)


def evaluation_batches(source: Any, d_in: int | None) -> Sequence[Float[Tensor, "rows _"]]:
    """Batches that can be gone through twice; an array in its order. `d_in` is None where anything
    goes."""
    if _is_array(source):
        source = [source[start : start + 4096] for start in range(0, len(source), 4096)]
    return [rows_of_batch(batch, d_in) for batch in batches_of(source)]


def _is_array(x: Any) -> TypeGuard[Any]:
    return isinstance(x, Tensor | np.ndarray)


def _called(x: Any) -> str:
    kind = f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
    return f"{kind} ({x!r})"[:80] if isinstance(x, str | int | float) else kind


class Shuffled:
    """The rows of an array in a random order, which is another in each pass."""

    def __init__(self, x: Any, n_rows: int | None) -> None:
        if x.ndim < 2:
            raise InputError(f"activations must be {KINDS}, got shape {tuple(x.shape)}")
        self._x = x.reshape(-1, x.shape[-1])
        self._n_rows = len(self._x) if n_rows is None else n_rows

    def __len__(self) -> int:
        """Rows, all passes together."""
        return self._n_rows

    def __iter__(self) -> Iterator[Tensor]:
        n, left = len(self._x), self._n_rows
        if n and left > n:
            warnings.warn(
                f"{left:,} activation vectors are asked for and there are {n:,}: they are gone "
                f"through {left / n:.1f} times; give more, or a smaller n_tokens",
                stacklevel=3,
            )
        for number in range(-(-left // n) if n else 0):
            order = torch.randperm(n, generator=torch.Generator().manual_seed(number))
            for indices in order[:left].split(BATCH_ROWS):
                yield self._rows(indices)
            left -= n

    def _rows(self, indices: Tensor) -> Tensor:
        if isinstance(self._x, Tensor):
            return self._x[indices.to(self._x.device)]
        return as_tensor(self._x[indices.numpy()])
