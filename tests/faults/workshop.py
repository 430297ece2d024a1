"""A folder with valid files, for a test to damage, and what a bad input is."""

import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import config, write_texts
from safetensors.torch import load_file, save_file
from small_models import copy_of_tiny
from torch import Tensor

import sae
from activation_cache import ActivationCache, LanguageModel
from activation_cache.cache.manifest import with_checksum
from activation_cache.common.errors import InputError
from sae.architectures import TopKConfig

TEXT = "texts.jsonl"
"""The text that lies in every workshop."""

UNREADABLE = "/proc/self/mem"
"""A file that nobody can read from its beginning, root neither."""


class MakesFolder:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@dataclass(frozen=True)
class Workshop:
    """Copies of valid files below a folder; what the methods return or take is relative to it."""

    folder: Path
    cache_to_copy: Path

    def __post_init__(self) -> None:
        write_texts(self.folder / TEXT)

    def write(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    # A dictionary of 8 features ------------------------------------------------------------------

    def dictionary(self, **config: Any) -> Path:
        """The folder `d`, whose config says something else than when it was saved."""
        folder = self.folder / "d"
        made = TopKConfig(d_sae=8, k=2).build(192, seed=0)
        made.provenance = sae.Provenance.from_metadata(
            {
                "model_name": "tiny",
                "hook_name": "blocks.2.hook_resid_pre",
                "dataset_path": TEXT,
                "context_size": 16,
                "eval_tokens": 64,
            }
        )
        sae.save(made, folder)
        self.edit_config(lambda content: content.update(config))
        return folder

    def edit_config(self, edit: Callable[[dict[str, Any]], object]) -> None:
        path = self.folder / "d" / "cfg.json"
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    def settings(self, **its: Any) -> None:
        """A dictionary with these settings under `metadata.featureloom.config`."""
        self.dictionary()
        self.edit_config(lambda content: content["metadata"]["featureloom"]["config"].update(its))

    def metadata(self, **its: Any) -> None:
        self.dictionary()
        self.edit_config(lambda content: content["metadata"].update(its))

    def tensors(self, edit: Callable[[dict[str, Tensor]], object]) -> None:
        """A dictionary with other weights."""
        path = self.dictionary() / "sae_weights.safetensors"
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        edit(tensors)
        save_file(tensors, path)

    def weights(self, edit: Callable[[bytes], bytes]) -> None:
        path = self.dictionary() / "sae_weights.safetensors"
        data = edit(path.read_bytes())
        path.unlink()
        path.write_bytes(data)

    # A cache of two sites ------------------------------------------------------------------------

    def cache(self) -> Path:
        """The folder `c`."""
        return Path(shutil.copytree(self.cache_to_copy, self.folder / "c"))

    def manifest(self, edit: Callable[[dict[str, Any]], object]) -> None:
        """A cache whose manifest says something else, with a checksum that fits."""
        path = self.cache() / "manifest.json"
        content = json.loads(path.read_text())
        edit(content)
        path.write_bytes(with_checksum({n: v for n, v in content.items() if n != "checksum"}))

    def shard(self, edit: Callable[[bytes], bytes]) -> None:
        path = self.cache() / "train" / "000000.safetensors"
        path.write_bytes(edit(path.read_bytes()))

    # A language model ----------------------------------------------------------------------------

    def model(self, **config: Any) -> Path:
        """The folder `m` with the embedded model, whose config says something else."""
        folder = copy_of_tiny(self.folder / "m")
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return folder

    def model_without(self, *names: str) -> None:
        folder = self.model()
        for name in names:
            (folder / name).unlink()

    def model_with(self, name: str, content: bytes | str) -> None:
        self.model()
        self.write(f"m/{name}", content)

    # Anything ------------------------------------------------------------------------------------

    def exchange(self, name: str, put: Callable[[Path], object]) -> None:
        """Something else in the place of a file."""
        path = self.folder / name
        path.unlink()
        put(path)


def refusal(act: Callable[[], object]) -> str:
    """The one line with which something is refused."""
    with pytest.raises(InputError) as raised:
        act()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def nothing(_shop: Workshop) -> None:
    """What has to be there for a bad flag."""


@dataclass(frozen=True)
class Bad:
    """What a user gives a script, and what the script has to say to it."""

    script: str
    flags: str
    says: str
    """A pattern: the thing, the value and the remedy."""
    prepare: Callable[[Workshop], object] = nothing


def make_cache(folder: Path, tiny: LanguageModel) -> Path:
    """A small cache, with its text beside it."""
    dataset = write_texts(folder / "texts.jsonl")
    ActivationCache.create(folder / "cache", tiny, config(dataset))
    return folder / "cache"


def safetensors_of(header: bytes, data: bytes = b"", n_header: int | None = None) -> bytes:
    """A safetensors file, whose header may be said to be of another length."""
    n_bytes = len(header) if n_header is None else n_header
    return n_bytes.to_bytes(8, "little") + header + data


def header_of(**tensors: tuple[str, list[int], list[int]]) -> bytes:
    """The header of tensors that are given as dtype, shape and offsets."""
    names = ("dtype", "shape", "data_offsets")
    return json.dumps(
        {name: dict(zip(names, its, strict=True)) for name, its in tensors.items()}
    ).encode()


def pickled(folder: Path) -> bytes:
    """What makes the folder `trace` if it is unpickled, as torch would write it."""
    buffer = io.BytesIO()
    torch.save({"x": MakesFolder(folder / "trace")}, buffer)
    return buffer.getvalue()
