"""Baselines, which are evaluated like a dictionary."""

import numpy as np
import pytest
import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.evaluation import baselines as baselines_module
from sae.evaluation import evaluate_reconstruction
from sae.evaluation.baselines import BASELINES, SLOW, Directions, Moments, fit_baselines


@pytest.fixture(scope="module")
def x() -> Tensor:
    """Six dimensions of variances 36, 25, 16, 9, 4 and 1 in a rotated frame, off centre."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(4000, 6, dtype=torch.float64, generator=generator)
    frame = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator)).Q
    return (draw * torch.tensor([6.0, 5, 4, 3, 2, 1]).double()) @ frame + 10


def fvu(dictionary: object, x: Tensor) -> float:
    return evaluate_reconstruction(dictionary, [x]).fvu


def test_moments_are_those_of_all_batches_together(x: Tensor) -> None:
    found = Moments.of(x.split([1, 999, 3000]))
    np.testing.assert_allclose(found.mean, x.mean(dim=0))
    covariance = np.cov(x.numpy().T)
    spectrum = (found.components @ torch.from_numpy(covariance) @ found.components.T).diagonal()
    np.testing.assert_allclose(spectrum, np.linalg.eigvalsh(covariance)[::-1])


def test_identity_mean_and_zero_have_the_numbers_that_their_names_promise(x: Tensor) -> None:
    made = fit_baselines(Moments.of([x]), k=2, d_sae=40)
    assert fvu(made["identity"], x) == 0.0
    assert fvu(made["mean"], x) == pytest.approx(1.0)
    distance = x.square().sum() / (x - x.mean(dim=0)).square().sum()
    assert fvu(made["zero"], x) == pytest.approx(distance.item())


def test_pca_leaves_the_variance_of_the_components_that_it_does_not_have(x: Tensor) -> None:
    variances = np.linalg.eigvalsh(np.cov(x.numpy().T))[::-1]
    for k in (1, 3, 6):
        pca = fit_baselines(Moments.of([x]), k=k, d_sae=40)["pca"]
        expected = variances[k:].sum() / variances.sum()
        assert fvu(pca, x) == pytest.approx(expected, abs=1e-9)


def test_choosing_components_for_each_token_is_better_than_the_same_for_all(x: Tensor) -> None:
    made = fit_baselines(Moments.of([x]), k=2, d_sae=40)
    assert fvu(made["pca_top_k"], x) < 0.75 * fvu(made["pca"], x)


def test_neurons_keep_the_components_that_are_furthest_from_their_mean() -> None:
    moments = Moments.of([torch.tensor([[1.0, 5.0, 0.0], [-1.0, -5.0, 0.0]])])
    neurons = fit_baselines(moments, k=1, d_sae=3)["neurons"]
    x_hat, acts = neurons.reconstruct(torch.tensor([[4.0, -3.0, 0.0], [1.0, 2.0, -2.5]]))
    assert x_hat.tolist() == [[4.0, 0.0, 0.0], [0.0, 0.0, -2.5]]
    assert acts.indices.tolist() == [[0], [2]]


def test_directions_that_are_not_orthogonal_are_combined_by_least_squares() -> None:
    """(2, 1) lies in the plane of (1, 0) and (1, 1) / sqrt 2."""
    rows = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), dim=1)
    x_hat, acts = Directions(torch.zeros(2), rows, k=2).reconstruct(torch.tensor([[2.0, 1.0]]))
    torch.testing.assert_close(x_hat, torch.tensor([[2.0, 1.0]]), atol=2e-3, rtol=0)
    assert acts.counts.tolist() == [2]


def test_random_directions_are_no_better_than_chance_says(x: Tensor) -> None:
    """One direction that does not choose explains a sixth; the best of 40 much more, not all."""
    made = fit_baselines(Moments.of([x]), k=1, d_sae=40, seed=3)
    assert 0.1 < fvu(made["random"], x) < 5 / 6
    assert evaluate_reconstruction(made["random"], [x]).l0 == 1.0


def test_independent_sources_are_found_by_ica_where_pca_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sources of equal variance, one active at a time: of a token, one direction says all."""
    generator = torch.Generator().manual_seed(1)
    which = torch.randint(4, (3000,), generator=generator)
    size = torch.randn(3000, generator=generator)
    mixing = torch.nn.functional.normalize(torch.randn(4, 4, generator=generator), dim=1)
    x = torch.nn.functional.one_hot(which, 4) * size[:, None] @ mixing
    monkeypatch.setattr(baselines_module, "FIT_ROWS", 3000)
    made = fit_baselines(Moments.of([x]), k=1, d_sae=4, also=SLOW)
    assert fvu(made["ica"], x) < 0.02 < 0.1 < fvu(made["pca_top_k"], x)
    assert set(made) == set(BASELINES) and 0 < fvu(made["nmf"], x) < 1


def test_there_is_something_to_fit_on() -> None:
    with pytest.raises(InputError, match="there are none: give text"):
        Moments.of([torch.zeros(0, 4)])
