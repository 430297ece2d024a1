"""One shard: the same bytes for the same rows, and not a bit of them unwatched."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from caches import damage, refusal, rewrite
from hypothesis import given, settings
from hypothesis import strategies as st

from activation_cache.cache.codec import CodecName, Encoded, decode_into, encode
from activation_cache.cache.manifest import ShardEntry
from activation_cache.cache.shard import DamagedShard, Shard, pack, version_of
from activation_cache.stream.source import Origins

A, B = "blocks.0.hook_resid_pre", "blocks.1.mlp.hook_post"
N_ROWS = 3


def origins(n_rows: int = N_ROWS, first: int = 0) -> Origins:
    number = torch.arange(first, first + n_rows)
    return Origins(
        token_ids=100 + number,
        positions=1 + number % 15,
        documents=number // 2,
        opens_block=number % 15 == 0,
    )


def encoded(n_rows: int = N_ROWS, seed: int = 0) -> dict[str, Encoded]:
    """Four channels of site A as int8, two of site B as float32."""
    x = torch.randn(n_rows, 6, generator=torch.Generator().manual_seed(seed))
    return {A: encode(x[:, :4], "int8", A), B: encode(x[:, 4:], "float32", B)}


def entry_of(checksums: dict[str, str], n_rows: int = N_ROWS) -> ShardEntry:
    return ShardEntry(n_rows=n_rows, cursor={}, checksums=checksums, costs={})


def written(
    path: Path, its_origins: Origins | None = None, its_rows: dict[str, Encoded] | None = None
) -> Shard:
    data, checksums = pack(its_origins or origins(), its_rows or encoded())
    path.write_bytes(data)
    return Shard(path, path.name, entry_of(checksums))


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return written(tmp_path / "shard")


def again(shard: Shard) -> Shard:
    """The file opened anew, as the next process does."""
    return Shard(shard.path, shard.name, shard.entry)


def check_anew(shard: Shard) -> None:
    again(shard).check()


# What is written ---------------------------------------------------------------------------------


def test_the_same_rows_give_the_same_bytes() -> None:
    assert pack(origins(), encoded()) == pack(origins(), encoded())


def test_the_checksums_tell_what_differs() -> None:
    _, ours = pack(origins(), encoded())
    _, theirs = pack(origins(first=1), encoded())
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing == {"token_ids", "positions", "documents", "opens_block"}
    _, theirs = pack(origins(), encoded() | {B: encoded(seed=1)[B]})
    assert {name for name in ours if ours[name] != theirs[name]} == {B}


def test_every_tensor_and_the_header_has_a_checksum() -> None:
    _, checksums = pack(origins(), encoded())
    of_a = {A, f"{A}.row_scale", f"{A}.channel_mean", f"{A}.channel_scale"}
    of_rows = {"token_ids", "positions", "documents", "opens_block"}
    assert set(checksums) == {"header", B} | of_rows | of_a
    assert all(len(checksum) == 32 for checksum in checksums.values())  # 128 bits


@pytest.mark.parametrize("codec", get_args(CodecName))
def test_what_was_packed_is_what_is_read(tmp_path: Path, codec: CodecName) -> None:
    x = torch.randn(N_ROWS, 4, generator=torch.Generator().manual_seed(0))
    shard = written(tmp_path / "shard", its_rows={A: encode(x, codec, A)})
    expected = encode(x, codec, A)
    found = shard.encoded(A)
    assert set(found) == set(expected)
    assert all(torch.equal(found[part], expected[part]) for part in expected)
    assert all(found[part].dtype == expected[part].dtype for part in expected)
    out = torch.empty(N_ROWS, 4, dtype=expected["values"].dtype if codec != "int8" else x.dtype)
    decode_into(out, shard.encoded(A), 0)
    if codec == "float32":
        assert torch.equal(out, x)


def test_the_origins_are_read_as_they_were_packed(shard: Shard) -> None:
    for found, expected in zip(shard.origins(), origins(), strict=True):
        assert torch.equal(found, expected)
        assert found.dtype == expected.dtype


@pytest.mark.parametrize("position", [32_767, 32_768, 131_071])
def test_positions_of_long_contexts_are_read_as_they_were_packed(
    tmp_path: Path, position: int
) -> None:
    far = origins()._replace(positions=torch.tensor([1, 2, position]))
    assert written(tmp_path / "shard", far).origins().positions.tolist() == [1, 2, position]


def test_a_version_is_a_name_for_the_content(shard: Shard) -> None:
    checksums = shard.entry.checksums
    moved = replace(shard.entry, cursor={"document": 3})
    backwards = dict(reversed(checksums.items()))
    assert version_of(moved) == version_of(entry_of(backwards)) == version_of(shard.entry)
    assert version_of(entry_of(checksums | {B: "0" * 32})) != version_of(shard.entry)


# Damage ------------------------------------------------------------------------------------------


def test_an_intact_shard_passes_its_check(shard: Shard) -> None:
    check_anew(shard)


def test_a_flipped_bit_in_any_byte_is_found(shard: Shard) -> None:
    data = shard.path.read_bytes()
    assert len(data) < 2_000
    for offset in range(len(data)):
        damaged = bytearray(data)
        damaged[offset] ^= 1 << offset % 8
        rewrite(shard.path, bytes(damaged))
        with pytest.raises(DamagedShard, match=r"^shard is damaged"):
            check_anew(shard)
    rewrite(shard.path, data)
    check_anew(shard)


def test_a_shard_that_was_cut_off_anywhere_is_found(shard: Shard) -> None:
    data = shard.path.read_bytes()
    n_header = 8 + int.from_bytes(data[:8], "little")
    lengths = {0, 1, 4, 7, 8, 9, n_header // 2, n_header - 1, n_header, n_header + 1}
    lengths |= {(n_header + len(data)) // 2, len(data) - 1}
    for length in sorted(lengths):
        rewrite(shard.path, data[:length])
        message = refusal(lambda: again(shard), DamagedShard)  # on opening, before any tensor
        assert message.startswith("shard is damaged")


@settings(deadline=None, max_examples=50)
@given(tail=st.binary(min_size=1, max_size=100))
def test_something_appended_is_found(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    shard = written(tmp_path_factory.mktemp("appended") / "shard")
    with shard.path.open("ab") as file:
        file.write(tail)
    assert refusal(lambda: again(shard), DamagedShard).startswith("shard is damaged")


def test_a_missing_shard_is_named(shard: Shard) -> None:
    shard.path.unlink()
    assert refusal(lambda: again(shard), DamagedShard) == "shard is missing"


def test_a_folder_in_the_place_of_a_shard_is_damage(shard: Shard) -> None:
    shard.path.unlink()
    shard.path.mkdir()
    assert refusal(lambda: again(shard), DamagedShard) == "shard is missing"


def test_another_shard_of_the_same_shape_is_found(shard: Shard) -> None:
    theirs, _ = pack(origins(first=1), encoded(seed=1))
    assert len(theirs) == shard.path.stat().st_size
    rewrite(shard.path, theirs)
    foreign = again(shard)  # the header is the same
    message = refusal(lambda: foreign.encoded(B), DamagedShard)
    assert message == f"shard is damaged: {B} is not what was written"


def test_another_shard_with_more_rows_is_found_by_its_header(shard: Shard) -> None:
    rewrite(shard.path, pack(origins(4), encoded(4))[0])
    message = refusal(lambda: again(shard), DamagedShard)
    assert message == "shard is damaged: its header is not what was written"


@pytest.mark.parametrize(
    ("before", "after"),
    [(b'"shape":[3,2]', b'"shape":[2,3]'), (b'"dtype":"F32"', b'"dtype":"I32"')],
)
def test_another_reading_of_the_same_bytes_is_found(
    shard: Shard, before: bytes, after: bytes
) -> None:
    data = shard.path.read_bytes()
    assert before in data
    rewrite(shard.path, data.replace(before, after))
    message = refusal(lambda: again(shard), DamagedShard)
    assert message == "shard is damaged: its header is not what was written"


# What is not read is not checked -----------------------------------------------------------------


def test_a_reader_of_one_site_is_not_disturbed_by_damage_in_another(shard: Shard) -> None:
    damage(shard.path, B)
    damaged = again(shard)
    assert torch.equal(damaged.encoded(A)["values"], encoded()[A]["values"])
    assert torch.equal(damaged.origins().token_ids, origins().token_ids)
    for act in (lambda: damaged.encoded(B), damaged.check):
        message = refusal(act, DamagedShard)
        assert message == f"shard is damaged: {B} is not what was written"


@pytest.mark.parametrize("part", ["row_scale", "channel_mean", "channel_scale"])
def test_damage_to_a_scale_is_damage_to_its_site(shard: Shard, part: str) -> None:
    damage(shard.path, f"{A}.{part}")
    damaged = again(shard)
    assert torch.equal(damaged.encoded(B)["values"], encoded()[B]["values"])
    assert f"{A}.{part} is not" in refusal(lambda: damaged.encoded(A), DamagedShard)


def test_damage_to_the_origins_does_not_keep_rows_from_being_read(shard: Shard) -> None:
    damage(shard.path, "documents")
    damaged = again(shard)
    damaged.encoded(A), damaged.encoded(B)
    assert "documents is not what was written" in refusal(damaged.origins, DamagedShard)
