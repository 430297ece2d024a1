"""The sparse products against dense float64, and the sparse step against dense autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.architectures import (
    AnySAEConfig,
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    TopKConfig,
)
from sae.codes import Codes, indices_of
from sae.kernels import ByFeature, backend_for, sum_rows
from sae.trainable import TrainableSAE
from sae.training.forward import forward
from sae.training.losses import auxk_loss, mse_loss

ARCHITECTURES: list[AnySAEConfig] = [
    TopKConfig(d_sae=24, k=3),
    TopKConfig(d_sae=24, k=3, tied=True),
    ReLUConfig(d_sae=24),
    ReLUConfig(d_sae=24, tied=True),
    JumpReLUConfig(d_sae=24),
    JumpReLUConfig(d_sae=24, tied=True),
    BatchTopKConfig(d_sae=24, k=3),
    BatchTopKConfig(d_sae=24, k=3, tied=True),
    MatryoshkaConfig(d_sae=24, k=3),
    MatryoshkaConfig(d_sae=24, k=3, tied=True),
    GatedConfig(d_sae=24),
    GatedConfig(d_sae=24, tied=True),
]
ON_CPU = backend_for(torch.device("cpu"))
NAMES = [f"{cfg.architecture}{'-tied' * cfg.tied}" for cfg in ARCHITECTURES]


@given(
    batch=st.integers(1, 9), k=st.integers(1, 5), n=st.integers(5, 12), d=st.integers(1, 7),
    seed=st.integers(0, 999),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_two_primitives_are_products_with_the_dense_codes(
    batch: int, k: int, n: int, d: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(n, generator=generator)[:k] for _ in range(batch)])
    values = torch.randn(batch, k, generator=generator)
    table = torch.randn(n, d, generator=generator)
    x = torch.randn(batch, d, generator=generator)
    dense = torch.zeros(batch, n, dtype=torch.float64).scatter_add(1, indices, values.double())
    features = ByFeature(indices, n)
    torch.testing.assert_close(
        sum_rows(features, values, table).double(), dense @ table.double(), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        ON_CPU.scatter_rows(features, values, x).double(),
        dense.T @ x.double(),
        rtol=1e-5,
        atol=1e-5,
    )


def test_scattering_by_hand() -> None:
    # Feature 2 is named by both tokens, feature 1 by the second, feature 0 by none but padding.
    features = ByFeature(torch.tensor([[2, 0], [1, 2]]), n=4)
    values = torch.tensor([[1.0, 0.0], [3.0, 10.0]])
    x = torch.tensor([[1.0, 2.0], [5.0, 7.0]])
    assert ON_CPU.scatter_rows(features, values, x).tolist() == [
        [0.0, 0.0], [15.0, 21.0], [51.0, 72.0], [0.0, 0.0]
    ]  # fmt: skip


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=6))
def test_indices_of_a_mask_are_its_true_places_in_order(rows: list[list[bool]]) -> None:
    found = indices_of(torch.tensor(rows))
    expected = [[i for i, is_true in enumerate(row) if is_true] for row in rows]
    assert [[i for i in row if i >= 0] for row in found.tolist()] == expected
    assert found.shape[1] == max(1, *map(len, expected))


# The whole step ----------------------------------------------------------------------------------


def gradients(dictionary: TrainableSAE, x: Tensor, *, sparse: bool) -> dict[str, Tensor]:
    """The loss and its gradient in every parameter."""
    dictionary.zero_grad()
    out = forward(dictionary, x, sparse=sparse)
    loss = mse_loss(out.x_hat, out.x, "sum_d")
    for name, coefficient in dictionary.cfg.coefficients.items():
        if name in out.penalties:
            loss = loss + coefficient * out.penalties[name]
    dead = torch.arange(0, dictionary.d_sae, 3)
    loss = loss + auxk_loss(dictionary, out, dead, "sum_d")
    loss.backward()
    found = {"loss": loss.detach()}
    for name, parameter in dictionary.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    return found


def assert_same_step(dictionary: TrainableSAE, x: Tensor) -> None:
    dense = gradients(dictionary, x, sparse=False)
    sparse = gradients(dictionary, x, sparse=True)
    for name, expected in dense.items():
        scale = expected.abs().max().item() or 1.0
        error = (sparse[name] - expected).abs().max().item() / scale
        assert error < 1e-5, f"{name}: {error}"


@pytest.mark.parametrize("cfg", ARCHITECTURES, ids=NAMES)
@given(batch=st.integers(1, 12), d_in=st.integers(2, 9), seed=st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_loss_and_gradients_are_those_of_dense_autograd(
    cfg: AnySAEConfig, batch: int, d_in: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dictionary = cfg.build(d_in, seed=seed)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    assert_same_step(dictionary, torch.randn(batch, d_in, generator=generator))


@pytest.mark.parametrize("cfg", ARCHITECTURES, ids=NAMES)
def test_tokens_without_any_feature_change_nothing_else(cfg: AnySAEConfig) -> None:
    dictionary = cfg.build(6, seed=1)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    x[3] = dictionary.b_dec.detach()  # all pre-activations are the bias
    with torch.no_grad():
        dictionary.b_enc.fill_(-0.1)
    assert_same_step(dictionary, x)
    with torch.no_grad():
        dictionary.b_enc.fill_(-100.0)  # nothing is active anywhere
    assert_same_step(dictionary, x)


@pytest.mark.parametrize("tied", [False, True])
def test_every_feature_may_be_active(tied: bool) -> None:
    for cfg in (TopKConfig(d_sae=8, k=8, tied=tied), ReLUConfig(d_sae=8, tied=tied)):
        dictionary = cfg.build(4, seed=3)
        with torch.no_grad():
            dictionary.b_enc.fill_(50.0)
        assert_same_step(dictionary, torch.randn(5, 4, generator=torch.Generator().manual_seed(4)))


def test_ties_are_broken_the_same_way_in_both_forms() -> None:
    dictionary = TopKConfig(d_sae=24, k=3).build(5, seed=5)
    with torch.no_grad():
        dictionary.W_enc[:, 1:] = dictionary.W_enc[:, :1].clone()  # all features tie on every token
    assert_same_step(dictionary, torch.randn(7, 5, generator=torch.Generator().manual_seed(6)))


def test_values_are_exact_where_the_product_is_rounded_only_in_the_choice() -> None:
    """In bfloat16 the encoder's product is rounded to 8 bits; weights and gradients are not."""
    dictionary = TopKConfig(d_sae=64, k=4).build(16, seed=7)
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(8))
    exact = forward(dictionary, x)
    rounded = forward(dictionary, x, products="bfloat16")
    assert rounded.x_hat.dtype == torch.float32
    error = (rounded.x_hat - exact.x_hat).norm() / exact.x_hat.norm()
    assert 0 < error < 0.1


def test_padding_is_not_counted() -> None:
    codes = Codes(torch.tensor([[1, 0]]), torch.tensor([[2.0, 0.0]]), 3)
    assert codes.counts.tolist() == [1]
