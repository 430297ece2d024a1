"""How well we and the peers fit the same rows: each peer at its best learning rate, over seeds.

Rates are chosen by half of the held-out rows, and everything is measured on the other half, by one
code for all: each contender writes its dictionary in its own layout, and `sae.load` reads it.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peers.environments import environment
from safetensors.torch import load_file
from torch import Tensor

from activation_cache import LanguageModel
from activation_cache.common.types import TextBatchLike
from activation_cache.text.config import DOCSTRINGS
from benchmarks.harvest import GPT2_SHAPE, load, site
from benchmarks.measure import BenchFlags
from benchmarks.peers import OURS, RECIPES, train, write_rows
from sae import load as load_dictionary
from sae.base import SAE
from sae.evaluation import EvalReport, evaluate_all, evaluate_reconstruction
from sae.provenance import Provenance
from sae.runs.evaluation import held_out_text

POINTS = 25
"""Fits on the way of ours, for the time to another's final FVU."""
CHUNK_ROWS = 2048
EVAL_TOKENS = 32_768
MOST_DOUBLINGS = 6
"""Of the default learning rate, or halvings: as far as the search goes."""
HELD_OUT_ROWS = 65_536
COLUMNS = (
    *("library", "architecture", "learning rate", "FVU", "L0", "dead", "delta CE", "CPU s"),
    "CPU s of ours to its FVU",
)


@dataclass(frozen=True)
class Fit:
    """One training: the numbers of its dictionary on held-out rows, and what it took."""

    contender: str
    fvu: float
    choosing_fvu: float
    """On the half by which learning rates are chosen."""
    l0: float
    dead: int
    delta_ce: float | None
    cpu_s: float
    lr: float
    curve: Sequence[tuple[float, float]]
    """CPU seconds and FVU on the way."""

    def seconds_to(self, fvu: float) -> float | None:
        on_the_way = [*self.curve, (self.cpu_s, self.fvu)]
        return next((seconds for seconds, found in on_the_way if found <= fvu), None)


@dataclass(frozen=True)
class Made:
    fit: Fit
    dictionary: SAE


@dataclass(frozen=True)
class Quality:
    """A contender at its best learning rate: the fits of all seeds."""

    architecture: str
    fits: list[Fit]
    tried: list[Fit]
    """Of the first seed, at every learning rate that was tried; none at the default alone."""

    @property
    def fvu(self) -> float:
        return statistics.fmean(fit.fvu for fit in self.fits)

    def seconds_to(self, fvu: float) -> float | None:
        """CPU seconds until the fit on the way is as good, in the median of the seeds."""
        reached = [fit.seconds_to(fvu) for fit in self.fits]
        in_time = [seconds for seconds in reached if seconds is not None]
        return statistics.median(in_time) if len(in_time) == len(reached) else None


