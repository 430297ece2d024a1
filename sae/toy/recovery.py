"""How well a dictionary recovers features that are known. Low error alone does not show it.

Benchmark A: 128 random unit features in 64 dimensions, four of them active at a time on average.
Benchmark B: the hidden activations of a trained toy model of superposition. Sharkey et al. 2022,
"Taking features out of superposition with sparse autoencoders".
"""
# Shapes: G = true features, S = features of the dictionary, B = tokens.

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.analysis.matching import cosines, matched_cosines
from sae.base import SAE
from sae.evaluation.metric import Accumulator
from sae.evaluation.metrics import METRICS
from sae.evaluation.seen import Seen, fires
from sae.toy.features import Independent
from sae.toy.stream import SparseFeatures
from sae.trainable import TrainableConfig, TrainableSAE
from sae.training import TrainConfig, train

ROWS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How the directions that were found lie to the true ones.

    All cosines are signed: the opposite of a feature is another feature.
    """

    mmcs: float
    """Mean over true features of the best cosine with any found direction (Sharkey et al. 2022)."""
    worst_cosine: float
    """The least of these best cosines. In few dimensions their mean is high by chance."""
    share_above_0_9: float
    """Share of the true features whose best cosine is above 0.9."""
    mcc: float
    """Mean cosine of the best one-to-one assignment."""
    uniqueness: float
    """Distinct true features that are nearest to some found direction, over all found directions:
    with twice as many directions as features, 0.5 at most. SAELens' definition, with signs."""


@dataclass(frozen=True, kw_only=True)
class Recovery(Alignment):
    """How well a dictionary recovers the true features, and what it makes of activations."""

    fvu: float
    """Of fresh activations, pooled and centred."""
    l0: float
    dead: int
    """Features of the dictionary that fired on none of the fresh activations."""
    f1: float
    """How well "the feature fires" says "the nearest true feature is active": the F1 score of each
    feature of the dictionary, 0 for one that never fires, mean over all of them. Several may have
    the same nearest one. SAELens' definition, with signs."""
    shrinkage: float
    """Mean of |x_hat| / |x|: 1 is none. Tokens without an active feature do not count."""


def alignment(truth: Float[Tensor, "G d_in"], found: Float[Tensor, "S d_in"]) -> Alignment:
    """Hold found directions against the true ones. Norms do not matter."""
    table = cosines(truth, found)
    best = table.amax(dim=1)
    return Alignment(
        mmcs=best.mean().item(),
        worst_cosine=best.min().item(),
        share_above_0_9=(best > 0.9).float().mean().item(),
        mcc=matched_cosines(truth, found).mean().item(),
        uniqueness=len(table.argmax(dim=0).unique()) / len(found),
    )


def f1_scores(
    hits: Int[Tensor, " S"], fires: Int[Tensor, " S"], active: Int[Tensor, " S"]
) -> Float[Tensor, " S"]:
    """2 hits / (fires + active): the harmonic mean of hits / fires and hits / active.

    On how many tokens a feature fires, its true one is active, and both are so. 0 where neither is.
    """
    return 2.0 * hits / (fires + active).clamp_min(1)


@torch.no_grad()
def recovery(dictionary: SAE, stream: SparseFeatures, n_tokens: int = 16_384) -> Recovery:
    """Measure a dictionary on the next tokens of the stream, against the stream's directions."""
    strengths = stream.sample_strengths(n_tokens)
    found = dictionary.W_dec.detach().to(stream.directions)
    nearest = cosines(stream.directions, found).argmax(dim=0)
    mean = (strengths.mean(dim=0) @ stream.directions).to(torch.float64)
    totals = Accumulator(METRICS.values())
    hits = active = torch.zeros(len(found), dtype=torch.int64)
    for rows in strengths.split(ROWS_AT_ONCE):
        x = rows @ stream.directions
        acts = dictionary.encode(x.to(dictionary.device))
        totals.update(Seen(x, dictionary.decode(acts).to(x), acts, mean))
        is_active = rows[:, nearest] > 0
        hits = hits + ((acts.to(x) > 0) & is_active).sum(dim=0)
        active = active + is_active.sum(dim=0)
    result = totals.results()
    return Recovery(
        **vars(alignment(stream.directions, found)),
        fvu=result["fvu"],
        l0=result["l0"],
        dead=int(result["dead"]),
        f1=f1_scores(hits, totals.total(fires), active).mean().item(),
        shrinkage=result["l2_ratio"],
    )


# The benchmarks ----------------------------------------------------------------------------------


def benchmark_a(seed: int, *, batch_tokens: int = 1024) -> SparseFeatures:
    """128 random unit features in 64 dimensions, each active on one token in 32."""
    probabilities = torch.full((128,), 4 / 128)
    return SparseFeatures(Independent(probabilities), 64, batch_tokens=batch_tokens, seed=seed)


def benchmark_b(
    W: Float[Tensor, "n m"],
    probabilities: Float[Tensor, " n"],
    seed: int,
    *,
    batch_tokens: int = 1024,
) -> SparseFeatures:
    """The hidden activations of a toy model with weights `W`, made of the features it represents.

    Those are the rows with a norm above 0.5; what is left of the others is left out.
    """
    kept = W.detach().norm(dim=1) > 0.5
    return SparseFeatures(
        Independent(probabilities[kept]),
        W.shape[1],
        directions=W.detach()[kept],
        batch_tokens=batch_tokens,
        seed=seed,
    )


def recipe(n_tokens: int, *, lr: float = 4e-3, seed: int = 0) -> TrainConfig:
    """How the dictionaries of a benchmark are fitted: on inputs as they are, at the full rate from
    the first step. In runs of 1,500 to 2,000 steps more features are found than at half this rate.
    """
    return TrainConfig(
        n_tokens=n_tokens,
        lr=lr,
        lr_warmup_fraction=0.0,
        lr_decay_fraction=0.2,
        normalise=False,
        seed=seed,
    )


def fit(
    cfgs: Sequence[TrainableConfig],
    stream: SparseFeatures,
    how: TrainConfig | Sequence[TrainConfig],
) -> list[TrainableSAE]:
    """Dictionaries of these configs, trained together in one pass over the stream."""
    hows = [how] * len(cfgs) if isinstance(how, TrainConfig) else how
    d_in = stream.directions.shape[1]
    dictionaries = [
        cfg.build(d_in, seed=INITIAL + its.seed) for cfg, its in zip(cfgs, hows, strict=True)
    ]
    for _ in train(dictionaries, stream, hows):
        pass
    return dictionaries


INITIAL = 1_000_000
"""Added to the seed of a dictionary: with the stream's own seed it would start at the truth, which
is drawn in the same way."""


# What needs no training --------------------------------------------------------------------------


def baselines(stream: SparseFeatures, n: int, seed: int) -> dict[str, Float[Tensor, "n d_in"]]:
    """`n` directions each that anyone could guess: random ones, principal components with both
    signs, and activations themselves."""
    generator = torch.Generator().manual_seed(INITIAL + seed)
    strengths = stream.sample_strengths(ROWS_AT_ONCE * 4)
    x = strengths[(strengths > 0).any(dim=1)] @ stream.directions
    components = torch.linalg.eigh(torch.cov(x.T)).eigenvectors.T.flip(0)
    return {
        "random": torch.randn(n, x.shape[1], generator=generator),
        "principal_components": torch.stack([components, -components], dim=1).flatten(0, 1)[:n],
        "data_points": x[:n],
    }
