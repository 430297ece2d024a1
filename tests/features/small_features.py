"""Activations that are looked up in a small table, and what is collected of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sae
import sae.features
from activation_cache.common.types import TextBatchLike
from sae.architectures import ReLUConfig
from sae.features import CollectConfig

SITE, N_TOKENS, D_IN, D_SAE, N_POS = "blocks.0.hook_resid_pre", 12, 4, 9, 6
SMALL = CollectConfig(
    n_top=3, n_groups=3, n_of_group=2, tokens_before=3, tokens_after=1, n_bins=4, n_tokens=3,
    n_together=3, n_looked_at=1000, n_neighbours=3,
)  # fmt: skip


class Table:
    """Activations are looked up by token id. They are small whole numbers, so that sums are exact
    and many values are equal."""

    def __init__(self) -> None:
        self.table = torch.randint(-2, 4, (N_TOKENS, D_IN), generator=generator(1)).float()
        self.n_passes = 0

    def activations(self, tokens: Tensor, hook_names: Sequence[str]) -> dict[str, Tensor]:
        self.n_passes += 1
        return {name: self.table[tokens] for name in hook_names}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dictionary(seed: int = 2, hook_name: str = SITE) -> sae.SAE[Any]:
    made = ReLUConfig(d_sae=D_SAE).build(D_IN)
    rows = torch.randint(-1, 2, (D_SAE, D_IN), generator=generator(seed)).float()
    rows[3] = 0  # it is never active
    assert made.untied_W_enc_rows is not None
    made.untied_W_enc_rows.data.copy_(rows)
    made.provenance = sae.Provenance(hook_name=hook_name)
    return made.requires_grad_(False)


def small_text() -> tuple[Tensor, Tensor]:
    """Fourteen blocks, and a mask without position 0 and without token 5."""
    tokens = torch.randint(0, N_TOKENS, (14, N_POS), generator=generator(0))
    counted = tokens != 5
    counted[:, 0] = False
    return tokens, counted


def cut(text: tuple[Tensor, Tensor], sizes: Sequence[int]) -> list[TextBatchLike]:
    return list(zip(*(of.split(list(sizes)) for of in text), strict=True))


def collect_whole(text: tuple[Tensor, Tensor], folder: Path) -> sae.features.Features:
    return sae.features.collect(
        Table(), dictionary(), cut(text, [14]), folder, SMALL, progress=False
    )


def files(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
