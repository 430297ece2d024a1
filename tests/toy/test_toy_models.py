"""Many toy models at once: each is the paper's, and none knows of the others."""

import copy
from typing import get_args

import pytest
import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.toy import Independent, Kind, ToyConfig, ToyModels, ToyTrainConfig, stratified, train_toy
from sae.toy.models import VALUES_AT_ONCE
from sae.toy.training import perturbations

KINDS: tuple[Kind, ...] = get_args(Kind)
every_kind = pytest.mark.parametrize("kind", KINDS)


def _models(kind: Kind = "relu_output", *, settings: int = 2, restarts: int = 3) -> ToyModels:
    cfg = ToyConfig(n_features=6, n_hidden=3, kind=kind)
    models = ToyModels(cfg, settings=settings, restarts=restarts, seed=1)
    with torch.no_grad():
        models.b.normal_(generator=torch.Generator().manual_seed(2))
    return models


def _tokens(kind: Kind, restarts: int = 1, n_tokens: int = 11) -> Tensor:
    x = torch.rand(2, restarts, 6, n_tokens, generator=torch.Generator().manual_seed(3))
    return 2 * x - 1 if kind == "absolute" else x


def _train(models: ToyModels, n_steps: int = 20, seed: int = 0, density: float = 0.3) -> ToyModels:
    p = torch.full((models.settings, models.cfg.n_features), density)
    for _ in train_toy(models, Independent(p), ToyTrainConfig(n_steps=n_steps, seed=seed)):
        pass
    return models


def test_the_models_are_the_papers_worked_by_hand() -> None:
    """W = (1, -1) in one hidden dimension, x = (0.5, 0.2): h = 0.3."""
    x = torch.tensor([0.5, 0.2]).view(1, 1, 2, 1)
    expected = {"linear": [0.4, -0.1], "relu_output": [0.4, 0.0], "relu_hidden": [0.4, 0.0]}
    for kind, outputs in expected.items():
        models = ToyModels(ToyConfig(n_features=2, n_hidden=1, kind=kind))  # type: ignore[arg-type]
        models.W.data[:] = torch.tensor([[1.0, -1.0]])
        models.b.data[:] = torch.tensor([0.1, 0.2])
        assert models(x).flatten().tolist() == pytest.approx(outputs)


def test_the_absolute_value_takes_a_neuron_for_each_sign() -> None:
    models = ToyModels(ToyConfig(n_features=1, n_hidden=2, kind="absolute"))
    models.W.data[:] = torch.tensor([[1.0], [-1.0]])
    models.untied_W_out = torch.nn.Parameter(torch.ones(1, 1, 1, 2))
    x = torch.tensor([-0.7, 0.4]).view(1, 1, 1, 2)
    assert models(x).flatten().tolist() == pytest.approx([0.7, 0.4])
    assert models.losses(x, torch.ones(1)).item() == pytest.approx(0.0)


@every_kind
@pytest.mark.parametrize("restarts", [1, 3], ids=["shared tokens", "tokens of their own"])
def test_gradients_by_hand_are_those_of_autograd(kind: Kind, restarts: int) -> None:
    models, x = _models(kind), _tokens(kind, restarts)
    importance = torch.rand(6, generator=torch.Generator().manual_seed(4))
    models.set_gradients_(x, importance, l1_coeffs=torch.tensor([0.3, 0.0]))
    by_hand = [_grad(p).clone() for p in models.parameters()]
    models.zero_grad()
    error = models(x) - models.cfg.target(x)
    loss = (error.square() * importance[:, None]).mean(dim=(2, 3)).sum()
    assert models.losses(x, importance).sum().item() == pytest.approx(loss.item(), rel=1e-5)
    (loss + 0.3 * models.hidden(x)[0].abs().sum(dim=1).mean(dim=1).sum()).backward()
    for p, grad in zip(models.parameters(), by_hand, strict=True):
        torch.testing.assert_close(_grad(p), grad, atol=1e-6, rtol=1e-4)


