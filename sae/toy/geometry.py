"""The geometry of superposition: how features share the dimensions of a hidden layer.

Elhage et al. 2022, sections 2, 4 and 5. `W` [..., m, n] has the direction W_f of a feature in each
of its columns; W^_f is the same at length 1.
"""
# Shapes: m = hidden dimensions, n = features.

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.sparse.csgraph import connected_components
from torch import Tensor

REPRESENTED_NORM = 0.5
"""A feature with a longer direction counts as represented."""

SHAPES = {
    (1, 1): "alone",
    (2, 1): "digon",
    (3, 2): "triangle",
    (4, 3): "tetrahedron",
    (5, 2): "pentagon",
    (8, 3): "square antiprism",
}
"""Names of (features, dimensions): the optimal arrangements that the paper finds (Thomson's)."""


def norms(W: Float[Tensor, "*i m n"]) -> Float[Tensor, "*i n"]:
    return W.norm(dim=-2)


def is_represented(W: Float[Tensor, "*i m n"]) -> Bool[Tensor, "*i n"]:
    return norms(W) > REPRESENTED_NORM


def interference(W: Float[Tensor, "*i m n"]) -> Float[Tensor, "*i n"]:
    """sum over j != f of (W^_f . W_j)^2: what other features add to this one's direction."""
    return _overlaps(W).sum(dim=-1) - norms(W).square()


def feature_dimensionality(W: Float[Tensor, "*i m n"]) -> Float[Tensor, "*i n"]:
    """D_f = |W_f|^2 / sum over j of (W^_f . W_j)^2: the share of a dimension that f has.

    Meaningful for represented features of models that saw sparse ones: 1 alone, 1/2 in a digon,
    2/5 in a pentagon; 0 for a direction of length 0. That they sum to m is no sign of
    superposition: they do in every trained model, dense ones included.
    """
    overlaps = _overlaps(W).sum(dim=-1)
    return norms(W).square() / overlaps.clamp_min(1e-12)


def dimensions_per_feature(W: Float[Tensor, "*i m n"]) -> Float[Tensor, "*i"]:
    """D* = m / |W|_F^2; its inverse is features per dimension."""
    return W.shape[-2] / W.square().sum(dim=(-2, -1))


def features_per_dimension(W: Float[Tensor, "*i m n"]) -> Float[Tensor, "*i"]:
    return 1 / dimensions_per_feature(W)


def _overlaps(W: Tensor) -> Float[Tensor, "*i n n"]:
    """(W^_f . W_j)^2, by f and j."""
    unit = W / norms(W)[..., None, :].clamp_min(1e-12)
    return (unit.mT @ W).square()


# The geometry graph ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Component:
    """Features that share dimensions with each other and with no other feature (a tegum factor)."""

    features: tuple[int, ...]
    n_dimensions: int
    """Of the space that they span."""

    @property
    def name(self) -> str:
        size = len(self.features), self.n_dimensions
        return SHAPES.get(size, f"{size[0]} features in {size[1]} dimensions")


def geometry_graph(W: Float[Tensor, "m n"], threshold: float = 0.1) -> Float[Tensor, "n n"]:
    """Edges |W_f . W_j| between represented features with a cosine beyond the threshold, else 0."""
    products = W.T @ W
    lengths, represented = norms(W), is_represented(W)
    is_edge = products.abs() > threshold * lengths[:, None] * lengths
    is_edge &= represented[:, None] & represented
    is_edge.fill_diagonal_(False)
    return products.abs() * is_edge


def components(W: Float[Tensor, "m n"], threshold: float = 0.1) -> list[Component]:
    """The connected parts of the geometry graph, the largest first."""
    graph = geometry_graph(W, threshold)
    _, labels = connected_components(graph.detach().cpu().numpy(), directed=False)
    represented = is_represented(W)
    found: list[Component] = []
    for label in sorted({*labels}):
        members = [f for f in range(W.shape[1]) if labels[f] == label and represented[f]]
        if members:
            found.append(Component(tuple(members), _rank(W[:, members])))
    return sorted(found, key=lambda c: (-len(c.features), c.features))


def _rank(W: Float[Tensor, "m k"]) -> int:
    """Dimensions that hold more than a twentieth of the largest."""
    singular = torch.linalg.svdvals(W.detach().double())
    return int((singular > 0.05 * singular[0]).sum())


def turned(W: Float[Tensor, "2 n"]) -> Float[Tensor, "2 n"]:
    """The same arrangement in the plane with its longest direction up: for drawing."""
    first = int(norms(W).argmax())
    angle = torch.atan2(W[0, first], W[1, first])
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((W[0] * cos - W[1] * sin, W[0] * sin + W[1] * cos))
