"""Adam with one second moment for each vector."""

import copy

import pytest
import torch
from torch import Tensor

from sae.architectures import ARCHITECTURES, JumpReLUConfig, TopKConfig
from sae.training import TrainConfig, Trainer
from sae.training.optimizer import BETAS, ROW_STEP, VectorAdam, optimizer_of


def _stepped(parameter: Tensor, grads: list[Tensor], width: int, lr: float = 0.1) -> VectorAdam:
    optimizer = VectorAdam([{"params": [parameter], "width": width, "factor": 1.0}], lr)
    for grad in grads:
        parameter.grad = grad
        optimizer.step()
    return optimizer


def test_two_steps_by_hand() -> None:
    """Gradients (3, 4) and then 0: a mean square of 12.5, of which 1 in 1,000 and then less is
    kept, and the mean gradient falls by a tenth."""
    row = torch.zeros(1, 2, dtype=torch.float64)
    _stepped(row, [torch.tensor([[3.0, 4.0]]).double()], width=2)
    # Both moments are corrected for their start: the gradient by its root mean square.
    first = -0.1 * torch.tensor([[3.0, 4.0]]).double() / 12.5**0.5
    assert torch.allclose(row, first)
    row.zero_()
    _stepped(row, [torch.tensor([[3.0, 4.0]]).double(), torch.zeros(1, 2).double()], width=2)
    mean = 0.9 * 0.1 / (1 - 0.9**2)
    square = 0.999 * 0.001 / (1 - 0.999**2)
    assert torch.allclose(row, first * (1 + mean / square**0.5))


def test_where_every_number_is_a_vector_it_is_adam() -> None:
    start, grads = torch.randn(7), [torch.randn(7) for _ in range(5)]
    ours, theirs = start.clone(), start.clone().requires_grad_()
    _stepped(ours, grads, width=1)
    adam = torch.optim.Adam([theirs], lr=0.1, betas=BETAS)
    for grad in grads:
        theirs.grad = grad
        adam.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_step_that_is_called_off_changes_nothing_not_even_the_moments() -> None:
    row, grads = torch.zeros(1, 2), [torch.tensor([[1.0, 2.0]])] * 2
    optimizer = _stepped(row, grads, width=2)
    before, state = row.clone(), copy.deepcopy(optimizer.state_dict())
    optimizer.found_inf = torch.tensor(1.0)
    row.grad = torch.tensor([[float("nan"), float("inf")]])
    optimizer.step()
    assert torch.equal(row, before)
    for name, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(value, state["state"][0][name])


def test_a_first_step_that_is_called_off_leaves_everything_finite() -> None:
    row = torch.ones(1, 2)
    optimizer = VectorAdam([{"params": [row], "width": 2, "factor": 1.0}], lr=0.1)
    optimizer.found_inf = torch.tensor(1.0)
    row.grad = torch.full((1, 2), float("nan"))
    optimizer.step()
    assert torch.equal(row, torch.ones(1, 2))


def test_rows_turn_as_far_at_every_width_and_offsets_move_with_the_norm() -> None:
    for d_in in (4, 400):
        sae = JumpReLUConfig(d_sae=8).build(d_in)
        groups = optimizer_of(sae, 1e-3, normalise=True).param_groups
        names = [name for name, _ in sae.named_parameters()]
        factors = {name: group["factor"] for name, group in zip(names, groups, strict=True)}
        assert factors["W_dec"] * d_in**0.5 == pytest.approx(ROW_STEP)
        (rate,) = sae.offset_rates().values()
        assert factors["threshold"] / d_in**0.5 == pytest.approx(rate / 14)
        assert factors["b_dec"] == 1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_turned_activations_give_the_turned_dictionary(name: str) -> None:
    """In float64, after 30 steps: the same weights but for the turn, to the tenth digit."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64)).Q
    x = torch.randn(30 * 64, 12, generator=generator, dtype=torch.float64).exp()
    plain = Trainer(ARCHITECTURES[name](d_sae=32).build(12, seed=1), TrainConfig(n_tokens=len(x)))
    plain.initialise(x[:512])
    plain.sae.double()
    turned = Trainer(copy.deepcopy(plain.sae), plain.cfg)
    turned.scale, turned.largest_norm = plain.scale, plain.largest_norm
    with torch.no_grad():
        for vectors in (turned.sae.W_dec, turned.sae.untied_W_enc_rows, turned.sae.b_dec):
            assert vectors is not None
            vectors.copy_(vectors @ turn)
    for batch in x.split(64):
        plain.step(batch)
        turned.step(batch @ turn)
    assert torch.allclose(plain.sae.W_dec @ turn, turned.sae.W_dec, atol=1e-10)
    assert torch.allclose(plain.sae.b_enc, turned.sae.b_enc, atol=1e-10)


def test_an_older_state_goes_on_with_adam_itself() -> None:
    """Of a version with one group for all parameters."""
    x = torch.randn(6, 32, 12)
    trainer = Trainer(TopKConfig(d_sae=24, k=2).build(12), TrainConfig(n_tokens=6 * 32))
    trainer.initialise(x[0])
    adam = torch.optim.Adam(trainer.sae.parameters(), lr=1e-3, fused=True)
    trainer.sae(x[0]).square().sum().backward()
    adam.step()
    trainer.load_state_dict({**trainer.state_dict(), "optimizer": adam.state_dict()})
    assert isinstance(trainer.optimizer, torch.optim.Adam)
    weights = copy.deepcopy(trainer.sae)
    trainer.step(x[1])
    again = torch.optim.Adam(weights.parameters(), lr=1e-3, fused=True)
    again.load_state_dict(adam.state_dict())
    again.param_groups[0]["lr"] = trainer.optimizer.param_groups[0]["lr"]
    for p, stepped in zip(weights.parameters(), trainer.sae.parameters(), strict=True):
        p.grad = stepped.grad
    again.step()
    for name in ("W_enc", "b_enc", "b_dec"):  # the rows of the decoder are normalised besides
        assert torch.equal(getattr(weights, name), getattr(trainer.sae, name))
