"""The nearest neighbours of directions within one dictionary, a few rows at a time.

What random rows would give is stated for directions that are uniform on the sphere. Activations of
a model lie in far fewer directions than `d_in`, so even features that have nothing to do with each
other are nearer than that: the reference is a floor.
"""
# Shapes: n = rows that have a direction.

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import betainc
from torch import Tensor

from sae.analysis.stability.assignment import CHUNK_PAIRS, expected_nearest
from sae.analysis.structure.spread import Spread

DUPLICATE_COSINE = 0.9
"""As in `sae.analysis.stability`: rows so near share four fifths of their squared norm."""


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Of each row the largest cosine with another row; rows that are 0 have no direction, and are
    no neighbours. NaN where there are not two."""

    signed: Spread
    absolute: Spread
    """Of the largest |cosine|: the opposite of a row counts as near."""
    random_signed: float
    """The mean that as many random rows would give, in as many dimensions."""
    random_absolute: float
    n_duplicates: int
    """Rows that have another at a signed cosine above 0.9."""
    duplicate_share: float
    """Of the rows that have a direction."""
    n_duplicate_pairs: int
    """Five copies of a row are five duplicates in ten pairs."""


@dataclass(frozen=True)
class Nearest:
    """For every row of a table, NaN where the row is 0 or there is no other."""

    signed: Float[Tensor, " rows"]
    absolute: Float[Tensor, " rows"]
    n_duplicate_pairs: int

    def summary(self, d_in: int) -> Neighbours:
        n = int((~self.signed.isnan()).sum())
        n_duplicates = int((self.signed > DUPLICATE_COSINE).sum())
        return Neighbours(
            signed=Spread.of(self.signed),
            absolute=Spread.of(self.absolute),
            random_signed=expected_nearest(n - 1, d_in) if n else float("nan"),
            random_absolute=expected_nearest_absolute(n - 1, d_in) if n else float("nan"),
            n_duplicates=n_duplicates,
            duplicate_share=n_duplicates / n if n else float("nan"),
            n_duplicate_pairs=self.n_duplicate_pairs,
        )


def nearest_within(rows: Float[Tensor, "rows d_in"], *, chunk_pairs: int = CHUNK_PAIRS) -> Nearest:
    """Hold every row against all others; norms do not matter.

    No more than `chunk_pairs` cosines are in memory at once.
    """
    norms = rows.norm(dim=1)
    has_direction = norms > 0
    unit = rows[has_direction] / norms[has_direction, None]
    signed, absolute = torch.full((2, len(rows)), float("nan"))
    if len(unit) < 2:
        return Nearest(signed, absolute, 0)
    at_once = max(1, chunk_pairs // len(unit))
    found = [_nearest(unit, start, start + at_once) for start in range(0, len(unit), at_once)]
    own = has_direction.cpu()
    signed[own] = torch.cat([part[0] for part in found]).cpu()
    absolute[own] = torch.cat([part[1] for part in found]).cpu()
    return Nearest(signed, absolute, sum(part[2] for part in found) // 2)


def _nearest(unit: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor, int]:
    """Of some of the rows; each pair is counted in both of its rows."""
    cosines = unit[start:stop] @ unit.T
    own = torch.arange(len(cosines), device=unit.device)
    cosines[own, start + own] = -torch.inf
    largest, n_near = cosines.amax(dim=1), int((cosines > DUPLICATE_COSINE).sum())
    cosines[own, start + own] = torch.inf
    return largest, torch.maximum(largest, -cosines.amin(dim=1)), n_near


def expected_nearest_absolute(n: int, d_in: int) -> float:
    """The mean, over random directions, of the largest |cosine| with n other random directions.

    The squared cosine of two directions follows Beta(1 / 2, (d - 1) / 2); the rest is as in
    `expected_nearest`.
    """
    t = np.linspace(0.0, 1.0, 20_001)
    below = betainc(0.5, (d_in - 1) / 2, t**2) ** n if d_in > 1 else t >= 1.0
    return float(1.0 - np.trapezoid(below, t))
