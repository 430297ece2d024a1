"""State on disk: nested dicts and lists of tensors and numbers, whole or refused.

A folder holds `state.safetensors`, every tensor under its path in the state; `state.json`, the rest
of the state with the tensors' places marked; and `checksums.json`, by which `read_state` knows that
both are what was written. Nothing is pickled.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.files import replacing

STATE_FILE, TENSORS_FILE, CHECKSUMS_FILE = "state.json", "state.safetensors", "checksums.json"
UNREADABLE = (SafetensorError, RecursionError)
"""What files that are nested too deeply, or are no tensors, make their readers raise."""


class DamagedCheckpoint(InputError):
    """A checkpoint that is not what was written."""


def write_state(
    folder: Path, state: Mapping[str, Any], also: Callable[[Path], None] = lambda folder: None
) -> None:
    """Write a state as a folder, which appears at once and whole, and survives a power cut.

    `also` puts more files into it. What the folder held before is replaced.
    """
    tensors: dict[str, Tensor] = {}
    content = json.dumps(_without_tensors(state, "", tensors), allow_nan=False)
    with replacing(folder) as aside:
        aside.mkdir()
        save_file(tensors, aside / TENSORS_FILE)
        (aside / STATE_FILE).write_text(content)
        also(aside)
        (aside / CHECKSUMS_FILE).write_text(json.dumps(_checksums(aside), indent=2))


def read_state(folder: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """What `write_state` was given; `DamagedCheckpoint` where a byte of the folder has changed."""
    try:
        expected = json.loads((folder / CHECKSUMS_FILE).read_text())
        found = _checksums(folder)
        for name in sorted({*expected, *found}):
            if expected.get(name) != found.get(name):
                kind = "missing" if name not in found else "not what was written"
                raise DamagedCheckpoint(f"the checkpoint {folder} is damaged: {name} is {kind}")
        content = json.loads((folder / STATE_FILE).read_text())
        tensors = load_file(folder / TENSORS_FILE, device=str(device))
        return _with_tensors(content, tensors)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, *UNREADABLE) as error:
        if isinstance(error, DamagedCheckpoint):
            raise
        raise DamagedCheckpoint(f"the checkpoint {folder} is damaged: {error}") from error


def _without_tensors(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The node as JSON can have it, its tensors put aside. Keys may be numbers, so dicts are lists
    of pairs."""
    if isinstance(node, Tensor):
        name = f"{len(tensors)}{path}"  # two paths can read alike: keys are anything
        tensors[name] = _alone(node, tensors.values())
        return {"tensor": name}
    if isinstance(node, Mapping):
        items = [[k, _without_tensors(v, f"{path}/{k}", tensors)] for k, v in node.items()]
        return {"dict": items}
    if isinstance(node, (list, tuple)):
        return {"list": [_without_tensors(v, f"{path}/{i}", tensors) for i, v in enumerate(node)]}
    return node


def _with_tensors(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        return tensors[node["tensor"]]
    if "list" in node:
        return [_with_tensors(item, tensors) for item in node["list"]]
    return {key: _with_tensors(value, tensors) for key, value in node["dict"]}


def _alone(tensor: Tensor, others: Iterable[Tensor]) -> Tensor:
    """On the CPU, in memory that no other tensor shares: safetensors refuses all else."""
    tensor = tensor.detach().cpu().contiguous()
    memory = tensor.untyped_storage()
    is_part = memory.nbytes() != tensor.nbytes
    is_shared = memory.data_ptr() in {other.untyped_storage().data_ptr() for other in others}
    return tensor.clone() if is_part or is_shared else tensor


def _checksums(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / CHECKSUMS_FILE:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
            found[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return found
