"""Activations, what a dictionary makes of them, and the documents that they are of."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.finite import all_finite
from sae.batches import as_tensor

ErrorBatch = tuple[Any, Any, Any]
"""x [rows, d], x_hat [rows, d] and the document of each row [rows], tensors or NumPy arrays."""

ROWS_AT_ONCE = 4096
"""Rows in each batch that is made of one array."""


@runtime_checkable
class Reconstructs(Protocol):
    def reconstruct(self, x: Any) -> tuple[Tensor, Any]:
        """The reconstruction [rows, d] of x [rows, d], and what it is made of."""
        ...


class ErrorBatches:
    """A dictionary's reconstructions of activations, computed again at each reading.

    `x` is a tensor or NumPy array [..., d], `documents` the number of each token's document [...];
    or each is an iterable of such, of the same batches, that can be read more than once.
    `InputError` for a transcoder: what it leaves is no error in x.
    """

    def __init__(self, dictionary: Reconstructs, x: Any, documents: Any) -> None:
        site = getattr(getattr(dictionary, "provenance", None), "hook_name_out", None)
        if site is not None:
            raise InputError(
                f"the dictionary is a transcoder to {site}: only the error of one that "
                f"reconstructs its own input can be split"
            )
        self._dictionary = dictionary
        self._x, self._documents = x, documents

    def __iter__(self) -> Iterator[ErrorBatch]:
        if hasattr(self._x, "ndim"):
            pairs = _parts(self._x, self._documents)
        else:
            pairs = _in_step(self._x, self._documents)
        for x, documents in pairs:
            x = as_tensor(x)
            x = x.reshape(-1, x.shape[-1])
            with torch.no_grad():
                yield x, self._dictionary.reconstruct(x)[0], torch.as_tensor(documents).reshape(-1)


def _parts(x: Any, documents: Any) -> Iterator[tuple[Any, Any]]:
    documents = torch.as_tensor(documents)
    if x.shape[:-1] != documents.shape:
        raise InputError(
            f"x of shape {[*x.shape]} has documents of shape {[*documents.shape]}: give the number "
            f"of each token's document {[*x.shape[:-1]]}"
        )
    x, documents = x.reshape(-1, x.shape[-1]), documents.reshape(-1)
    for start in range(0, len(x), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        yield x[part], documents[part]


def _in_step(x: Iterable[Any], documents: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    refuse_read_once(x, "x")
    refuse_read_once(documents, "documents")
    for number, pair in enumerate(zip_longest(x, documents)):
        if any(batch is None for batch in pair):
            which = "x" if pair[0] is None else "documents"
            raise InputError(f"{which} has only {number} batches: give one for each of the other")
        yield pair


def refuse_read_once(batches: Any, which: str) -> None:
    """`InputError` for a generator and the like: it would be empty at the second reading."""
    if not isinstance(batches, Iterable) or isinstance(batches, Iterator):
        raise InputError(
            f"{which} must be an iterable of batches that can be read twice, such as a list, got "
            f"{type(batches).__name__}: for a generator, give an object whose __iter__ starts it"
        )


@dataclass(frozen=True)
class Rows:
    """Some rows in float64, with what is regressed on what."""

    x: Float[Tensor, "rows d"]
    x_hat: Float[Tensor, "rows d"]
    documents: Int[Tensor, " rows"]

    def __len__(self) -> int:
        return len(self.x)

    def where(self, mask: Bool[Tensor, " rows"]) -> "Rows":
        return Rows(self.x[mask], self.x_hat[mask], self.documents[mask])

    @cached_property
    def error(self) -> Float[Tensor, "rows d"]:
        return self.x - self.x_hat

    @cached_property
    def squared_error(self) -> Float[Tensor, "rows 1"]:
        return self.error.square().sum(dim=1, keepdim=True)

    @cached_property
    def squared_norm(self) -> Float[Tensor, "rows 1"]:
        return self.x.square().sum(dim=1, keepdim=True)

    @cached_property
    def targets(self) -> Float[Tensor, "rows d_plus_1"]:
        """The error, and its squared length in the last column."""
        return torch.cat((self.error, self.squared_error), dim=1)


def read(batches: Iterable[ErrorBatch]) -> Iterator[Rows]:
    """The batches that have rows; `InputError` for the first that does not fit."""
    d = None
    for number, (x, x_hat, documents) in enumerate(batches):
        rows = _rows(number, as_tensor(x), as_tensor(x_hat), torch.as_tensor(documents))
        if d not in (None, rows.x.shape[1]):
            raise InputError(
                f"batch {number} has width {rows.x.shape[1]} and the first has {d}: give "
                f"activations of one site"
            )
        d = rows.x.shape[1]
        if len(rows):
            yield rows


def _rows(number: int, x: Tensor, x_hat: Tensor, documents: Tensor) -> Rows:
    if x.ndim != 2 or x.shape != x_hat.shape or documents.shape != x.shape[:1]:
        shapes = ", ".join(str([*of.shape]) for of in (x, x_hat, documents))
        raise InputError(
            f"batch {number} has x, x_hat and documents of shapes {shapes}: give [rows, d], "
            f"[rows, d] and [rows]"
        )
    if documents.is_floating_point() or documents.dtype == torch.bool:
        raise InputError(
            f"batch {number} has documents of {documents.dtype}: give the number of each row's "
            f"document, an integer"
        )
    for name, values in (("x", x), ("x_hat", x_hat)):
        if not all_finite([values]):
            raise InputError(f"batch {number} has NaN or Inf in {name}: leave such rows out")
    device = "cpu" if x.device.type == "mps" else x.device  # Apple's has no float64
    return Rows(
        x.detach().to(device, torch.float64),
        x_hat.detach().to(device, torch.float64),
        documents.to(device, torch.int64),
    )
