"""The losses of short trainings of every architecture, as plain text.

    python tests/golden/golden_losses.py    # rewrites losses.txt

Whoever changes the numbers on purpose rewrites the file, and says why in the commit.
"""

import os
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from sae.architectures import ARCHITECTURES
from sae.training import TrainConfig, Trainer

FILE = Path(__file__).with_name("losses.txt")
N_STEPS, EVERY = 40, 2
"""Twenty losses of each training, over which features die and are helped by AuxK."""
D_IN, D_SAE, BATCH = 16, 64, 64
OWN = {
    "relu": {"l1_coeff": 0.25},
    "gated": {"target_l0": 4.0},
    "jumprelu": {"l0_coeff": 0.024},
    "topk": {"k": 4},
    "batch_topk": {"k": 4},
    "matryoshka": {"k": 4, "prefixes": (8, 24, 64)},
}
"""Settings under which these small dictionaries are sparse.

With an L0 coefficient of .02 a pre-activation comes to within 5e-8 of its threshold, and processors
disagree on whether it is active; with .024 none comes closer than 4e-6.
"""


def batches() -> list[Tensor]:
    """Rows that are sums of few of forty directions, far from the origin."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.rand(40, D_IN, generator=generator) - 0.5
    rows: list[Tensor] = []
    for _ in range(N_STEPS):
        codes = torch.rand(BATCH, 40, generator=generator)
        codes = codes * (torch.rand(BATCH, 40, generator=generator) < 0.1)
        rows.append(codes @ directions + 0.5)
    return rows


def losses(architecture: str, *, tied: bool, sparse: bool) -> list[float]:
    """Every second loss of a training in float32 on one thread."""
    data = batches()
    cfg = ARCHITECTURES[architecture](d_sae=D_SAE, tied=tied, **OWN[architecture])
    train = TrainConfig(n_tokens=N_STEPS * BATCH, lr=3e-3, dead_after_tokens=6 * BATCH)
    trainer = Trainer(cfg.build(D_IN), train)
    trainer.initialise(torch.cat(data[:8]))
    trainer.SPARSE_BELOW = trainer.DENSE_ABOVE = float(sparse) * 2  # the form does not change
    trainer.may_be_sparse = trainer.is_sparse = sparse
    found = [trainer.step(x).loss.item() for x in data]
    return found[::EVERY]


def lines() -> Iterator[str]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for architecture, tied, sparse in product(OWN, (False, True), (False, True)):
            name = (
                f"{architecture} {'tied' if tied else 'untied'} {'sparse' if sparse else 'dense'}"
            )
            found = losses(architecture, tied=tied, sparse=sparse)
            yield f"{name}: " + " ".join(f"{loss:.5e}" for loss in found)
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n")
    sys.stdout.write(f"written to {FILE}\n")
