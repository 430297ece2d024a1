"""What the files of a run folder say, for its report: read, and checked as far as it is drawn."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from activation_cache.common.errors import InputError
from activation_cache.common.schema import is_number, parse_json

METRICS_FILE = "metrics.jsonl"
"""The log of record: what a run that is done again logs again, to the last digit."""
THROUGHPUT_FILE = "throughput.jsonl"
"""What depends on the machine and the hour."""
LOGS = (METRICS_FILE, THROUGHPUT_FILE)
DRAWN_FROM, DRAWN_TO = 1e-300, 1e300
"""Sizes between which axes can be computed; what is smaller is 0, what is larger is infinite."""


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What a run folder says, as read: nothing is computed here."""

    settings: Mapping[str, Any]
    versions: Mapping[str, Any]
    git_commit: str | None
    rows: Sequence[Mapping[str, Any]]
    """Of metrics.jsonl, and then of throughput.jsonl."""
    metrics: Mapping[str, Any]
    conventions: Mapping[str, Any]
    density: Mapping[str, Any]


def read_run(folder: Path) -> RunFiles:
    """Read what a run folder holds; only config.json has to be there."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} is not a run folder: it has no config.json; name a run's --out")
    config = parse_json(path.read_bytes(), str(path))
    result = folder / "eval.json"
    evaluated = parse_json(result.read_bytes(), str(result)) if result.is_file() else {}
    return RunFiles(
        settings=_part(config, "settings", path),
        versions=_part(config, "versions", path),
        git_commit=config.get("git_commit"),
        rows=[row for name in LOGS for row in _rows(folder / name)],
        metrics=_part(evaluated, "metrics", result),
        conventions=_part(evaluated, "conventions", result),
        density=_density(evaluated, result),
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield parse_json(line, f"{path} line {number}")


def _part(content: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    part = content.get(name) or {}
    if not isinstance(part, dict):
        raise InputError(f"{path} must map names to values under {name!r}; repair or remove it")
    return part


def _density(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    density = _part(content, "density", path)
    edges, counts = density.get("log10_edges") or [], density.get("counts") or []
    fits = isinstance(edges, list) and isinstance(counts, list)
    fits = fits and all(is_number(x) and math.isfinite(drawable(x)) for x in (*edges, *counts))
    fits = fits and all(a < b for a, b in pairwise(edges))
    fits = fits and (not counts or (len(edges) == len(counts) + 1 and min(counts) >= 0))
    if not fits:
        raise InputError(
            f"{path} must give density as rising log10_edges and counts between them; repair or "
            f"remove it"
        )
    return density


def drawable(value: int | float) -> float:
    """The number on the way to an axis."""
    value = float(value)
    if abs(value) < DRAWN_FROM:
        return 0.0
    return math.copysign(math.inf, value) if abs(value) > DRAWN_TO else value
