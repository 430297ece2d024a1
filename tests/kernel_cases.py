"""What tests of the kernels share: backends by name, random codes, and their dense counterparts."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sae import kernels
from sae.kernels import ByFeature
from sae.kernels.contract import Backend

needs_triton = pytest.mark.skipif(not kernels.HAS_TRITON, reason="Triton is not installed")
needs_cuda = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

# Triton decides when it is imported whether it interprets its kernels on the CPU, and then does so
# to the end of the process: test_triton_kernels runs these tests in one of its own.
IS_INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
ON_THE_CPU = ["triton_backend"] if IS_INTERPRETING else ["reference", "chunked"]
ON_CUDA = [
    pytest.param("reference", marks=needs_cuda),
    pytest.param("chunked", marks=needs_cuda),
    pytest.param("triton_backend", marks=[*needs_cuda, needs_triton]),
]
on_the_cpu = pytest.mark.parametrize("name", ON_THE_CPU)
on_cuda = pytest.mark.parametrize("name", ON_CUDA)
everywhere = pytest.mark.parametrize(
    ("name", "device"),
    [
        *[(name, "cpu") for name in ON_THE_CPU],
        *[pytest.param(*on.values, "cuda", marks=on.marks) for on in ON_CUDA],
    ],
)


def backend(name: str) -> Backend:
    return importlib.import_module(f"sae.kernels.{name}")


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Within it the public functions use that backend, on every device."""
    with patch.object(kernels, "backend_for", lambda device: backend(name)):
        yield


@dataclass
class Case:
    """Random codes with repeated features and padding, a table and inputs.

    Where it is `told`, the padding comes last, and the features say how much of a row it is.
    """

    batch: int
    k: int
    n: int
    d: int
    seed: int
    index_dtype: torch.dtype = torch.int64
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    told: bool = False

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.batch, self.k)
        indices = torch.randint(0, self.n, shape, generator=generator, dtype=self.index_dtype)
        is_padding = torch.rand(shape, generator=generator) < 0.3
        if self.told:
            is_padding = is_padding.sort(dim=1).values
        values = torch.randn(shape, generator=generator).masked_fill(is_padding, 0.0)
        table = torch.randn(self.n, self.d, generator=generator)
        x = torch.randn(self.batch, self.d, generator=generator)
        self.indices, self.values = indices.to(self.device), values.to(self.device)
        self.table, self.x = (t.to(self.device, self.dtype) for t in (table, x))
        self.counts = ~is_padding.to(self.device)
        sizes = self.counts.sum(dim=1) if self.told else None
        self.features = ByFeature(self.indices, self.n, sizes)

    def absolute(self) -> "Case":
        """The same case with every number positive: its sums say how large the summands are."""
        other = copy(self)
        other.values, other.table, other.x = self.values.abs(), self.table.abs(), self.x.abs()
        return other

    def dense(self) -> Tensor:
        empty = torch.zeros(self.batch, self.n, dtype=torch.float64, device=self.device)
        return empty.scatter_add(1, self.indices.long(), self.values.double())


SHAPES: dict[str, Any] = {
    "batch": st.integers(0, 7),
    "k": st.integers(1, 10),
    "n": st.integers(1, 9),
    "d": st.sampled_from([1, 2, 5, 8, 130]),
    "seed": st.integers(0, 999),
    "told": st.booleans(),
}


def assert_near(
    actual: Tensor, expected: Tensor, magnitude: Tensor, tolerance: float = 1e-5
) -> None:
    """Nowhere further from `expected` than by that part of the largest `magnitude`.

    That is the sum of the absolute values of what was added up: rounding is proportional to it,
    however little is left where positive and negative numbers cancel.
    """
    assert actual.shape == expected.shape == magnitude.shape
    if expected.numel():
        error = (actual.double() - expected.double()).abs().max().item()
        assert error <= tolerance * magnitude.max().item()


def in_float64(case: Case) -> list[Tensor]:
    """The three products, dense."""
    dense, x, table = case.dense(), case.x.double(), case.table.double()
    dots = (x @ table.T).gather(1, case.indices.long())
    return [dense @ table, dots.where(case.counts, 0) if case.told else dots, dense.T @ x]


def assert_all_three_are_right(name: str, case: Case, tolerance: float) -> None:
    by = backend(name)
    products = [
        by.sum_rows(case.features, case.values, case.table),
        by.dot_rows(case.features, case.x, case.table),
        by.scatter_rows(case.features, case.values, case.x),
    ]
    assert {out.dtype for out in products} == {case.dtype}
    magnitudes = in_float64(case.absolute())
    if case.told:  # what dot_rows makes of padding is not said
        products[1] = products[1].where(case.counts, 0)
    for found, expected, magnitude in zip(products, in_float64(case), magnitudes, strict=True):
        assert_near(found, expected, magnitude, tolerance)


class LargestTensor(TorchDispatchMode):
    """Notes the size in bytes of the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.largest = max(self.largest, out.numel() * out.element_size())
        return out
