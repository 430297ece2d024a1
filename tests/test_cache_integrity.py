"""What is wrong with a cache is found, down to a bit, and harvested again."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import (
    MLP,
    RESID,
    TEXTS,
    all_rows,
    config,
    damage,
    files,
    refusal,
    rewrite,
    write_texts,
)
from tokenizers.normalizers import Lowercase

from activation_cache import ActivationCache, LanguageModel
from activation_cache.cache.writer import Progress

SHARDS = ["held_out/000000", *(f"train/00000{i}" for i in range(3))]
SHARD_FILES = [f"{name}.safetensors" for name in SHARDS]


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny: LanguageModel
) -> tuple[Path, dict[str, bytes]]:
    """A folder with a text and a cache, and the files of the cache as they were written."""
    folder = tmp_path_factory.mktemp("integrity")
    cfg = config(write_texts(folder / "texts.jsonl"), codec="bfloat16")
    ActivationCache.create(folder / "cache", tiny, cfg)
    return folder, files(folder / "cache")


@pytest.fixture
def cache(made: tuple[Path, dict[str, bytes]]) -> ActivationCache:
    """The cache, whole; tests may damage it, the next one gets it back as it was."""
    folder, written = made
    for name in files(folder / "cache").keys() - written.keys():
        (folder / "cache" / name).unlink()
    for name, data in written.items():
        rewrite(folder / "cache" / name, data)
    write_texts(folder / "texts.jsonl")
    return ActivationCache.open(folder / "cache")


@pytest.fixture
def folder(cache: ActivationCache) -> Path:
    return Path(cache.folder)


@pytest.fixture
def written(made: tuple[Path, dict[str, bytes]]) -> dict[str, bytes]:
    return made[1]


def damaged_files(cache: ActivationCache) -> list[str]:
    return [damage.file for damage in cache.verify()]


# Shards ------------------------------------------------------------------------------------------


def test_nothing_is_wrong_with_a_good_cache(
    cache: ActivationCache, written: dict[str, bytes]
) -> None:
    assert cache.verify() == []
    assert sorted(written) == [*SHARD_FILES[:1], "manifest.json", *SHARD_FILES[1:]]


@pytest.mark.parametrize("tensor", [RESID, "documents"])
def test_a_flipped_bit_is_found_and_its_tensor_named(
    cache: ActivationCache, folder: Path, tensor: str
) -> None:
    damage(folder / SHARD_FILES[2], tensor)
    (found,) = cache.verify()
    assert found.file == SHARD_FILES[2]
    assert found.shard == ("train", 1)
    assert found.message == (
        f"{SHARD_FILES[2]} of {folder} is damaged: {tensor} is not what was written"
    )


def test_a_shard_in_the_place_of_another_is_named(cache: ActivationCache, folder: Path) -> None:
    rewrite(folder / SHARD_FILES[3], (folder / SHARD_FILES[1]).read_bytes())
    (found,) = cache.verify()
    assert (found.file, found.shard) == (SHARD_FILES[3], ("train", 2))
    assert found.message.startswith(f"{SHARD_FILES[3]} of {folder} is ")


def test_everything_that_is_wrong_is_named(cache: ActivationCache, folder: Path) -> None:
    damage(folder / SHARD_FILES[0], MLP)
    (folder / SHARD_FILES[1]).unlink()
    (folder / "notes.txt").write_text("what is this")
    assert damaged_files(cache) == [SHARD_FILES[0], SHARD_FILES[1], "notes.txt"]


@pytest.mark.parametrize("name", ["notes.txt", "train/000003.safetensors"])
def test_a_foreign_file_is_named(cache: ActivationCache, folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("what is this")
    (found,) = cache.verify()
    assert found.shard is None
    assert found.message == f"{name} does not belong to the cache {folder}: delete it"


def test_a_file_that_is_being_written_is_no_damage(cache: ActivationCache, folder: Path) -> None:
    (folder / "train/000003.safetensors.7-7.tmp").write_text("half a shard")
    (folder / "writer.lock").write_text("elsewhere 7 0.0")
    assert cache.verify() == []


def test_a_shard_ahead_of_its_manifest_is_no_damage(
    tmp_path: Path, made: tuple[Path, dict[str, bytes]], tiny: LanguageModel
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.split == "train" and progress.n_bytes:
            raise KeyboardInterrupt  # the shard is there, and no manifest names it yet

    with pytest.raises(KeyboardInterrupt):
        cfg = config(str(made[0] / "texts.jsonl"))
        ActivationCache.create(tmp_path, tiny, cfg, on_progress=interrupt)
    unfinished = ActivationCache.open(tmp_path)
    assert (tmp_path / SHARD_FILES[1]).exists()
    assert (unfinished.n_rows("held_out"), unfinished.n_rows()) == (60, 0)
    assert unfinished.verify() == []
    (tmp_path / "train/spare.safetensors").write_text("not a number")
    assert damaged_files(unfinished) == ["train/spare.safetensors"]


# Repairs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [SHARD_FILES[0], SHARD_FILES[3]])
def test_repairing_restores_the_very_bytes(
    cache: ActivationCache, tiny: LanguageModel, written: dict[str, bytes], name: str
) -> None:
    damage(Path(cache.folder) / name, RESID)
    assert cache.repair(tiny) == []
    assert files(Path(cache.folder)) == written


def test_repairing_leaves_everything_else_alone(
    cache: ActivationCache, tiny: LanguageModel, folder: Path, written: dict[str, bytes]
) -> None:
    (folder / SHARD_FILES[0]).unlink()
    damage(folder / SHARD_FILES[3], "documents")
    before = {name: (folder / name).stat() for name in written if (folder / name).exists()}
    told: list[Progress] = []
    assert cache.repair(tiny, on_progress=told.append) == []
    assert files(folder) == written
    mended = {SHARD_FILES[0], SHARD_FILES[3]}
    for name in written.keys() - mended:
        now = (folder / name).stat()
        assert (now.st_mtime_ns, now.st_ino) == (before[name].st_mtime_ns, before[name].st_ino)
    n_rows = cache.manifest.splits["held_out"].shards[0].n_rows
    n_rows += cache.manifest.splits["train"].shards[2].n_rows
    assert sum(progress.n_rows for progress in told) == n_rows
    assert sum(progress.n_bytes for progress in told) == sum(len(written[name]) for name in mended)


def test_repairing_a_good_cache_does_nothing(
    cache: ActivationCache, tiny: LanguageModel, folder: Path, written: dict[str, bytes]
) -> None:
    before = {name: (folder / name).stat().st_mtime_ns for name in written}
    assert cache.repair(tiny) == []
    assert {name: (folder / name).stat().st_mtime_ns for name in written} == before


def test_what_cannot_be_mended_comes_back(
    cache: ActivationCache, tiny: LanguageModel, folder: Path
) -> None:
    (folder / "notes.txt").write_text("what is this")
    damage(folder / SHARD_FILES[1], RESID)
    assert [found.file for found in cache.repair(tiny)] == ["notes.txt"]


def test_a_repaired_cache_serves_its_rows_again(
    cache: ActivationCache, tiny: LanguageModel, folder: Path
) -> None:
    expected = all_rows(cache)
    for name in SHARD_FILES:
        (folder / name).unlink()
    assert cache.repair(tiny) == []
    assert torch.equal(all_rows(cache), expected)
    assert torch.equal(all_rows(ActivationCache.open(folder)), expected)


def test_other_last_bits_get_new_checksums(
    cache: ActivationCache, tiny: LanguageModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on other hardware: every activation of the shard is off by 2%.
    activations = LanguageModel.activations
    monkeypatch.setattr(
        LanguageModel,
        "activations",
        lambda *args: {site: 1.02 * x for site, x in activations(*args).items()},
    )
    expected = all_rows(cache)
    damage(folder / SHARD_FILES[2], RESID)
    assert cache.repair(tiny) == []
    n_rows = [shard.n_rows for shard in cache.manifest.splits["train"].shards]
    before, shard, _ = expected.split([n_rows[0], n_rows[1], 500 - sum(n_rows[:2])])
    reopened = ActivationCache.open(folder)
    assert reopened.manifest == cache.manifest
    rows = all_rows(reopened)
    assert torch.equal(rows[: n_rows[0]], before)
    mended = rows[n_rows[0] : sum(n_rows[:2])]
    torch.testing.assert_close(mended.float(), 1.02 * shard.float(), rtol=0.01, atol=1e-6)
    assert not torch.equal(mended, shard)


# The text, or what it is split into, is no longer what it was ------------------------------------


def test_a_shard_of_a_text_that_is_gone_is_not_replaced_by_another(
    cache: ActivationCache,
    made: tuple[Path, dict[str, bytes]],
    tiny: LanguageModel,
    folder: Path,
    written: dict[str, bytes],
) -> None:
    # Two documents of as many tokens change places: the shard would have as many rows.
    first = TEXTS[0]
    n_tokens = len(tiny.tokenizer(first)["input_ids"])
    other = next(x for x in TEXTS[1:] if len(tiny.tokenizer(x)["input_ids"]) == n_tokens)
    swapped = {first: other, other: first}
    write_texts(made[0] / "texts.jsonl", [swapped.get(text, text) for text in TEXTS])
    (folder / SHARD_FILES[1]).unlink()
    message = refusal(lambda: cache.repair(tiny))
    assert message == (
        f"{SHARD_FILES[1]} cannot be harvested again: the text of {cache.config.source} is no "
        f"longer what it was"
    )
    assert files(folder) == {k: v for k, v in written.items() if k != SHARD_FILES[1]}


def test_a_text_that_is_shorter_now_cannot_mend_the_shards_behind_its_end(
    cache: ActivationCache, made: tuple[Path, dict[str, bytes]], tiny: LanguageModel, folder: Path
) -> None:
    write_texts(made[0] / "texts.jsonl", TEXTS[:5] + TEXTS[-8:])
    (folder / SHARD_FILES[3]).unlink()
    message = refusal(lambda: cache.repair(tiny))
    assert message.startswith(f"{SHARD_FILES[3]} cannot be harvested again: the text of ")


def test_another_tokenizer_is_refused_before_anything_is_harvested(
    cache: ActivationCache, tiny: LanguageModel, folder: Path
) -> None:
    tokenizer: Any = copy.deepcopy(tiny.tokenizer)
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    other = LanguageModel(tiny.name, tiny.hf, tokenizer)
    damage(folder / SHARD_FILES[1], RESID)
    before = files(folder)
    assert "tokenizer" in refusal(lambda: cache.repair(other))
    assert files(folder) == before


# The model ---------------------------------------------------------------------------------------


def test_another_model_is_refused(cache: ActivationCache, tiny: LanguageModel) -> None:
    hf = copy.deepcopy(tiny.hf)
    transformer: Any = hf.transformer
    transformer.h[3].mlp.c_proj.weight.data[0, 0] += 1e-3  # one weight, behind both sites
    other = LanguageModel("tiny", hf, tiny.tokenizer)
    expected = f"the cache {cache.folder} was begun with model weights "
    for act in (lambda: cache.refuse_other(other), lambda: cache.repair(other)):
        message = refusal(act)
        assert message.startswith(expected)
        assert other.description["weights"] in message
        assert tiny.description["weights"] in message


def test_the_same_weights_under_another_name_are_the_same_model(
    cache: ActivationCache, tiny: LanguageModel
) -> None:
    other = LanguageModel("elsewhere/tiny", tiny.hf, tiny.tokenizer, revision="v2")
    assert other.description["name"] != cache.manifest.model["name"]
    assert other.description["weights"] == cache.manifest.model["weights"]
    cache.refuse_other(other)  # does not


def test_repairing_goes_by_the_manifest_that_is_there_now(
    cache: ActivationCache, tiny: LanguageModel, folder: Path
) -> None:
    newer = replace(cache.manifest, versions={"torch": "of a harvest that went on"})
    (folder / "manifest.json").write_bytes(newer.to_bytes())
    (folder / SHARD_FILES[1]).unlink()
    assert cache.repair(tiny) == []
    assert (folder / "manifest.json").read_bytes() == newer.to_bytes()
