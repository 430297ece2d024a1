"""Every backend of the sparse products against dense float64, alone and under the gradients."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_cases import (
    SHAPES,
    Case,
    LargestTensor,
    assert_all_three_are_right,
    assert_near,
    backend,
    everywhere,
    forced,
    needs_triton,
    on_cuda,
    on_the_cpu,
)
from test_kernels import assert_same_step
from torch import Tensor
from torch.testing import assert_close

from sae import kernels
from sae.architectures import AnySAEConfig, GatedConfig, TopKConfig
from sae.kernels import ByFeature, backend_for, chunked, dot_rows, reference, sum_rows, values_at

# The products ------------------------------------------------------------------------------------


@everywhere
@given(index_dtype=st.sampled_from([torch.int32, torch.int64]), **SHAPES)
@example(batch=0, k=3, n=4, d=5, seed=0, told=True, index_dtype=torch.int64)
@settings(max_examples=25, deadline=None)
def test_the_three_products_are_those_with_the_dense_codes(
    name: str, device: str, **sizes: Any
) -> None:
    assert_all_three_are_right(name, Case(device=device, **sizes), 1e-5)


@everywhere
@given(**SHAPES)
@settings(max_examples=10, deadline=None)
def test_tables_in_bfloat16_lose_only_the_rounding_of_values_and_result(
    name: str, device: str, **sizes: Any
) -> None:
    assert_all_three_are_right(name, Case(device=device, dtype=torch.bfloat16, **sizes), 2**-7)


@everywhere
def test_a_feature_may_be_named_by_all_tokens_and_another_by_none(name: str, device: str) -> None:
    case = Case(batch=230, k=3, n=5, d=9, seed=1, device=device)
    case.indices.clamp_max_(2)[:, 0] = 1  # 1 by all tokens; 3 and 4 by none
    case.values[:, 0] = 1.0
    assert_all_three_are_right(name, case, 1e-5)
    scattered = backend(name).scatter_rows(case.features, case.values, case.x)
    assert scattered[3:].count_nonzero() == 0


@everywhere
def test_one_sum_may_take_many_blocks_of_columns(name: str, device: str) -> None:
    assert_all_three_are_right(name, Case(3, 4, 6, 1100, seed=2, device=device), 1e-5)


@everywhere
def test_padding_adds_nothing_whichever_feature_it_names(name: str, device: str) -> None:
    case, by = Case(batch=6, k=5, n=7, d=5, seed=3, device=device), backend(name)
    elsewhere = torch.where(case.values == 0, 6 - case.indices, case.indices)
    expected = by.sum_rows(case.features, case.values, case.table)
    assert_close(by.sum_rows(ByFeature(elsewhere, 7), case.values, case.table), expected)
    expected = by.scatter_rows(case.features, case.values, case.x)
    assert_close(by.scatter_rows(ByFeature(elsewhere, 7), case.values, case.x), expected)


@everywhere
def test_scattering_twice_gives_the_same_bits(name: str, device: str) -> None:
    if (name, device) == ("chunked", "cuda"):
        pytest.skip("index_add_ adds in any order there")
    case = Case(batch=200, k=4, n=3, d=5, seed=4, device=device)
    first, second = (
        backend(name).scatter_rows(ByFeature(case.indices, 3), case.values, case.x)
        for _ in range(2)
    )
    assert torch.equal(first, second)


@given(batch=st.integers(0, 6), k=st.integers(1, 4), n=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_entries_are_grouped_by_feature_in_the_order_of_tokens(
    batch: int, k: int, n: int, seed: int
) -> None:
    case = Case(batch, k, n, 1, seed)
    flat, ends = case.indices.flatten().tolist(), [*case.features.starts.tolist()[1:], batch * k]
    for feature, (start, end) in enumerate(zip(case.features.starts.tolist(), ends, strict=True)):
        expected = [i for i, f in enumerate(flat) if f == feature]
        assert case.features.entries[start:end].tolist() == expected
        assert case.features.tokens[start:end].tolist() == [i // k for i in expected]


# Memory, and which backend is chosen -------------------------------------------------------------


@pytest.mark.parametrize("limit", [400, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_chunked_backend_makes_no_tensor_above_its_limit_but_the_result(
    limit: int, dtype: torch.dtype
) -> None:
    case = Case(batch=24, k=30, n=40, d=20, seed=5, dtype=dtype)  # a row of each entry: 57,600 B
    products = [
        (24 * 20, lambda: chunked.sum_rows(case.features, case.values, case.table)),
        (24 * 30, lambda: chunked.dot_rows(case.features, case.x, case.table)),
        (40 * 20, lambda: chunked.scatter_rows(case.features, case.values, case.x)),
    ]
    with patch.object(chunked, "LIMIT_BYTES", limit):
        assert_all_three_are_right("chunked", case, 1e-5 if dtype == torch.float32 else 2**-7)
        for n_results, product in products:
            with LargestTensor() as seen:
                product()
            assert limit // 2 <= seen.largest <= max(limit, 4 * n_results)


def test_the_device_chooses_the_backend() -> None:
    assert backend_for(torch.device("cpu")) is reference
    assert backend_for(torch.device("mps")) is chunked
    with patch.object(kernels, "HAS_TRITON", False):
        assert backend_for(torch.device("cuda")) is reference


@needs_triton
def test_cuda_is_for_triton() -> None:
    assert backend_for(torch.device("cuda")) is backend("triton_backend")


# Gradients ---------------------------------------------------------------------------------------


def step(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients through the sparse functions, in values, table, rows and bias; and dense ones."""
    values, table, rows = (
        t.clone().requires_grad_() for t in (case.values, case.table, case.table)
    )
    bias = case.table[:, 0].clone().requires_grad_()
    indices, features, leaves = case.indices.long(), case.features, (values, table, rows, bias)
    at_features = (case.x @ rows.T + bias).gather(1, indices)
    with_values = values_at(at_features.detach(), case.x, rows, bias, features)
    dense = torch.zeros(case.batch, case.n, device=case.device).scatter_add(1, indices, values)
    found = []
    for decoded, encoded in (
        (sum_rows(features, values, table), with_values),
        (dense @ table, at_features),
    ):
        loss = (decoded * case.x).sum() + (encoded * case.values).sum()
        gradients = list(torch.autograd.grad(loss, leaves))
        if case.told:  # what padding is worth has no gradient worth looking at
            gradients[0] = gradients[0].where(case.counts, 0)
        found.append(gradients)
    return found[0], found[1]


