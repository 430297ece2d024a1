"""Flipped bits and truncations, wherever they are: each is found, and its file is named."""

import random
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from forks import files, flip, refusal, write_text
from torch import Tensor

from activation_cache import ActivationCache, CacheConfig, InputError, LanguageModel
from activation_cache.cache.codec import CodecName
from activation_cache.cache.manifest import FILE
from activation_cache.text.config import Split

RESID = "blocks.2.hook_resid_pre"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


def harvested(text: Path, folder: Path, tiny: LanguageModel, codec: CodecName) -> ActivationCache:
    """A site in three shards of training and one held out: 40 kB in bfloat16."""
    cfg = CacheConfig(
        hook_names=(RESID,),
        dataset=str(text),
        context_size=16,
        forward_tokens=32,
        n_tokens=70,
        held_out_tokens=20,
        shard_tokens=25,
        codec=codec,
    )
    return ActivationCache.create(folder, tiny, cfg)


in_both_codecs = pytest.mark.parametrize("cache", ["bfloat16", "int8"], indirect=True)


@pytest.fixture
def cache(
    request: pytest.FixtureRequest, text: Path, tmp_path: Path, tiny: LanguageModel
) -> Iterator[ActivationCache]:
    """One to damage; every test must have mended it in the end."""
    made = harvested(text, tmp_path / "cache", tiny, getattr(request, "param", "bfloat16"))
    before = files(tmp_path / "cache")
    assert len(before) == 5
    assert made.verify() == []
    yield made
    assert files(tmp_path / "cache") == before


def named(folder: Path) -> list[str]:
    """Which files are found to be damaged; the manifest, where the cache cannot even be opened."""
    try:
        found = ActivationCache.open(folder).verify()
    except InputError as error:
        assert "\n" not in str(error)
        # A flipped bit can make it another format, or one of a later version, as it seems.
        assert FILE in str(error) or f"{folder} has version" in str(error), error
        return [FILE]
    assert all(damage.file in damage.message for damage in found)
    return [damage.file for damage in found]


@pytest.mark.slow
@in_both_codecs
def test_five_hundred_flipped_bits_in_each_of_two_codecs_are_found_and_their_file_is_named(
    cache: ActivationCache,
) -> None:
    """A fifth of them in each file, wherever in it: in lengths, names, numbers and rows."""
    folder, rng = Path(cache.folder), random.Random(0)
    names = list(files(folder))
    for i in range(500):
        name = names[i % len(names)]
        offset, bit = rng.randrange((folder / name).stat().st_size), rng.randrange(8)
        flip(folder / name, offset, bit)
        assert named(folder) == [name], (name, offset, bit)
        flip(folder / name, offset, bit)
    assert named(folder) == []


@pytest.mark.slow
@in_both_codecs
def test_every_bit_at_the_beginning_of_a_shard_and_of_the_manifest_is_found(
    cache: ActivationCache,
) -> None:
    """Where lengths and formats are."""
    folder = Path(cache.folder)
    for name in (FILE, "train/000001.safetensors"):
        for offset in range(16):
            for bit in range(8):
                flip(folder / name, offset, bit)
                assert named(folder) == [name], (name, offset, bit)
                flip(folder / name, offset, bit)


def test_truncations_are_found_and_their_file_is_named(cache: ActivationCache) -> None:
    """Each file emptied, two bytes too short, and cut off anywhere."""
    folder, rng = Path(cache.folder), random.Random(1)
    for i, (name, data) in enumerate(list(files(folder).items()) * 4):
        size = 0 if i < 5 else len(data) - 2 if i < 10 else rng.randrange(len(data))
        replace(folder / name, data[:size])
        assert named(folder) == [name], (name, size)
        replace(folder / name, data)


def test_what_is_appended_exchanged_or_missing_is_found(cache: ActivationCache) -> None:
    folder = Path(cache.folder)
    whole = files(folder)
    first, second = "train/000000.safetensors", "train/000001.safetensors"
    for name, data in whole.items():
        for tail in (b"\0", data):
            replace(folder / name, data + tail)
            assert named(folder) == [name], (name, tail[:4])
        (folder / name).unlink()
        assert named(folder) == [name]
        replace(folder / name, data)
    replace(folder / first, whole[second])
    replace(folder / second, whole[first])
    assert named(folder) == [first, second]
    for name in (first, second):
        replace(folder / name, whole[name])


