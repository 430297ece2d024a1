"""What every benchmark has in common: its flags, the row it reports, and fair timing."""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True, kw_only=True)
class BenchFlags:
    """Measure tokens per second beside the floor that the machine sets."""

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
    """Width of the rows that are read from a cache."""
    batch_tokens: int = 1024
    """Rows in each batch that is read from a cache."""
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
    only: str | None = None
    """Measure just the row of this name."""
    json: bool = False
    """Print the rows as JSON."""


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
    peak_mb: float
    fvu: float | None = None


@dataclass(frozen=True)
class Measured:
    """Medians over the repeats."""

    tokens_per_s: float
    tokens_per_cpu_s: float
    floor_tokens_per_s: float
    share_of_floor: float
    """Of the pairs of one measurement each: tokens per CPU second, or per second where said so."""

    def row(self, flags: BenchFlags, *, name: str, device: str, d_in: int, batch: int) -> Row:
        return Row(
            name=name,
            backend=device,
            d_in=d_in,
            batch_tokens=batch,
            dtype=flags.dtype,
            threads=flags.threads,
            tokens_per_s=self.tokens_per_s,
            tokens_per_cpu_s=self.tokens_per_cpu_s,
            floor_tokens_per_s=self.floor_tokens_per_s,
            share_of_floor=self.share_of_floor,
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )


def measure(
    work: Callable[[], int],
    floor: Callable[[], int],
    repeats: int,
    device: torch.device,
    *,
    wall: bool = False,
) -> Measured:
    """Time two pieces of work, which return their tokens, in turns.

    The ratio is of CPU seconds, which other jobs on the machine disturb least, or of wall time
    where waiting for a disk is part of the work.
    """

    def once(timed: Callable[[], int]) -> tuple[float, float]:
        began, cpu_began = time.perf_counter(), time.process_time()
        tokens = timed()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
        return tokens / seconds, tokens / cpu_seconds

    for warm_up in (floor, work):
        once(warm_up)
    pairs = [(once(work), once(floor)) for _ in range(repeats)]
    clock = 0 if wall else 1
    return Measured(
        tokens_per_s=statistics.median(ours[0] for ours, _ in pairs),
        tokens_per_cpu_s=statistics.median(ours[1] for ours, _ in pairs),
        floor_tokens_per_s=statistics.median(bare[0] for _, bare in pairs),
        share_of_floor=statistics.median(ours[clock] / bare[clock] for ours, bare in pairs),
    )
