"""Which features a sparse step looks at, and in what precision they are chosen."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from activation_cache.common.errors import InputError
from sae import selection
from sae.architectures import AnySAEConfig, BatchTopKConfig, JumpReLUConfig, ReLUConfig, TopKConfig
from sae.selection import Products
from sae.trainable import TrainableSAE
from sae.training import TrainConfig, Trainer
from sae.training.forward import forward

CONFIGS = [
    TopKConfig(d_sae=48, k=3),
    BatchTopKConfig(d_sae=48, k=3),
    ReLUConfig(d_sae=48),
    JumpReLUConfig(d_sae=48),
]


def _x(n: int = 40, seed: int = 0) -> Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))


def _almost_equal_features() -> TrainableSAE:
    """On the input (1, 0): feature 0 has 1.0, feature 1 has 1.001, which bfloat16 calls 1.0 too."""
    dictionary = TopKConfig(d_sae=4, k=1).build(2)
    with torch.no_grad():
        rows = torch.tensor([[1.0, 0.0], [1.001, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        dictionary.W_enc_rows.copy_(rows)
    return dictionary


def test_bfloat16_cannot_tell_features_apart_that_a_screen_can() -> None:
    x = torch.tensor([[1.0, 0.0]])
    rounded = forward(_almost_equal_features(), x, products="bfloat16").acts
    screened = forward(_almost_equal_features(), x, products="screened").acts
    assert rounded.values.tolist() == [[1.0]]
    assert screened.indices.tolist() == [[1]]
    assert screened.values.item() == pytest.approx(1.001)


@pytest.mark.parametrize("cfg", CONFIGS[:2], ids=lambda cfg: cfg.architecture)
def test_a_screened_step_is_the_float32_step(cfg: AnySAEConfig) -> None:
    steps: dict[Products, TrainableSAE] = {
        "float32": cfg.build(8, seed=1),
        "screened": cfg.build(8, seed=1),
    }
    for products, dictionary in steps.items():
        out = forward(dictionary, _x(), products=products)
        (out.x_hat - out.x).square().sum().backward()
    for (name, exact), screened in zip(
        steps["float32"].named_parameters(), steps["screened"].parameters(), strict=True
    ):
        if exact.grad is None:
            assert screened.grad is None, name
        else:
            torch.testing.assert_close(screened.grad, exact.grad, rtol=1e-4, atol=1e-4)


def test_a_screen_is_refused_where_the_number_of_features_is_free() -> None:
    with pytest.raises(InputError, match="relu has none: use float32 or bfloat16"):
        Trainer(ReLUConfig(d_sae=48).build(8), TrainConfig(products="screened"))


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda cfg: cfg.architecture)
def test_a_batch_in_parts_gives_what_it_gives_at_once(
    cfg: AnySAEConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    dictionary = cfg.build(8, seed=2)
    at_once = forward(dictionary, _x())
    monkeypatch.setitem(selection.PRE_ACTS_AT_ONCE, "cpu", 7 * 48)  # seven tokens of forty
    in_parts = forward(dictionary, _x())
    torch.testing.assert_close(in_parts.acts.dense(), at_once.acts.dense(), rtol=1e-6, atol=1e-6)


def test_nothing_of_the_size_of_all_pre_activations_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(selection.PRE_ACTS_AT_ONCE, "cpu", 10 * 48)
    dictionary = TopKConfig(d_sae=48, k=3).build(8)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    with Watch():
        out = forward(dictionary, _x(400))
        (out.x_hat - out.x).square().sum().backward()
    assert largest < 400 * 48 / 4
    assert largest >= 400 * 8  # x itself was seen


def test_a_batch_without_any_tokens_is_no_error() -> None:
    assert forward(TopKConfig(d_sae=48, k=3).build(8), _x(0)).x_hat.shape == (0, 8)
