"""Where trainings start. What every architecture must pass is in test_contract.py."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sae.architectures import ARCHITECTURES, BatchTopKConfig, ReLUConfig, TopKConfig
from sae.codes import fire_counts
from sae.toy import Independent, SparseFeatures
from sae.training import TrainConfig, Trainer, train
from sae.training.forward import forward
from sae.training.start import start_


def rows(n: int = 2048, seed: int = 0) -> Tensor:
    """Sums of about five of 96 directions in 24 dimensions."""
    features = SparseFeatures(Independent(torch.full((96,), 0.05)), 24, batch_tokens=n, seed=seed)
    return next(iter(features)) + 0.1


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["relu", "jumprelu", "gated", "topk"])
def test_the_encoder_starts_at_the_scale_that_rebuilds_best(name: str, tied: bool) -> None:
    """What an encoder makes of x that is larger or smaller by a quarter is farther from x."""
    x, cfg = rows(), ARCHITECTURES[name](d_sae=1024, tied=tied)

    def error(factor: float) -> float:
        sae = cfg.build(24, seed=1)
        start_(sae, x, 1.0)
        out = forward(sae, x, sparse=False)
        rebuilt = (out.x_hat - sae.b_dec) * factor
        return (rebuilt + sae.b_dec - x).square().sum().item()

    assert error(1.0) < min(error(0.8), error(1.25))


def test_features_that_are_active_at_first_are_as_many_as_asked_for() -> None:
    for target in (4.0, 16.0):
        sae = ReLUConfig(d_sae=512, target_l0=target).build(24, seed=1)
        assert start_(sae, rows(), 1.0) == pytest.approx(2 * target, rel=0.01)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_inputs_in_more_dimensions_than_they_need_give_the_same_start(name: str) -> None:
    """Rows of 24 dimensions among 100: nothing of the dictionary lies in the other 76."""
    x, cfg = F.pad(rows(), (0, 76)), ARCHITECTURES[name](d_sae=512)
    sae = cfg.build(100, seed=1)
    l0 = start_(sae, x, 1.0)
    assert sae.W_dec[:, 24:].abs().max() < 1e-4 and sae.W_enc[24:].abs().max() < 1e-4
    assert sae.W_dec.norm(dim=1).allclose(torch.ones(512), atol=1e-5)
    narrow = cfg.build(24, seed=1)
    assert start_(narrow, rows(), 1.0) == pytest.approx(l0, rel=0.02)
    errors = [
        (forward(of, of_x, sparse=False).x_hat - of_x).square().sum().item()
        for of, of_x in ((sae, x), (narrow, rows()))
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.2)


def test_a_start_on_rows_that_are_all_the_same_leaves_everything_finite() -> None:
    for name in ARCHITECTURES:
        sae = ARCHITECTURES[name](d_sae=64).build(24)
        start_(sae, torch.ones(256, 24), 1.0)
        assert all(tensor.isfinite().all() for tensor in sae.state_dict().values())


def test_a_gain_gets_its_gradient_in_sparse_and_dense_steps() -> None:
    """Against the difference that a little more gain makes, in float64."""
    sae = TopKConfig(d_sae=64, k=4, tied=True).build(24, seed=1).double()
    x = rows(64).double()
    assert sae.gain is not None
    for sparse in (False, True):
        losses: list[float] = []
        for shift in (-1e-6, 1e-6):
            with torch.no_grad():
                sae.gain.fill_(0.7 + shift)
            losses.append((forward(sae, x, sparse=sparse).x_hat - x).square().sum().item())
        with torch.no_grad():
            sae.gain.fill_(0.7)
        sae.zero_grad()
        (forward(sae, x, sparse=sparse).x_hat - x).square().sum().backward()
        assert sae.gain.grad is not None
        assert sae.gain.grad.item() == pytest.approx((losses[1] - losses[0]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("n_steps", [1, 4, 40])
def test_batch_topk_has_its_l0_after_however_few_steps(n_steps: int) -> None:
    """The threshold of the last steps: a mean from the first on had 2.5 times the features after
    four steps."""
    x = rows(256 * n_steps + 2048)
    dictionary = BatchTopKConfig(d_sae=192, k=8).build(24, seed=1)
    for _ in train(dictionary, x[2048:].split(256), TrainConfig(n_tokens=256 * n_steps)):
        pass
    assert fire_counts(dictionary.encode_sparse(x[:2048])).sum() / 2048 == pytest.approx(
        8, rel=0.15
    )


def test_a_batch_topk_that_is_trained_again_keeps_its_l0() -> None:
    """With a threshold in the units of training, it had a 4,000th of its features."""
    x = rows(256 * 40) * 300
    dictionary = BatchTopKConfig(d_sae=192, k=8).build(24, seed=1)
    for n_steps in (20, 1, 20):
        for _ in train(dictionary, x.split(256), TrainConfig(n_tokens=256 * n_steps)):
            pass
        l0 = fire_counts(dictionary.encode_sparse(x[-2048:])).sum() / 2048
        assert l0 == pytest.approx(8, rel=0.15)


def test_a_dictionary_that_was_trained_is_not_started_again() -> None:
    dictionary = ReLUConfig(d_sae=64).build(24)
    batches = rows(640).split(64)
    for _ in train(dictionary, batches, TrainConfig(n_tokens=640)):
        pass
    x = rows(64)
    before = dictionary(x)
    trainer = Trainer(dictionary, TrainConfig(n_tokens=640))
    trainer.initialise(x * 2)
    assert torch.allclose(trainer.dictionary()(x), before, atol=1e-5)
