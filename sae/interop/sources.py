"""Untrusted files, read in bounded memory and without running anything in them."""

import math
import os
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.schema import convert, listed, parse_json, shown
from sae.interop import restricted_pickle

PLACES = "name the --out of a run, or the folder or file of a dictionary"
AGAIN = "restore it from a copy, or download it again"
LARGEST_CONFIG = 2**20
"""Bytes of a config that are read; one that was saved has about a thousand."""
MOST_COMPRESSION = 8
"""Times that weights can be larger than their file; more is no weights, but a bomb."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Number formats of weights."""

WRAPPERS = ("_orig_mod.", "module.")

PLAIN = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
LINEAR = {
    **{"W_enc": "encoder.weight", "W_dec": "decoder.weight"},
    **{"b_enc": "encoder.bias", "b_dec": "decoder.bias"},
}
"""What files call weights that are as ours, and those of two linear layers."""


class Source:
    """A folder, or one file in it, that may hold a dictionary. What was read once is kept.

    That of a run stands for the folder `sae` in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path = path / "sae" if (path / "sae" / "cfg.json").is_file() else path
        if not path.is_dir() and not path.is_file():  # a device has no end
            raise InputError(f"no dictionary at {path}: it is no file and no folder; {PLACES}")
        self.folder = path if path.is_dir() else path.parent
        self._read: dict[str, Any] = {}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The files that may be meant: the one that was named, or all in the folder."""
        if self.path.is_file():
            return (self.path.name,)
        return tuple(sorted(entry.name for entry in self.folder.iterdir() if entry.is_file()))

    def has(self, *names: str) -> bool:
        """Whether files of these names lie in the folder."""
        return all((self.folder / name).is_file() for name in names)

    def config(self, name: str) -> "Config":
        """A JSON object, empty where there is no such file; `InputError` where it is none."""
        return Config(name, self._once(name, read_config) if self.has(name) else {})

    def tensors(self, name: str) -> "Tensors":
        """The tensors of a .safetensors or .npz file, or what a .pt file holds by name."""
        content = self.content(name)
        if not isinstance(content, Mapping):
            raise InputError(f"{self.folder / name} holds no tensors by name; {AGAIN}")
        return Tensors(self.folder / name, _without_wrapper(content))

    def content(self, name: str, classes: Collection[str] = ()) -> Any:
        """What a .pt file holds, whatever it is; tensors by name of other files.

        Objects of the `classes` are had as mappings of their attributes.
        """
        if not self.has(name):
            raise InputError(f"{self.folder / name} is missing; {PLACES}")
        return self._once(name, partial(read_tensors, classes=classes))

    def only(self, suffix: str) -> str | None:
        """The file with this ending; None where there is none. `InputError` for several."""
        names = [name for name in self.names if name.endswith(suffix)]
        if len(names) > 1:
            raise InputError(f"{self.path} holds {', '.join(names)[:200]}: name one of them")
        return names[0] if names else None

    def _once(self, name: str, read: Any) -> Any:
        if name not in self._read:
            self._read[name] = read(self.folder / name)
        return self._read[name]


def _without_wrapper(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Names without what `torch.compile` and `DistributedDataParallel` put in front of them all."""
    for wrapper in WRAPPERS:
        if content and all(str(name).startswith(wrapper) for name in content):
            content = {name.removeprefix(wrapper): tensor for name, tensor in content.items()}
            return _without_wrapper(content)
    return content


def keys(*words: str) -> frozenset[str]:
    """Keys of a config, several in a line."""
    return frozenset(" ".join(words).split())


class Config(dict[str, Any]):
    """The content of a config. `InputError` for values it cannot have, with file, key and value."""

    def __init__(self, file: str, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.file = file

    def value(self, name: str, kind: Any, default: Any = None) -> Any:
        """The value of a key as this type has it, or the default for none and null."""
        value = self.get(name)
        return convert(kind, default if value is None else value, f"{name} in {self.file}")

    def one_of(
        self,
        name: str,
        known: Collection[str],
        default: str | None = None,
        reasons: Mapping[str, str] | None = None,
    ) -> Any:
        """A value that is among those known; `reasons` say why others cannot be loaded."""
        value = self.value(name, str, default)
        if value not in known:
            reason = (reasons or {}).get(value, f"known are {', '.join(known)}")
            raise InputError(f"{self.file} has {name} {shown(value)}: {reason}")
        return value

    def name(self, name: str) -> str | None:
        """A text, None where it is something else."""
        value = self.get(name)
        return value if isinstance(value, str) else None

    def refuse_unknown(self, known: Collection[str]) -> None:
        """`InputError` for keys that are not known: they may change what is computed."""
        if unknown := set(self) - set(known):
            raise InputError(
                f"{self.file} has unknown keys: {listed(unknown)}: what the dictionary computes is "
                f"not known; remove those that change nothing"
            )


class Tensors:
    """What one file holds by name. Each entry is taken; what is left over was not understood."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path = path
        self._left = dict(content)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    @property
    def names(self) -> tuple[str, ...]:
        """What has not been taken yet."""
        return tuple(map(str, self._left))

    def n_dimensions(self, name: str) -> int:
        """Of a tensor that is there and has not been taken yet; 0 of anything else."""
        tensor = self._left.get(name)
        return tensor.ndim if isinstance(tensor, Tensor) else 0

    def take(self, name: str, *shape: int | None) -> Tensor:
        """A tensor of finite numbers and of this shape, where None stands for any width."""
        tensor = self._left.pop(name, None)
        if tensor is None:
            raise InputError(f"{self.path} lacks the tensor {name}; {AGAIN}")
        if not isinstance(tensor, Tensor) or tensor.dtype not in DTYPES:
            raise InputError(f"{name} in {self.path} is no tensor of real numbers; {AGAIN}")
        found = tuple(tensor.shape)
        if len(found) != len(shape) or any(
            n not in (None, its) for n, its in zip(shape, found, strict=True)
        ):
            wanted = str(shape).replace("None", "any")
            raise InputError(
                f"{name} in {self.path} is of shape {found}, expected {wanted}; {AGAIN}"
            )
        if not torch.isfinite(tensor.to(torch.float32)).all():
            raise InputError(f"{name} in {self.path} holds NaN or Inf in float32: useless")
        return tensor.detach()

    def named(
        self,
        names: Mapping[str, str],
        d_in: int | None = None,
        d_sae: int | None = None,
        d_out: int | None = None,
    ) -> dict[str, Tensor]:
        """Weights by our names, given theirs. Those of linear layers, NAME.weight, are transposed.

        The widths are those of a config, where it has them.
        """
        shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}
        found: dict[str, Tensor] = {}
        for ours, theirs in names.items():
            shape = shapes.get(ours, (d_sae,))
            if theirs.endswith(".weight"):
                found[ours] = self.take(theirs, *reversed(shape)).T
            else:
                found[ours] = self.take(theirs, *shape)
        return found

    def value(self, name: str, kind: Any = Any, default: Any = None) -> Any:
        """What is no weight: a number, 0-d tensors among them, or a text."""
        found = self._left.pop(name, default)
        if isinstance(found, Tensor) and found.numel() == 1:
            found = found.item()
        return convert(kind, found, f"{name} in {self.path}")

    def finish(self, *ignored: str) -> None:
        """`InputError` where something is left that may change what is computed."""
        if left := set(self._left) - set(ignored):
            raise InputError(
                f"{self.path} holds {listed(left)}, which this layout does not have: what the "
                f"dictionary computes is not known"
            )


