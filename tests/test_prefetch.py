"""Batches prepared in the background, on a source that counts."""

import threading
from typing import Any

import pytest
import torch

from activation_cache import HarvestConfig, LanguageModel, harvest
from activation_cache.stream.prefetch import Prefetch
from activation_cache.stream.shuffle import Rows


class Counting:
    """Serves the batches 0, 1, 2, … and raises `failure` instead of the batch `end`."""

    def __init__(self, end: int, failure: BaseException | None = None) -> None:
        self.n = 0
        self.end = end
        self.failure = failure or StopIteration()

    def __next__(self) -> Rows:
        if self.n == self.end:
            raise self.failure
        self.n += 1
        return {"x": torch.tensor([[float(self.n - 1)]])}

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n = state["n"]


def number(batch: Rows) -> int:
    return int(batch["x"].item())


def test_batches_arrive_once_each_and_in_order() -> None:
    with Prefetch(Counting(end=100), depth=3) as stream:
        assert [number(batch) for batch in stream] == list(range(100))


def test_at_most_depth_batches_are_ready() -> None:
    source = Counting(end=100)
    with Prefetch(source, depth=3) as stream:
        next(stream)
        for _ in range(200):  # let the thread run ahead as far as it would
            threading.Event().wait(0.001)
            if source.n >= 4:
                break
        assert source.n == 4  # the one served and three that are ready


def test_what_the_source_raises_comes_after_the_batches_before_it() -> None:
    with Prefetch(Counting(end=2, failure=KeyError("gone")), depth=8) as stream:
        assert [number(next(stream)), number(next(stream))] == [0, 1]
        with pytest.raises(KeyError, match="gone"):
            next(stream)
        with pytest.raises(KeyError, match="gone"):  # and stays
            next(stream)


@pytest.mark.parametrize("n_taken", [0, 1, 7])
def test_a_restored_stream_serves_what_the_saved_one_would_have_served(n_taken: int) -> None:
    with Prefetch(Counting(end=20), depth=4) as stream:
        for _ in range(n_taken):
            next(stream)
        state = stream.state_dict()
        expected = [number(batch) for batch in stream]
    with Prefetch(Counting(end=20), depth=4) as restored:
        restored.load_state_dict(state)
        assert [number(batch) for batch in restored] == expected == list(range(n_taken, 20))


def test_closing_ends_the_thread_even_while_it_waits_for_room() -> None:
    before = set(threading.enumerate())
    stream = Prefetch(Counting(end=100), depth=1)
    next(stream)
    stream.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(StopIteration):
        next(stream)


def test_the_thread_of_a_stream_that_nobody_has_any_more_ends() -> None:
    before = set(threading.enumerate())
    stream = Prefetch(Counting(end=100), depth=1)
    next(stream)
    (thread,) = set(threading.enumerate()) - before
    del stream
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_activations_are_the_same_bits_when_prefetched(tiny: LanguageModel) -> None:
    cfg = HarvestConfig(
        hook_names=("blocks.1.hook_resid_pre",),
        context_size=32,
        forward_tokens=256,
        batch_tokens=64,
        buffer_tokens=512,
    )
    plain = harvest(tiny, cfg)
    with Prefetch(harvest(tiny, cfg)) as prefetched:
        for _ in range(10):
            (ours,) = next(prefetched).values()
            (theirs,) = next(plain).values()
            assert torch.equal(ours, theirs)
