"""What a cache says about itself, and that nobody can edit it unnoticed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from caches import MLP, RESID, all_rows, config, packed, refusal, rewrite, write_texts

from activation_cache import ActivationCache, LanguageModel
from activation_cache.common.versions import library_versions
from activation_cache.stream.source import ActivationSource


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny: LanguageModel) -> ActivationCache:
    folder = tmp_path_factory.mktemp("caches")
    dataset = write_texts(folder / "texts.jsonl")
    return ActivationCache.create(folder / "cache", tiny, config(dataset))


@pytest.fixture(scope="module")
def written(made: ActivationCache) -> bytes:
    return (Path(made.folder) / "manifest.json").read_bytes()


@pytest.fixture
def cache(made: ActivationCache, written: bytes) -> ActivationCache:
    """A cache whose manifest tests may edit: the next one gets it back as it was."""
    rewrite(Path(made.folder) / "manifest.json", written)
    return made


@pytest.fixture
def folder(cache: ActivationCache) -> Path:
    return Path(cache.folder)


# What a cache says about itself ------------------------------------------------------------------


def test_a_cache_is_opened_as_it_was_created(cache: ActivationCache) -> None:
    opened = ActivationCache.open(cache.folder)
    assert opened.manifest == cache.manifest
    assert opened.config == cache.config
    assert opened.sites == (RESID, MLP)
    assert opened.manifest.widths == {RESID: 192, MLP: 768}
    assert torch.equal(all_rows(opened), all_rows(cache))


def test_the_manifest_records_what_the_rows_depend_on(
    cache: ActivationCache, tiny: LanguageModel
) -> None:
    content = json.loads((Path(cache.folder) / "manifest.json").read_text())
    assert content["model"] == tiny.description
    assert content["model"]["name"] == "tiny"
    assert content["model"]["dtype"] == "float32"
    assert content["tokenizer"] == tiny.tokenizer_description
    assert content["versions"] == library_versions()
    assert content["versions"]["torch"] == torch.__version__
    assert content["n_rows"] == {"train": 500, "held_out": 60}
    assert content["config"]["dataset"] == list(cache.config.dataset)
    assert content["codec_fvu"] == {RESID: 0.0, MLP: 0.0}


def test_every_shard_knows_where_in_the_text_it_begins(
    cache: ActivationCache, tiny: LanguageModel
) -> None:
    expected = [row.token_id for row in packed(tiny.tokenizer, cache.config, "train").rows]
    shards = cache.manifest.splits["train"].shards
    first = 0
    assert shards[0].cursor == {"document": 0, "epoch": 0, "token": 0, "n_blocks": 0}
    for shard in shards:
        source = ActivationSource(tiny, cache.config)
        blocks = source.token_blocks("train", repeat=False)
        blocks.load_state_dict(shard.cursor)
        ids = source.origins(blocks.next_batch()).token_ids.tolist()
        assert ids == expected[first : first + len(ids)]
        first += shard.n_rows


def test_statistics_are_those_of_the_training_rows_in_float64(cache: ActivationCache) -> None:
    for site in (RESID, MLP):
        x = all_rows(cache, site).double()
        statistics = cache.manifest.statistics[site]
        assert statistics["n_rows"] == 500
        assert statistics["mean_norm"] == pytest.approx(x.norm(dim=1).mean().item(), rel=1e-12)
        for name, expected in (("mean", x.mean(dim=0)), ("variance", x.var(dim=0, correction=0))):
            found = torch.tensor(statistics[name], dtype=torch.float64)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_the_model_of_a_cache_can_be_loaded(cache: ActivationCache, tiny: LanguageModel) -> None:
    assert cache.load_model(device="cpu").description == tiny.description


# The manifest ------------------------------------------------------------------------------------


def signed(content: dict[str, Any]) -> bytes:
    """A manifest with any content whose checksum fits, by what the format says of it."""

    def serialised(content: dict[str, Any]) -> bytes:
        return (json.dumps(content, indent=1) + "\n").encode()

    content = {name: value for name, value in content.items() if name != "checksum"}
    checksum = xxhash.xxh3_128_hexdigest(serialised(content))
    return serialised({**content, "checksum": checksum})


def test_the_checksum_of_a_manifest_is_that_of_its_content(written: bytes) -> None:
    assert signed(json.loads(written)) == written


EDITS: dict[str, Callable[[bytes], bytes]] = {
    "a number": lambda data: data.replace(b'"n_tokens": 500', b'"n_tokens": 501'),
    "the codec": lambda data: data.replace(b'"codec": "float32"', b'"codec": "float16"'),
    "an extra key": lambda data: data.replace(b"{\n", b'{\n "comment": "mine",\n', 1),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_manifest_is_found(
    cache: ActivationCache, folder: Path, edit: Callable[[bytes], bytes]
) -> None:
    path = folder / "manifest.json"
    data = path.read_bytes()
    path.write_bytes(edit(data))
    assert json.loads(path.read_bytes())  # it is JSON all the same
    assert path.read_bytes() != data
    message = refusal(lambda: ActivationCache.open(folder))
    assert message == (
        f"the manifest.json of {folder} is not what was written: restore it from a copy, or "
        f"harvest again"
    )
    (found,) = cache.verify()  # of one that was opened before
    assert (found.file, found.message, found.shard) == ("manifest.json", message, None)


@pytest.mark.parametrize("n_bytes", [0, 700, -2])
def test_a_manifest_that_was_cut_off_is_refused(
    cache: ActivationCache, folder: Path, n_bytes: int
) -> None:
    data = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(data[:n_bytes])
    assert f"the manifest.json of {folder} " in refusal(lambda: ActivationCache.open(folder))
    assert [found.file for found in cache.verify()] == ["manifest.json"]


def test_a_flipped_bit_anywhere_in_a_manifest_is_refused(folder: Path) -> None:
    data = (folder / "manifest.json").read_bytes()
    for offset in range(0, len(data), 499):
        damaged = bytearray(data)
        damaged[offset] ^= 1 << offset % 8
        (folder / "manifest.json").write_bytes(damaged)
        assert str(folder) in refusal(lambda: ActivationCache.open(folder)), offset


def test_a_manifest_of_another_cache_is_not_what_was_opened(
    cache: ActivationCache, folder: Path
) -> None:
    content = json.loads((folder / "manifest.json").read_bytes())
    content["versions"]["torch"] = "1.0"
    (folder / "manifest.json").write_bytes(signed(content))
    (found,) = cache.verify()
    assert found.message == f"the manifest.json of {folder} is not what was opened"


def test_a_newer_version_of_the_format_is_refused(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(signed(content | {"version": 2, "new": "key"}))
    assert refusal(lambda: ActivationCache.open(folder)) == (
        f"{folder} has version 2 of the format: update featureloom"
    )


def test_a_manifest_of_something_else_is_not_called_damaged(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b'{"name": "an app"}\n')
    assert refusal(lambda: ActivationCache.open(folder)) == (
        f"{folder} is not an activation cache: its manifest.json is something else"
    )


def test_a_manifest_that_is_no_object_is_damaged(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"[1, 2]\n")
    assert refusal(lambda: ActivationCache.open(folder)) == (
        f"the manifest.json of {folder} is damaged (manifest.json must hold one JSON object, got a "
        f"list): restore it from a copy, or harvest again"
    )


def test_a_folder_without_a_manifest_is_not_a_cache(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        assert refusal(lambda folder=folder: ActivationCache.open(folder)) == (
            f"{folder} is not an activation cache: it has no manifest.json; make one with "
            f"`featureloom harvest`"
        )


def test_manifests_hold_no_paths(written: bytes, cache: ActivationCache) -> None:
    content = json.loads(written)
    shards = [shard for split in content["splits"].values() for shard in split["shards"]]
    assert {key for shard in shards for key in shard} == {"n_rows", "cursor", "checksums", "costs"}
    assert cache.config.source in str(content)
    assert cache.folder not in str(content)
    assert "safetensors" not in str(content)
