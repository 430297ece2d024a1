"""The files of a run folder, for its report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from activation_cache.common.errors import InputError
from activation_cache.common.schema import parse_json

METRICS_FILE = "metrics.jsonl"
"""The log of record: what a run that is done again logs again, to the last digit."""
THROUGHPUT_FILE = "throughput.jsonl"
"""What depends on the machine and the hour."""


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The content of a run folder, as read: nothing is computed here."""

    settings: Mapping[str, Any]
    versions: Mapping[str, Any]
    git_commit: str | None
    rows: Sequence[Mapping[str, Any]]
    """Of metrics.jsonl, and then of throughput.jsonl."""
    metrics: Mapping[str, Any]
    conventions: Mapping[str, Any]
    density: Mapping[str, Any]
    intervals: Mapping[str, Any]
    breakdown: Mapping[str, Any]
    n_documents: int
    baselines: Mapping[str, Any]
    """By name, of a full evaluation: what each is, and its metrics."""
    error_split: Mapping[str, Any]
    warnings: Sequence[str]


def read_run(folder: Path) -> RunFiles:
    """Read what a run folder holds; only config.json has to be there."""
    path, result = folder / "config.json", folder / "eval.json"
    if not path.is_file():
        raise InputError(f"{folder} is not a run folder: it has no config.json; name a run's --out")
    config = parse_json(path.read_bytes(), str(path))
    evaluated = parse_json(result.read_bytes(), str(result)) if result.is_file() else {}
    return RunFiles(
        settings=config["settings"],
        versions=config["versions"],
        git_commit=config.get("git_commit"),
        rows=[row for name in (METRICS_FILE, THROUGHPUT_FILE) for row in _rows(folder / name)],
        metrics=evaluated.get("metrics", {}),
        conventions=evaluated.get("conventions", {}),
        density=evaluated.get("density", {}),
        intervals=evaluated.get("intervals", {}),
        breakdown=evaluated.get("breakdown", {}),
        n_documents=evaluated.get("n_documents", 0),
        baselines=evaluated.get("baselines", {}),
        error_split=evaluated.get("error_split", {}),
        warnings=evaluated.get("warnings", []),
    )


def _rows(path: Path) -> list[Mapping[str, Any]]:
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]
