"""Run sections, several at a time: each on one core."""

import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from activation_cache.common.memory import keep_freed_memory
from sae.papers.claims import Claim
from sae.papers.toy_models.section import Outcome, Scale

Section = Literal[
    "demonstrate",
    "phase",
    "geometry",
    "pentagon",
    "correlated",
    "dynamics",
    "adversarial",
    "privileged",
    "computation",
    "recovery",
    "ways-out",
]

LONGEST_FIRST: tuple[Section, ...] = (
    *("recovery", "geometry", "phase", "ways-out", "privileged", "pentagon", "demonstrate"),
    *("adversarial", "computation", "correlated", "dynamics"),
)
"""So that no core has a long section left when the others are idle."""


@dataclass(frozen=True)
class Finished:
    """What a section found; its figures and tables are written."""

    section: Section
    claims: list[Claim]
    numbers: dict[str, Any]
    cpu_seconds: float
    scale: Scale

    @property
    def about(self) -> dict[str, Any]:
        """What `result.json` says of the section beside its claims."""
        return {
            "quick": self.scale.quick,
            "seeds": list(self.scale.seeds),
            "device": self.scale.device,
            "cpu_seconds": round(self.cpu_seconds, 1),
            "numbers": self.numbers,
        }


def finished_sections(
    names: Sequence[Section], scale: Scale, folder: Path, workers: int | None
) -> Iterator[Finished]:
    """The sections as they end. Figures and tables are written to the folder."""
    n_workers = min(len(names), workers or len(os.sched_getaffinity(0)))
    if n_workers == 1 or scale.device != "cpu":
        yield from (run_section((name, scale, folder)) for name in names)
        return
    jobs: list[tuple[Section, Scale, Path]] = [
        (name, scale, folder) for name in LONGEST_FIRST if name in names
    ]
    context = multiprocessing.get_context("spawn")
    with context.Pool(n_workers, initializer=_start_worker) as pool:
        yield from pool.imap_unordered(run_section, jobs)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started it ends it
    keep_freed_memory()
    torch.set_num_threads(1)


def run_section(job: tuple[Section, Scale, Path]) -> Finished:
    name, scale, folder = job
    module = importlib.import_module(f"sae.papers.toy_models.{name.replace('-', '_')}")
    begun = time.process_time()
    outcome: Outcome = module.run(scale)
    outcome.write(folder)
    seconds = time.process_time() - begun
    return Finished(name, outcome.claims, outcome.numbers, seconds, scale)
