"""Dictionaries of several seeds, written down and not trained, whose every feature is known."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae.analysis.stability import Verdict
from sae.architectures.jumprelu import JumpReLUConfig, JumpReLUSAE

D_IN = 256
COUNTS = {
    "exact": 20,  # the same row in every seed
    "noisy": 24,  # a row that has turned by up to 25 degrees, anywhere, in each seed
    "random": 24,  # a row of this seed alone
    "composite": 6,  # the sum of two exact ones, others in each seed
    "plane": 24,  # six planes, each with two axes and their opposites, turned in each seed
    "space": 18,  # three subspaces of three dimensions, likewise
    "duplicate": 12,  # six directions, each of them twice
    "in twins": 8,  # exact, and in the twins too
    "dead": 8,  # exact, and never active
}
VERDICTS: dict[str, Verdict] = {
    "exact": "stable",
    "noisy": "stable",
    "random": "unstable",
    "composite": "unstable",
    "plane": "subspace",
    "space": "subspace",
    "duplicate": "duplicate",
    "in twins": "in twins too",
    "dead": "dead",
}
THRESHOLD = 0.35
"""From which pre-activation on a feature is active."""


@dataclass(frozen=True)
class Planted:
    """Dictionaries with a stated truth, and activations to look at them with."""

    dictionaries: list[JumpReLUSAE]
    twins: list[JumpReLUSAE]
    batches: list[Tensor]
    kinds: list[str]
    """Of each feature, the same in every dictionary."""

    def of(self, kind: str) -> Tensor:
        return torch.tensor([its == kind for its in self.kinds])


def planted(seed: int = 0, *, n_seeds: int = 4, n_tokens: int = 8192) -> Planted:
    """Nothing of a twin is of the truth, but the features that are planted in twins too."""
    g = torch.Generator().manual_seed(seed)
    truth = {
        kind: unit(torch.randn(COUNTS[kind], D_IN, generator=g))
        for kind in ("exact", "noisy", "in twins", "dead")
    }
    truth["duplicate"] = unit(torch.randn(6, D_IN, generator=g))
    bases = [basis(n, g) for n in [2] * 6 + [3] * 3]
    rotations = [_rotations(len(of), n_seeds, g) for of in bases]
    dictionaries = [
        written(_rows(truth, [r[i] @ of for r, of in zip(rotations, bases, strict=True)], g))
        for i in range(n_seeds)
    ]
    kinds = [kind for kind, n in COUNTS.items() for _ in range(n)]
    twins = [written(_twin_rows(len(kinds), truth["in twins"], g)) for _ in range(2)]
    of = {kind: torch.tensor([its == kind for its in kinds]) for kind in COUNTS}
    for dictionary in dictionaries:
        assert dictionary.untied_W_enc_rows is not None
        dictionary.untied_W_enc_rows.data[of["duplicate"]] *= 0.5  # two of them make one
        dictionary.threshold.data[of["duplicate"]] *= 0.5
        dictionary.threshold.data[of["random"]] = 0.2  # so that all are active, if weakly
        dictionary.threshold.data[of["composite"]] = 1.0  # where both of its features are
        dictionary.threshold.data[of["dead"]] = 1e9
    return Planted(dictionaries, twins, _tokens(truth, bases, n_tokens, g), kinds)


def written(rows: Tensor, threshold: float = THRESHOLD) -> JumpReLUSAE:
    """A JumpReLU dictionary with these rows, in its decoder and in its encoder."""
    sae = JumpReLUConfig(d_sae=len(rows)).build(rows.shape[1])
    sae.W_dec.data = rows.clone()
    sae.untied_W_enc_rows = torch.nn.Parameter(rows.clone())
    sae.threshold.data.fill_(threshold)
    return sae


def reordered(sae: JumpReLUSAE, order: Tensor) -> JumpReLUSAE:
    """The same dictionary with its features in another order."""
    other = written(sae.W_dec.detach()[order])
    other.untied_W_enc_rows = torch.nn.Parameter(sae.W_enc_rows.detach()[order])
    other.threshold.data = sae.threshold.detach()[order]
    return other


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rows(n: int, d: int, seed: int) -> Tensor:
    return unit(torch.randn(n, d, generator=generator(seed)))


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def basis(n: int, g: torch.Generator) -> Tensor:
    """n orthonormal rows."""
    return torch.linalg.qr(torch.randn(D_IN, n, generator=g)).Q.T


def turned(rows: Tensor, cosine: Tensor, g: torch.Generator) -> Tensor:
    """The rows, turned in random directions until this is the cosine with what they were."""
    aside = torch.randn(rows.shape, generator=g)
    aside = unit(aside - (aside * rows).sum(dim=1, keepdim=True) * rows)
    return cosine[:, None] * rows + (1 - cosine**2).sqrt()[:, None] * aside


def _rows(truth: dict[str, Tensor], axes: list[Tensor], g: torch.Generator) -> Tensor:
    exact, duplicates = truth["exact"], truth["duplicate"].repeat(2, 1)
    pairs = torch.randperm(len(exact), generator=g)[:12].view(6, 2)
    return torch.cat(
        [
            exact,
            turned(truth["noisy"], 0.9 + 0.1 * torch.rand(COUNTS["noisy"], generator=g), g),
            unit(torch.randn(COUNTS["random"], D_IN, generator=g)),
            unit(exact[pairs].sum(dim=1)),
            *(torch.cat([of, -of]) for of in axes),
            turned(duplicates, torch.full((12,), 0.98), g),
            truth["in twins"],
            truth["dead"],
        ]
    )


def _rotations(n: int, n_seeds: int, g: torch.Generator) -> Tensor:
    """The axes [n_seeds, n, n] of each seed, any that are 19 degrees or more from each other's."""
    of_another = ~torch.eye(n_seeds, dtype=torch.bool).repeat_interleave(n, 0).repeat_interleave(
        n, 1
    )
    while True:
        axes = torch.linalg.qr(torch.randn(n_seeds, n, n, generator=g)).Q
        rows = axes.flatten(0, 1)
        if (rows @ rows.T).abs()[of_another].max() < 0.945:
            return axes


def _twin_rows(n: int, shared: Tensor, g: torch.Generator) -> Tensor:
    return torch.cat([shared, unit(torch.randn(n - len(shared), D_IN, generator=g))])


def _tokens(
    truth: dict[str, Tensor], bases: list[Tensor], n: int, g: torch.Generator
) -> list[Tensor]:
    """Each direction is active on one token in 33, each subspace on one in 20, at strengths of 0.5
    to 1.5; in a subspace the direction is uniform."""
    directions = torch.cat([truth[kind] for kind in ("exact", "noisy", "in twins", "duplicate")])
    x = _strengths(n, len(directions), 0.03, g) @ directions
    for of in bases:
        x += _strengths(n, 1, 0.05, g) * unit(torch.randn(n, len(of), generator=g)) @ of
    return list(x.split(1024))


def _strengths(n: int, m: int, probability: float, g: torch.Generator) -> Tensor:
    is_active = torch.rand(n, m, generator=g) < probability
    return is_active * (0.5 + torch.rand(n, m, generator=g))
