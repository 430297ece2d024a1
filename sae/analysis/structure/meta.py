"""A dictionary of the decoder's rows: whether features are made of fewer, shared directions.

SAEBench's `meta_structure` (0.6), after appendix D.1 of Bussmann et al. 2025, "Learning multi-level
features with Matryoshka sparse autoencoders": a BatchTopK dictionary of a quarter of the width with
4 active features, trained on decoder rows that are drawn with replacement, 1,500 batches of 1,024
at a constant learning rate of 5e-4, and then, over all rows,

    decoder_fraction_variance_explained = 1 - sum |row - rebuilt|^2 / sum |row - mean row|^2

Here the rows have length 1 (SAEBench asks for that too), the training is ours (its start, AuxK loss
and treatment of the learning rate differ), and the same is done for random rows, since a quarter as
many features explain something of anything. Numbers are to be held against those of `random`, and
not against SAEBench's.
"""
# Shapes: n = rows of the decoder.

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.errors import InputError, refuse_below, refuse_not_positive
from sae.architectures.batch_topk import BatchTopKConfig, BatchTopKSAE
from sae.trainable import TrainableSAE

ROWS_AT_ONCE = 2048
RANDOM_SEED = 1_000_000
"""Added to the seed for the random rows: with the seed alone a dictionary would start at them."""


@runtime_checkable
class Fit(Protocol):
    """Trains a dictionary in place with the settings of `sae.TrainConfig`.

    `sae.analysis` knows no training. This is `sae.fit` as what is asked for here:

        lambda dictionary, batches, **settings: sae.fit(
            dictionary, batches, sae.TrainConfig(**settings), progress=False
        )
    """

    def __call__(
        self, dictionary: TrainableSAE, batches: Iterable[Tensor], /, **settings: Any
    ) -> object: ...


@dataclass(frozen=True, kw_only=True)
class MetaConfig:
    """SAEBench's settings."""

    k: int = 4
    width_ratio: float = 0.25
    n_steps: int = 1500
    batch_rows: int = 1024
    lr: float = 5e-4
    seed: int = 0
    """Of the initial weights, of the rows that are drawn, and of the random rows."""

    def __post_init__(self) -> None:
        refuse_below(1, k=self.k, n_steps=self.n_steps, batch_rows=self.batch_rows)
        refuse_not_positive(width_ratio=self.width_ratio, lr=self.lr)


@dataclass(frozen=True, kw_only=True)
class MetaStructure:
    """How much of the decoder's rows a dictionary of them explains."""

    decoder_fraction_variance_explained: float
    random: float
    """The same of as many random rows of length 1."""
    d_sae: int
    """Features of the dictionary of the rows."""
    settings: MetaConfig


def meta_structure(
    W_dec: Float[Tensor, "d_sae d_in"], fit: Fit, cfg: MetaConfig | None = None
) -> MetaStructure:
    """Train a dictionary on these rows, and one on random rows.

    Rows that are 0 are left out; `InputError` where fewer than two remain.
    """
    cfg = cfg or MetaConfig()
    norms = W_dec.detach().norm(dim=1)
    rows = (W_dec.detach()[norms > 0] / norms[norms > 0, None]).to(torch.float32)
    if len(rows) < 2:
        raise InputError(
            f"{len(rows)} decoder rows have a direction, which is no structure: give a dictionary "
            f"with at least 2"
        )
    generator = torch.Generator().manual_seed(RANDOM_SEED + cfg.seed)
    random = torch.randn(rows.shape, generator=generator)
    random = (random / random.norm(dim=1, keepdim=True)).to(rows.device)
    width = max(math.ceil(cfg.width_ratio * len(rows)), cfg.k)
    return MetaStructure(
        decoder_fraction_variance_explained=_explained(rows, width, fit, cfg),
        random=_explained(random, width, fit, cfg),
        d_sae=width,
        settings=cfg,
    )


def _explained(rows: Float[Tensor, "n d_in"], width: int, fit: Fit, cfg: MetaConfig) -> float:
    meta = BatchTopKConfig(d_sae=width, k=cfg.k).build(rows.shape[1], seed=cfg.seed)
    fit(
        meta.to(rows.device),
        _drawn(rows, cfg),
        n_tokens=cfg.n_steps * cfg.batch_rows,
        lr=cfg.lr,
        lr_warmup_fraction=0.0,
        lr_decay_fraction=0.0,
        seed=cfg.seed,
    )
    return explained(rows, meta)


def _drawn(rows: Tensor, cfg: MetaConfig) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(cfg.seed)
    for _ in range(cfg.n_steps):
        yield rows[torch.randint(len(rows), (cfg.batch_rows,), generator=generator)]


@torch.no_grad()
def explained(rows: Float[Tensor, "n d_in"], meta: BatchTopKSAE) -> float:
    """1 - the squared error of the rows over their squared distance from their mean, as the
    dictionary encodes outside of training. NaN where all rows are the same."""
    exact = rows.to("cpu", torch.float64)
    variance = (exact - exact.mean(dim=0)).square().sum().item()
    error = sum(
        (part - meta.reconstruct(part)[0]).to(torch.float64).square().sum().item()
        for part in rows.split(ROWS_AT_ONCE)
    )
    return 1.0 - error / variance if variance > 0 else float("nan")
