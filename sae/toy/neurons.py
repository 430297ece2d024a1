"""Neurons of toy models with a ReLU in the hidden layer: how many features each one has.

Elhage et al. 2022, sections 7 and 8. A row of `weights` [..., m, n] has what a neuron does for each
feature. A neuron without any weight has no feature, and is not monosemantic.
"""
# Shapes: m = neurons, n = features.

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def paths(W: Float[Tensor, "*i m n"], W_out: Float[Tensor, "*i n m"]) -> Float[Tensor, "*i m n"]:
    """|W| |W_out|: what each neuron brings from each feature's input to its own output."""
    return W.abs() * W_out.mT.abs()


def features_of_neurons(
    weights: Float[Tensor, "*i m n"], threshold: float = 0.3
) -> Int[Tensor, "*i m"]:
    """How many weights of a neuron are larger than a share of its largest, in absolute value."""
    sizes = weights.abs()
    return (sizes > threshold * sizes.amax(dim=-1, keepdim=True)).sum(dim=-1)


def is_monosemantic(
    weights: Float[Tensor, "*i m n"], threshold: float = 0.3
) -> Bool[Tensor, "*i m"]:
    """Whether a neuron has one feature, and all its other weights are small beside it."""
    return features_of_neurons(weights, threshold) == 1


def top_share(weights: Float[Tensor, "*i m n"]) -> Float[Tensor, "*i m"]:
    """The share of a neuron's absolute weights that its largest one has: from 1/n to 1."""
    sizes = weights.abs()
    return sizes.amax(dim=-1) / sizes.sum(dim=-1).clamp_min(1e-30)


def participation_ratio(weights: Float[Tensor, "*i m n"]) -> Float[Tensor, "*i m"]:
    """(sum |w|)^2 / sum w^2: 1 for one weight, k for k equal ones."""
    squares = weights.square().sum(dim=-1)
    return weights.abs().sum(dim=-1).square() / squares.clamp_min(1e-30)


def codes(W: Float[Tensor, "*i m n"], threshold: float = 0.3) -> Bool[Tensor, "*i m n"]:
    """The neurons that stand for each feature: those with more than a share of the largest weight
    that it has. Negative weights only keep a neuron silent."""
    largest = W.amax(dim=-2, keepdim=True)
    return (threshold * largest < W) & (W > 0)


def is_pair_code(W: Float[Tensor, "*i m n"], threshold: float = 0.3) -> Bool[Tensor, "*i"]:
    """Whether two neurons stand for each feature, and no two features have the same two."""
    of_features = codes(W, threshold)
    are_pairs = (of_features.sum(dim=-2) == 2).all(dim=-1)
    shared = of_features.double().mT @ of_features.double()
    is_same = torch.triu(shared == 2, diagonal=1)
    return are_pairs & ~is_same.flatten(-2).any(dim=-1)
