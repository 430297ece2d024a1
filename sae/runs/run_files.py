"""What the files of a run folder say, for its report: read, and checked as far as it is drawn."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

from sae.errors import InputError
from sae.runs.log import METRICS_FILE, THROUGHPUT_FILE

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
    config = _json(path.read_bytes(), where=str(path))
    result = folder / "eval.json"
    evaluated = _json(result.read_bytes(), where=str(result)) if result.is_file() else {}
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
            yield _json(line, where=f"{path} line {number}")


def _part(content: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    part = content.get(name) or {}
    if not isinstance(part, dict):
        raise InputError(f"{path} must map names to values under {name!r}; repair or remove it")
    return part


def _json(text: bytes, *, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON ({error}); repair or remove it") from error
    if not isinstance(value, dict):
        raise InputError(f"{where} must hold one JSON object, got {type(value).__name__}")
    return value


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


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is one that floats can hold; JSON knows no other."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 10**300
    return isinstance(value, float)


def drawable(value: int | float) -> float:
    """The number on the way to an axis."""
    value = float(value)
    if abs(value) < DRAWN_FROM:
        return 0.0
    return math.copysign(math.inf, value) if abs(value) > DRAWN_TO else value
