"""Fit toy models. Like the training of dictionaries, a generator that does not log or save."""
# Shapes: S = settings, R = restarts, n = features, B = tokens.

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.errors import InputError, refuse_not_positive
from sae.toy.features import Features
from sae.toy.models import ToyModels


@dataclass(frozen=True, kw_only=True)
class ToyTrainConfig:
    """How toy models are fitted. The paper states no optimiser; these find better minima in a
    third of the steps of its notebook's (Adam, 1e-3, constant, 10,000 steps of 1,024)."""

    n_steps: int = 3000
    batch_tokens: int = 512
    lr: float = 5e-3
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Of the learning rate: linear and a quarter of a cosine fall to 0 at the last step."""
    weight_decay: float = 0.0
    """Decoupled, as in AdamW."""
    l1_coeff: float | tuple[float, ...] = 0.0
    """Weight of the mean over tokens of the summed absolute values of the hidden layer: one, or one
    for each setting."""
    adversarial_share: float | tuple[float, ...] = 0.0
    """Train on the worst inputs near each token, at a distance of this share of the mean norm: one,
    or one for each setting."""
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_not_positive(n_steps=self.n_steps, batch_tokens=self.batch_tokens, lr=self.lr)

    def learning_rate(self, step: int) -> float:
        progress = step / max(1, self.n_steps - 1)
        quarter = math.cos(0.5 * math.pi * progress)
        return self.lr * {"constant": 1.0, "linear": 1 - progress, "cosine": quarter}[self.schedule]


def train_toy(
    models: ToyModels,
    features: Features,
    cfg: ToyTrainConfig,
    importance: Float[Tensor, "*S n"] | float = 1.0,
) -> Iterator[int]:
    """Train all models at once, yielding the number of steps taken after each.

    `importance` weighs the features' squared errors: one number, [n], or [settings, n]. Models
    never influence each other: no gradient of one depends on the weights of another.
    """
    device, n = models.W.device, models.cfg.n_features
    weights = importance if isinstance(importance, Tensor) else torch.full((n,), importance)
    weights = weights.to(device)
    generator = torch.Generator(device).manual_seed(cfg.seed)
    optimizer = torch.optim.AdamW(
        models.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay, fused=True
    )
    l1_coeffs = _per_setting(cfg.l1_coeff, models)
    shares = _per_setting(cfg.adversarial_share, models)
    for step in range(cfg.n_steps):
        x = sample(features, cfg.batch_tokens, generator, models.settings)
        seen = x if shares is None else x + perturbations(models, x, weights, shares)
        models.set_gradients_(seen, weights, target=models.cfg.target(x), l1_coeffs=l1_coeffs)
        optimizer.param_groups[0]["lr"] = cfg.learning_rate(step)
        optimizer.step()
        yield step + 1


def sample(
    features: Features, n_tokens: int, generator: torch.Generator, settings: int
) -> Float[Tensor, "S 1 n B"]:
    """Tokens for every setting, which all its restarts see."""
    x = features.sample(n_tokens, generator)
    return x.reshape(-1, 1, *x.shape[-2:]).expand(settings, -1, -1, -1)


def perturbations(
    models: ToyModels,
    x: Float[Tensor, "S X n B"],
    importance: Float[Tensor, "*S n"],
    shares: Float[Tensor, " S"],
) -> Float[Tensor, "S R n B"]:
    """The step up each model's loss of each token that is as long as a share of the mean norm."""
    grad = models.input_gradients(x, importance)
    length = (shares[:, None] * x.norm(dim=2).mean(dim=2))[..., None, None]
    return grad * (length / grad.norm(dim=2, keepdim=True).clamp_min(1e-12))


def _per_setting(value: float | tuple[float, ...], models: ToyModels) -> Float[Tensor, " S"] | None:
    """A value for each setting; None where all are 0."""
    values = value if isinstance(value, tuple) else (value,) * models.settings
    if len(values) != models.settings:
        raise InputError(f"{len(values)} values are not one for each of {models.settings} settings")
    return torch.tensor(values, device=models.W.device) if any(values) else None