class Comparison:
    """The rows, the environments and the model that all contenders share."""

    def __init__(self, flags: BenchFlags, folder: Path) -> None:
        self.flags, self.folder = flags, folder
        self.pythons = {peer: environment(RECIPES[peer], flags.environments) for peer in flags.peer}
        self.pythons[OURS] = Path(sys.executable)
        self.files = write_rows(folder, flags, HELD_OUT_ROWS)
        held_out = load_file(self.files.held_out)["rows"]
        self.choosing, self.measuring = held_out.split(len(held_out) // 2)
        has_model = flags.rows == "model" or flags.model != GPT2_SHAPE
        self.model: LanguageModel | None = load(flags) if has_model else None
        self.text = _text(self.model, flags) if self.model else []

    def qualities(self) -> Iterator[Quality]:
        for architecture in ("topk", "batch_topk"):
            yield self._over_seeds(OURS, architecture, [])
        for peer in self.flags.peer:
            yield self._over_seeds(peer, "topk", self._rates(peer))

    def _rates(self, peer: str) -> list[Made]:
        """Of the first seed: at twice and half the default learning rate, and on from the better
        one until it gets worse."""
        default = self._made(peer, "topk", seed=0)
        made = [default]
        for factor in (2.0, 0.5):
            best = default
            for power in range(1, MOST_DOUBLINGS + 1):
                lr = default.fit.lr * factor**power
                tried = self._made(peer, "topk", seed=0, lr=lr)
                made.append(tried)
                if not tried.fit.choosing_fvu < best.fit.choosing_fvu:
                    break
                best = tried
            if best is not default:
                break  # the other side is worse
        return made

    def _over_seeds(self, contender: str, architecture: str, tried: Sequence[Made]) -> Quality:
        """All seeds at the best of the learning rates that were tried, or at the default."""
        made = [min(tried, key=lambda its: its.fit.choosing_fvu)] if tried else []
        lr = made[0].fit.lr if made else None
        for seed in range(len(made), self.flags.seeds):
            made.append(self._made(contender, architecture, seed, lr))
        fits = [its.fit for its in made]
        if self.model is not None:
            saes = [its.dictionary for its in made]
            reports = evaluate_all(saes, self.model, self.text, site(self.flags))
            fits = [
                replace(fit, delta_ce=report.delta_ce)
                for fit, report in zip(fits, reports, strict=True)
            ]
        return Quality(architecture, fits, [its.fit for its in tried])

    def _made(self, contender: str, architecture: str, seed: int, lr: float | None = None) -> Made:
        flags = self.flags
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            job: dict[str, Any] = {
                "activations": self.files.activations,
                "held_out": self.files.held_out,
                "architecture": architecture,
                "setting": "default",
                "d_sae": flags.d_sae or 1536,
                "k": flags.k or 32,
                "batch_tokens": flags.batch_tokens or 2048,
                "n_steps": flags.steps,
                "threads": flags.threads,
                "seed": seed,
                "lr": lr,
                "save_to": folder,
                "points": POINTS if contender == OURS else 0,
            }
            report = train(contender, self.pythons[contender], job)
            dictionary = load_dictionary(Path(folder) / "sae")
        measured = _measured(dictionary, self.measuring)
        found = Fit(
            contender=f"{report['contender']} {report['version']}",
            fvu=measured.fvu,
            choosing_fvu=_measured(dictionary, self.choosing).fvu,
            l0=measured.l0,
            dead=measured.dead,
            delta_ce=None,
            cpu_s=sum(report["step_cpu_s"]),
            lr=report["lr"],
            curve=report["curve"],
        )
        shown = (
            f"{found.contender} {architecture} seed {seed} lr {found.lr:.2g}: FVU {found.fvu:.4f}"
        )
        print(f"{shown}, {found.cpu_s:.0f} CPU s", file=sys.stderr, flush=True)
        return Made(found, dictionary)


def qualities(flags: BenchFlags) -> list[Quality]:
    """Of all contenders, ours first."""
    with tempfile.TemporaryDirectory() as folder:
        return list(Comparison(flags, Path(folder)).qualities())


def cells(quality: Quality, ours: Quality) -> tuple[str, ...]:
    """A row of the table, under `COLUMNS`: means over seeds, the spread a standard deviation."""
    fits = quality.fits
    spread = statistics.stdev(fit.fvu for fit in fits) if len(fits) > 1 else 0.0
    rates = f"{fits[0].lr:.2g}" + (f", best of {len(quality.tried)}" if quality.tried else "")
    seconds = None if quality is ours else ours.seconds_to(quality.fvu)
    delta_ces = [fit.delta_ce for fit in fits if fit.delta_ce is not None]
    return (
        fits[0].contender,
        quality.architecture,
        rates,
        f"{quality.fvu:.4f} ± {spread:.4f}",
        f"{statistics.fmean(fit.l0 for fit in fits):.1f}",
        f"{statistics.fmean(fit.dead for fit in fits):.0f}",
        f"{statistics.fmean(delta_ces):.4f}" if delta_ces else "",
        f"{statistics.median(fit.cpu_s for fit in fits):.1f}",
        "" if seconds is None else f"{seconds:.1f}",
    )


def _measured(dictionary: SAE, rows: Tensor) -> EvalReport:
    return evaluate_reconstruction(dictionary, rows.split(CHUNK_ROWS))


def _text(model: LanguageModel, flags: BenchFlags) -> list[TextBatchLike]:
    """Held-out text for the delta CE."""
    known = Provenance(
        hook_name=site(flags),
        dataset_path=DOCSTRINGS,
        context_size=flags.context_size,
        eval_tokens=EVAL_TOKENS,
    )
    return list(held_out_text(model, known).batches)
