"""The windows in which the shards of a cache are read."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activation_cache.cache.reader import CHUNK_ROWS, POOL_SHARDS, ReadingOrder

several_shards = st.lists(st.integers(1, 300), min_size=1, max_size=POOL_SHARDS + 2).map(tuple)


@settings(deadline=None, max_examples=25)
@given(shard_rows=several_shards, window_rows=st.integers(1, 2_000), seed=st.integers(0, 99))
def test_windows_hold_whole_chunks_and_are_as_large_as_those_allow(
    shard_rows: tuple[int, ...], window_rows: int, seed: int
) -> None:
    order = ReadingOrder(shard_rows, window_rows, seed, True)
    windows = list(order.windows(0))
    sizes = [sum(chunk.n_rows for chunk in window) for window in windows]
    assert all(0 < size <= window_rows for size in sizes)
    assert all(chunk.n_rows <= CHUNK_ROWS for window in windows for chunk in window)
    one_pool = windows if len(shard_rows) <= POOL_SHARDS else []
    for size, following in zip(sizes, one_pool[1:], strict=False):
        assert size + following[0].n_rows > window_rows  # the next chunk did not fit


def shards_in(window: list[Any]) -> set[int]:
    return {chunk.shard for chunk in window}


def test_a_window_mixes_chunks_from_all_over_the_shards() -> None:
    # 16 shards of 8 chunks: a window of 16 chunks has them from 16 (1 - (15/16)**16) = 10 shards.
    order = ReadingOrder((8 * CHUNK_ROWS,) * 16, 16 * CHUNK_ROWS, 0, True)
    windows = list(order.windows(0))
    assert [len(window) for window in windows] == [16] * 8
    n_shards = [len(shards_in(window)) for window in windows]
    assert sum(n_shards) / 8 == pytest.approx(10, abs=1.5)
    assert {chunk.start for chunk in windows[0]} != {0}


def test_shards_beyond_the_pool_are_pooled_by_chance() -> None:
    order = ReadingOrder((10,) * (POOL_SHARDS + 4), 1_000, 0, True)
    first, second = order.windows(0)
    assert (len(first), len(second)) == (POOL_SHARDS, 4)
    assert shards_in(first) | shards_in(second) == set(range(POOL_SHARDS + 4))
    assert shards_in(second) != shards_in(list(order.windows(1))[1])
