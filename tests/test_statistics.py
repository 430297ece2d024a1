"""Streaming moments against NumPy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from activation_cache.cache.statistics import ActivationStatistics


def statistics_of(*chunks: torch.Tensor) -> ActivationStatistics:
    statistics = ActivationStatistics(width=chunks[0].shape[1])
    for chunk in chunks:
        statistics.update(chunk)
    return statistics


def test_mean_variance_and_norm_of_two_rows() -> None:
    statistics = statistics_of(torch.tensor([[3.0, 4.0], [5.0, 12.0]]))
    assert statistics.n_rows == 2
    assert statistics.mean.tolist() == [4.0, 8.0]
    assert statistics.variance.tolist() == [1.0, 16.0]  # divided by 2, not by 1
    assert statistics.mean_norm == 9.0  # of 5 and 13


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_any_split_into_chunks_gives_what_numpy_gives(
    seed: int, sizes: list[int], scale: float, dtype: torch.dtype
) -> None:
    rng = np.random.default_rng(seed)
    rows = torch.tensor(rng.normal(rng.normal(), scale, size=(sum(sizes), 3))).to(dtype)
    statistics = statistics_of(*rows.split(sizes))
    expected = rows.to(torch.float64).numpy()
    assert statistics.n_rows == len(rows)
    tiny = 1e-12 * max(scale, 1.0)  # what rounding may leave of a mean that comes out near zero
    np.testing.assert_allclose(statistics.mean.numpy(), expected.mean(0), rtol=1e-12, atol=tiny)
    np.testing.assert_allclose(
        statistics.variance.numpy(), expected.var(0), rtol=1e-9, atol=1e-12 * scale**2
    )
    norms = np.linalg.norm(expected, axis=1)
    assert statistics.mean_norm == pytest.approx(norms.mean(), rel=1e-12)


def test_a_large_offset_does_not_destroy_the_variance() -> None:
    # A sum of squares in float32 would be off by 1e6 ** 2 * 6e-8 = 6e4.
    rows = torch.tensor([[1e6 - 1.0], [1e6], [1e6 + 1.0]] * 100)
    statistics = statistics_of(*rows.split(7))
    assert statistics.mean.item() == pytest.approx(1e6, abs=1e-6)
    assert statistics.variance.item() == pytest.approx(2 / 3, rel=1e-9)


def test_an_empty_chunk_changes_nothing() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    statistics = statistics_of(torch.empty(0, 2), rows, torch.empty(0, 2))
    assert statistics.n_rows == 2
    assert statistics.mean.tolist() == [2.0, 4.0]
    assert statistics.variance.tolist() == [1.0, 4.0]


def test_before_any_row_everything_is_zero() -> None:
    statistics = ActivationStatistics(width=2)
    assert statistics.n_rows == 0
    assert statistics.mean.tolist() == [0.0, 0.0]
    assert statistics.variance.tolist() == [0.0, 0.0]
    assert statistics.mean_norm == 0.0


def test_the_rows_are_left_as_they_were() -> None:
    rows = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    statistics = statistics_of(rows, rows)
    assert rows.tolist() == [[1.0, 2.0]]
    assert statistics.mean.dtype == torch.float64
