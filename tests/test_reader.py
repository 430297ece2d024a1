"""The order in which a cache is read, on shards whose rows carry their own number."""

from collections.abc import Callable
from itertools import accumulate, islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from activation_cache.cache.codec import Encoded
from activation_cache.cache.reader import CHUNK_ROWS, POOL_SHARDS, CacheReader, ReadingOrder
from activation_cache.stream.shuffle import Rows


class Numbered:
    """A shard in memory: one row for each of `numbers`."""

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers

    def encoded(self, site: str) -> Encoded:
        return {"values": self._numbers[:, None]}


def shards_of(shard_rows: tuple[int, ...]) -> list[Numbered]:
    """Numbered from 0 through all shards."""
    starts = [0, *accumulate(shard_rows)]
    return [
        Numbered(torch.arange(start, start + n, dtype=torch.float32))
        for start, n in zip(starts, shard_rows, strict=False)
    ]


def reader_of(
    *shard_rows: int,
    window_rows: int = 1_000,
    batch_tokens: int = 64,
    n_tokens: int | None = None,
    seed: int = 0,
    shuffle: bool = True,
    opened: Callable[[int], Any] | None = None,
) -> CacheReader:
    shards = shards_of(shard_rows)
    return CacheReader(
        ReadingOrder(shard_rows, min(window_rows, sum(shard_rows)), seed, shuffle),
        opened or (lambda number: shards[number]),  # pyright: ignore[reportArgumentType]
        {"x": 1},
        torch.float32,
        batch_tokens=batch_tokens,
        n_tokens=sum(shard_rows) if n_tokens is None else n_tokens,
    )


def numbers(batch: Rows) -> list[int]:
    return [int(x) for x in batch["x"][:, 0]]


def served(reader: CacheReader) -> list[int]:
    return [number for batch in reader for number in numbers(batch)]


several_shards = st.lists(st.integers(1, 300), min_size=1, max_size=POOL_SHARDS + 2).map(tuple)


# What is served ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    shard_rows=several_shards,
    window_rows=st.integers(1, 2_000),
    batch_tokens=st.integers(1, 500),
    seed=st.integers(0, 2**63),
    shuffle=st.booleans(),
)
def test_every_row_is_served_exactly_once_in_each_epoch_and_in_order_without_shuffling(
    shard_rows: tuple[int, ...], window_rows: int, batch_tokens: int, seed: int, shuffle: bool
) -> None:
    n_rows = sum(shard_rows)
    reader = reader_of(
        *shard_rows,
        window_rows=window_rows,
        batch_tokens=batch_tokens,
        n_tokens=2 * n_rows,
        seed=seed,
        shuffle=shuffle,
    )
    rows = served(reader)
    assert sorted(rows[:n_rows]) == sorted(rows[n_rows:]) == list(range(n_rows))
    assert shuffle or rows == 2 * list(range(n_rows))


@pytest.mark.parametrize(
    ("n_tokens", "sizes"),
    [(0, []), (1, [1]), (10, [10]), (25, [10, 10, 5]), (30, [10, 10, 10]), (47, [10] * 4 + [7])],
)
def test_the_last_batch_may_be_shorter_and_no_other(n_tokens: int, sizes: list[int]) -> None:
    # 20 rows in windows of 8, so batches span windows, and the third one spans two epochs.
    reader = reader_of(7, 13, window_rows=8, batch_tokens=10, n_tokens=n_tokens)
    assert [len(batch["x"]) for batch in reader] == sizes
    assert list(reader) == []


def test_a_batch_may_hold_several_epochs() -> None:
    reader = reader_of(2, 1, batch_tokens=8, n_tokens=8, shuffle=False)
    assert [numbers(batch) for batch in reader] == [[0, 1, 2, 0, 1, 2, 0, 1]]