@in_both_codecs
def test_rows_that_a_changed_header_would_have_read_as_other_numbers_are_found(
    cache: ActivationCache,
) -> None:
    """Every byte of the rows is as it was written, and their data type is not."""
    folder, name = Path(cache.folder), "train/000000.safetensors"
    data = (folder / name).read_bytes()
    was, now = {"bfloat16": (b'"BF16"', b'"F16" '), "int8": (b'"I8"', b'"U8"')}[cache.config.codec]
    assert was in data
    replace(folder / name, data.replace(was, now))
    assert named(folder) == [name]
    assert served(folder, "train", shuffle=False)[0] == []
    replace(folder / name, data)


def test_zeros_in_the_place_of_a_block_are_found(cache: ActivationCache) -> None:
    """What some file systems leave of a file that was being written when the power went."""
    folder = Path(cache.folder)
    for name, data in files(folder).items():
        for start in range(0, len(data) - 512, len(data) // 3):
            replace(folder / name, data[:start] + bytes(512) + data[start + 512 :])
            assert named(folder) == [name], (name, start)
        replace(folder / name, data)


def replace(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


# Reading -----------------------------------------------------------------------------------------


def served(folder: Path, split: Split, *, shuffle: bool) -> tuple[list[Tensor], str]:
    """The rows that a reader of a cache gets in small batches and windows, and what ends it."""
    rows: list[Tensor] = []
    try:
        cache = ActivationCache.open(folder)
        with cache.batches(
            5, split=split, shuffle=shuffle, window_tokens=8, dtype=torch.float32
        ) as stream:
            rows += [batch[RESID] for batch in stream]
    except InputError as error:
        return rows, str(error)
    return rows, ""


def test_a_reader_serves_no_row_of_a_shard_whose_rows_are_damaged_and_no_wrong_row_at_all(
    cache: ActivationCache,
) -> None:
    """30 flipped bits: a reader ends with an error, or has served exactly what was written."""
    folder, rng = Path(cache.folder), random.Random(2)
    right = served(folder, "train", shuffle=False)[0]
    rows = torch.cat(right)
    ends = list(accumulate(shard.n_rows for shard in cache.manifest.splits["train"].shards))
    n_refused = 0
    for i in range(30):
        number = i % 3
        name = f"train/{number:06d}.safetensors"
        offset, bit = rng.randrange((folder / name).stat().st_size), rng.randrange(8)
        flip(folder / name, offset, bit)
        found, error = served(folder, "train", shuffle=False)
        if error:
            n_refused += 1
            assert name in error, error
            # Nothing of this shard or behind it; of those before, what is no whole batch is lost.
            n_before = ends[number] - cache.manifest.splits["train"].shards[number].n_rows
            assert len(found) <= n_before // 5
        assert all(torch.equal(a, b) for a, b in zip(found, right, strict=False))
        assert error or len(torch.cat(found)) == len(rows)
        flip(folder / name, offset, bit)
    assert n_refused > 20  # the others are in the origins, which batches do not hold


def test_a_shuffled_reader_serves_no_wrong_row_either(cache: ActivationCache) -> None:
    folder, rng = Path(cache.folder), random.Random(3)
    right = {
        tuple(row.tolist()) for batch in served(folder, "train", shuffle=True)[0] for row in batch
    }
    assert len(right) == 70
    name = "train/000001.safetensors"
    size = (folder / name).stat().st_size
    for _ in range(15):
        offset, bit = rng.randrange(size // 2, size), rng.randrange(8)
        flip(folder / name, offset, bit)
        found, _ = served(folder, "train", shuffle=True)
        assert {tuple(row.tolist()) for batch in found for row in batch} <= right
        flip(folder / name, offset, bit)


def test_a_cache_whose_other_split_is_damaged_can_be_read(cache: ActivationCache) -> None:
    folder = Path(cache.folder)
    right = served(folder, "train", shuffle=False)[0]
    name = "held_out/000000.safetensors"
    flip(folder / name, 20)
    found, error = served(folder, "train", shuffle=False)
    assert not error
    assert torch.equal(torch.cat(found), torch.cat(right))
    assert served(folder, "held_out", shuffle=False)[0] == []
    flip(folder / name, 20)


def test_a_copy_of_a_damaged_cache_is_refused_before_it_has_a_manifest(
    cache: ActivationCache, tmp_path: Path
) -> None:
    name = "train/000002.safetensors"
    flip(tmp_path / "cache" / name, -1)
    assert name in refusal(lambda: cache.copy_to(tmp_path / "copy"))
    assert FILE not in files(tmp_path / "copy")
    flip(tmp_path / "cache" / name, -1)
