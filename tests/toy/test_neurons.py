"""How many features a neuron has, by hand."""

import pytest
import torch

from sae.toy.neurons import (
    codes,
    features_of_neurons,
    is_monosemantic,
    is_pair_code,
    participation_ratio,
    paths,
    top_share,
)


def test_a_neuron_has_the_features_with_weights_beyond_a_share_of_its_largest() -> None:
    weights = torch.tensor([[1.0, 0.2, 0.0], [-1.0, 0.4, 0.29], [0.0, 0.0, 0.0]])
    assert features_of_neurons(weights).tolist() == [1, 2, 0]
    assert is_monosemantic(weights).tolist() == [True, False, False]
    assert is_monosemantic(weights, threshold=0.5).tolist() == [True, True, False]


def test_length_does_not_matter_to_any_measure() -> None:
    weights = torch.tensor([[3.0, -1.0, 0.5]])
    for measure in (features_of_neurons, top_share, participation_ratio):
        assert measure(7.0 * weights).tolist() == pytest.approx(measure(weights).tolist())


def test_top_share_and_participation_of_equal_weights_and_of_one() -> None:
    weights = torch.tensor([[0.0, -2.0, 0.0, 0.0], [1.0, 1.0, -1.0, 1.0], [3.0, 1.0, 0.0, 0.0]])
    assert top_share(weights).tolist() == [1.0, 0.25, 0.75]
    assert participation_ratio(weights).tolist() == pytest.approx([1.0, 4.0, 1.6])


def test_a_neuron_without_weights_takes_part_in_nothing() -> None:
    weights = torch.zeros(1, 3)
    assert top_share(weights).tolist() == participation_ratio(weights).tolist() == [0.0]


def test_paths_go_from_a_feature_into_a_neuron_and_back_out_to_the_same_feature() -> None:
    W = torch.tensor([[2.0, -1.0], [0.0, 3.0]])
    W_out = torch.tensor([[-1.0, 5.0], [0.5, 1.0]])
    assert paths(W, W_out).tolist() == [[2.0, 0.5], [0.0, 3.0]]


def test_negative_weights_are_no_part_of_a_code() -> None:
    W = torch.tensor([[0.8, -2.0], [-1.5, 0.2], [0.7, 1.0]])
    assert codes(W).T.tolist() == [[True, False, True], [False, False, True]]
    assert not codes(-torch.ones(2, 2)).any()


def test_three_features_have_the_three_pairs_of_three_neurons() -> None:
    pairs = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
    twice = torch.tensor([[1.0, 1.0, -1.0], [1.0, 1.0, 1.0], [-1.0, -1.0, 1.0]])
    triple = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, 1.0], [1.0, 1.0, 1.0]])
    assert is_pair_code(torch.stack((pairs, twice, triple))).tolist() == [True, False, False]
