"""Reading a cache: which rows are served, whatever is read beside it, and as training sees them."""

from collections import Counter
from itertools import islice
from pathlib import Path
from threading import Thread

import pytest
import torch
from caches import (
    MLP,
    RESID,
    all_rows,
    config,
    damage,
    refusal,
    sorted_rows,
    write_texts,
)
from torch import Tensor

from activation_cache import ActivationCache, LanguageModel
from activation_cache.cache.reader import POOL_SHARDS
from activation_cache.cache.shard import DamagedShard
from activation_cache.stream.prefetch import Prefetch
from activation_cache.stream.shuffle import Rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> str:
    return write_texts(folder / "texts.jsonl")


@pytest.fixture(scope="module")
def cache(folder: Path, dataset: str, tiny: LanguageModel) -> ActivationCache:
    """Of each site 500 rows in three shards."""
    return ActivationCache.create(folder / "cache", tiny, config(dataset))


def rows_of(batches: list[Rows], site: str = RESID) -> Tensor:
    return torch.cat([batch[site] for batch in batches])


def counted(x: Tensor) -> Counter[tuple[float, ...]]:
    """How often each row occurs."""
    return Counter(map(tuple, x.tolist()))


def assert_same(actual: list[Rows], expected: list[Rows]) -> None:
    """Bit for bit, and in the same order."""
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[site], theirs[site]) for site in ours)


# Which rows are served ---------------------------------------------------------------------------


@pytest.mark.parametrize("window_tokens", [1, 64, 100_000])
def test_an_epoch_is_every_row_once_in_another_order(
    cache: ActivationCache, window_tokens: int
) -> None:
    rows = rows_of(list(cache.batches(64, window_tokens=window_tokens)))
    assert torch.equal(sorted_rows(rows), sorted_rows(all_rows(cache)))
    assert not torch.equal(rows, all_rows(cache))


def test_sites_stay_aligned_when_they_are_shuffled(cache: ActivationCache) -> None:
    resid, mlp = all_rows(cache, RESID), all_rows(cache, MLP)
    for batch in cache.batches(64, seed=7):
        row = torch.cdist(batch[RESID], resid).argmin(dim=1)
        assert torch.equal(batch[RESID], resid[row])
        assert torch.equal(batch[MLP], mlp[row])


def test_batches_hold_batch_tokens_rows_of_the_sites_asked_for(cache: ActivationCache) -> None:
    batches = list(cache.batches(64, sites=[MLP]))
    assert [list(batch) for batch in batches] == [[MLP]] * 8
    assert [batch[MLP].shape for batch in batches] == [(64, 768)] * 7 + [(52, 768)]
    assert list(next(cache.batches(64))) == [RESID, MLP]


def test_sites_are_served_in_the_order_asked_for(cache: ActivationCache) -> None:
    assert list(next(cache.batches(8, sites=(MLP, RESID)))) == [MLP, RESID]


def test_the_held_out_split_is_read_on_request(cache: ActivationCache) -> None:
    rows = rows_of(list(cache.batches(64, split="held_out")))
    assert torch.equal(sorted_rows(rows), sorted_rows(all_rows(cache, split="held_out")))
    assert len(rows) == 60


def test_a_budget_of_tokens_ends_the_stream(cache: ActivationCache) -> None:
    batches = list(cache.batches(64, n_tokens=150, shuffle=False))
    assert [len(batch[RESID]) for batch in batches] == [64, 64, 22]
    assert torch.equal(rows_of(batches), all_rows(cache)[:150])


def test_a_budget_may_end_in_the_middle_of_an_epoch(cache: ActivationCache) -> None:
    rows = rows_of(list(cache.batches(64, n_tokens=700, n_epochs=2)))
    assert len(rows) == 700
    assert counted(rows[:500]) == counted(all_rows(cache))
    assert counted(rows[500:]) < counted(all_rows(cache))  # some contexts occur more than once


def test_epochs_are_the_same_rows_in_different_orders(cache: ActivationCache) -> None:
    first, second = rows_of(list(cache.batches(100, n_epochs=2))).split(500)
    assert torch.equal(sorted_rows(first), sorted_rows(second))
    assert not torch.equal(first, second)


def test_the_order_follows_from_the_seed(cache: ActivationCache) -> None:
    first, again, other = (list(cache.batches(100, seed=seed)) for seed in (3, 3, 4))
    assert_same(first, again)
    assert not torch.equal(rows_of(first), rows_of(other))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rows_are_served_in_the_dtype_asked_for(cache: ActivationCache, dtype: torch.dtype) -> None:
    rows = rows_of(list(cache.batches(100, shuffle=False, dtype=dtype)))
    assert rows.dtype == dtype
    assert torch.equal(rows, all_rows(cache).to(dtype))


def test_batches_may_be_written_to(cache: ActivationCache) -> None:
    before = all_rows(cache)
    for batch in cache.batches(64, shuffle=False):
        batch[RESID].zero_()
    assert torch.equal(all_rows(cache), before)


# Bad input ---------------------------------------------------------------------------------------


def test_a_site_that_is_not_there_is_refused(cache: ActivationCache) -> None:
    message = refusal(lambda: cache.batches(64, sites=["blocks.3.hook_resid_pre"]))
    assert message == (
        f"the cache {cache.folder} has no site blocks.3.hook_resid_pre: it holds {RESID}, {MLP}"
    )


