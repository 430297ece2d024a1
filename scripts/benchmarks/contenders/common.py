"""What every contender's program shares: the job, the rows, the clock, the memory and the fit.

It stands alone (torch, safetensors and the standard library), for each contender runs in an
environment of its own.
"""

import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

MIB = 2**20
N_TRUE_FEATURES = 4096
"""Directions that the synthetic rows are made of."""


class Unsupported(Exception):
    """The contender has no such architecture or setting."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train, on which rows; null leaves a number at the contender's default."""

    activations: str
    """A safetensors file with one tensor, `rows` [n, d_in] in float32."""
    held_out: str
    """A file of the same form, for the fit."""
    architecture: Literal["topk", "batch_topk", "relu"]
    setting: Literal["default", "bfloat16", "sparse"] = "default"
    """The contender's defaults, or its bfloat16 autocast, or its sparse activations."""
    d_sae: int
    k: int | None = None
    l1_coeff: float | None = None
    lr: float | None = None
    lr_warmup_steps: int | None = None
    l1_warmup_steps: int | None = None
    batch_tokens: int
    n_steps: int
    threads: int
    seed: int = 0
    save_to: str | None = None
    """A folder for the trained dictionary, as the contender writes it."""
    points: int = 0
    """How often the fit is to be taken on the way, apart from the clock."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained dictionary, for the measurements after the last step."""

    reconstruct: Callable[[Tensor], tuple[Tensor, Tensor]]
    """From rows to activations [rows, d_sae] and reconstructed rows, unscaled."""
    parameters: Iterable[Tensor]
    optimizer_state: Iterable[dict]
    """The state of each parameter, as `optimizer.state.values()` gives it."""
    lr: float
    """The peak learning rate."""
    save: Callable[[Path], object]
    """Writes the dictionary into a folder that exists."""
    note: str | None = None
    """What a reader of the numbers must know."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a program prints as its last line."""

    contender: str
    version: str
    architecture: str
    setting: str
    step_cpu_s: list[float]
    step_s: list[float]
    fvu: float
    l0: float
    dead: int
    state_mb: float
    peak_mb: float
    lr: float
    note: str | None
    curve: list[tuple[float, float]]
    """CPU seconds of training, and the FVU on the held-out rows after them."""


@dataclass
class Watch:
    """Times the steps and watches the resident memory of this process."""

    curve: list[tuple[float, float]] = field(default_factory=list)
    _left_out: tuple[float, float] = (0.0, 0.0)
    _marks: list[tuple[float, float]] = field(default_factory=list)
    _before_mib: float = 0.0
    _peak_mib: float = 0.0

    def building(self) -> None:
        """To be called when everything is imported, before the dictionary is built."""
        gc.collect()
        self._before_mib = _status_mib("VmRSS")

    def step(self) -> None:
        """To be called at the begin of each step."""
        if not self._marks:
            _forget_peak()
        self._mark()

    def done(self) -> None:
        """To be called at the end of the last step."""
        self._mark()
        self._peak_mib = _status_mib("VmHWM")

    def point(self, fvu: Callable[[], float]) -> None:
        """Takes the fit on the way, within a step; what that takes counts for nothing."""
        began = self._now()
        self.curve.append((began[1] - self._marks[0][1], fvu()))
        taken = [now - then for now, then in zip(self._now(), began, strict=True)]
        self._left_out = (self._left_out[0] + taken[0], self._left_out[1] + taken[1])

    @property
    def step_s(self) -> list[float]:
        return self._between(0)

    @property
    def step_cpu_s(self) -> list[float]:
        return self._between(1)

    @property
    def peak_mb(self) -> float:
        return self._peak_mib - self._before_mib

    def _mark(self) -> None:
        self._marks.append(self._now())

    def _now(self) -> tuple[float, float]:
        """Wall and CPU seconds, but for those of `point`."""
        return time.perf_counter() - self._left_out[0], time.process_time() - self._left_out[1]

    def _between(self, clock: int) -> list[float]:
        return [after[clock] - before[clock] for before, after in pairwise(self._marks)]


