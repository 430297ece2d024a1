"""The files of dictionaries: written whole or not at all, and read as from a stranger."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from sae.errors import InputError

LARGEST_CONFIG = 2**20
"""Bytes of a config that are read; one that was saved has about a thousand."""

REMEDY = "restore it from a copy, or train the dictionary again"


def write_files(folder: Path, files: Mapping[str, Callable[[Path], Any]]) -> None:
    """Write each file aside and then rename it, in this order. Give the config last."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: folder / f"{name}.part" for name in files}
    try:
        for name, write in files.items():
            parts[name].unlink(missing_ok=True)  # a link would be written through
            write(parts[name])
        for name, part in parts.items():
            part.replace(folder / name)
    except BaseException as error:
        for part in parts.values():
            part.unlink(missing_ok=True)
        if isinstance(error, SafetensorError):  # what its library makes of a full disk
            raise OSError(str(error)) from error
        raise


def plain(tensor: Tensor) -> Tensor:
    """A tensor as files hold it: in memory of its own order, with nothing attached."""
    return tensor.detach().cpu().contiguous()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a stranger; `InputError` where it is none."""
    with path.open("rb") as file:
        data = file.read(LARGEST_CONFIG + 1)
    if len(data) > LARGEST_CONFIG:
        raise InputError(
            f"{path} is no config: it has more than {LARGEST_CONFIG:,} bytes; {REMEDY}"
        )
    try:
        config = json.loads(data, object_pairs_hook=_said_once)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the dictionary at {path.parent} is damaged: {path.name}: {error}; {REMEDY}"
        ) from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is no config: it must hold one JSON object; {REMEDY}")
    return config


def _said_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"it says {twice!r} twice")
    return content
