"""What a manifest can say: checked before anything is looked for on disk, or allocated for it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from activation_cache.common.dtypes import DTYPES
from activation_cache.common.errors import InputError
from activation_cache.common.schema import convert, shown
from activation_cache.stream.source import Origins

HEADER = "header"
"""What the checksum of everything before the tensors of a shard is listed as."""

LARGEST_SHARD = 2**24
"""Rows: a shard is held in memory while it is written, and readers list the pieces of several."""

LARGEST_WIDTH = 2**20
"""Channels of a site; the widest models have some ten thousand."""

SITE_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+")
"""Run folders are named after sites: none of them may point elsewhere."""

MODEL_KEYS = {"name", "revision", "weights", "dtype", "processing"}
MODEL_DTYPES = (*DTYPES, "float64")
CURSOR_KEYS = {"document", "epoch", "token", "n_blocks"}
SPLIT_NAMES = {"train", "held_out"}
PARTS_OF_INT8 = ("row_scale", "channel_mean", "channel_scale")
"""The tensors of a site beside its values."""


@dataclass(frozen=True)
class _Statistics:
    """What `ActivationStatistics.to_dict` gives."""

    n_rows: int
    mean_norm: float
    mean: tuple[float, ...]
    variance: tuple[float, ...]


def refuse_impossible(content: Mapping[str, Any]) -> None:
    """Raise `InputError` for what no harvest writes. The kinds of the values have been checked."""
    problem = next(_problems(content), None)
    if problem is not None:
        raise InputError(problem)


def _problems(content: Mapping[str, Any]) -> Iterator[str]:
    sites = content["config"]["hook_names"]
    yield from (f"{shown(site)} is no name of a site" for site in sites if not _is_site(site))
    if len(set(sites)) < len(sites) or set(content["widths"]) != set(sites):
        yield "its widths are not those of its sites"
    for site, width in content["widths"].items():
        if not 1 <= width <= LARGEST_WIDTH:
            yield f"the width of {site} is {width}"
    if set(content["model"]) != MODEL_KEYS or content["model"]["dtype"] not in MODEL_DTYPES:
        yield f"its model must say {', '.join(sorted(MODEL_KEYS))}, and a dtype that there is"
    if set(content["splits"]) != SPLIT_NAMES:
        yield f"it names splits other than {', '.join(sorted(SPLIT_NAMES))}"
    yield from _problems_of_shards(content)
    yield from _problems_of_statistics(content)


def _is_site(name: str) -> bool:
    return len(name) <= 200 and SITE_NAME.fullmatch(name) is not None


def _problems_of_shards(content: Mapping[str, Any]) -> Iterator[str]:
    sites = content["config"]["hook_names"]
    parts = PARTS_OF_INT8 if content["config"].get("codec") == "int8" else ()
    tensors = {HEADER, *Origins._fields, *sites, *(f"{s}.{part}" for s in sites for part in parts)}
    for name, split in content["splits"].items():
        shards = split.get("shards", [])
        cursors = [split.get("cursor"), *(shard["cursor"] for shard in shards)]
        if not all(cursor is None or _is_cursor(cursor) for cursor in cursors):
            yield f"a cursor of {name} must be {', '.join(sorted(CURSOR_KEYS))}, none negative"
        for number, shard in enumerate(shards):
            if not 1 <= shard["n_rows"] <= 2 * LARGEST_SHARD:  # whole forward passes
                yield f"shard {number} of {name} has {shard['n_rows']} rows"
            if set(shard["checksums"]) != tensors or set(shard["costs"]) != set(sites):
                yield f"shard {number} of {name} does not list the tensors of its sites"


def _is_cursor(cursor: Mapping[str, int]) -> bool:
    return set(cursor) == CURSOR_KEYS and min(cursor.values()) >= 0


def _problems_of_statistics(content: Mapping[str, Any]) -> Iterator[str]:
    widths, statistics = content["widths"], content["statistics"]
    for site, its in statistics.items():
        convert(_Statistics, its, f"statistics.{shown(site)}")
        lengths = {len(its["mean"]), len(its["variance"])}
        if lengths != {widths.get(site)} or its["n_rows"] < 1:
            yield f"the statistics of {shown(site)} are not of as many channels as it has"
    if content["splits"]["train"].get("shards") and set(statistics) != set(widths):
        yield "its statistics are not those of its sites"