# In which order ----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_order_and_another_seed_another() -> None:
    orders = [served(reader_of(300, 300, seed=seed)) for seed in (3, 3, 4)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_every_epoch_has_its_own_order() -> None:
    rows = served(reader_of(200, 100, n_tokens=1_200))
    epochs = [tuple(rows[i : i + 300]) for i in range(0, 1_200, 300)]
    assert len(set(epochs)) == 4


def test_the_order_does_not_depend_on_the_size_of_the_batches() -> None:
    one_by_one = served(reader_of(300, 200, window_rows=150, batch_tokens=1, n_tokens=1_000))
    at_once = served(reader_of(300, 200, window_rows=150, batch_tokens=1_000, n_tokens=1_000))
    assert one_by_one == at_once


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    served(reader_of(100))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_mixes_rows_from_all_chunks_of_its_window() -> None:
    # 8 chunks in the window, and a batch of 64: of each chunk 8 rows, give or take 2.6.
    reader = reader_of(*(2 * CHUNK_ROWS,) * 16, window_rows=8 * CHUNK_ROWS, n_tokens=2_048)
    for batch in reader:
        counts = torch.bincount(torch.tensor(numbers(batch)) // CHUNK_ROWS)
        assert (counts > 0).sum() == 8
        assert counts.max() <= 8 + 5 * 2.6


def test_only_the_shards_of_a_pool_are_opened_before_the_next_one_is_due() -> None:
    shard_rows = (10,) * (POOL_SHARDS + 4)
    shards, opened = shards_of(shard_rows), set[int]()

    def open_shard(number: int) -> Numbered:
        opened.add(number)
        return shards[number]

    reader = reader_of(*shard_rows, batch_tokens=10, opened=open_shard)
    assert not opened
    for _ in range(POOL_SHARDS):
        next(reader)
    assert len(opened) == POOL_SHARDS
    next(reader)
    assert len(opened) == POOL_SHARDS + 4


# Memory ------------------------------------------------------------------------------------------


def test_the_memory_of_a_window_is_allocated_once() -> None:
    reader = reader_of(300, 250, 77, window_rows=200, n_tokens=5 * 627)
    address = reader._memory["x"].data_ptr()
    assert reader._memory["x"].shape == (200, 1)
    for _ in reader:
        assert reader._memory["x"].data_ptr() == address


def test_a_served_batch_is_not_overwritten_by_the_next_window() -> None:
    reader = reader_of(40, window_rows=10, batch_tokens=10)
    batches = list(reader)
    assert sorted(number for batch in batches for number in numbers(batch)) == list(range(40))


# Resuming ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(
    shard_rows=st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple),
    window_rows=st.integers(1, 30),
    batch_tokens=st.integers(1, 15),
    shuffle=st.booleans(),
)
def test_a_restored_reader_goes_on_exactly_behind_every_batch(
    shard_rows: tuple[int, ...], window_rows: int, batch_tokens: int, shuffle: bool
) -> None:
    def fresh() -> CacheReader:
        return reader_of(
            *shard_rows,
            window_rows=window_rows,
            batch_tokens=batch_tokens,
            n_tokens=2 * sum(shard_rows) + 1,
            shuffle=shuffle,
        )

    first = fresh()
    states = [first.state_dict()]
    batches: list[list[int]] = []
    for batch in first:
        batches.append(numbers(batch))
        states.append(first.state_dict())
    for n_consumed, state in enumerate(states):
        second = fresh()
        second.load_state_dict(state)
        assert [numbers(batch) for batch in second] == batches[n_consumed:]


def test_a_state_is_the_number_of_rows_served() -> None:
    reader = reader_of(20, window_rows=6, batch_tokens=7, n_tokens=45)
    assert reader.state_dict() == {"n_served": 0}
    assert [reader.state_dict()["n_served"] for _ in reader] == [7, 14, 21, 28, 35, 42, 45]


def test_a_reader_may_be_set_anywhere() -> None:
    def fresh() -> CacheReader:
        return reader_of(9, 14, window_rows=10, batch_tokens=4, n_tokens=69)

    rows = served(fresh())
    for n_served in range(70):
        reader = fresh()
        reader.load_state_dict({"n_served": n_served})
        assert served(reader) == rows[n_served:]


def test_a_reader_in_use_may_be_set_back() -> None:
    reader = reader_of(50, window_rows=20, batch_tokens=8, n_tokens=100)
    list(islice(reader, 3))
    state = reader.state_dict()
    expected = served(reader)
    reader.load_state_dict(state)
    assert served(reader) == expected


def test_windows_that_were_served_are_not_read_again() -> None:
    shard_rows = (10,) * 5
    shards, opened = shards_of(shard_rows), list[int]()

    def open_shard(number: int) -> Numbered:
        opened.append(number)
        return shards[number]

    reader = reader_of(
        *shard_rows, window_rows=10, batch_tokens=5, shuffle=False, opened=open_shard
    )
    reader.load_state_dict({"n_served": 35})
    assert numbers(next(reader)) == [35, 36, 37, 38, 39]
    assert opened == [3]


# Failures ----------------------------------------------------------------------------------------


def failing_once(shard_rows: tuple[int, ...], bad: int) -> Callable[[int], Numbered]:
    """Opens shards, but shard `bad` only at the second try: a connection that was lost."""
    shards, tried = shards_of(shard_rows), list[int]()

    def open_shard(number: int) -> Numbered:
        tried.append(number)
        if number == bad and tried.count(bad) == 1:
            raise OSError("connection lost")
        return shards[number]

    return open_shard


def failed() -> CacheReader:
    """A reader that has served rows 0 to 7, and failed while it made the batch 8 to 15."""
    reader = reader_of(
        *(10, 10, 10),
        window_rows=10,
        batch_tokens=8,
        shuffle=False,
        opened=failing_once((10, 10, 10), bad=1),
    )
    assert numbers(next(reader)) == list(range(8))
    with pytest.raises(OSError, match="connection lost"):
        next(reader)
    return reader


def test_the_state_after_a_failure_counts_the_rows_that_were_served() -> None:
    assert failed().state_dict() == {"n_served": 8}


def test_a_failure_does_not_end_the_rows_as_if_all_were_served() -> None:
    assert served(failed()) == list(range(8, 30))
