"""The readers of files that are fuzzed, each with valid files to begin with."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

import sae
from activation_cache.cache.codec import CodecCost, encode
from activation_cache.cache.manifest import (
    CacheConfig,
    Manifest,
    ShardEntry,
    SplitEntry,
    read_manifest,
)
from activation_cache.cache.shard import Shard, pack
from activation_cache.cache.statistics import ActivationStatistics
from activation_cache.cache.storage import Storage
from activation_cache.stream.source import Origins
from faults.foreign import FOREIGN
from faults.mutate import (
    mutated_archive,
    mutated_bytes,
    mutated_json,
    mutated_safetensors,
    to_bytes,
)
from sae.architectures import GatedConfig, JumpReLUConfig, MatryoshkaConfig, ReLUConfig, TopKConfig
from sae.interop.layouts.native import CONFIG_FILE, WEIGHTS_FILE
from sae.runs.settings.grid import member_settings, read_grid
from sae.runs.settings.run_settings import RunSettings, settings_from_file
from sae.training.checkpoint import (
    CHECKSUMS_FILE,
    STATE_FILE,
    TENSORS_FILE,
    read_state,
    write_state,
)

SITE, WIDTH, N_ROWS = "blocks.0.hook_resid_pre", 4, 3
GRID = {
    "d_sae": 64,
    "wandb": "off",
    "grid": [{"k": [4, 8], "seed": [0, 1]}, {"architecture": "relu"}],
}
YAML = b"model: tiny\nd_sae: 64\nk: 4\nlr: 1e-3\nhook_name: [a, b]\ngrid: &g\n  - {k: 4}\n  - *g\n"


@dataclass(frozen=True)
class Target:
    """A reader, and how inputs for it are made."""

    name: str
    propose: Callable[[Random], bytes]
    read: Callable[[bytes], object]
    """Accepts what a file holds, or raises `InputError`."""


def targets(folder: Path) -> dict[str, Target]:
    """All of them by name; `folder` is for the files that they read."""
    made = [
        _settings(folder / "settings.json"),
        _grid(folder / "grid.yaml"),
        _manifest(folder / "manifest"),
        _shard(folder / "shard"),
        _dictionary(folder / "config", CONFIG_FILE),
        _dictionary(folder / "weights", WEIGHTS_FILE),
        *(_foreign(folder / f"foreign-{layout}", layout) for layout in FOREIGN),
        _checkpoint(folder / "checkpoint"),
    ]
    return {target.name: target for target in made}


def _of_json(contents: Sequence[Any], texts: Sequence[bytes] = ()) -> Callable[[Random], bytes]:
    """Valid JSON of which values were exchanged, or its bytes."""

    def propose(rng: Random) -> bytes:
        if texts and rng.random() < 0.2:
            return mutated_bytes(rng.choice(texts), rng)
        content = rng.choice(contents)
        if rng.random() < 0.3:
            return mutated_bytes(json.dumps(content, indent=1).encode(), rng)
        return to_bytes(mutated_json(content, rng), rng)

    return propose


# Settings ----------------------------------------------------------------------------------------


def _settings(path: Path) -> Target:
    settings = RunSettings.of(hook_name=SITE, model="tiny", lr=1e-3, wandb="off").to_dict()

    def read(data: bytes) -> object:
        path.write_bytes(data)
        given = settings_from_file(path)
        return given.to_dict()

    return Target("settings", _of_json([settings, {"settings": settings}], [YAML]), read)


def _grid(path: Path) -> Target:
    def read(data: bytes) -> object:
        path.write_bytes(data)
        return member_settings(read_grid(path), {}, where="the grid")

    return Target("grid", _of_json([GRID], [YAML]), read)


# The activation cache ----------------------------------------------------------------------------


def _shard_file() -> tuple[bytes, ShardEntry]:
    x = torch.randn(N_ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(N_ROWS)
    data, checksums = pack(
        Origins(numbers, numbers, numbers, numbers == 0), {SITE: encode(x, "int8", SITE)}
    )
    cursor: dict[str, int] = {"document": 0, "epoch": 0, "n_blocks": 0, "token": 0}
    return data, ShardEntry(N_ROWS, cursor, checksums, {SITE: CodecCost(0.5, 1.5)})


def _valid_manifest() -> Manifest:
    _, entry = _shard_file()
    statistics = ActivationStatistics(WIDTH)
    statistics.update(torch.ones(N_ROWS, WIDTH))
    names = ("name", "revision", "weights", "processing")
    return Manifest(
        config=CacheConfig(hook_names=(SITE,), n_tokens=N_ROWS, codec="int8"),
        model={**dict.fromkeys(names, "x"), "dtype": "float32"},
        tokenizer={"class": "x"},
        versions={"torch": "2"},
        widths={SITE: WIDTH},
        splits={
            "held_out": SplitEntry(),
            "train": SplitEntry((entry,), entry.cursor, complete=True),
        },
        statistics={SITE: statistics.to_dict()},
    )


def _manifest(folder: Path) -> Target:
    folder.mkdir(exist_ok=True)
    content = json.loads(_valid_manifest().to_bytes())

    def read(data: bytes) -> object:
        (folder / "manifest.json").write_bytes(data)
        manifest = read_manifest(Storage(folder))
        return manifest.identity(), manifest.complete, asdict(manifest)

    return Target(folder.name, _of_json([content]), read)


def _shard(folder: Path) -> Target:
    folder.mkdir(exist_ok=True)
    path = folder / "shard.safetensors"
    valid, entry = _shard_file()

    def propose(rng: Random) -> bytes:
        return mutated_safetensors(valid, rng)

    def read(data: bytes) -> object:
        path.unlink(missing_ok=True)  # what is mapped into memory stays as it was
        path.write_bytes(data)
        shard = Shard(path, path.name, entry)
        shard.check()
        if data != valid:
            raise AssertionError("a shard was accepted that is not what was written")
        return shard.encoded(SITE), shard.origins()

    return Target(folder.name, propose, read)


# Checkpoints and dictionaries --------------------------------------------------------------------


def _checkpoint(folder: Path) -> Target:
    """One file of a checkpoint."""
    write_state(folder, {"n": 3, "weights": {"x": torch.ones(2), 5: [torch.zeros(1), None]}})
    names = (STATE_FILE, TENSORS_FILE, CHECKSUMS_FILE)
    valid = [(folder / name).read_bytes() for name in names]

    def propose(rng: Random) -> bytes:
        i = rng.randrange(len(names))
        if names[i] == TENSORS_FILE:
            return bytes([i]) + mutated_safetensors(valid[i], rng)
        return bytes([i]) + _of_json([json.loads(valid[i])])(rng)

    def read(data: bytes) -> object:
        for i, name in enumerate(names):
            (folder / name).unlink(missing_ok=True)  # what is mapped into memory stays as it was
            (folder / name).write_bytes(data[1:] if i == data[0] else valid[i])
        return read_state(folder)

    return Target(folder.name, propose, read)


def _dictionary(folder: Path, name: str) -> Target:
    """One file of a dictionary; the others are as they were saved."""
    cfgs = (
        *(TopKConfig(d_sae=8, k=2), ReLUConfig(d_sae=8, tied=True), GatedConfig(d_sae=8)),
        *(JumpReLUConfig(d_sae=8), MatryoshkaConfig(d_sae=8, k=2)),
    )
    valid: list[bytes] = []
    for i, cfg in enumerate(cfgs):
        sae.save(cfg.build(WIDTH, seed=i), folder / str(i))
        valid.append((folder / str(i) / name).read_bytes())

    def propose(rng: Random) -> bytes:
        i = rng.randrange(len(valid))
        if name == CONFIG_FILE:
            return bytes([i]) + _of_json([json.loads(valid[i])])(rng)
        return bytes([i]) + mutated_safetensors(valid[i], rng)

    def read(data: bytes) -> object:
        path = folder / str(data[0]) / name
        path.unlink(missing_ok=True)  # what is mapped into memory stays as it was
        path.write_bytes(data[1:])
        dictionary = sae.load(path.parent)
        return dictionary.encode(torch.ones(2, dictionary.d_in, dtype=dictionary.dtype))

    return Target(f"dictionary-{folder.name}", propose, read)


def _foreign(folder: Path, layout: str) -> Target:
    """One file of a dictionary of another project; the other is as its program writes it."""
    its = FOREIGN[layout]
    names = [its.weights_file, *([its.config_file] if its.config_file else [])]
    valid = [(its.write(folder) / name).read_bytes() for name in names]
    is_archive = not its.weights_file.endswith(".safetensors")

    def propose(rng: Random) -> bytes:
        i = rng.randrange(len(names))
        if names[i] == its.config_file:
            return bytes([i]) + _of_json([its.config])(rng)
        return bytes([i]) + (mutated_archive if is_archive else mutated_safetensors)(valid[i], rng)

    def read(data: bytes) -> object:
        for i, name in enumerate(names):
            (folder / name).unlink(missing_ok=True)  # what is mapped into memory stays as it was
            (folder / name).write_bytes(data[1:] if i == data[0] else valid[i])
        dictionary = sae.load(folder)
        return dictionary(torch.ones(2, dictionary.d_in, dtype=dictionary.dtype))

    return Target(folder.name, propose, read)
