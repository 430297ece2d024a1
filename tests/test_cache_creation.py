"""Interrupted harvests go on to the very same bytes, and other settings are refused."""

import copy
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from caches import MLP, RESID, config, files, refusal, write_texts

from activation_cache import ActivationCache, CacheConfig, LanguageModel
from activation_cache.cache.storage import Storage
from activation_cache.cache.writer import Progress
from activation_cache.stream.source import ActivationSource


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_texts(tmp_path_factory.mktemp("creation") / "texts.jsonl")


@pytest.fixture(scope="module")
def cfg(dataset: str) -> CacheConfig:
    """A shard held out of one forward pass, and two of training of two passes and of one."""
    sizes = {"n_tokens": 170, "held_out_tokens": 50, "shard_tokens": 60}
    return config(dataset, codec="int8", hook_names=(RESID,), **sizes)


@pytest.fixture(scope="module")
def whole(
    cfg: CacheConfig, tmp_path_factory: pytest.TempPathFactory, tiny: LanguageModel
) -> dict[str, bytes]:
    """The files of a harvest that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    ActivationCache.create(folder, tiny, cfg)
    return files(folder)


class InterruptedAt:
    """Raises KeyboardInterrupt at one call of many."""

    def __init__(self, n_calls: int) -> None:
        self.n_left = n_calls

    def __call__(self, *_: object) -> None:
        if self.n_left == 0:
            raise KeyboardInterrupt
        self.n_left -= 1


def progress_of(folder: Path, tiny: LanguageModel, cfg: CacheConfig) -> list[Progress]:
    told: list[Progress] = []
    ActivationCache.create(folder, tiny, cfg, on_progress=told.append)
    return told


# Progress ----------------------------------------------------------------------------------------


def test_progress_adds_up_to_the_rows_and_the_bytes_of_the_shards(
    cfg: CacheConfig, tmp_path: Path, tiny: LanguageModel
) -> None:
    told = progress_of(tmp_path, tiny, cfg)
    written = files(tmp_path)
    for split, n_rows in (("train", 170), ("held_out", 50)):
        of_split = [progress for progress in told if progress.split == split]
        assert sum(progress.n_rows for progress in of_split) == n_rows
        n_bytes = sum(len(data) for name, data in written.items() if name.startswith(split))
        assert sum(progress.n_bytes for progress in of_split) == n_bytes
    assert [progress.split for progress in told] == sorted(progress.split for progress in told)


def test_a_harvest_that_goes_on_begins_with_the_rows_that_are_there(
    cfg: CacheConfig, tmp_path: Path, tiny: LanguageModel
) -> None:
    told: list[Progress] = []

    def interrupt(progress: Progress) -> None:
        told.append(progress)
        if len(told) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ActivationCache.create(tmp_path, tiny, cfg, on_progress=interrupt)
    there = ActivationCache.open(tmp_path)
    assert 0 < there.n_rows("held_out") + there.n_rows() < 220
    told = progress_of(tmp_path, tiny, cfg)
    assert told[0] == Progress("held_out", n_rows=there.n_rows("held_out"))
    assert sum(progress.n_rows for progress in told) == 220


# Interruptions -----------------------------------------------------------------------------------


def test_a_harvest_interrupted_anywhere_goes_on_to_the_same_bytes(
    cfg: CacheConfig, whole: dict[str, bytes], tmp_path: Path, tiny: LanguageModel
) -> None:
    assert [name for name in whole if "train" in name] == [
        "train/000000.safetensors",
        "train/000001.safetensors",
    ]
    n_steps = len(progress_of(tmp_path / "counted", tiny, cfg))
    # Of each pass the rows, of each shard the bytes.
    assert n_steps == (1 + 2 + 1) + 3
    for step in range(n_steps):
        folder = tmp_path / str(step)
        with pytest.raises(KeyboardInterrupt):
            ActivationCache.create(folder, tiny, cfg, on_progress=InterruptedAt(step))
        there = ActivationCache.open(folder)  # a valid cache at every instant
        assert not there.manifest.complete
        assert there.verify() == []
        ActivationCache.create(folder, tiny, cfg)
        assert files(folder) == whole


def test_a_harvest_interrupted_behind_any_file_goes_on_to_the_same_bytes(
    cfg: CacheConfig,
    whole: dict[str, bytes],
    tmp_path: Path,
    tiny: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = Storage.write
    was_interrupted = True
    step = 0
    while was_interrupted:
        interrupt = InterruptedAt(step)

        def interrupted(
            self: Storage, name: str, data: bytes, interrupt: InterruptedAt = interrupt
        ) -> None:
            write(self, name, data)
            interrupt()

        folder = tmp_path / str(step)
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(Storage, "write", interrupted)
            was_interrupted = True
            ActivationCache.create(folder, tiny, cfg)
            was_interrupted = False
        ActivationCache.create(folder, tiny, cfg)
        assert files(folder) == whole
        step += 1
    assert step - 1 == 1 + 2 * 3  # a manifest at first, then three shards and one behind each


def test_a_harvest_may_be_interrupted_again_and_again(
    cfg: CacheConfig, whole: dict[str, bytes], tmp_path: Path, tiny: LanguageModel
) -> None:
    n_interruptions = 0
    for _ in range(20):
        try:
            # At the fifth step: at the first shard of training rows, then at the second one.
            ActivationCache.create(tmp_path, tiny, cfg, on_progress=InterruptedAt(4))
            break
        except KeyboardInterrupt:
            n_interruptions += 1
    assert n_interruptions == 2
    assert files(tmp_path) == whole


def test_an_interrupted_harvest_leaves_no_lock_and_no_unfinished_file(
    cfg: CacheConfig, tmp_path: Path, tiny: LanguageModel
) -> None:
    with pytest.raises(KeyboardInterrupt):
        ActivationCache.create(tmp_path, tiny, cfg, on_progress=InterruptedAt(6))
    assert not [name for name in files(tmp_path) if name.endswith((".tmp", ".lock"))]


def test_what_a_killed_writer_left_behind_is_removed(
    cfg: CacheConfig, whole: dict[str, bytes], tmp_path: Path, tiny: LanguageModel
) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/000000.safetensors.7-7.tmp").write_bytes(b"half a shard")
    (tmp_path / "train/000001.safetensors").write_bytes(b"a shard that no manifest names")
    ActivationCache.create(tmp_path, tiny, cfg)
    assert files(tmp_path) == whole


def test_creating_a_complete_cache_again_writes_nothing(
    cfg: CacheConfig, tmp_path: Path, tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ActivationCache.create(tmp_path, tiny, cfg)

    def refuse(*_: object) -> None:
        raise AssertionError("nothing is to be written")

    monkeypatch.setattr(Storage, "write", refuse)
    assert ActivationCache.create(tmp_path, tiny, cfg).manifest == first.manifest


def test_a_second_writer_is_refused_while_the_first_is_at_work(
    cfg: CacheConfig, tmp_path: Path, tiny: LanguageModel
) -> None:
    messages: list[str] = []

    def tell(progress: Progress) -> None:
        if not messages:
            messages.append(refusal(lambda: ActivationCache.create(tmp_path, tiny, cfg)))

    ActivationCache.create(tmp_path, tiny, cfg, on_progress=tell)
    assert f"is writing to {tmp_path}: wait for it" in messages[0]
    assert ActivationCache.open(tmp_path).verify() == []


# Other settings ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(cfg: CacheConfig, tmp_path_factory: pytest.TempPathFactory, tiny: LanguageModel) -> Path:
    folder = tmp_path_factory.mktemp("begun")
    ActivationCache.create(folder, tiny, cfg)
    return folder


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"n_tokens": 171}, "n_tokens 170, not 171"),
        ({"codec": "float32"}, "codec 'int8', not 'float32'"),
        ({"prepend_bos": False}, "prepend_bos True, not False"),
        ({"hook_names": (MLP,)}, f"hook_names {(RESID,)}, not {(MLP,)}"),
    ],
)
def test_other_settings_are_refused_with_the_difference(
    begun: Path, cfg: CacheConfig, tiny: LanguageModel, changes: dict[str, Any], difference: str
) -> None:
    before = files(begun)
    other = CacheConfig(**vars(cfg) | changes)
    message = refusal(lambda: ActivationCache.create(begun, tiny, other))
    assert message.startswith(f"the cache {begun} was begun with ")
    assert difference in message
    assert message.endswith(": give that, or another folder")
    assert files(begun) == before


def with_another_weight(model: LanguageModel) -> LanguageModel:
    hf = copy.deepcopy(model.hf)
    transformer: Any = hf.transformer
    transformer.h[3].mlp.c_proj.bias.data[0] += 1.0
    return LanguageModel(model.name, hf, model.tokenizer)


def with_another_tokenizer(model: LanguageModel) -> LanguageModel:
    tokenizer: Any = copy.deepcopy(model.tokenizer)
    tokenizer.add_tokens(["featureloom"])
    return LanguageModel(model.name, model.hf, tokenizer)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (with_another_weight, "model weights"),
        (with_another_tokenizer, "tokenizer"),
    ],
)
def test_going_on_with_another_model_is_refused(
    begun: Path,
    cfg: CacheConfig,
    tiny: LanguageModel,
    other: Callable[[LanguageModel], LanguageModel],
    what: str,
) -> None:
    message = refusal(lambda: ActivationCache.create(begun, other(tiny), cfg))
    assert message.startswith(f"the cache {begun} was begun with {what} ")


def test_the_name_of_a_model_may_differ_as_long_as_its_weights_do_not(
    begun: Path, cfg: CacheConfig, tiny: LanguageModel
) -> None:
    renamed = LanguageModel("elsewhere/tiny", tiny.hf, tiny.tokenizer, revision="v2")
    assert ActivationCache.create(begun, renamed, cfg).manifest.model["name"] == "tiny"


def test_a_folder_that_is_a_file_is_refused(
    cfg: CacheConfig, tmp_path: Path, tiny: LanguageModel
) -> None:
    (tmp_path / "file").write_text("not a folder")
    message = refusal(lambda: ActivationCache.create(tmp_path / "file", tiny, cfg))
    assert str(tmp_path / "file") in message
    assert (tmp_path / "file").read_text() == "not a folder"


# A text that has changed -------------------------------------------------------------------------


def test_a_place_in_the_text_that_is_no_longer_there_is_refused(
    dataset: str, cfg: CacheConfig, tiny: LanguageModel
) -> None:
    # A cursor beyond the end of its document, or beyond the last one: the text was edited between
    # an interruption and going on, or before a repair.
    for document, token, problem in (
        (0, 1_000, "it no longer has token 1000 of document 0"),
        (1_000, 1, "of the 1000 that were read before"),
    ):
        blocks = ActivationSource(tiny, cfg).token_blocks("train", repeat=False)
        cursor = {"document": document, "epoch": 0, "token": token, "n_blocks": 5}
        message = refusal(lambda blocks=blocks, cursor=cursor: blocks.load_state_dict(cursor))
        assert message.startswith(f"the text {cfg.source} has changed: ") and problem in message