# Files -------------------------------------------------------------------------------------------


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object; `InputError` where it is none."""
    with path.open("rb") as file:
        data = file.read(LARGEST_CONFIG + 1)
    if len(data) > LARGEST_CONFIG:
        raise InputError(f"{path} has more than {LARGEST_CONFIG:,} bytes: no config; {AGAIN}")
    try:
        return parse_json(data, path.name)
    except InputError as error:
        raise InputError(f"the dictionary at {path.parent} is damaged: {error}; {AGAIN}") from error


def read_tensors(path: Path, classes: Collection[str] = ()) -> Any:
    """Tensors by name, or what else a .pt file holds. `InputError` where the file is unusable."""
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz}
    size, memory = path.stat().st_size, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:  # a file can have holes, and take no room on the disk
        raise InputError(
            f"{path} has {size / 1e9:,.0f} GB, and this machine has {memory / 1e9:,.0f} GB of "
            f"memory: load it on a larger one"
        )
    try:
        return readers.get(path.suffix, partial(read_torch, classes=classes))(path)
    except (InputError, OSError):
        raise
    except Exception as error:  # no reader of these lists all that damaged files make it raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise InputError(f"{path} cannot be read ({first}); {AGAIN}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:  # which compares what is declared with the file
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def _read_npz(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        _refuse_bomb(path, archive)
        if len(set(archive.namelist())) < len(archive.namelist()):
            raise InputError(f"{path} holds an array twice; {AGAIN}")
        for info in archive.infolist():
            with archive.open(info) as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError(f"the format of {info.filename[:80]} is not known")
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if dtype.hasobject or math.prod(shape) * dtype.itemsize > info.file_size:
                raise InputError(f"{info.filename[:80]} in {path} is no array of numbers; {AGAIN}")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def read_torch(path: Path, classes: Collection[str] = ()) -> Any:
    """A file of torch.save: tensors, numbers, texts, and lists and mappings of them."""
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise InputError(f"{path} was not saved by torch 1.6 or later; {AGAIN}")
        with zipfile.ZipFile(file) as archive:
            _refuse_bomb(path, archive)
            restricted_pickle.refuse_strange_names(path, archive, classes)
            stored = sum(info.file_size for info in archive.infolist())
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused below
            content = restricted_pickle.load(file, classes)
    storages: dict[int, int] = {}
    for tensor in tensors_in(content):
        storage = tensor.untyped_storage()
        if tensor.nbytes > storage.nbytes():
            shape = tuple(tensor.shape)
            raise InputError(f"{path} does not hold all numbers of a tensor of {shape}; {AGAIN}")
        storages[storage.data_ptr()] = storage.nbytes()
    if sum(storages.values()) > stored:
        raise InputError(f"{path} declares more numbers than it holds; {AGAIN}")
    return content


def tensors_in(content: Any) -> Iterator[Tensor]:
    """Every tensor in nested lists and mappings."""
    waiting, seen = [content], set[int]()
    while waiting:
        part = waiting.pop()
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, Mapping | list | tuple) and id(part) not in seen:
            seen.add(id(part))  # a file may hold a list that holds itself
            waiting.extend(part.values() if isinstance(part, Mapping) else part)


def _refuse_bomb(path: Path, archive: zipfile.ZipFile) -> None:
    declared = sum(info.file_size for info in archive.infolist())
    if declared > MOST_COMPRESSION * path.stat().st_size:
        raise InputError(f"{path} declares {declared:,} bytes, far more than it has; {AGAIN}")
