"""Caches that are damaged, or made by somebody who knows how to sign a manifest."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workshop import UNREADABLE, Bad, Workshop, pickled

Prepare = Callable[[Workshop], object]
Content = dict[str, Any]
SITE = "blocks.2.hook_resid_pre"
AGAIN = "restore it from a copy, or harvest anew"
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


def config(**its: Any) -> Prepare:
    return signed(lambda content: content["config"].update(its))


def model(**its: Any) -> Prepare:
    return signed(lambda content: content["model"].update(its))


def first_shard(content: Content) -> Content:
    return content["splits"]["train"]["shards"][0]


def shard(**its: Any) -> Prepare:
    return signed(lambda content: first_shard(content).update(its))


def checksums(**its: Any) -> Prepare:
    return signed(lambda content: first_shard(content)["checksums"].update(its))


def width(value: Any) -> Prepare:
    return signed(lambda content: content["widths"].update({SITE: value}))


def statistics(**its: Any) -> Prepare:
    return signed(lambda content: content["statistics"][SITE].update(its))


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
NO_USE = "the manifest of c cannot be used: "
NO_CACHE = "c is not an activation cache: its manifest.json is something else"

CACHES: dict[str, tuple[Prepare, str]] = {
    "of nothing": (of_bytes(lambda _: b""), DAMAGED),
    "of binary data": (of_bytes(lambda _: b"\x80\xff"), DAMAGED),
    "cut off": (of_bytes(lambda data: data[:500]), DAMAGED),
    "of 100,000 lists in each other": (of_bytes(lambda _: b"[" * 100_000), DAMAGED),
    "of 20,000 objects in each other": (of_bytes(lambda _: b'{"format":' * 20_000), DAMAGED),
    "of 5000 digits": (of_bytes(lambda _: b"1" * 5000), DAMAGED),
    "of a list": (of_bytes(lambda _: b"[]"), NO_CACHE),
    "of another program": (of_bytes(lambda _: b'{"name": "an app"}'), NO_CACHE),
    "edited": (of_bytes(lambda data: data.replace(b"500", b"501", 1)), f"was changed.*{AGAIN}"),
    "that is a pickle": (
        lambda shop: (shop.cache(), shop.write("c/manifest.json", pickled(shop.folder))),
        DAMAGED,
    ),
    "that is a folder": (
        in_place_of("c/manifest.json", Path.mkdir),
        "cannot read manifest.json in c",
    ),
    "that is a link to itself": (
        in_place_of("c/manifest.json", lambda path: path.symlink_to("manifest.json")),
        "cannot read manifest.json in c",
    ),
    "that cannot be read": (
        in_place_of("c/manifest.json", lambda path: path.symlink_to(UNREADABLE)),
        "cannot read manifest.json in c",
    ),
    "of a later version": (
        signed(lambda c: c.update(version=2)),
        "has version 2.*update featureloom",
    ),
    "with something unknown": (signed(lambda c: c.update(magic=1)), f"{NO_USE}.*magic; {AGAIN}"),
    "with an unknown setting": (config(magic=1), f"{NO_USE}config has the unknown magic; {AGAIN}"),
    "without settings": (signed(lambda c: c.pop("config")), f"{NO_USE}config is None, .*{AGAIN}"),
    "of '500' rows": (config(n_tokens="500"), f"{NO_USE}config.n_tokens is '500', not a.*{AGAIN}"),
    "of 5.0 rows": (config(n_tokens=5.0), f"{NO_USE}config.n_tokens is 5.0, not a whole.*{AGAIN}"),
    "of -1 rows": (config(n_tokens=-1), f"{NO_USE}n_tokens must be at least 1, got -1; {AGAIN}"),
    "of an unknown codec": (config(codec="int4"), f"{NO_USE}config.codec is 'int4', not.*{AGAIN}"),
    "of contexts of no tokens": (config(context_size=0), f"{NO_USE}context_size must.*{AGAIN}"),
    "of a site above the folder": (
        config(hook_names=["../../x"]),
        f"{NO_USE}'../../x' is no name of a site; {AGAIN}",
    ),
    "of a number for a site": (
        config(hook_names=[5]),
        rf"{NO_USE}config.hook_names\[0\] is 5.*{AGAIN}",
    ),
    "of a word for its sites": (
        config(hook_names="x"),
        f"{NO_USE}config.hook_names is 'x'.*{AGAIN}",
    ),
    "of no site": (config(hook_names=[]), f"{NO_USE}its widths are not those.*{AGAIN}"),
    "of a site twice": (
        signed(lambda c: c["config"].update(hook_names=c["config"]["hook_names"] * 2)),
        f"{NO_USE}its widths are not those of its sites; {AGAIN}",
    ),
    "of a list for a model": (
        signed(lambda c: c.update(model=[])),
        f"{NO_USE}model is a list.*{AGAIN}",
    ),
    "of a model without a revision": (
        signed(lambda c: c["model"].pop("revision")),
        f"{NO_USE}its model must say .*revision.*{AGAIN}",
    ),
    "of a function for a type": (
        model(dtype="load"),
        f"{NO_USE}its model must say.*dtype.*{AGAIN}",
    ),
    "of a width of 10**12": (width(10**12), f"{NO_USE}the width of {SITE} is {10**12}; {AGAIN}"),
    "of no width": (width(0), f"{NO_USE}the width of {SITE} is 0; {AGAIN}"),
    "of a width of '192'": (width("192"), f"{NO_USE}widths.{SITE} is '192', not a whole.*{AGAIN}"),
    "of another width": (width(191), f"{NO_USE}the statistics of '{SITE}' are not of.*{AGAIN}"),
    "of 10**15 rows in a shard": (
        shard(n_rows=10**15),
        f"{NO_USE}shard 0 of train has {10**15} rows; {AGAIN}",
    ),
    "of -1 rows in a shard": (shard(n_rows=-1), f"{NO_USE}shard 0 of train has -1 rows; {AGAIN}"),
    "of other rows than it says": (
        signed(lambda c: c["n_rows"].update(train=10**9)),
        f"{NO_USE}its n_rows does not follow from its shards; {AGAIN}",
    ),
    "with a path": (
        shard(path="/etc/passwd"),
        rf"{NO_USE}.*shards\[0\] has the unknown path; {AGAIN}",
    ),
    "with a split above the folder": (
        signed(lambda c: c["splits"].update({"../x": c["splits"].pop("train")})),
        f"{NO_USE}it names splits other than held_out, train; {AGAIN}",
    ),
    "with a list of splits": (
        signed(lambda c: c.update(splits=[])),
        f"{NO_USE}splits is a li.*{AGAIN}",
    ),
    "with 1 for complete": (
        signed(lambda c: c["splits"]["train"].update(complete=1)),
        f"{NO_USE}splits.train.complete is 1, not true or false; {AGAIN}",
    ),
    "without a header's checksum": (
        signed(lambda c: first_shard(c)["checksums"].pop("header")),
        f"{NO_USE}shard 0 of train does not list the tensors.*{AGAIN}",
    ),
    "with a number for a checksum": (
        checksums(header=5),
        f"{NO_USE}.*checksums.header is 5.*{AGAIN}",
    ),
    "with a tensor of no site": (checksums(x="0"), f"{NO_USE}shard 0 of train does not.*{AGAIN}"),
    "with no cost": (shard(costs={}), f"{NO_USE}shard 0 of train does not list.*{AGAIN}"),
    "with a cost that is no number": (
        signed(lambda c: first_shard(c)["costs"][SITE].update(squared_error=math.nan)),
        f"{NO_USE}.*squared_error is nan, not a finite number; {AGAIN}",
    ),
    "without a place in the text": (
        shard(cursor={}),
        f"{NO_USE}a cursor of train must be.*{AGAIN}",
    ),
    "with a word for a norm": (
        statistics(mean_norm="x"),
        f"{NO_USE}.*mean_norm is 'x', not.*{AGAIN}",
    ),
    "with a mean of one channel": (statistics(mean=[0.0]), f"{NO_USE}the statistics of.*{AGAIN}"),
    "with a variance that is no number": (
        statistics(variance=[math.nan] * 192),
        rf"{NO_USE}.*variance\[0\] is nan, not a finite number; {AGAIN}",
    ),
}

SHARDS: dict[str, tuple[Prepare, str]] = {
    "cut off": (lambda shop: shop.shard(lambda data: data[:-1]), "000000.safetensors of c is dama"),
    "of nothing": (lambda shop: shop.shard(lambda _: b""), "000000.safetensors of c is damaged"),
    "with a header of 2**60 bytes": (
        lambda shop: shop.shard(lambda data: (2**60).to_bytes(8, "little") + data[8:]),
        "000000.safetensors of c is damaged: its header",
    ),
    "that is a pickle": (
        lambda shop: shop.shard(lambda _: pickled(shop.folder)),
        "000000.safetensors of c is damaged: its header",
    ),
    "that is a pipe": (
        in_place_of(SHARD, os.mkfifo),
        "000000.safetensors of c is damaged: it is no",
    ),
    "that is a folder": (
        in_place_of(SHARD, Path.mkdir),
        "000000.safetensors of c is damaged: it is",
    ),
    "that cannot be read": (
        in_place_of(SHARD, lambda path: path.symlink_to(UNREADABLE)),
        "000000.safetensors of c is damaged",
    ),
    "that is not there": (in_place_of(SHARD, lambda _: None), "000000.safetensors of c is missing"),
}

FOREIGN: dict[str, tuple[Prepare, str]] = {
    "a foreign file": (
        lambda shop: (shop.cache(), shop.write("c/notes.txt", "x")),
        "notes.txt does not belong to the cache c: delete it",
    ),
    "a link to elsewhere": (
        lambda shop: (shop.cache() / "link").symlink_to("/etc"),
        "link does not belong to the cache c: delete it",
    ),
    "shards that lie elsewhere": (linked_train, "train does not belong to the cache c: delete it"),
}

FROM_CACHE = f"--cache c --hook-name {SITE} --k 4 --d-sae 16 --wandb off --out run"
TRAIN: dict[str, tuple[str, str]] = {
    "another model than the cache's": (
        "--model gpt2",
        "model 'gpt2' is not what the cache c.*leave",
    ),
    "another type than the cache's": ("--dtype bfloat16", "dtype 'bfloat16' is not what.*leave it"),
    "another context than the cache's": ("--context-size 64", "context_size 64 is not what.*leave"),
    "another text than the cache's": (
        "--dataset other.txt",
        "dataset 'other.txt' is not.*leave it",
    ),
    "a site that the cache lacks": (
        "--hook-name blocks.3.hook_resid_pre",
        "the cache c has no site blocks.3.hook_resid_pre: it holds",
    ),
    "more rows than the cache has": (
        "--n-tokens 5000",
        "500 rows.*the 5000 asked for: give --epochs",
    ),
    "more epochs than can be counted": (f"--epochs {9 * 10**18}", "n_tokens must fit into 64 bits"),
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
        "of a model with weights '00', and tiny.*load that",
        model(weights="00"),
    ),
    "train, a file of a cache": Bad(
        "train",
        "--cache c/manifest.json --out run --wandb off",
        "c/manifest.json is not an activation cache.*make one",
        lambda shop: shop.cache(),
    ),
}