@everywhere
@given(**SHAPES)
@settings(max_examples=20, deadline=None)
def test_gradients_are_those_of_dense_autograd(name: str, device: str, **sizes: Any) -> None:
    case = Case(device=device, **sizes)
    with forced(name):
        sparse, dense = step(case)
    _, magnitudes = step(case.absolute())
    for found in zip(sparse, dense, magnitudes, strict=True):
        assert_near(*found)


@on_the_cpu
@pytest.mark.parametrize(
    "cfg",
    [TopKConfig(d_sae=24, k=3), TopKConfig(d_sae=24, k=3, tied=True), GatedConfig(d_sae=24)],
    ids=["topk", "topk-tied", "gated"],
)
@given(batch=st.integers(1, 8), d_in=st.integers(4, 9), seed=st.integers(0, 99))
@settings(max_examples=5, deadline=None)
def test_a_whole_step_with_auxk_is_the_dense_one(
    name: str, cfg: AnySAEConfig, batch: int, d_in: int, seed: int
) -> None:
    x = torch.randn(batch, d_in, generator=torch.Generator().manual_seed(seed))
    with forced(name):
        assert_same_step(cfg.build(d_in, seed=seed), x)


@on_the_cpu
def test_products_of_rows_record_no_gradient(name: str) -> None:
    case = Case(batch=4, k=2, n=5, d=3, seed=6)
    with forced(name):
        dots = dot_rows(case.indices, case.x, case.table.requires_grad_())
    assert not dots.requires_grad


@everywhere
def test_gradients_of_a_sum_need_no_memory_of_their_own(name: str, device: str) -> None:
    """The gradient of a plain sum is one number seen from everywhere: a tensor of strides 0."""
    case = Case(batch=4, k=3, n=5, d=6, seed=7, device=device)
    table = case.table.clone().requires_grad_()
    with forced(name):
        sum_rows(case.features, case.values, table).sum().backward()
    assert table.grad is not None
    expected = case.dense().sum(dim=0)[:, None].expand(5, 6)
    assert_close(table.grad, expected, check_dtype=False)


# On CUDA alone -----------------------------------------------------------------------------------


@on_cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_no_step_waits_for_the_gpu(name: str) -> None:
    first, second = (Case(batch=64, k=4, n=32, d=48, seed=8, device="cuda") for _ in range(2))
    with forced(name):
        step(first)  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            sparse, dense = step(second)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    _, magnitudes = step(second.absolute())
    for found in zip(sparse, dense, magnitudes, strict=True):
        assert_near(*found)


@on_cuda
def test_tables_may_have_more_than_two_to_the_31_entries(name: str) -> None:
    n, d = 2**22 + 3, 512
    table = torch.zeros(n, d, dtype=torch.bfloat16, device="cuda")
    table[-1] = 2.0
    indices, x = torch.tensor([[n - 1, 0]], device="cuda"), table[-1:].clone()
    values, by = torch.tensor([[3.0, 0.0]], device="cuda"), backend(name)
    assert by.sum_rows(ByFeature(indices, n), values, table).unique().tolist() == [6.0]
    assert by.dot_rows(ByFeature(indices, n), x, table).tolist() == [[4.0 * d, 0.0]]
    scattered = by.scatter_rows(ByFeature(indices, n), values, x)
    assert scattered[-1].unique().tolist() == [6.0]
    assert scattered[:-1].count_nonzero() == 0