@every_kind
def test_gradients_of_the_input_are_those_of_autograd(kind: Kind) -> None:
    models, importance = _models(kind), torch.linspace(1.0, 0.1, 6)
    x = _tokens(kind).expand(2, 3, 6, 11).clone().requires_grad_()
    # the target is what the clean token asks for: it does not move with the input
    target = models.cfg.target(x.detach())
    loss = ((models(x) - target).square() * importance[:, None]).sum()
    (expected,) = torch.autograd.grad(loss, x)
    found = models.input_gradients(x.detach(), importance)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@every_kind
def test_no_model_influences_another(kind: Kind) -> None:
    """Other weights in one instance change that instance alone, to the last bit."""
    models = _models(kind)
    other = copy.deepcopy(models)
    other.W.data[1, 2] += 0.5
    _train(models), _train(other)
    same = (models.W == other.W).flatten(2).all(dim=2)
    assert same.tolist() == [[True, True, True], [True, True, False]]


def test_parts_that_fit_a_cache_make_the_models_of_one_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = _train(_models(settings=3, restarts=5))
    monkeypatch.setitem(VALUES_AT_ONCE, "cpu", 2 * 512 * 6)
    parts = list(_models(settings=3, restarts=5)._parts(512))
    assert len(parts) == 9  # two models at a time
    in_parts = _train(_models(settings=3, restarts=5))
    torch.testing.assert_close(in_parts.W, whole.W, atol=1e-5, rtol=1e-4)


def test_losses_in_parts_are_those_of_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    models, x = _models(settings=3, restarts=2), torch.rand(3, 1, 6, 11)
    whole = models.losses(x, torch.ones(6))
    monkeypatch.setitem(VALUES_AT_ONCE, "cpu", 6 * 11)  # one model at a time
    torch.testing.assert_close(models.losses(x, torch.ones(6)), whole)
    monkeypatch.setattr("sae.toy.models.TOKENS_AT_ONCE", 4)
    torch.testing.assert_close(models.losses(x, torch.ones(6)), whole)


def test_initial_weights_are_as_large_whatever_the_number_of_instances() -> None:
    """Unlike Xavier's initialisation of the stacked tensor, as in the paper's notebook."""
    for settings, restarts in ((1, 1), (4, 50)):
        cfg = ToyConfig(n_features=200, n_hidden=50)
        W = ToyModels(cfg, settings=settings, restarts=restarts).W
        assert W.std().item() == pytest.approx((2 / 250) ** 0.5, rel=0.03)


def test_untied_models_start_with_neurons_in_opposite_pairs_that_all_outputs_hear() -> None:
    models = ToyModels(ToyConfig(n_features=3, n_hidden=5, kind="absolute"), restarts=2)
    assert torch.equal(models.W[:, :, 2:4], -models.W[:, :, :2])
    assert torch.equal(models.W_out, models.W.mT.abs())


