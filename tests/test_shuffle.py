"""The shuffle buffer, on rows that carry their own number."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from activation_cache.stream.shuffle import Rows, ShuffleBuffer


def numbered(n_rows: int, chunk_rows: int = 1, dtype: torch.dtype = torch.float32) -> list[Rows]:
    """Chunks of rows [row number], the last one shorter where it does not come out even."""
    rows = torch.arange(n_rows, dtype=dtype)[:, None]
    return [{"x": chunk} for chunk in rows.split(chunk_rows)]


def buffer_of(
    rows: list[Rows] | Iterator[Rows], capacity_tokens: int, batch_tokens: int, seed: int = 0
) -> ShuffleBuffer:
    return ShuffleBuffer(
        iter(rows), capacity_tokens=capacity_tokens, batch_tokens=batch_tokens, seed=seed
    )


def numbers(batch: Rows) -> list[int]:
    return [int(x) for x in batch["x"][:, 0]]


class Counting:
    """An iterator over chunks that knows how many rows were taken from it."""

    def __init__(self, chunks: list[Rows]) -> None:
        self._chunks = iter(chunks)
        self.n_chunks = 0
        self.n_rows = 0

    def __iter__(self) -> Iterator[Rows]:
        return self

    def __next__(self) -> Rows:
        chunk = next(self._chunks)
        self.n_chunks += 1
        self.n_rows += len(chunk["x"])
        return chunk


# What is held ------------------------------------------------------------------------------------


def test_exactly_the_capacity_is_held_and_every_batch_is_replaced() -> None:
    source = Counting(numbered(100))
    buffer = buffer_of(source, capacity_tokens=10, batch_tokens=4)
    taken: list[int] = []
    for _ in range(4):
        next(buffer)
        taken.append(source.n_rows)
    assert taken == [10, 14, 18, 22]
    assert buffer.state_dict()["held"]["x"].shape == (10, 1)


def test_nothing_is_read_before_the_first_batch_is_asked_for() -> None:
    source = Counting(numbered(100))
    buffer_of(source, capacity_tokens=10, batch_tokens=4)
    assert source.n_rows == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_rows_are_held_and_served_in_the_dtype_they_came_in(dtype: torch.dtype) -> None:
    buffer = buffer_of(numbered(20, dtype=dtype), capacity_tokens=10, batch_tokens=4)
    assert next(buffer)["x"].dtype == dtype
    assert buffer.state_dict()["held"]["x"].dtype == dtype


def test_the_memory_is_allocated_once() -> None:
    buffer = buffer_of(numbered(2_000, chunk_rows=7), capacity_tokens=50, batch_tokens=8)
    next(buffer)
    address = buffer._held["x"].data_ptr()
    for _ in range(200):
        next(buffer)
        assert buffer._held["x"].data_ptr() == address


def test_a_served_batch_is_not_overwritten_by_the_next_rows() -> None:
    buffer = buffer_of(numbered(20), capacity_tokens=4, batch_tokens=4)
    first = next(buffer)
    before = numbers(first)
    next(buffer)
    assert sorted(before) == [0, 1, 2, 3]
    assert numbers(first) == before


# What is served ----------------------------------------------------------------------------------


def test_a_buffer_of_one_batch_serves_each_batch_shuffled() -> None:
    buffer = buffer_of(numbered(60, chunk_rows=7), capacity_tokens=20, batch_tokens=20)
    batches = [numbers(batch) for batch in buffer]
    assert [sorted(batch) for batch in batches] == [
        list(range(0, 20)),
        list(range(20, 40)),
        list(range(40, 60)),
    ]
    assert all(batch != sorted(batch) for batch in batches)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)).map(sorted),
    n_rows=st.integers(0, 80),
    chunk_rows=st.integers(1, 30),
    seed=st.integers(0, 2**32),
)
def test_every_row_is_served_once_or_still_held_when_the_source_ends(
    sizes: list[int], n_rows: int, chunk_rows: int, seed: int
) -> None:
    batch_tokens, capacity_tokens = sizes
    buffer = buffer_of(numbered(n_rows, chunk_rows), capacity_tokens, batch_tokens, seed)
    batches = [numbers(batch) for batch in buffer]
    assert all(len(set(batch)) == batch_tokens for batch in batches)  # distinct within a batch

    n_batches = 1 + (n_rows - capacity_tokens) // batch_tokens if n_rows >= capacity_tokens else 0
    assert len(batches) == n_batches

    served = [number for batch in batches for number in batch]
    state = buffer.state_dict()
    still_held = set(range(capacity_tokens)) - set(state["free"].tolist())
    held = [int(state["held"]["x"][slot, 0]) for slot in still_held]
    assert sorted(served + held) == list(range(n_rows))


def test_rows_of_several_names_stay_aligned() -> None:
    number = torch.arange(300.0)[:, None]
    chunks: list[Rows] = [
        {"narrow": rows, "wide": torch.cat([2 * rows, -rows], dim=1).to(torch.bfloat16)}
        for rows in number[:256].split(9)  # bfloat16 counts to 256 without gaps
    ]
    for batch in buffer_of(chunks, capacity_tokens=40, batch_tokens=16):
        assert batch["narrow"].shape == (16, 1)
        assert batch["wide"].shape == (16, 2)
        narrow = batch["narrow"][:, 0]
        assert torch.equal(batch["wide"][:, 1].float(), -narrow)
        assert torch.equal(batch["wide"][:, 0].float(), (2 * narrow).bfloat16().float())


def test_chunks_without_rows_are_passed_over() -> None:
    empty: Rows = {"x": torch.empty(0, 1)}
    chunks = [empty, *numbered(3), empty, empty, *numbered(3), empty]
    buffer = buffer_of(chunks, capacity_tokens=3, batch_tokens=3)
    assert [sorted(numbers(batch)) for batch in buffer] == [[0, 1, 2], [0, 1, 2]]


def test_the_same_seed_gives_the_same_order_and_another_seed_another() -> None:
    def served(seed: int) -> list[list[int]]:
        return [numbers(batch) for batch in buffer_of(numbered(100), 20, 5, seed)]

    assert served(3) == served(3)
    assert served(3) != served(4)


def test_the_order_does_not_depend_on_how_the_rows_arrive() -> None:
    one_by_one = [numbers(batch) for batch in buffer_of(numbered(100, 1), 20, 6)]
    in_chunks = [numbers(batch) for batch in buffer_of(numbered(100, 33), 20, 6)]
    assert one_by_one == in_chunks


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    next(buffer_of(numbered(20), capacity_tokens=10, batch_tokens=4))
    assert torch.equal(torch.get_rng_state(), state)


# How well it mixes -------------------------------------------------------------------------------

N, B = 40, 8
N_BATCHES = 5_000


@pytest.fixture(scope="module")
def served_in() -> torch.Tensor:
    """For each row, the number of the batch it was served in; rows of the last batches left out."""
    n_rows = N + B * (N_BATCHES - 1)
    found = torch.full((n_rows,), -1)
    for i, batch in enumerate(buffer_of(numbered(n_rows, 1_000), N, B)):
        found[batch["x"][:, 0].long()] = i
    settled = found[: n_rows - 30 * N]  # 150 batches from the end: 0.8 ** 150 = 3e-15 still wait
    assert (settled >= 0).all()
    return settled


def test_how_long_a_row_waits_is_geometric_with_mean_n_over_b(served_in: torch.Tensor) -> None:
    row = torch.arange(len(served_in))
    arrived_in = torch.where(row < N, 0, 1 + (row - N) // B)
    waited = served_in - arrived_in + 1
    # Mean N/B = 5, standard deviation sqrt(20) = 4.5; over 39,000 rows that strays by 0.02.
    assert waited.double().mean().item() == pytest.approx(N / B, abs=0.1)
    for batches in (1, 2, 5, 10, 20):
        still_waiting = (waited > batches).double().mean().item()
        assert still_waiting == pytest.approx((1 - B / N) ** batches, abs=0.015)


def test_rows_that_arrived_together_seldom_meet_again(served_in: torch.Tensor) -> None:
    together = served_in[N:].reshape(-1, B)  # the rows that refilled the buffer after each batch
    met = (together[:, :-1] == together[:, 1:]).double().mean().item()
    # 7/71 = 0.0986, about B/2N = 0.1; over 34,000 pairs that strays by 0.002.
    assert met == pytest.approx((B - 1) / (2 * N - B - 1), abs=0.01)


def test_whether_a_row_is_served_does_not_depend_on_what_waits_beside_it(
    served_in: torch.Tensor,
) -> None:
    # The 0.0986 holds for rows far apart in their group as well as for neighbours.
    together = served_in[N:].reshape(-1, B)
    met = (together[:, 0] == together[:, -1]).double().mean().item()
    assert met == pytest.approx(7 / 71, abs=5 * math.sqrt(0.0986 * 0.9014 / len(together)))


# Resuming ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.tuples(st.integers(1, 10), st.integers(1, 10)).map(sorted),
    chunk_rows=st.integers(1, 25),
    n_consumed=st.integers(0, 8),
)
def test_a_restored_buffer_serves_bit_for_bit_what_the_first_would_have(
    sizes: list[int], chunk_rows: int, n_consumed: int
) -> None:
    batch_tokens, capacity_tokens = sizes
    chunks = numbered(100, chunk_rows)
    source = Counting(chunks)
    first = buffer_of(source, capacity_tokens, batch_tokens, seed=1)
    for _ in range(n_consumed):
        next(first)
    state = first.state_dict()
    rest = chunks[source.n_chunks :]
    expected = [numbers(batch) for batch in first]  # the state has to survive this

    second = buffer_of(rest, capacity_tokens, batch_tokens, seed=2)
    second.load_state_dict(state)
    assert [numbers(batch) for batch in second] == expected


def test_a_state_can_be_restored_twice() -> None:
    first = buffer_of(numbered(60), capacity_tokens=10, batch_tokens=4)
    next(first)
    state = first.state_dict()
    served: list[list[list[int]]] = []
    for _ in range(2):
        buffer = buffer_of(numbered(60)[10:], capacity_tokens=10, batch_tokens=4)
        buffer.load_state_dict(state)
        served.append([numbers(batch) for batch in buffer])
    assert served[0] == served[1] == [numbers(batch) for batch in first]


# The ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [0, 9])
def test_a_source_that_cannot_fill_the_buffer_serves_nothing(n_rows: int) -> None:
    assert list(buffer_of(numbered(n_rows), capacity_tokens=10, batch_tokens=4)) == []


def test_the_end_of_the_source_ends_the_batches_for_good() -> None:
    buffer = buffer_of(numbered(14), capacity_tokens=10, batch_tokens=4)
    assert len(list(buffer)) == 2
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(buffer)
