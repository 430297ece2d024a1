"""Whole trainings of ours and of the peers, on the same rows, each in a process of its own.

The rows are synthetic, or activations of a model from its training split; the fit is taken on
other rows, those of the held-out split.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.environments import environment
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.text.config import Split
from benchmarks.contenders.common import synthetic_rows
from benchmarks.harvest import load, site
from benchmarks.measure import BenchFlags, Row
from benchmarks.stream import stream_of

CONTENDERS = Path(__file__).parent / "contenders"
HELD_OUT_ROWS = 8192
SEEDS: dict[Split, int] = {"train": 0, "held_out": 1}
"""Of the synthetic rows."""
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
"""What each is trained with; what comes first is what the others are compared with."""
RECIPES = {
    OURS: "featureloom",
    "sae-lens": "sae_lens",
    "dictionary-learning": "dictionary_learning",
    "eai-sparsify": "sparsify",
}
"""Tables of environments.toml, and with `train_` before them, the programs."""
L1_COEFFS = {OURS: 0.108, "sae-lens": 2.0}
"""What brings the L0 of each to about 60 on these rows, at the default size and 240 steps."""


@dataclass(frozen=True)
class Entry:
    """One training in the comparison."""

    contender: str
    setting: str


@dataclass(frozen=True)
class RowFiles:
    """The rows that all train on and those for the fit, as safetensors files."""

    activations: str
    held_out: str
    d_in: int


def peer_rows(flags: BenchFlags) -> Iterator[Row]:
    """train-topk and train-relu: ours, and every peer that was asked for.

    The time is the median of the last half of the steps for train-topk, whose steps are all the
    same, and of the whole run for train-relu, whose first steps are dense.
    """
    entries = {
        architecture: _entries(flags, architecture)
        for architecture in SETTINGS
        if flags.only == f"train-{architecture}" or (flags.only is None and flags.peer)
    }
    if not entries:
        return
    if not any(entries.values()):
        raise InputError(f"{flags.only} has no setting {' or '.join(flags.setting)}: name another")
    pythons = {peer: environment(RECIPES[peer], flags.environments) for peer in flags.peer}
    pythons[OURS] = Path(sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        files = write_rows(Path(folder), flags)
        for architecture, its_entries in entries.items():
            yield from _rows(flags, architecture, its_entries, pythons, files)


def _entries(flags: BenchFlags, architecture: str) -> list[Entry]:
    """What is trained, ours first."""
    return [
        Entry(contender, setting)
        for contender in (OURS, *flags.peer)
        for setting in SETTINGS[architecture].get(contender, ())
        if not flags.setting or setting in flags.setting
    ]


def write_rows(folder: Path, flags: BenchFlags, held_out_rows: int = HELD_OUT_ROWS) -> RowFiles:
    files = {name: str(folder / f"{name}.safetensors") for name in ("activations", "held_out")}
    rows = _rows_of(flags, "train", flags.steps * (flags.batch_tokens or 2048))
    save_file({"rows": rows}, files["activations"])
    save_file({"rows": _rows_of(flags, "held_out", held_out_rows)}, files["held_out"])
    return RowFiles(**files, d_in=rows.shape[1])


def _rows_of(flags: BenchFlags, split: Split, n_rows: int) -> Tensor:
    """Rows [n_rows, d_in] of a split, shuffled; of a file those at its begin, or at its end."""
    if flags.rows == "synthetic":
        return synthetic_rows(n_rows, flags.d_in, seed=SEEDS[split])
    if flags.rows == "model":
        batch_tokens = flags.batch_tokens or 2048
        stream = stream_of(flags, load(flags), batch_tokens, split)
        n_batches = -(-n_rows // batch_tokens)
        rows = torch.cat([next(stream)[site(flags)].float().cpu() for _ in range(n_batches)])
        return rows[:n_rows]
    rows = _rows_of_file(Path(flags.rows))
    if split == "held_out":
        return rows[-n_rows:]
    if len(rows) < n_rows + HELD_OUT_ROWS:
        raise InputError(
            f"{flags.rows} has {len(rows):,} rows, too few for {n_rows:,} of the training and "
            f"others for the fit: lower --steps or --batch-tokens"
        )
    return rows[:n_rows]


def _rows_of_file(path: Path) -> Tensor:
    """Rows [n, d_in] of an .npy or .safetensors file; `InputError` where there are none."""
    try:
        if path.suffix == ".npy":
            rows = torch.from_numpy(np.load(path))
        else:
            (rows,) = load_file(path).values()
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"cannot read activations from {path} ({error}): give synthetic, model, an .npy file, "
            f"or a .safetensors file with one tensor"
        ) from error
    if rows.dim() != 2:
        raise InputError(f"{path} has the shape {list(rows.shape)}: activations are [n, d_in]")
    return rows.float()


def _rows(
    flags: BenchFlags,
    architecture: str,
    entries: list[Entry],
    pythons: Mapping[str, Path],
    files: RowFiles,
) -> Iterator[Row]:
    reference: float | None = None
    for entry in entries:
        job = {
            "activations": files.activations,
            "held_out": files.held_out,
            "architecture": architecture,
            "setting": entry.setting,
            "d_sae": flags.d_sae or 24_576,
            "k": flags.k or 32,
            "l1_coeff": L1_COEFFS.get(entry.contender),
            "batch_tokens": flags.batch_tokens or 2048,
            "n_steps": flags.steps,
            "threads": flags.threads,
        }
        report = train(entry.contender, pythons[entry.contender], job)
        if "unsupported" in report:
            continue
        row = _row(flags, report, job, files.d_in, reference)
        reference = reference or row.tokens_per_cpu_s  # of ours, in the first setting
        yield row


def train(contender: str, python: Path, job: dict[str, Any]) -> dict[str, Any]:
    """What the contender's program reports."""
    path = Path(job["activations"]).with_name("job.json")
    path.write_text(json.dumps(job))
    program = CONTENDERS / f"train_{RECIPES[contender]}.py"
    done = subprocess.run([python, program, path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(
            f"{program.name} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1]}"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def _row(
    flags: BenchFlags,
    report: dict[str, Any],
    job: dict[str, Any],
    d_in: int,
    reference: float | None,
) -> Row:
    batch_tokens = job["batch_tokens"]
    middle = statistics.median if job["architecture"] == "topk" else statistics.fmean
    first = flags.steps // 2 if job["architecture"] == "topk" else 0
    per_cpu_s = batch_tokens / middle(report["step_cpu_s"][first:])
    floor = per_cpu_s if reference is None else reference
    named = f"{report['contender']} {report['version']}, {report['setting']}"
    lr = f"lr {report['lr']:.2g}"
    return Row(
        name=f"train-{job['architecture']}",
        backend=flags.on.type,
        d_in=d_in,
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
        note="; ".join(filter(None, (named, lr, report["note"]))),
    )
