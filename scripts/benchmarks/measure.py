"""What every benchmark has in common: its flags, the row it reports, and fair timing."""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from activation_cache.common.errors import InputError

POSITIVE = (
    *("context_size", "forward_tokens", "buffer_tokens", "d_in", "d_sae", "k", "batch_tokens"),
    *("cache_tokens", "threads", "repeats", "steps", "seeds"),
)


@dataclass(frozen=True, kw_only=True)
class BenchFlags:
    """Measure tokens per second beside the floor that the machine sets, and beside the peers."""

    model: str = "gpt2-shape"
    """gpt2-shape (GPT-2 small with random weights), tiny, a hub id, a folder or a .gguf file."""
    layer: int = 6
    """The layer before which the forward stops."""
    context_size: int = 128
    """Tokens in each block."""
    forward_tokens: int = 2048
    """Tokens in each forward pass."""
    buffer_tokens: int = 16_384
    """Rows in the shuffle buffer."""
    d_in: int = 768
    """Width of the rows that are read from a cache, shuffled or trained on."""
    d_sae: int | None = None
    """Features of the dictionaries; by default the sizes of the table."""
    k: int | None = None
    """Active features of a token; by default those of the table."""
    batch_tokens: int | None = None
    """Rows in each batch; by default those of the table."""
    cache_tokens: int = 32_768
    """Rows that are harvested into a cache."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of the model and of activations."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 2
    """Threads of torch on the CPU."""
    repeats: int = 7
    """Measurements of each row; the median counts."""
    peer: tuple[Literal["sae-lens", "dictionary-learning", "eai-sparsify"], ...] = ()
    """Also train with this peer, in an environment of its own, which the first time is built."""
    setting: tuple[Literal["default", "bfloat16", "dense", "screened", "sparse"], ...] = ()
    """Train ours and the peers' only with this setting. By default with all that each has."""
    rows: str = "synthetic"
    """What ours and the peers' train on: synthetic rows, activations of --model at --layer (model),
    or a file of activations (.npy, or .safetensors with one tensor, [n, d_in])."""
    steps: int = 60
    """Steps that we and the peers train for."""
    quality: bool = False
    """Compare fits instead of speeds: each peer at the best of the learning rates around its
    default, ours at its default. Fits are taken on rows that no training saw, the last ones of a
    file. With --model, also the delta CE at --layer."""
    seeds: int = 5
    """Trainings of each, for --quality."""
    environments: Path = Path.home() / ".cache" / "featureloom" / "peers"
    """Where the environments of the peers are."""
    only: str | None = None
    """Measure just the row of this name."""
    json: bool = False
    """Print the rows as JSON."""
    page: Path | None = None
    """Also put the rows into their place in a Markdown page, such as docs/benchmarks.md."""

    def __post_init__(self) -> None:
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not 1 <= value < 2**31:
                raise InputError(f"{name} must be at least 1 and fit into 31 bits, got {value}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device must be auto, cpu or cuda, got {self.device!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("device 'cuda' cannot be used here: use auto or cpu")
        if self.layer < 0:
            raise InputError(f"layer must not be negative, got {self.layer}")
        if self.k is not None and self.d_sae is not None and self.k > self.d_sae:
            raise InputError(f"k must be in 1..d_sae ({self.d_sae}), got {self.k}")

    @property
    def on(self) -> torch.device:
        """The device that is measured."""
        is_cuda = self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if is_cuda else "cpu")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement, by the names that readers of the JSON rely on."""

    name: str
    backend: str
    d_in: int
    d_sae: int | None = None
    k: int | None = None
    batch_tokens: int
    dtype: str
    threads: int
    tokens_per_s: float
    tokens_per_cpu_s: float
    floor_tokens_per_s: float
    share_of_floor: float
    """Of the floor; where that is another way to do the same, how many times as fast this is."""
    peak_mb: float
    """Of the process; for trainings, beyond weights and optimiser state."""
    fvu: float | None = None
    l0: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """Medians over the repeats."""

    tokens_per_s: float
    tokens_per_cpu_s: float
    floor_tokens_per_s: float
    share_of_floor: float
    """Of the pairs of one measurement each: tokens per CPU second, or per second where said so."""

    def row(
        self,
        flags: BenchFlags,
        *,
        name: str,
        device: str,
        d_in: int,
        batch: int,
        dtype: str | None = None,
        d_sae: int | None = None,
        k: int | None = None,
        note: str = "",
    ) -> Row:
        return Row(
            name=name,
            backend=device,
            d_in=d_in,
            d_sae=d_sae,
            k=k,
            batch_tokens=batch,
            dtype=dtype or flags.dtype,
            threads=flags.threads,
            tokens_per_s=self.tokens_per_s,
            tokens_per_cpu_s=self.tokens_per_cpu_s,
            floor_tokens_per_s=self.floor_tokens_per_s,
            share_of_floor=self.share_of_floor,
            peak_mb=peak_mb(device),
            note=note,
        )


def peak_mb(device: str) -> float:
    """The most memory so far: allocated on the GPU, or resident."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(
    work: Callable[[], int],
    floor: Callable[[], int],
    repeats: int,
    device: torch.device,
    *,
    wall: bool = False,
) -> Measured:
    """Time two pieces of work, which return their tokens, in turns.

    On a CPU the ratio is of CPU seconds, which other jobs on the machine disturb least; on a GPU,
    and where waiting for a disk is part of the work (`wall`), it is of wall time.
    """

    def once(timed: Callable[[], int]) -> tuple[float, float]:
        began, cpu_began = time.perf_counter(), time.process_time()
        tokens = timed()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
        return tokens / seconds, tokens / max(cpu_seconds, 1e-9)

    for warm_up in (floor, work):
        once(warm_up)
    pairs = [(once(work), once(floor)) for _ in range(repeats)]
    clock = 0 if wall or device.type == "cuda" else 1
    return Measured(
        tokens_per_s=statistics.median(ours[0] for ours, _ in pairs),
        tokens_per_cpu_s=statistics.median(ours[1] for ours, _ in pairs),
        floor_tokens_per_s=statistics.median(bare[0] for _, bare in pairs),
        share_of_floor=statistics.median(ours[clock] / bare[clock] for ours, bare in pairs),
    )
