"""The analytic phase diagrams by hand, and their losses by numeric integration."""

import math

import pytest
import torch
from torch import Tensor

from sae.toy import ToyConfig, ToyModels
from sae.toy.phases import (
    OTHER,
    THREE,
    boundary,
    every_pattern,
    ideal_losses,
    label,
    margin,
    variance,
)


def _loss(W: Tensor, b: Tensor, importance: Tensor, p: float, points: int = 64) -> float:
    """The sum over features of the integrated loss of one model."""
    n = W.shape[1]
    models = ToyModels(ToyConfig(n_features=n, n_hidden=W.shape[0]))
    with torch.no_grad():
        models.W.copy_(W)
        models.b.copy_(b)
    x, weights = every_pattern(torch.full((1, n), p), points)
    return n * models.losses(x[None, None], importance, weights).item()


def test_the_boundary_is_at_these_densities() -> None:
    at = boundary(torch.tensor([0.1, 1.0, 10.0])).tolist()
    assert at == pytest.approx([0.16, 4 / 7, 0.16])  # .4 / 2.5, 4 / 7, 4 / 25


def test_the_variance_of_a_feature_is_that_of_its_tokens() -> None:
    assert variance(torch.tensor(1.0)).item() == pytest.approx(1 / 12)  # uniform
    x, weights = every_pattern(torch.tensor([0.2]), 1000)
    mean, square = (x[0] * weights).sum(), (x[0].square() * weights).sum()
    assert mean.item() == pytest.approx(0.1)
    assert (square - mean.square()).item() == pytest.approx(0.2 / 3 - 0.01, rel=1e-4)


@pytest.mark.parametrize(("importance", "p"), [(0.1, 0.05), (0.5, 0.3), (4.0, 0.9)])
def test_losses_of_two_are_integrals_over_the_models_that_they_name(
    importance: float, p: float
) -> None:
    weights = torch.tensor([1.0, importance])
    means = torch.tensor([[0.0, p / 2], [p / 2, 0.0], [0.0, 0.0]])
    directions = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, -1.0]]])
    wanted = ideal_losses(2, torch.tensor(importance), torch.tensor(p)).tolist()
    for W, b, loss in zip(directions, means, wanted, strict=True):
        assert _loss(W, b, weights, p) == pytest.approx(loss, rel=2e-3)
    assert label(directions).tolist() == [0, 1, 2]


def test_losses_of_three_are_integrals_over_the_models_that_they_name() -> None:
    p, importance = 0.4, 0.25
    directions = torch.tensor(
        [
            [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
            [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            [[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]],
            [[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]],
        ]
    )
    means = torch.tensor([[0.0, 0.0, p / 2], [p / 2, 0.0, 0.0], [0.0] * 3, [0.0] * 3])
    weights = torch.tensor([1.0, 1.0, importance])
    wanted = ideal_losses(3, torch.tensor(importance), torch.tensor(p)).tolist()
    for W, b, loss in zip(directions, means, wanted, strict=True):
        assert _loss(W, b, weights, p, points=16) == pytest.approx(loss, rel=1e-2)
    assert label(directions).tolist() == list(range(len(THREE)))


@pytest.mark.parametrize("importance", [0.1, 0.5, 1.0, 3.0])
def test_at_the_boundary_the_losses_cross_with_slopes_that_differ_by_more_than_twice(
    importance: float,
) -> None:
    p = boundary(torch.tensor(importance, dtype=torch.float64)).requires_grad_()
    of_two = ideal_losses(2, torch.tensor(importance, dtype=torch.float64), p)
    ignored = of_two[:2].min()
    assert of_two[2].item() == pytest.approx(ignored.item())
    (of_pair,) = torch.autograd.grad(of_two[2], p, retain_graph=True)
    (of_ignored,) = torch.autograd.grad(ignored, p)
    at = p.item()
    assert (of_pair / of_ignored).item() == pytest.approx((4 - 3 * at) / (2 - 3 * at))
    assert (of_pair / of_ignored).item() > 2


def test_the_margin_is_that_of_the_second_best() -> None:
    assert margin(torch.tensor([3.0, 2.0, 8.0])).item() == pytest.approx(0.5)


def test_models_in_between_have_no_label() -> None:
    short = torch.tensor([[[0.4, -0.4]], [[1.0, 0.4]], [[1.0, 1.0]]])
    assert label(short).tolist() == [OTHER] * 3
    angles = torch.arange(3) * 2 * math.pi / 3
    assert label(torch.stack((angles.cos(), angles.sin()))).item() == OTHER


def test_a_mixture_of_two_equal_features_counts_as_one_of_them_ignored() -> None:
    half = math.sqrt(0.5)
    mixture = torch.tensor([[half, -half, 0.0], [0.0, 0.0, 1.0]])
    assert THREE[int(label(mixture))] == "ignore 1"
    assert THREE[int(label(mixture.abs()))] == "ignore 1"
    # what makes it one of them: the loss of a dense model is that of ignoring either
    alone = _loss(mixture, torch.tensor([0.5, 0.5, 0.0]), torch.ones(3), 1.0, points=16)
    assert alone == pytest.approx(1 / 12, rel=1e-2)


def test_every_pattern_is_as_likely_as_it_should_be() -> None:
    x, weights = every_pattern(torch.tensor([[0.25, 0.5], [1.0, 1.0]]), 3)
    assert x.shape == (2, 16)
    assert weights.sum(dim=1).tolist() == pytest.approx([1.0, 1.0])
    both = (x > 0).all(dim=0)
    assert weights[:, both].sum(dim=1).tolist() == pytest.approx([1 / 8, 1.0])
