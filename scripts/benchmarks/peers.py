"""Whole trainings of ours and of the peers, on the same rows, each in a process of its own."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers.environments import environment
from safetensors.torch import save_file

from activation_cache.common.errors import InputError
from benchmarks.contenders.common import synthetic_rows
from benchmarks.measure import BenchFlags, Row

CONTENDERS = Path(__file__).parent / "contenders"
HELD_OUT_ROWS = 8192
OURS = "featureloom"
SETTINGS = {
    "topk": {
        OURS: ("dense", "default", "bfloat16", "screened"),
        "sae-lens": ("default", "bfloat16", "sparse"),
        "dictionary-learning": ("default", "bfloat16"),
        "eai-sparsify": ("default", "bfloat16"),
    },
    "relu": {
        OURS: ("bfloat16",),
        "sae-lens": ("default",),
    },
}
"""What each is trained with; the first of ours is what the others are compared with."""
RECIPES = {
    OURS: "featureloom",
    "sae-lens": "sae_lens",
    "dictionary-learning": "dictionary_learning",
    "eai-sparsify": "sparsify",
}
"""Tables of environments.toml, and with `train_` before them, the programs."""
L1_COEFFS = {OURS: 3.0, "sae-lens": 2.0}
"""What brings the L0 of each to about 60 on these rows, at the default size and 240 steps."""


@dataclass(frozen=True)
class Entry:
    """One training in the comparison."""

    contender: str
    setting: str
    python: Path


def peer_rows(flags: BenchFlags) -> Iterator[Row]:
    """train-topk and train-relu: ours in all settings, and every peer that was asked for.

    The time is the median of the last half of the steps for train-topk, whose steps are all the
    same, and of the whole run for train-relu, whose first steps are dense.
    """
    if not flags.peer:
        return
    pythons = {peer: environment(RECIPES[peer], flags.environments) for peer in flags.peer}
    pythons = {OURS: Path(sys.executable), **pythons}
    with tempfile.TemporaryDirectory() as folder:
        files = _write_rows(Path(folder), flags)
        for architecture, settings in SETTINGS.items():
            entries = [
                Entry(contender, setting, python)
                for contender, python in pythons.items()
                for setting in settings.get(contender, ())
            ]
            if flags.only in (None, f"train-{architecture}"):
                yield from _rows(flags, architecture, entries, files, Path(folder))


def _write_rows(folder: Path, flags: BenchFlags) -> dict[str, str]:
    """The rows to train on and the held-out ones, as safetensors files."""
    files: dict[str, str] = {}
    n_rows = flags.steps * (flags.batch_tokens or 2048)
    for name, n, seed in (("activations", n_rows, 0), ("held_out", HELD_OUT_ROWS, 1)):
        files[name] = str(folder / f"{name}.safetensors")
        save_file({"rows": synthetic_rows(n, flags.d_in, seed)}, files[name])
    return files


def _rows(
    flags: BenchFlags,
    architecture: str,
    entries: list[Entry],
    files: dict[str, str],
    folder: Path,
) -> Iterator[Row]:
    reference: float | None = None
    for entry in entries:
        job = {
            **files,
            "architecture": architecture,
            "setting": entry.setting,
            "d_sae": flags.d_sae or 24_576,
            "k": flags.k or 32,
            "l1_coeff": L1_COEFFS.get(entry.contender),
            "batch_tokens": flags.batch_tokens or 2048,
            "n_steps": flags.steps,
            "threads": flags.threads,
        }
        report = _train(entry, job, folder)
        if "unsupported" in report:
            continue
        row = _row(flags, report, job, reference)
        reference = reference or row.tokens_per_cpu_s  # ours, dense and in float32, is the first
        yield row


def _train(entry: Entry, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the contender's program reports."""
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    program = CONTENDERS / f"train_{RECIPES[entry.contender]}.py"
    done = subprocess.run(
        [entry.python, program, path], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(
            f"{program.name} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1]}"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def _row(
    flags: BenchFlags, report: dict[str, Any], job: dict[str, Any], reference: float | None
) -> Row:
    batch_tokens = job["batch_tokens"]
    middle = statistics.median if job["architecture"] == "topk" else statistics.fmean
    first = flags.steps // 2 if job["architecture"] == "topk" else 0
    per_cpu_s = batch_tokens / middle(report["step_cpu_s"][first:])
    floor = per_cpu_s if reference is None else reference
    named = f"{report['contender']} {report['version']}, {report['setting']}"
    return Row(
        name=f"train-{job['architecture']}",
        backend=flags.on.type,
        d_in=flags.d_in,
        d_sae=job["d_sae"],
        k=job["k"] if job["architecture"] == "topk" else None,
        batch_tokens=batch_tokens,
        dtype="float32" if report["setting"] in ("default", "dense", "sparse") else "bfloat16",
        threads=flags.threads,
        tokens_per_s=batch_tokens / middle(report["step_s"][first:]),
        tokens_per_cpu_s=per_cpu_s,
        floor_tokens_per_s=floor,
        share_of_floor=per_cpu_s / floor,
        peak_mb=report["peak_mb"] - report["state_mb"],
        fvu=report["fvu"],
        l0=report["l0"],
        note="; ".join(filter(None, (named, report["note"]))),
    )
