"""The worst steps near a token, by hand and by trying each in turn."""

import pytest
import torch

from activation_cache.common.errors import InputError
from sae.toy import Kind, ToyConfig, ToyModels
from sae.toy.adversarial import Vulnerability, feature_directions, vulnerability


def _models(W: list[list[float]], kind: Kind) -> ToyModels:
    weights = torch.tensor(W)
    models = ToyModels(ToyConfig(n_features=weights.shape[1], n_hidden=weights.shape[0], kind=kind))
    with torch.no_grad():
        models.W.copy_(weights)
    return models


def test_the_direction_of_a_feature_is_what_the_model_makes_of_it() -> None:
    # W'W = [[9, 12], [12, 16]]: both columns point along (3, 4); a third feature is dropped
    directions = feature_directions(torch.tensor([[3.0, 4.0, 0.0]]))
    expected = torch.tensor([[0.6, 0.8, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(directions, expected)


def test_a_linear_model_that_keeps_one_of_two_features_passes_the_step_on() -> None:
    """It says (x_0, 0) of (3, 4), an error of 16. A step of a tenth of |x| = 5 makes it 16.25."""
    found = vulnerability(_models([[1.0, 0.0]], "linear"), torch.tensor([[[[3.0], [4.0]]]]))
    assert found.epsilon.tolist() == pytest.approx([0.5])
    assert found.clean.item() == pytest.approx(16.0)
    assert found.worst.item() == pytest.approx(16.25)
    assert found.per_squared_length.item() == pytest.approx(1.0)
    assert found.ratio.item() == pytest.approx(16.25 / 16)
    assert found.increase.item() == pytest.approx(0.25)


def test_opposite_features_double_the_square_of_a_step_and_a_relu_hides_half() -> None:
    """W = (1, -1) turns a step d along (1, -1) / sqrt(2) into sqrt(2) d (1, -1). The linear model
    says (1, -1) of (1, 0). With a ReLU it says (1, 0) and only the first output moves, or, against
    the step, the second does not move either."""
    x = torch.tensor([[[[1.0], [0.0]]]])
    step = 0.1 * 2**0.5
    linear = vulnerability(_models([[1.0, -1.0]], "linear"), x)
    assert linear.clean.item() == pytest.approx(1.0)
    assert linear.worst.item() == pytest.approx(step**2 + (1 + step) ** 2, rel=1e-5)
    relu = vulnerability(_models([[1.0, -1.0]], "relu_output"), x)
    assert relu.clean.item() == pytest.approx(0.0)
    assert relu.per_squared_length.item() == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("kind", ["linear", "relu_output"])
def test_the_worst_of_all_steps_is_found_for_each_token(kind: Kind) -> None:
    models = ToyModels(ToyConfig(n_features=7, n_hidden=3, kind=kind), settings=2, restarts=2)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, 1, 7, 300, generator=generator)
    found = vulnerability(models, x)
    directions = feature_directions(models.W.detach())
    worst = torch.full((2, 2, 300), -torch.inf)
    with torch.no_grad():
        clean = (models(x) - x).square().sum(dim=2)
        for f in range(7):
            for sign in (1, -1):
                step = sign * found.epsilon[:, None, None] * directions[:, :, f]
                moved = (models(x + step[..., None]) - x).square().sum(dim=2)
                worst = torch.maximum(worst, moved)
    assert found.epsilon.tolist() == pytest.approx((0.1 * x.norm(dim=2).mean(dim=(1, 2))).tolist())
    assert torch.allclose(found.clean, clean.mean(dim=2), rtol=1e-5)
    assert torch.allclose(found.worst, worst.mean(dim=2), rtol=1e-5)


def test_steps_that_the_model_does_not_see_change_nothing() -> None:
    unseen = torch.tensor([[[[0.0, 1.0]]]])
    models = _models([[1.0, 0.0]], "relu_output")
    found = vulnerability(models, torch.tensor([[[[3.0], [4.0]]]]), directions=unseen)
    assert found.increase.item() == 0.0


def test_dividing_by_the_length_undoes_what_shorter_steps_do() -> None:
    found = Vulnerability(
        torch.tensor([[1.0], [1.0]]), torch.tensor([[1.4], [1.1]]), torch.tensor([0.2, 0.1])
    )
    assert found.increase.flatten().tolist() == pytest.approx([0.4, 0.1])
    assert found.per_squared_length.flatten().tolist() == pytest.approx([10.0, 10.0])


def test_a_hidden_relu_is_refused() -> None:
    models = ToyModels(ToyConfig(n_features=2, n_hidden=1, kind="relu_hidden"))
    with pytest.raises(InputError, match="relu_hidden"):
        vulnerability(models, torch.rand(1, 1, 2, 3))
