"""Synthetic features are active as often, and as much together, as was asked."""

import pytest
import torch

from activation_cache.common.errors import InputError
from sae.toy import (
    AnticorrelatedSets,
    CorrelatedSets,
    Hierarchical,
    Independent,
    SparseFeatures,
    geometric,
    stratified,
    zipf,
)
from sae.toy.strata import poisson_binomial


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_independent_features_have_the_moments_of_a_uniform_strength() -> None:
    x = Independent(torch.tensor([0.2, 1.0])).sample(200_000, _generator())
    assert x.shape == (2, 200_000)
    # p / 2 is the mean, p / 3 the mean square
    assert x.mean(dim=1).tolist() == pytest.approx([0.1, 0.5], abs=2e-3)
    assert x.square().mean(dim=1).tolist() == pytest.approx([0.2 / 3, 1 / 3], abs=2e-3)
    assert (x[0] > 0).float().mean().item() == pytest.approx(0.2, abs=3e-3)
    assert x.min() >= 0
    assert x.max() <= 1


def test_signed_features_are_as_often_negative_as_positive() -> None:
    x = Independent(torch.tensor([0.4]), signed=True).sample(100_000, _generator())
    assert (x > 0).float().mean().item() == pytest.approx(0.2, abs=5e-3)
    assert (x < 0).float().mean().item() == pytest.approx(0.2, abs=5e-3)
    assert x.abs().max() <= 1


def test_what_never_happens_is_never_sampled_and_is_no_nan() -> None:
    for signed in (False, True):
        x = Independent(torch.zeros(3), signed=signed).sample(10_000, _generator())
        assert (x == 0).all()


def test_settings_are_made_of_the_same_random_numbers() -> None:
    """So a feature that is active in a sparser setting is so in a denser one."""
    x = Independent(torch.tensor([[0.1], [0.3]])).sample(1000, _generator())
    assert x.shape == (2, 1, 1000)
    assert ((x[0] > 0) <= (x[1] > 0)).all()
    assert (x[1] > 0).sum() > (x[0] > 0).sum()


def test_correlated_features_are_active_together_with_strengths_of_their_own() -> None:
    x = CorrelatedSets(torch.tensor([0.3, 0.5]), set_size=2).sample(20_000, _generator())
    active = x > 0
    assert torch.equal(active[0], active[1])
    assert torch.equal(active[2], active[3])
    both = (active[0] & active[2]).float().mean().item()
    assert both == pytest.approx(0.15, abs=0.01)  # sets are independent of each other
    strengths = x[:2, active[0]]
    assert abs(torch.corrcoef(strengths)[0, 1].item()) < 0.03


def test_one_member_of_an_anticorrelated_set_is_active_at_a_time() -> None:
    x = AnticorrelatedSets(torch.tensor([0.6]), set_size=3).sample(30_000, _generator())
    active = x > 0
    assert active.sum(dim=0).max() == 1
    assert active.float().mean(dim=1).tolist() == pytest.approx([0.2] * 3, abs=0.01)


def test_a_child_is_active_only_where_its_parent_is() -> None:
    features = Hierarchical(torch.tensor([0.5, 0.4, 0.3]), parents=[-1, 0, 1])
    active = features.sample(50_000, _generator()) > 0
    assert (active[1] <= active[0]).all()
    assert (active[2] <= active[1]).all()
    assert active.float().mean(dim=1).tolist() == pytest.approx([0.5, 0.2, 0.06], abs=0.01)


def test_frequencies_fall_by_rank_or_by_a_ratio_and_sum_to_the_mean_number_of_features() -> None:
    assert zipf(3, mean_active=1.1).tolist() == pytest.approx([0.6, 0.3, 0.2])
    assert geometric(3, mean_active=0.7, ratio=0.5).tolist() == pytest.approx([0.4, 0.2, 0.1])


def test_impossible_probabilities_and_parents_are_refused_by_value() -> None:
    with pytest.raises(InputError, match=r"probabilities must lie in \[0, 1\], got 1.2"):
        Independent(torch.tensor([0.5, 1.2]))
    with pytest.raises(InputError, match=r"got -0\.1"):
        CorrelatedSets(torch.tensor([-0.1]), set_size=2)
    with pytest.raises(InputError, match="got 2"):
        zipf(2, mean_active=3.0)
    with pytest.raises(InputError, match="each before its children"):
        Hierarchical(torch.tensor([0.5, 0.5]), parents=[1, -1])


def test_given_directions_are_what_activations_are_made_of() -> None:
    directions = torch.tensor([[2.0, 0.0], [0.0, -1.0]])
    stream = SparseFeatures(Independent(torch.ones(2)), 2, directions=directions, batch_tokens=50)
    x = next(iter(stream))
    assert (x[:, 0] >= 0).all()
    assert x[:, 0].max() > 1.5
    assert (x[:, 1] <= 0).all()


# Strata -------------------------------------------------------------------------------------------


def test_the_chances_of_so_many_active_features_are_those_worked_by_hand() -> None:
    table = poisson_binomial(torch.tensor([[0.5, 0.2]]).double())
    assert table[0, 2].tolist() == pytest.approx([0.5 * 0.8, 0.5 * 0.8 + 0.5 * 0.2, 0.5 * 0.2])


def test_strata_give_the_exact_moments_of_very_sparse_features() -> None:
    p = torch.tensor([0.001, 0.002, 0.01, 0.9])
    x, weights = stratified(Independent(p), 40_000, _generator())
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-6)
    active = (weights * (x > 0)).sum(dim=2)[0]
    assert active.tolist() == pytest.approx(p.tolist(), rel=0.05)
    both = (weights * (x[:, 0] > 0) * (x[:, 3] > 0)).sum().item()
    assert both == pytest.approx(0.0009, rel=0.1)
    # plain samples of the same number would hold the rarest feature 40 times: an error of 16 %


def test_strata_estimate_a_loss_better_than_as_many_plain_samples() -> None:
    """Against the first three terms of sum over k of P(k) L_k, which are exact here.

    With W'W = 1 and a bias, x' = relu(x + b): the loss of a feature that is active is
    E[(relu(u - 0.1) - u)^2] = 0.9 * 0.01 + 0.001 / 3, and of one that is not, 0.
    """
    p, n = 0.001, 10
    exact = p * (0.9 * 0.01 + 0.001 / 3)
    x, weights = stratified(Independent(torch.full((n,), p)), 20_000, _generator())
    error = ((x - 0.1).relu() - x).square().mean(dim=1)
    assert (weights * error).sum().item() == pytest.approx(exact, rel=0.02)
