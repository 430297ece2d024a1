"""Whether a feature lies in a small subspace that another dictionary spans with other axes.

The span of a feature is grown greedily from the other dictionary's rows (orthogonal matching
pursuit): the nearest row up to its sign, the row nearest to what that leaves, and so on. The first
of them is the best single axis. A feature is *rotated* in the other dictionary where it lies in the
span and not on the axis, and the further rows explain most of what the axis leaves:

    cosine with the axis <= axis_cosine
    cosine with the span >= span_cosine
    (span^2 - axis^2) / (1 - axis^2) >= explained_rest, and above its null

A feature that is only seen with noise in the other dictionary has a near axis too, but what that
leaves is no direction in particular, and no few rows explain it.

The null: random mixtures of all rows of the feature's own dictionary, with independent normal
weights. They have the second moments of the rows, so a few large common directions explain them as
well as they do the features, but they lie in no small subspace.
"""
# Shapes: F = features looked for, N = rows that may span, M = random mixtures.

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.analysis.stability.assignment import CHUNK_PAIRS

N_MIXTURES = 1000
NULL_QUANTILE = 0.99


@dataclass(frozen=True)
class Fit:
    """How well a few rows of another dictionary span each feature."""

    axis: Float[Tensor, " F"]
    """Squared cosine with the first row."""
    span: Float[Tensor, " F"]
    """Squared cosine with the span of all rows that were taken."""

    @property
    def explained_rest(self) -> Float[Tensor, " F"]:
        """Of what the axis leaves, the share that the others explain; 0 where it leaves nothing."""
        rest = 1.0 - self.axis
        return torch.where(rest > 1e-4, (self.span - self.axis) / rest.clamp_min(1e-4), 0.0)


def fit_span(wanted: Float[Tensor, "F d_in"], rows: Float[Tensor, "N d_in"], dim: int) -> Fit:
    """Span unit vectors with at most `dim` of these unit rows each, greedily."""
    if not len(rows):
        return Fit(*torch.zeros(2, len(wanted)))
    parts = [
        _fit_part(part, rows, dim)
        for part in wanted.split(max(1, CHUNK_PAIRS // max(1, len(rows))))
    ]
    return Fit(*(torch.cat(of).cpu() for of in zip(*parts, strict=True)))


def _fit_part(wanted: Tensor, rows: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    rest, basis, explained = wanted, wanted.new_zeros(len(wanted), 0, wanted.shape[1]), []
    for _ in range(dim):
        row = rows[(rest @ rows.T).abs().argmax(dim=1)]
        for _ in range(2):  # twice, so that rounding leaves nothing of the basis
            row = row - torch.einsum("fk,fkd->fd", torch.einsum("fkd,fd->fk", basis, row), basis)
        norm = row.norm(dim=1, keepdim=True)
        row = torch.where(norm > 1e-4, row / norm.clamp_min(1e-4), 0.0)
        basis = torch.cat([basis, row[:, None]], dim=1)
        rest = rest - (rest * row).sum(dim=1, keepdim=True) * row
        explained.append(1.0 - rest.square().sum(dim=1))
    return explained[0].clamp(0.0, 1.0), explained[-1].clamp(0.0, 1.0)


def mixtures(rows: Float[Tensor, "N d_in"], seed: int = 0) -> Float[Tensor, "M d_in"]:
    """Unit vectors with the second moments of the rows, in no small subspace."""
    # Through the d_in x d_in root of the second moments: the order of the rows plays no part.
    values, vectors = torch.linalg.eigh((rows.T @ rows).to("cpu", torch.float64))
    root = (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(N_MIXTURES, len(root), dtype=torch.float64, generator=generator)
    mixed = (weights @ root).to(rows)
    return mixed / mixed.norm(dim=1, keepdim=True).clamp_min(1e-12)


def is_rotated(
    fit: Fit,
    null: Fit,
    of_twins: list[Fit],
    *,
    axis_cosine: float,
    span_cosine: float,
    explained_rest: float,
) -> Bool[Tensor, " F"]:
    """Which features are rotated, as the head of this module defines it, and are spanned better
    than by any twin."""
    beyond = max(explained_rest, torch.quantile(null.explained_rest, NULL_QUANTILE).item())
    rotated = (
        (fit.axis <= axis_cosine**2) & (fit.span >= span_cosine**2) & (fit.explained_rest >= beyond)
    )
    for twin in of_twins:
        rotated &= fit.span > twin.span
    return rotated