def test_more_rows_than_there_are_are_refused_with_the_epochs_that_they_take(
    cache: ActivationCache,
) -> None:
    message = refusal(lambda: cache.batches(64, n_tokens=1_001))
    assert message == (
        f"the cache {cache.folder} holds 500 rows of train in 1 epochs, not 1001: give --epochs 3, "
        f"or fewer tokens"
    )
    assert "give --epochs 3," in refusal(lambda: cache.batches(64, n_tokens=1_500))
    assert len(rows_of(list(cache.batches(64, n_tokens=1_001, n_epochs=3)))) == 1_001


def test_no_number_of_epochs_is_the_remedy_for_a_split_without_rows(
    dataset: str, tmp_path: Path, tiny: LanguageModel
) -> None:
    cache = ActivationCache.create(tmp_path, tiny, config(dataset, held_out_tokens=0))
    message = refusal(lambda: cache.batches(64, split="held_out", n_tokens=10))
    assert "holds no rows of the split held_out" in message
    assert "--epochs" not in message


@pytest.mark.parametrize("name", ["batch_tokens", "window_tokens"])
def test_sizes_of_nothing_are_refused(cache: ActivationCache, name: str) -> None:
    assert refusal(lambda: cache.batches(**{name: 0})) == f"{name} must be at least 1, got 0"


@pytest.mark.parametrize(("name", "value"), [("n_tokens", -1), ("n_epochs", 0)])
def test_a_budget_below_nothing_is_refused(cache: ActivationCache, name: str, value: int) -> None:
    assert f"got {value}" in refusal(lambda: cache.batches(64, **{name: value}))


# Damage ------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(dataset: str, tmp_path: Path, tiny: LanguageModel) -> ActivationCache:
    """A cache that a test may damage."""
    return ActivationCache.create(tmp_path / "fresh", tiny, config(dataset))


def test_a_damaged_shard_raises_before_a_single_row_is_served(fresh: ActivationCache) -> None:
    damage(Path(fresh.folder) / "train/000002.safetensors", RESID)
    with fresh.batches(64) as stream:  # all three shards are in the first window
        message = refusal(lambda: next(stream), DamagedShard)
    assert message == (
        f"train/000002.safetensors of {fresh.folder} is damaged: {RESID} is not what was written"
    )


def test_what_was_served_before_a_damaged_shard_is_whole(fresh: ActivationCache) -> None:
    n_before = sum(shard.n_rows for shard in fresh.manifest.splits["train"].shards[:2])
    expected = all_rows(fresh)[:n_before]
    damage(Path(fresh.folder) / "train/000002.safetensors", RESID)
    served: list[Rows] = []
    with fresh.batches(10, shuffle=False, window_tokens=50, prefetch=2) as stream:
        with pytest.raises(DamagedShard, match="000002"):
            served.extend(stream)
        with pytest.raises(DamagedShard, match="000002"):  # and stays
            next(stream)
    rows = rows_of(served)
    assert 0 <= n_before - len(rows) < 50 + 10
    assert torch.equal(rows, expected[: len(rows)])


def test_a_missing_shard_is_named(fresh: ActivationCache) -> None:
    (Path(fresh.folder) / "train/000001.safetensors").unlink()
    with fresh.batches(64) as stream:
        message = refusal(lambda: next(stream), DamagedShard)
    assert message == f"train/000001.safetensors of {fresh.folder} is missing"


def test_damage_to_what_is_not_read_disturbs_nobody(fresh: ActivationCache) -> None:
    expected = all_rows(fresh, RESID)
    damage(Path(fresh.folder) / "train/000002.safetensors", MLP)
    damage(Path(fresh.folder) / "held_out/000000.safetensors", RESID)
    assert torch.equal(all_rows(fresh, RESID), expected)
    assert len(fresh.verify()) == 2


# Streams beside each other -----------------------------------------------------------------------


def test_several_streams_read_at_once_serve_what_each_would_alone(
    cache: ActivationCache,
) -> None:
    alone = [list(cache.batches(50, seed=seed, n_epochs=3)) for seed in range(4)]
    together: list[list[Rows]] = [[] for _ in range(4)]

    def read(seed: int) -> None:
        together[seed].extend(cache.batches(50, seed=seed, n_epochs=3))

    threads = [Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, theirs in zip(together, alone, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("n_consumed", [0, 5, 15])
def test_a_restored_stream_goes_on_bit_for_bit(cache: ActivationCache, n_consumed: int) -> None:
    def stream() -> Prefetch:
        return cache.batches(64, seed=5, n_epochs=2, window_tokens=200, prefetch=3)

    with stream() as first:
        list(islice(first, n_consumed))
        state = first.state_dict()
        expected = list(first)
    assert len(expected) == 16 - n_consumed  # 1000 rows
    with stream() as second:
        second.load_state_dict(state)
        assert_same(list(second), expected)


def test_a_cache_of_many_shards_is_read_whole(
    dataset: str, tmp_path: Path, tiny: LanguageModel
) -> None:
    cfg = config(dataset, hook_names=(RESID,), n_tokens=330, shard_tokens=1, forward_tokens=16)
    cache = ActivationCache.create(tmp_path, tiny, cfg)
    assert len(cache.manifest.splits["train"].shards) > POOL_SHARDS
    for shuffle in (False, True):
        rows = rows_of(list(cache.batches(30, shuffle=shuffle, window_tokens=70)))
        assert torch.equal(rows, all_rows(cache)) != shuffle
        assert torch.equal(sorted_rows(rows), sorted_rows(all_rows(cache)))
