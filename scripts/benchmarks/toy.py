"""Many toy models in one process, against a process for each."""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import BenchFlags, Row

PROGRAM = Path(__file__).parent / "contenders" / "train_toy.py"
INSTANCES, STEPS, BATCH_TOKENS = 1000, 1000, 256
N_FEATURES, N_HIDDEN = 80, 20


@dataclass(frozen=True)
class Trained:
    """What a process took, in all and for its training alone."""

    instances: int
    seconds: float
    cpu_seconds: float
    training_cpu_seconds: float
    peak_mb: float


def toy_rows(flags: BenchFlags) -> Iterator[Row]:
    """toy-instances: 1,000 toy models of 80 features in 20 dimensions, against 1,000 processes."""
    together = _trained(flags, INSTANCES)
    alone = [_trained(flags, 1) for _ in range(flags.repeats)]
    per_run = statistics.median(run.cpu_seconds for run in alone)
    per_training = statistics.median(run.training_cpu_seconds for run in alone)
    tokens = STEPS * BATCH_TOKENS
    of_training = INSTANCES * per_training / together.training_cpu_seconds
    ratio = INSTANCES * per_run / together.cpu_seconds
    yield Row(
        name="toy-instances",
        backend="cpu",
        d_in=N_FEATURES,
        batch_tokens=BATCH_TOKENS,
        dtype="float32",
        threads=flags.threads,
        tokens_per_s=INSTANCES * tokens / together.seconds,
        tokens_per_cpu_s=INSTANCES * tokens / together.cpu_seconds,
        floor_tokens_per_s=tokens / per_run,
        share_of_floor=ratio,
        peak_mb=together.peak_mb,
        note=f"{INSTANCES:,} toy models in {together.cpu_seconds:.0f} CPU s, a process each "
        f"{per_run:.1f}; without starting them {of_training:.1f} times",
    )


def _trained(flags: BenchFlags, instances: int) -> Trained:
    """A process that trains so many models, and what the system says that it took."""
    sizes = map(str, (N_FEATURES, N_HIDDEN, instances, STEPS, BATCH_TOKENS, flags.threads))
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, PROGRAM, *sizes], capture_output=True, check=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    said = json.loads(done.stdout)
    return Trained(
        instances=instances,
        seconds=seconds,
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        training_cpu_seconds=said["training_cpu_seconds"],
        peak_mb=said["peak_mb"],
    )
