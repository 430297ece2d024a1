"""What the ground-truth benchmark measures, by hand, and where its dictionaries start."""

import pytest
import torch
from torch import Tensor

from sae.architectures import ReLUConfig, TopKConfig
from sae.base import SAE
from sae.toy import Independent, SparseFeatures
from sae.toy.recovery import (
    Alignment,
    alignment,
    baselines,
    benchmark_a,
    benchmark_b,
    f1_scores,
    fit,
    recipe,
    recovery,
)

# Directions --------------------------------------------------------------------------------------


def test_a_dictionary_that_is_the_truth_in_another_order_and_length_is_perfect() -> None:
    truth = benchmark_a(seed=0).directions
    shuffled = 3.0 * truth[torch.randperm(128, generator=torch.Generator().manual_seed(0))]
    assert vars(alignment(truth, shuffled)) == pytest.approx(
        vars(Alignment(mmcs=1.0, worst_cosine=1.0, share_above_0_9=1.0, mcc=1.0, uniqueness=1.0))
    )


def test_every_number_of_three_directions_in_the_plane() -> None:
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = torch.tensor([[2.0, 0.0], [0.8, 0.6], [1.0, 0.0]])
    of_these = alignment(truth, found)
    # the best of (1, 0) is 1; of (0, 1), the 0.6 of the second direction
    assert of_these.mmcs == pytest.approx(0.8)
    assert of_these.worst_cosine == pytest.approx(0.6)
    assert of_these.share_above_0_9 == pytest.approx(0.5)
    assert of_these.mcc == pytest.approx(0.8)
    # all three directions are nearest to the same feature
    assert of_these.uniqueness == pytest.approx(1 / 3)


def test_one_direction_between_two_features_is_counted_once_by_the_assignment() -> None:
    truth = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
    found = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    of_these = alignment(truth, found)
    assert of_these.mmcs == pytest.approx(0.8)  # 1 and 0.6, both of the first direction
    assert of_these.mcc == pytest.approx(0.5)  # 1, and 0 for what is left


def test_an_opposite_direction_is_not_found() -> None:
    truth = torch.eye(3)
    of_these = alignment(truth, -truth)
    assert of_these.mmcs == pytest.approx(0.0)
    assert of_these.mcc == pytest.approx(0.0)
    assert alignment(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])).mmcs == -1.0


def test_twice_as_many_directions_as_features_are_unique_by_half_at_most() -> None:
    truth = torch.eye(4)
    of_these = alignment(truth, torch.cat([truth, truth]))
    assert (of_these.mmcs, of_these.mcc, of_these.uniqueness) == (1.0, 1.0, 0.5)


def test_no_training_finds_what_a_guess_does_not() -> None:
    """Of five seeds the means are 0.32, 0.38 and 0.68. No gate below 0.9 says anything."""
    stream = benchmark_a(seed=0)
    guesses = baselines(stream, 128, seed=0)
    scores = {name: alignment(stream.directions, found).mmcs for name, found in guesses.items()}
    assert scores["random"] == pytest.approx(0.32, abs=0.03)
    assert scores["principal_components"] == pytest.approx(0.38, abs=0.03)
    assert scores["data_points"] == pytest.approx(0.68, abs=0.04)
    assert all(found.shape == (128, 64) for found in guesses.values())


# Features as detectors ---------------------------------------------------------------------------


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    # precision 3/4 and recall 3/6: 2 * 0.75 * 0.5 / 1.25 = 0.6; never fires: 0; nor is it active: 0
    scores = f1_scores(torch.tensor([3, 0, 0]), torch.tensor([4, 0, 0]), torch.tensor([6, 5, 0]))
    assert scores.tolist() == pytest.approx([0.6, 0.0, 0.0])


def _known(cfg: ReLUConfig | TopKConfig, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor) -> SAE:
    dictionary = cfg.build(W_dec.shape[1])
    assert dictionary.untied_W_enc_rows is not None
    with torch.no_grad():
        dictionary.W_dec.copy_(W_dec)
        dictionary.untied_W_enc_rows.copy_(W_enc)
        dictionary.b_enc.copy_(b_enc)
    return dictionary


def _axes(probabilities: list[float]) -> SparseFeatures:
    n = len(probabilities)
    features = Independent(torch.tensor(probabilities))
    return SparseFeatures(features, n, directions=torch.eye(n), seed=0)


def test_a_dictionary_that_is_the_truth_reconstructs_and_detects_perfectly() -> None:
    axes = torch.eye(4)
    perfect = _known(ReLUConfig(d_sae=4), axes, torch.zeros(4), axes)
    of_it = recovery(perfect, _axes([0.5, 0.25, 0.25, 0.5]), 4096)
    assert (of_it.mmcs, of_it.mcc, of_it.uniqueness) == (1.0, 1.0, 1.0)
    assert (of_it.f1, of_it.dead) == (1.0, 0)
    assert of_it.fvu == pytest.approx(0.0, abs=1e-9)
    assert of_it.shrinkage == pytest.approx(1.0)
    assert of_it.l0 == pytest.approx(1.5, abs=0.1)


