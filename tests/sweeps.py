"""Small sweeps, and how to compare what they leave behind."""

import importlib
import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from activation_cache import LanguageModel
from sae.runs.run import run
from sae.runs.settings.run_settings import settings_from_file
from sae.runs.sweep import SweepSettings, sweep
from sae.training.trainer import Trainer

RESID, MLP = "blocks.1.hook_resid_pre", "blocks.0.mlp.hook_post"

SMALL: Mapping[str, Any] = {
    "hook_name": RESID,
    "context_size": 16,
    "batch_tokens": 64,
    "buffer_tokens": 256,
    "eval_tokens": 128,
    "n_tokens": 512,
    "d_sae": 32,
    "log_every": 2,
    "wandb": "off",
}
"""Eight steps of a dictionary of 32 features."""


def grid_file(path: Path, grid: Sequence[Mapping[str, Any]], **shared: Any) -> Path:
    """A grid file: JSON, which is YAML."""
    path.write_text(json.dumps({**SMALL, **shared, "grid": list(grid)}))
    return path


def listed(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder by its relative path; None for a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def logged(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def differences(run: Path, other: Path) -> list[str]:
    """In what two run folders differ, beside their place and the time that they took."""
    files = ("eval.json", "metrics.jsonl", "sae/cfg.json")
    found = [name for name in files if not _same(run / name, other / name)]
    weights, others = (load_file(r / "sae" / "sae_weights.safetensors") for r in (run, other))
    assert weights.keys() == others.keys()
    return found + [name for name, w in weights.items() if not torch.equal(w, others[name])]


def _same(path: Path, other: Path) -> bool:
    return path.read_bytes() == other.read_bytes()


Grid = Sequence[Mapping[str, Any]]

TWO: Grid = [{"architecture": ["topk", "relu"]}]
"""k is 32, which is all of the features."""
NAMES = ["topk", "relu"]


@contextmanager
def loaded(gpt2: LanguageModel) -> Iterator[None]:
    """The model is loaded once for all tests, git is left alone, and nothing is drawn.

    Types are not checked and disks not waited for, which takes a third of the time of small runs.
    """

    def load(name: str, **_options: object) -> LanguageModel:
        assert name == gpt2.name
        return gpt2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sae.runs.inputs.load_model", load)
        patch.setattr("activation_cache.cache.store.load_model", load)
        patch.setattr("sae.runs.settings.run_settings.git_commit", lambda: None)
        # By its name, the module is hidden behind the function.
        module = importlib.import_module("sae.runs.sweep")
        patch.setattr(module, "write_plot", lambda _rows, _out: None)
        patch.setattr("os.fsync", lambda _file: None)
        jaxtyping.config.update("jaxtyping_disable", True)
        yield
    jaxtyping.config.update("jaxtyping_disable", False)


def member(settings: SweepSettings, name: str) -> Path:
    return settings.out / "members" / name


def assert_each_is_as_if_alone(settings: SweepSettings) -> None:
    rows = sweep(settings)
    assert {row.name for row in rows} == {
        path.name for path in (settings.out / "members").iterdir()
    }
    for row in rows:
        folder = member(settings, row.name)
        alone = settings.out / "alone" / row.name
        run(settings_from_file(folder / "config.json").but(out=alone))
        assert not differences(folder, alone), row.name


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by a step of any dictionary."""
    step = Trainer.step
    taken: list[int] = []

    def stepping(trainer: Trainer, x: Tensor) -> Any:
        taken.append(trainer.sae.d_sae)
        return step(trainer, x)

    monkeypatch.setattr(Trainer, "step", stepping)
    return taken


def interrupt(monkeypatch: pytest.MonkeyPatch, n_steps: int) -> pytest.MonkeyPatch:
    """Ctrl-C in the middle of the n-th training step, whichever dictionary it is of."""
    step = Trainer.step
    taken = 0

    def stepping(trainer: Trainer, x: Tensor) -> Any:
        nonlocal taken
        taken += 1
        if taken == n_steps:
            signal.raise_signal(signal.SIGINT)
        return step(trainer, x)

    monkeypatch.setattr(Trainer, "step", stepping)
    return monkeypatch
