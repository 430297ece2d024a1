"""Small training runs as processes of their own, which are disturbed and resumed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TRAIN = Path(__file__).parents[1] / "train.py"
ARCHITECTURES = {
    "topk": ("--k", "8"),
    "relu": ("--l1-coeff", "0.07"),
    "batch_topk": ("--k", "8"),
    "jumprelu": ("--tied",),
}
"""What is trained, with the flags of each: dead features, resampling and thresholds are all at work
in one of them."""
N_TOKENS, BATCH_TOKENS, CHECKPOINT_TOKENS = 20_480, 256, 1_024
COMPARED = ("metrics.jsonl", "eval.json", "sae/cfg.json", "sae/sae_weights.safetensors")
"""Files that must be the same, byte for byte, however often the run was interrupted."""
ENDS_WITHIN_S = 300.0


@dataclass(frozen=True)
class Outcome:
    """What became of one disturbed run."""

    fault: str
    is_the_same: bool
    """Whether it ended with the result of the undisturbed run."""
    stopped_cleanly: bool
    """Whether it stopped with one line and an exit code that says so."""
    rows_lost: int
    """Rows of metrics.jsonl that the undisturbed run has and this one has not, or has twice."""

    @property
    def is_right(self) -> bool:
        """Every disturbed run is resumed, so that each has to end as the undisturbed one."""
        return self.is_the_same and not self.rows_lost

    @property
    def in_words(self) -> str:
        stopped = "stopped cleanly, " if self.stopped_cleanly else ""
        return stopped + ("ended as undisturbed" if self.is_right else "ended OTHERWISE")


@dataclass(frozen=True)
class Job:
    """One training run: 80 steps, with a checkpoint every fourth."""

    architecture: str
    text: Path
    out: Path

    @property
    def command(self) -> list[str]:
        return [
            *(sys.executable, str(TRAIN), "--resume", "--out", str(self.out), "--wandb", "off"),
            *("--model", "tiny", "--hook-name", "blocks.1.hook_resid_pre"),
            *("--dataset", str(self.text), "--context-size", "64", "--buffer-tokens", "2048"),
            *("--architecture", self.architecture, *ARCHITECTURES[self.architecture]),
            *("--d-sae", "256", "--batch-tokens", str(BATCH_TOKENS), "--n-tokens", str(N_TOKENS)),
            *("--log-every", "1", "--eval-tokens", "1024"),
            *("--checkpoint-tokens", str(CHECKPOINT_TOKENS), "--device", "cpu"),
        ]

    def start(
        self,
        *flags: str,
        env: dict[str, str] | None = None,
        limit: Callable[[], None] | None = None,
    ) -> "subprocess.Popen[str]":
        """Begin the run, or resume it. `limit` is called in the new process."""
        return subprocess.Popen(
            [*self.command, *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
            preexec_fn=limit,
        )

    def finish(self) -> None:
        """Run it to its end; `RuntimeError` with what it said where that is not a success."""
        process = self.start()
        _, told = process.communicate(timeout=ENDS_WITHIN_S)
        if process.returncode:
            raise RuntimeError(f"{self.out} ended with {process.returncode}: {told.strip()}")

    def log_bytes(self) -> int:
        """Of metrics.jsonl: what changes when a row is logged, or taken back."""
        path = self.out / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0

    def checkpoints(self) -> list[Path]:
        """The newest last."""
        return sorted(path for path in (self.out / "checkpoints").glob("*") if path.name.isdigit())

    def result(self) -> dict[str, bytes]:
        """What the run has left, by file; nothing of a file that is not there."""
        files = {name: self.out / name for name in COMPARED}
        return {name: path.read_bytes() for name, path in files.items() if path.is_file()}

    def outcome(self, fault: str, stopped_cleanly: bool, undisturbed: dict[str, bytes]) -> Outcome:
        """How the result compares, now that the run has ended."""
        found = self.result()
        rows, expected = (r.get("metrics.jsonl", b"").splitlines() for r in (found, undisturbed))
        lost = len(set(expected) - set(rows)) + abs(len(rows) - len(set(rows)))
        return Outcome(fault, found == undisturbed, stopped_cleanly, lost)


def is_one_line(told: str) -> bool:
    """Whether an error was told as users want it: one line, and no traceback."""
    lines = [line for line in told.strip().splitlines() if line.startswith(("error:", "interr"))]
    return len(lines) == 1 and "Traceback" not in told


def wait_until(holds: Callable[[], bool], process: "subprocess.Popen[str]") -> bool:
    """Wait for something that a run does; false where it ends before."""
    while not holds():
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True
