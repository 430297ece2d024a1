"""Unpickling runs what a pickle says: nothing is ever unpickled, wherever it lies."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from workshop import MakesFolder, Workshop, pickled, refusal

import sae
from activation_cache import ActivationCache, load_model
from activation_cache.text.config import TextConfig
from activation_cache.text.documents import documents
from sae.interop.layouts.native import CONFIG_FILE, WEIGHTS_FILE
from sae.runs.settings.run_settings import settings_from_file
from sae.training.checkpoint import read_state, write_state

pytestmark = pytest.mark.usefixtures("as_installed", "no_more_memory")


def checkpoint_with(shop: Workshop, name: str, data: bytes) -> Callable[[], object]:
    folder = shop.folder / "checkpoint"
    write_state(folder, {"x": torch.ones(2)})
    (folder / name).write_bytes(data)
    return lambda: read_state(folder)


def model_with(shop: Workshop, name: str, data: bytes) -> Callable[[], object]:
    shop.model_with(name, data)
    if name.endswith(".bin"):
        (shop.folder / "m" / "model.safetensors").unlink()
    return lambda: load_model(str(shop.folder / "m"))


def dictionary_with(shop: Workshop, name: str, data: bytes) -> Callable[[], object]:
    shop.dictionary()
    shop.exchange(f"d/{name}", lambda path: path.write_bytes(data))
    return lambda: sae.load("d")


def cache_with(shop: Workshop, name: str, data: bytes) -> Callable[[], object]:
    shop.cache()
    shop.exchange(f"c/{name}", lambda path: path.write_bytes(data))
    return lambda: ActivationCache.open("c").shard("train", 0)


def text_with(shop: Workshop, name: str, data: bytes) -> Callable[[], object]:
    path = shop.write(name, data)
    return lambda: list(documents(TextConfig(dataset=str(path)), "train"))


def settings_with(shop: Workshop, name: str, data: bytes) -> Callable[[], object]:
    path = shop.write(name, data)
    return lambda: settings_from_file(path)


PLACES: dict[str, Callable[[Workshop, str, bytes], Callable[[], object]]] = {
    **dict.fromkeys((CONFIG_FILE, WEIGHTS_FILE), dictionary_with),
    **dict.fromkeys(("manifest.json", "train/000000.safetensors"), cache_with),
    **dict.fromkeys(("state.json", "state.safetensors"), checkpoint_with),
    **dict.fromkeys(("pytorch_model.bin", "model.safetensors", "tokenizer.json"), model_with),
    **dict.fromkeys(("t.json", "t.parquet"), text_with),
    "settings.json": settings_with,
}


@pytest.mark.parametrize(("name", "put"), PLACES.items(), ids=PLACES)
def test_a_pickle_is_never_unpickled_wherever_it_lies(
    shop: Workshop, name: str, put: Callable[..., Callable[[], object]]
) -> None:
    refusal(put(shop, name, pickled(shop.folder)))
    assert not (shop.folder / "trace").exists()


def test_these_pickles_would_do_something(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(pickled(tmp_path))
    torch.load(tmp_path / "x", weights_only=False)
    assert (tmp_path / "trace").is_dir()
    (tmp_path / "trace").rmdir()
    pickle.loads(pickle.dumps(MakesFolder(tmp_path / "trace")))
    assert (tmp_path / "trace").is_dir()
