"""Caches that are damaged, of another program or version, or not what a flag needs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workshop import Bad, Workshop

Prepare = Callable[[Workshop], object]
Content = dict[str, Any]
SITE = "blocks.2.hook_resid_pre"
AGAIN = "restore it from a copy, or harvest again"
REPAIR = "--repair harvests damaged shards again"
SHARD = "c/train/000000.safetensors"


def of_bytes(edit: Callable[[bytes], bytes]) -> Prepare:
    """A cache whose manifest.json holds other bytes."""

    def prepare(shop: Workshop) -> None:
        path = shop.cache() / "manifest.json"
        path.write_bytes(edit(path.read_bytes()))

    return prepare


def signed(edit: Callable[[Content], object]) -> Prepare:
    return lambda shop: shop.manifest(edit)


def model(**its: Any) -> Prepare:
    return signed(lambda content: content["model"].update(its))


def in_place_of(name: str, put: Callable[[Path], object]) -> Prepare:
    def prepare(shop: Workshop) -> None:
        shop.cache()
        shop.exchange(name, put)

    return prepare


def linked_train(shop: Workshop) -> None:
    """The shards lie somewhere else."""
    (shop.cache() / "train").rename(shop.folder / "elsewhere")
    (shop.folder / "c" / "train").symlink_to(shop.folder / "elsewhere")


DAMAGED = f"the manifest.json of c is damaged .*: {AGAIN}"
NO_CACHE = "c is not an activation cache: its manifest.json is something else"

CACHES: dict[str, tuple[Prepare, str]] = {
    "of nothing": (of_bytes(lambda _: b""), DAMAGED),
    "cut off": (of_bytes(lambda data: data[:500]), DAMAGED),
    "of 100,000 lists in each other": (of_bytes(lambda _: b"[" * 100_000), DAMAGED),
    "of a list": (of_bytes(lambda _: b"[]"), DAMAGED),
    "of another program": (of_bytes(lambda _: b'{"name": "an app"}'), NO_CACHE),
    "edited": (
        of_bytes(lambda data: data.replace(b"500", b"501", 1)),
        f"is not what was written: {AGAIN}",
    ),
    "that is a folder": (
        in_place_of("c/manifest.json", Path.mkdir),
        "cannot read manifest.json in c",
    ),
    "of a later version": (
        signed(lambda c: c.update(version=2)),
        "has version 2.*update featureloom",
    ),
}

SHARDS: dict[str, tuple[Prepare, str]] = {
    "cut off": (lambda shop: shop.shard(lambda data: data[:-1]), "000000.safetensors of c is dama"),
    "with a header of 2**60 bytes": (
        lambda shop: shop.shard(lambda data: (2**60).to_bytes(8, "little") + data[8:]),
        "000000.safetensors of c is damaged: its header",
    ),
    "that is a pipe": (
        in_place_of(SHARD, os.mkfifo),
        "000000.safetensors of c is missing",
    ),
    "that is not there": (in_place_of(SHARD, lambda _: None), "000000.safetensors of c is missing"),
}

FOREIGN: dict[str, tuple[Prepare, str]] = {
    "a foreign file": (
        lambda shop: (shop.cache(), shop.write("c/notes.txt", "x")),
        "notes.txt does not belong to the cache c: delete it",
    ),
    "shards that lie elsewhere": (linked_train, "train does not belong to the cache c: delete it"),
}

FROM_CACHE = f"--cache c --hook-name {SITE} --k 4 --d-sae 16 --wandb off --out run"
TRAIN: dict[str, tuple[str, str]] = {
    "another model than the cache's": (
        "--model gpt2",
        "model 'gpt2' is not what the cache c.*leave",
    ),
    "a site that the cache lacks": (
        "--hook-name blocks.3.hook_resid_pre",
        "the cache c has no site blocks.3.hook_resid_pre: it holds",
    ),
    "more rows than the cache has": (
        "--n-tokens 5000",
        "500 rows.*not 5000: give --epochs",
    ),
    "more epochs than can be counted": (f"--epochs {9 * 10**18}", "n_tokens must be .*64 bits"),
}

BAD_CACHES = {
    **{
        f"harvest, verify a manifest {name}": Bad("harvest", "--verify --out c", says, prepare)
        for name, (prepare, says) in CACHES.items()
    },
    **{
        f"harvest, verify a shard {name}": Bad(
            "harvest", "--verify --out c", f"{says}.*{REPAIR}", prepare
        )
        for name, (prepare, says) in SHARDS.items()
    },
    **{
        f"harvest, verify a cache with {name}": Bad("harvest", "--verify --out c", says, prepare)
        for name, (prepare, says) in FOREIGN.items()
    },
    **{
        f"train, {name}": Bad("train", f"{FROM_CACHE} {flags}", says, lambda shop: shop.cache())
        for name, (flags, says) in TRAIN.items()
    },
    "train, a cache of a model that has moved": Bad(
        "train", FROM_CACHE, "cannot load the model '/no/where'.*give", model(name="/no/where")
    ),
    "train, a cache of a model that is another one now": Bad(
        "train",
        FROM_CACHE,
        "was begun with model weights '00', not .*give that",
        model(weights="00"),
    ),
    "train, a file of a cache": Bad(
        "train",
        "--cache c/manifest.json --out run --wandb off",
        "c/manifest.json is not an activation cache.*make one",
        lambda shop: shop.cache(),
    ),
}
