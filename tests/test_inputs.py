"""What inputs are multiplied by in training, and what massive activations do to it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sae.architectures import ARCHITECTURES
from sae.runs.settings.run_settings import run_as_now
from sae.training import TrainConfig, Trainer
from sae.training.inputs import clip_of, norm_scale, usual_norm

MASSIVE = 300


def test_an_input_of_a_larger_norm_is_brought_to_the_largest_one_that_is_wanted() -> None:
    x = torch.tensor([[3.0, 4.0], [6.0, 8.0], [60.0, 80.0], [0.0, 0.0]])
    assert clip_of(x, largest=10.0).flatten().tolist() == [1.0, 1.0, pytest.approx(0.1), 1.0]


def test_inputs_that_are_not_finite_stay_so() -> None:
    x = torch.tensor([[math.nan, 1.0], [math.inf, 1.0], [1e30, 1.0]])
    assert not torch.isfinite(x * clip_of(x, largest=10.0)).all(dim=1).any()


def test_the_usual_norm_is_that_which_99_of_100_inputs_have_at_most() -> None:
    norms = torch.arange(101.0)[torch.randperm(101)]
    assert usual_norm(norms[:, None] * torch.tensor([[0.6, 0.8]])) == pytest.approx(99.0)


def planted(n: int, seed: int = 0) -> Tensor:
    """Inputs [n, 24] of 48 directions, 3 of them in each."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(48, 24, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    chosen = torch.rand(n, 48, generator=torch.Generator().manual_seed(seed + 1)).argsort(dim=1)
    size = 0.5 + torch.rand(n, 3, 1, generator=torch.Generator().manual_seed(seed + 2))
    return (size * directions[chosen[:, :3]]).sum(dim=1)


def with_massive(x: Tensor) -> Tensor:
    """One input of 400 is 300 times another one's direction, as attention sinks are."""
    x = x.clone()
    x[399::400] = MASSIVE * x[:1]
    return x


def trained_on(x: Tensor, name: str, clip_input_norm: float | None = 2.0) -> Trainer:
    architecture = ARCHITECTURES[name]
    sparse: dict[str, Any] = {"k": 3} if architecture.is_sparse_from_the_start else {}
    sae = architecture(d_sae=64, **(sparse or {"target_l0": 3.0})).build(24, seed=0)
    cfg = TrainConfig(n_tokens=len(x), lr=4e-3, clip_input_norm=clip_input_norm)
    trainer = Trainer(sae, cfg)
    trainer.initialise(x[:4000])
    for batch in x.split(200):
        trainer.step(batch)
    return trainer


def fvu(trainer: Trainer, x: Tensor) -> float:
    with torch.no_grad():
        error = trainer.dictionary()(x) - x
    return (error.square().sum() / (x - x.mean(dim=0)).square().sum()).item()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_few_massive_activations_do_not_spoil_the_dictionary(name: str) -> None:
    """Of the other inputs' variance as much is explained, within a twentieth, as without them."""
    x, held_out = planted(24_000).split(20_000)
    without, among = trained_on(x, name), trained_on(with_massive(x), name)
    assert fvu(among, held_out) < 1.05 * fvu(without, held_out)


def test_they_would_spoil_it_if_their_norms_were_not_clipped() -> None:
    x, held_out = planted(24_000).split(20_000)
    clipped = trained_on(with_massive(x), "batch_topk")
    not_clipped = trained_on(with_massive(x), "batch_topk", clip_input_norm=None)
    assert fvu(not_clipped, held_out) > 2 * fvu(clipped, held_out)


def test_usual_inputs_are_trained_on_as_they_are() -> None:
    x = planted(4000)
    with_clip, without = trained_on(x, "topk"), trained_on(x, "topk", clip_input_norm=None)
    assert torch.equal(with_clip.sae.W_dec, without.sae.W_dec)
    assert with_clip.scale == pytest.approx(norm_scale(x), rel=1e-6)


def test_an_older_run_resumes_without_clipping_and_with_its_window() -> None:
    then = {"coefficient_units": "relative", "n_tokens": 1_000_000, "dead_after_tokens": None}
    now = run_as_now(then)
    assert (now["clip_input_norm"], now["dead_after_tokens"]) == (None, 20_000)
    assert run_as_now({**then, "clip_input_norm": 2.0})["dead_after_tokens"] is None