def run(contender: str, package: str, train: Callable[[Job, Tensor, Watch], Trained]) -> None:
    """Train as the job file on the command line says, and print the report."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    torch.set_num_threads(job.threads)
    rows = read_rows(job.activations)
    torch.manual_seed(job.seed)
    watch = Watch()
    try:
        trained = train(job, rows, watch)
    except Unsupported as reason:
        said = {"contender": contender, "version": version(package), "unsupported": str(reason)}
        print(json.dumps(said | {"architecture": job.architecture, "setting": job.setting}))
        return
    fvu, l0, dead = fit(read_rows(job.held_out), trained.reconstruct, job.d_sae)
    report = Report(
        contender=contender,
        version=version(package),
        architecture=job.architecture,
        setting=job.setting,
        step_cpu_s=watch.step_cpu_s,
        step_s=watch.step_s,
        fvu=fvu,
        l0=l0,
        dead=dead,
        state_mb=state_mb(trained),
        peak_mb=watch.peak_mb,
        lr=trained.lr,
        note=trained.note,
        curve=watch.curve,
    )
    if job.save_to is not None:
        trained.save(Path(job.save_to))
    print(json.dumps(asdict(report)), flush=True)


def read_rows(path: str) -> Tensor:
    """The rows of a file, all of them in memory, where no page of the file is left to be read."""
    return load_file(path)["rows"].clone()


def batch(rows: Tensor, step: int, batch_tokens: int) -> Tensor:
    """The rows of a step; past the last row it continues with the first."""
    begin = step * batch_tokens % len(rows)
    if begin + batch_tokens <= len(rows):
        return rows[begin : begin + batch_tokens]
    return rows[torch.arange(begin, begin + batch_tokens) % len(rows)]


@torch.no_grad()
def fit(
    rows: Tensor,
    reconstruct: Callable[[Tensor], tuple[Tensor, Tensor]],
    d_sae: int,
    chunk_rows: int = 1024,
) -> tuple[float, float, int]:
    """FVU, L0 and the number of features that no row fires."""
    mean = rows.double().mean(0)
    unexplained = total = 0.0
    fired = torch.zeros(d_sae, dtype=torch.int64)
    for chunk in rows.split(chunk_rows):
        acts, x_hat = reconstruct(chunk)
        unexplained += (chunk.double() - x_hat.double()).square().sum().item()
        total += (chunk.double() - mean).square().sum().item()
        fired += (acts != 0).sum(0)
    return unexplained / total, fired.sum().item() / len(rows), int((fired == 0).sum())


def state_mb(trained: Trained) -> float:
    """Size of the parameters and of the optimiser's state."""
    held = list(trained.parameters)
    for state in trained.optimizer_state:
        held += [entry for entry in state.values() if isinstance(entry, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in held) / MIB


def synthetic_rows(n: int, d_in: int, seed: int) -> Tensor:
    """Rows [n, d_in] made of about 29 of 4096 directions each, on a mean that is not zero.

    The directions and the mean depend on `d_in` only, so that rows of another seed are of the same
    kind. Feature number r fires with probability min(0.5, 4 / r), apart from all others, with a
    log-normal magnitude; noise makes up some 4 % of the variance at d_in 768.
    """
    fixed = torch.Generator().manual_seed(d_in)
    directions = torch.randn(N_TRUE_FEATURES, d_in, generator=fixed)
    directions /= directions.norm(dim=1, keepdim=True)
    mean = torch.randn(d_in, generator=fixed) * 5 / d_in**0.5
    frequencies = (4 / torch.arange(1, N_TRUE_FEATURES + 1)).clamp(max=0.5)
    drawn = torch.Generator().manual_seed(seed)
    rows = torch.empty(n, d_in)
    for chunk in rows.split(2048):
        fires = torch.rand(len(chunk), N_TRUE_FEATURES, generator=drawn) < frequencies
        magnitudes = torch.zeros(fires.shape)
        strengths = torch.randn(int(fires.sum()), generator=drawn)
        magnitudes[fires] = (0.5 * strengths).exp()
        noise = torch.randn(len(chunk), d_in, generator=drawn)
        chunk.copy_(magnitudes @ directions + mean + 0.05 * noise)
    return rows


def _status_mib(name: str) -> float:
    """A size out of Linux' account of this process; elsewhere the peak since its start."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)


def _forget_peak() -> None:
    """Let the peak of the resident memory start over, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        print(f"the peak includes the building of the dictionary: {error}", file=sys.stderr)
