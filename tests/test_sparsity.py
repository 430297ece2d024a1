"""Penalties that mean the same at every width, and the search for the one that gives an L0."""

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.architectures import ARCHITECTURES, GatedConfig, JumpReLUConfig, ReLUConfig
from sae.toy import Independent, SparseFeatures
from sae.trainable import TrainableConfig
from sae.training import TrainConfig, Trainer, train
from sae.training.config import CoefficientUnits
from sae.training.sparsity import INTEGRAL, PROPORTIONAL, L0Controller

PENALISED = ("relu", "gated", "jumprelu")
YES = torch.tensor(True)


PLAIN = torch.eye(24)


def _batches(n: int, axes: Tensor = PLAIN) -> Iterator[Tensor]:
    """Sums of about five of 96 directions in 24 dimensions, along these axes [24, width]."""
    features = SparseFeatures(Independent(torch.full((96,), 0.05)), 24, batch_tokens=128, seed=0)
    for x in itertools.islice(features, n):
        yield (x + 0.1) @ axes


def _trained(cfg: TrainableConfig, n_steps: int, axes: Tensor = PLAIN) -> Trainer:
    n_tokens = 128 * n_steps
    sae = cfg.build(axes.shape[1], seed=1)
    trainer = Trainer(sae, TrainConfig(n_tokens=n_tokens, lr=1.5e-3))
    trainer.initialise(torch.cat(list(_batches(8, axes))))
    for x in _batches(n_steps, axes):
        trainer.step(x)
    return trainer


def _l0(trainer: Trainer, axes: Tensor = PLAIN) -> float:
    """On rows that come after those of the training."""
    x = torch.cat(list(_batches(830, axes))[-10:])
    return trainer.dictionary().encode_sparse(x).counts.float().mean().item()


# Units -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "power"), [("relu", 1), ("gated", 1), ("jumprelu", 0)])
def test_a_relative_coefficient_grows_with_the_norm_as_the_squared_error_does(
    name: str, power: int
) -> None:
    """Inputs of width 16 are scaled to norm 4: squared errors grow by 16, sums by 4, counts not."""
    cfg = ARCHITECTURES[name](d_sae=8)
    (penalty,) = {"l1", "l0"} & cfg.coefficients.keys()
    assert cfg.powers[penalty] == power
    assert TrainConfig().penalty_factor(power, d_in=16) == 16 / 4**power
    assert TrainConfig(normalise=False).penalty_factor(power, d_in=16) == 1
    assert TrainConfig(coefficient_units="absolute").penalty_factor(power, d_in=16) == 1


@pytest.mark.parametrize("units", ["relative", "absolute"])
def test_the_bandwidth_of_jumprelu_is_of_inputs_of_norm_1_or_of_those_in_training(
    units: CoefficientUnits,
) -> None:
    trainer = Trainer(
        JumpReLUConfig(d_sae=8, bandwidth=0.1).build(16), TrainConfig(coefficient_units=units)
    )
    assert trainer.sae.bandwidth == pytest.approx(0.4 if units == "relative" else 0.1)


@pytest.mark.parametrize("name", PENALISED)
def test_the_same_penalty_gives_the_same_l0_at_every_width_and_along_all_axes(name: str) -> None:
    """The same activations: padded with zeros, and turned until they fill all dimensions."""
    coeff = {"l0_coeff": 0.01} if name == "jumprelu" else {"l1_coeff": 0.1}
    cfg = ARCHITECTURES[name](d_sae=192, **coeff)
    turned = torch.linalg.qr(torch.randn(384, 24, generator=torch.Generator().manual_seed(0))).Q
    axes = [PLAIN, torch.eye(24, 96), torch.eye(24, 384), turned.T]
    first, *others = [_l0(_trained(cfg, 300, its), its) for its in axes]
    assert others == pytest.approx([first] * 3, rel=0.05)


# The search --------------------------------------------------------------------------------------


def test_the_coefficient_answers_to_the_excess_of_l0_at_once_and_by_and_by() -> None:
    controller = L0Controller(target_l0=32.0, initial_l0=64.0, device=torch.device("cpu"))
    assert controller.factor == 1  # a coefficient is meant for an L0 of 32
    for _ in range(100):
        controller.update(torch.tensor(35.2), 1.0, YES)  # a tenth too much
    excess = torch.tensor(1.1).log()
    assert controller.excess == pytest.approx(excess.item(), rel=1e-3)
    seen = 100 - 1  # the excess is smoothed over two steps
    expected = (PROPORTIONAL + INTEGRAL * seen) * excess
    assert controller.factor.log().item() == pytest.approx(expected.item(), rel=1e-2)


def test_the_target_falls_from_the_l0_at_the_start() -> None:
    """Halfway from 64 to 16 it is 32, and a search of the coefficient begins at its end."""
    controller = L0Controller(target_l0=16.0, initial_l0=64.0, device=torch.device("cpu"))
    before = controller.factor.clone()
    assert before == pytest.approx(2.0)
    controller.update(torch.tensor(32.0), 0.5, YES)
    assert controller.factor == pytest.approx(before.item())
    controller.update(torch.tensor(16.0), 1.0, YES)
    assert controller.factor == pytest.approx(before.item())


def test_a_batch_that_was_skipped_moves_nothing() -> None:
    controller = L0Controller(target_l0=16.0, initial_l0=64.0, device=torch.device("cpu"))
    before = controller.factor.clone()
    controller.update(torch.tensor(500.0), 1.0, torch.tensor(False))
    assert torch.equal(controller.factor, before)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", PENALISED)
def test_a_given_l0_is_reached(name: str, tied: bool) -> None:
    target = 12.0 if tied and name != "relu" else 6.0  # tied ReLU has 8 without any penalty
    cfg = ARCHITECTURES[name](d_sae=192, tied=tied, target_l0=target)
    assert _l0(_trained(cfg, 800)) == pytest.approx(target, rel=0.1)


def test_the_coefficient_that_was_found_is_in_every_row_and_saved_with_the_dictionary() -> None:
    dictionary = ReLUConfig(d_sae=96, target_l0=4.0).build(24)
    records = list(train(dictionary, _batches(60), TrainConfig(n_tokens=128 * 60)))
    assert records[0].row().keys() >= {"l1_coeff", "l0", "l1"}
    assert dictionary.cfg.l1_coeff == pytest.approx(records[-1].row()["l1_coeff"])
    assert dictionary.cfg.l1_coeff != ReLUConfig(d_sae=96).l1_coeff
    fixed = ReLUConfig(d_sae=96).build(24)
    (first, *_) = train(fixed, _batches(3), TrainConfig(n_tokens=3 * 128))
    assert "l1_coeff" not in first.row()


def test_a_search_goes_on_to_the_bit_where_it_was_saved() -> None:
    cfg, data = GatedConfig(d_sae=96, target_l0=4.0, tied=True), list(_batches(40))
    trainer = Trainer(cfg.build(24), TrainConfig(n_tokens=40 * 128))
    trainer.initialise(data[0])
    for x in data[:25]:
        trainer.step(x)
    state = copy.deepcopy(trainer.state_dict())
    other = Trainer(cfg.build(24), TrainConfig(n_tokens=40 * 128))
    other.load_state_dict(state)
    for x in data[25:]:
        assert trainer.step(x).row() == other.step(x).row()


@pytest.mark.parametrize("target_l0", [0.0, -1.0])
def test_an_l0_that_is_none_is_refused(target_l0: float) -> None:
    with pytest.raises(InputError, match="target_l0 must be positive"):
        ReLUConfig(d_sae=8, target_l0=target_l0)