def test_a_bias_that_silences_half_the_strengths_halves_the_recall() -> None:
    axes = torch.eye(2)
    shy = _known(ReLUConfig(d_sae=2), axes, torch.tensor([-0.5, -2.0]), axes)
    of_it = recovery(shy, _axes([1.0, 1.0]), 8192)
    # the first fires on half of the tokens, always rightly: 2 * 1 * 0.5 / 1.5; the other is dead
    assert of_it.f1 == pytest.approx((2 / 3 + 0) / 2, abs=0.01)
    assert of_it.dead == 1
    assert of_it.l0 == pytest.approx(0.5, abs=0.02)
    assert of_it.shrinkage < 0.5


def test_a_feature_that_always_fires_is_as_precise_as_its_true_one_is_frequent() -> None:
    axes = torch.eye(2)
    eager = _known(ReLUConfig(d_sae=2), torch.zeros(2, 2), torch.ones(2), axes)
    of_it = recovery(eager, _axes([0.5, 0.25]), 16_384)
    # precision 1/2 and 1/4, recall 1: 2/3 and 2/5
    assert of_it.f1 == pytest.approx((2 / 3 + 2 / 5) / 2, abs=0.01)
    assert of_it.l0 == 2.0


def test_places_of_top_k_that_nothing_fills_are_no_features() -> None:
    """Of three places, a token with one active feature fills one."""
    axes = torch.eye(4)
    roomy = _known(TopKConfig(d_sae=4, k=3), axes, torch.zeros(4), axes)
    of_it = recovery(roomy, _axes([0.2, 0.2, 0.2, 0.0]), 8192)
    assert of_it.l0 == pytest.approx(0.6, abs=0.05)
    assert of_it.dead == 1
    assert of_it.f1 == pytest.approx(0.75)


def test_the_opposite_of_a_feature_detects_another_one() -> None:
    """By the size of its cosine it would pass for the very feature it is not."""
    axes = torch.eye(2)
    opposite = _known(ReLUConfig(d_sae=1), axes[:1], torch.zeros(1), -axes[:1])
    of_it = recovery(opposite, _axes([0.5, 0.0]), 4096)
    assert of_it.f1 == 0.0


def test_measuring_takes_new_tokens_and_leaves_the_dictionary_alone() -> None:
    stream = benchmark_a(seed=3)
    dictionary = ReLUConfig(d_sae=16).build(64)
    before = {name: tensor.clone() for name, tensor in dictionary.state_dict().items()}
    first, second = recovery(dictionary, stream, 512), recovery(dictionary, stream, 512)
    assert first.fvu != second.fvu
    assert first.mmcs == second.mmcs
    for name, tensor in dictionary.state_dict().items():
        assert torch.equal(tensor, before[name])


# The benchmarks ----------------------------------------------------------------------------------


def test_benchmark_a_has_four_of_128_unit_features_active_at_a_time() -> None:
    stream = benchmark_a(seed=1)
    assert stream.directions.shape == (128, 64)
    assert stream.directions.norm(dim=1).tolist() == pytest.approx([1.0] * 128)
    n_active = (stream.sample_strengths(8192) > 0).sum(dim=1).float().mean().item()
    assert n_active == pytest.approx(4.0, abs=0.1)


def test_benchmark_b_is_made_of_the_represented_features_with_their_probabilities() -> None:
    W = torch.tensor([[1.1, 0.0], [0.2, 0.3], [0.0, -0.6]])
    stream = benchmark_b(W, torch.tensor([0.0, 1.0, 1.0]), seed=0)
    assert stream.directions.tolist() == W[[0, 2]].tolist()
    assert (stream.sample_strengths(64) > 0).float().mean(dim=0).tolist() == [0.0, 1.0]


def test_a_dictionary_does_not_start_at_the_truth_where_it_has_the_seed_of_the_stream() -> None:
    """Both draw 128 normal vectors of width 64 first."""
    stream = benchmark_a(seed=5)
    same = ReLUConfig(d_sae=128).build(64, seed=5)
    assert alignment(stream.directions, same.W_dec.detach()).mmcs == pytest.approx(1.0)
    (other,) = fit([ReLUConfig(d_sae=128)], stream, recipe(1, seed=5))
    assert alignment(stream.directions, other.W_dec.detach()).mmcs < 0.4


def test_dictionaries_that_are_fitted_together_are_those_that_are_fitted_alone() -> None:
    cfgs = [ReLUConfig(d_sae=8, l1_coeff=0.1), TopKConfig(d_sae=8, k=2)]
    together = fit(cfgs, benchmark_a(seed=2), recipe(8192))
    for cfg, dictionary in zip(cfgs, together, strict=True):
        (alone,) = fit([cfg], benchmark_a(seed=2), recipe(8192))
        assert torch.equal(alone.W_dec, dictionary.W_dec)
