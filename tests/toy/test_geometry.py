"""Shapes of superposition, on arrangements whose numbers are known."""

import math

import pytest
import torch
from torch import Tensor

from sae.toy import geometry


def _polygon(n: int) -> Tensor:
    angles = 2 * math.pi * torch.arange(n) / n
    return torch.stack((angles.cos(), angles.sin()))


def _square_antiprism() -> Tensor:
    """Thomson's: two squares, turned by an eighth, at the height that spreads them best."""
    height, radius = 0.5604, math.sqrt(1 - 0.5604**2)
    squares: list[Tensor] = []
    for turn, z in ((0.0, height), (math.pi / 4, -height)):
        angles = math.pi / 2 * torch.arange(4) + turn
        squares.append(torch.stack((radius * angles.cos(), radius * angles.sin(), 0 * angles + z)))
    return torch.cat(squares, dim=1)


def _tetrahedron() -> Tensor:
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).T
    return corners / math.sqrt(3)


@pytest.mark.parametrize(
    ("W", "name", "share"),
    [
        (torch.tensor([[1.0]]), "alone", 1.0),
        (torch.tensor([[1.0, -1.0]]), "digon", 1 / 2),
        (_polygon(3), "triangle", 2 / 3),
        (_tetrahedron(), "tetrahedron", 3 / 4),
        (_polygon(5), "pentagon", 2 / 5),
        (_square_antiprism(), "square antiprism", 3 / 8),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_known_shapes_have_their_name_and_share_of_a_dimension(
    W: Tensor, name: str, share: float
) -> None:
    (component,) = geometry.components(W)
    assert component.name == name
    assert component.n_dimensions / len(component.features) == pytest.approx(share)
    D = geometry.feature_dimensionality(W)
    assert D.tolist() == pytest.approx([share] * W.shape[1], abs=5e-3)


def test_shapes_in_dimensions_of_their_own_are_told_apart() -> None:
    W = torch.block_diag(torch.tensor([[1.0, -1.0]]), _polygon(5), torch.zeros(1, 1))
    assert [c.name for c in geometry.components(W)] == ["pentagon", "digon"]
    assert geometry.components(W)[1].features == (0, 1)
    D = geometry.feature_dimensionality(W).tolist()
    assert pytest.approx([0.5, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.0]) == D


def test_what_has_no_name_is_described() -> None:
    (component,) = geometry.components(_polygon(7))
    assert component.name == "7 features in 2 dimensions"


def test_interference_is_what_others_add_along_a_feature() -> None:
    W = torch.tensor([[1.0, 0.6], [0.0, 0.8]])
    # (W^_0 . W_1)^2 = 0.36 and the other way round too: both have length 1
    assert geometry.interference(W).tolist() == pytest.approx([0.36, 0.36])
    assert geometry.interference(2 * W).tolist() == pytest.approx([1.44, 1.44])
    assert geometry.feature_dimensionality(W).tolist() == pytest.approx([1 / 1.36] * 2)


def test_features_per_dimension_counts_squared_lengths() -> None:
    W = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 2.0]])
    assert geometry.features_per_dimension(W).item() == pytest.approx(3.0)
    assert geometry.dimensions_per_feature(W).item() == pytest.approx(1 / 3)
    assert geometry.is_represented(W * 0.4).tolist() == [False, False, True]


def test_dimensionalities_of_random_directions_sum_to_the_dimensions_too() -> None:
    """A tight frame, which is what training leaves: so the sum is no sign of superposition."""
    W = torch.linalg.qr(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)))[0].T
    assert geometry.feature_dimensionality(W).sum().item() == pytest.approx(4.0, abs=1e-4)


def test_instances_are_measured_one_by_one() -> None:
    W = torch.stack([_polygon(5), 2 * _polygon(5)]).view(2, 1, 2, 5)
    assert geometry.feature_dimensionality(W).shape == (2, 1, 5)
    assert geometry.dimensions_per_feature(W).flatten().tolist() == pytest.approx([0.4, 0.1])


def test_a_turned_arrangement_is_the_same_with_its_longest_direction_up() -> None:
    W = _polygon(5) * torch.tensor([1.0, 1.0, 1.5, 1.0, 1.0])
    turned = geometry.turned(W)
    torch.testing.assert_close(turned.T @ turned, W.T @ W)
    assert turned[:, 2].tolist() == pytest.approx([0.0, 1.5], abs=1e-6)
