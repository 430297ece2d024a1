"""The real packages say of the same reconstruction what our formulas of theirs say."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from peers import measure
from peers.environments import ENVIRONMENTS, environment
from safetensors.torch import save_file
from torch import Tensor

from sae.evaluation import evaluate_reconstruction
from sae.provenance import Provenance

SIZES = (5, 40, 17)
PROJECTS = {
    "sae_lens": "SAELens",
    "dictionary_learning": "dictionary_learning",
    "sparsify": "sparsify",
}


class Biased:
    """Shrinks, and adds the same to every component. Its features are signed."""

    provenance = Provenance()

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 0.8 * x + 0.7, x.where(x.abs() > 0.5, torch.zeros_like(x))


@pytest.mark.interop
@pytest.mark.parametrize("peer", PROJECTS)
def test_the_real_package_finds_the_same_numbers(peer: str, tmp_path: Path) -> None:
    """Of unequal batches around another mean than 0, with one row that is far longer."""
    x = torch.randn(sum(SIZES), 6, generator=torch.Generator().manual_seed(0)) + 0.4
    x[0] *= 300
    tensors: dict[str, Tensor] = {}
    for i, rows in enumerate(x.split(SIZES)):
        x_hat, acts = Biased().reconstruct(rows)
        tensors |= {f"x_{i}": rows.clone(), f"x_hat_{i}": x_hat, f"acts_{i}": acts}
    save_file(tensors, tmp_path / "rows.safetensors")
    python = environment(peer, ENVIRONMENTS)
    command = [python, measure.__file__, peer, tmp_path / "rows.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    report = evaluate_reconstruction(Biased(), [*x.split(SIZES)], compare=True)
    ours = report.compared[PROJECTS[peer]]
    assert {name: theirs[name] for name in ours} == pytest.approx(ours, rel=1e-5)