def test_training_is_reproducible_and_another_seed_sees_other_tokens() -> None:
    first, again, other = (_train(_models(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.W, again.W)
    assert not torch.equal(first.W, other.W)


def test_a_linear_model_of_sparse_features_becomes_pca() -> None:
    """n = 4, m = 2: the two most important features, orthogonal; the others by their mean p / 2."""
    models = ToyModels(ToyConfig(n_features=4, n_hidden=2, kind="linear"))
    importance = torch.tensor([1.0, 0.8, 0.3, 0.2])
    cfg = ToyTrainConfig(n_steps=1000, lr=1e-2, batch_tokens=128)
    for _ in train_toy(models, Independent(torch.full((4,), 0.5)), cfg, importance):
        pass
    W = models.W[0, 0].detach()
    torch.testing.assert_close(W.T @ W, torch.diag(torch.tensor([1.0, 1, 0, 0])), atol=0.02, rtol=0)
    assert models.b[0, 0, 2:].tolist() == pytest.approx([0.25, 0.25], abs=0.02)
    x, weights = stratified(Independent(torch.full((4,), 0.5)), 50_000, torch.Generator())
    optimum = (0.5 / 3 - 0.25 / 4) * (0.3 + 0.2) / 4
    assert models.losses(x[:, None], importance, weights).item() == pytest.approx(optimum, rel=0.02)


def test_the_loss_is_the_sum_over_numbers_of_active_features() -> None:
    """L = sum_k P(k) L_k, with L_0 = sum relu(b)^2 / n and L_1 worked out feature by feature."""
    models = _models(settings=1, restarts=1)
    p, W, b = 0.003, models.W[0, 0].detach(), models.b[0, 0].detach()
    u = (torch.arange(2000) + 0.5) / 2000
    alone = torch.zeros(6, 6, 2000)
    alone[torch.arange(6), torch.arange(6)] = u
    out = (W.T @ (W @ alone) + b[:, None]).relu()
    L_0 = b.relu().square().mean().item()
    L_1 = (out - alone).square().mean(dim=1).mean().item()
    x, weights = stratified(
        Independent(torch.full((1, 6), p)), 50_000, torch.Generator().manual_seed(0)
    )
    k = (x > 0).sum(dim=1)
    found = models.losses(x[:, None], torch.ones(6), weights * (k <= 1)).item()
    assert found == pytest.approx((1 - p) ** 6 * L_0 + 6 * p * (1 - p) ** 5 * L_1, rel=1e-3)


def test_an_adversary_steps_up_the_loss_by_the_length_it_was_given() -> None:
    models, x, importance = _train(_models()), _tokens("relu_output"), torch.ones(6)
    delta = perturbations(models, x, importance, torch.tensor([0.2, 0.5]))
    lengths = delta.norm(dim=2)
    mean_norm = x.norm(dim=2).mean(dim=2)[:, 0]
    for setting, share in enumerate((0.2, 0.5)):
        expected = torch.full_like(lengths[setting], share * mean_norm[setting].item())
        torch.testing.assert_close(lengths[setting], expected)
    worse = models.losses(x + delta, importance, target=x)
    assert (worse > models.losses(x, importance)).all()


def test_an_l1_penalty_on_the_hidden_layer_shrinks_it() -> None:
    free, penalised = _models(settings=1), _models(settings=1)
    _train(free, 200)
    cfg = ToyTrainConfig(n_steps=200, l1_coeff=0.3)
    for _ in train_toy(penalised, Independent(torch.full((6,), 0.3)), cfg):
        pass
    assert penalised.W.square().sum() < 0.5 * free.W.square().sum()


def test_schedules_end_where_they_say() -> None:
    rates = {
        name: [ToyTrainConfig(n_steps=3, lr=1.0, schedule=name).learning_rate(t) for t in range(3)]  # type: ignore[arg-type]
        for name in ("constant", "linear", "cosine")
    }
    assert rates["constant"] == [1.0, 1.0, 1.0]
    assert rates["linear"] == pytest.approx([1.0, 0.5, 0.0])
    assert rates["cosine"] == pytest.approx([1.0, 0.5**0.5, 0.0], abs=1e-12)


def test_settings_that_make_no_model_are_refused_by_value() -> None:
    with pytest.raises(InputError, match="n_hidden must be at least 1, got 0"):
        ToyConfig(n_features=3, n_hidden=0)
    with pytest.raises(InputError, match="3 values are not one for each of 2 settings"):
        next(
            iter(
                train_toy(
                    _models(),
                    Independent(torch.full((6,), 0.3)),
                    ToyTrainConfig(l1_coeff=(0.1, 0.2, 0.3)),
                )
            )
        )
    with pytest.raises(InputError, match="lr must be positive, got 0"):
        ToyTrainConfig(lr=0.0)


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
