"""JumpReLU with an L0 penalty. Rajamanoharan et al. 2024, "Jumping Ahead" (arXiv 2407.14435).

    acts = pre * 1[pre > threshold],  pre = relu((x - b_dec) W_enc + b_enc)
    loss = |x - x_hat|^2 + l0_coeff * L0,  L0 = sum(1[pre > threshold])

for inputs of mean norm 1. Neither step has a useful gradient, so straight-through estimators with a
rectangle of width `bandwidth` around the threshold stand in (their eqs. 11 and 12):

    d acts / d threshold = -threshold / bandwidth * 1[|pre - threshold| < bandwidth / 2]
    d L0   / d threshold =         -1 / bandwidth * 1[|pre - threshold| < bandwidth / 2]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from activation_cache.common.errors import refuse_not_positive
from sae.trainable import Entries, PenalisedConfig, Penalties, TrainableSAE, chosen

THRESHOLD_RATE = 3.5
"""What the learning rate of thresholds is multiplied by. That the rate is lower for dictionaries of
more than 1,536 features is for their weights."""


@dataclass(frozen=True, kw_only=True)
class JumpReLUConfig(PenalisedConfig):
    """The JumpReLU dictionary. Trains the threshold itself, where the paper takes its logarithm."""

    architecture: ClassVar[str] = "jumprelu"
    title: ClassVar[str] = "JumpReLU"
    sparse_by: ClassVar[str] = "a trained threshold and an L0 penalty"
    activation = "jumprelu"
    penalty: ClassVar[str] = "l0"
    powers: ClassVar[Mapping[str, int]] = {"l0": 0}

    l0_coeff: float = 1e-3
    """Weight of the L0 penalty. It is the number of active features, beside the squared error of
    inputs of mean norm 1: one more feature must explain this share of the mean squared norm."""
    bandwidth: float = 0.036
    """Width of the threshold's gradient window. For inputs of mean norm 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_not_positive(bandwidth=self.bandwidth)

    def build(self, d_in: int, *, seed: int = 0) -> "JumpReLUSAE":
        return JumpReLUSAE(self, d_in, seed=seed)


class JumpReLUSAE(TrainableSAE[JumpReLUConfig]):
    def __init__(self, cfg: JumpReLUConfig, d_in: int, *, seed: int = 0) -> None:
        super().__init__(cfg, d_in, seed=seed)
        self.threshold = nn.Parameter(torch.zeros(cfg.d_sae))

    @property
    def bandwidth(self) -> float:
        """In the units of training."""
        return self.cfg.bandwidth * self.unit

    def offsets(self) -> list[Tensor]:
        return [*super().offsets(), self.threshold]

    def offset_rates(self) -> Mapping[str, float]:
        return {"threshold": THRESHOLD_RATE * max(1.0, self.d_sae / 1536) ** 0.5}

    @torch.no_grad()
    def let_through_(self, level: float) -> None:
        self.threshold.fill_(level)

    @torch.no_grad()
    def constrain_(self) -> None:
        self.threshold.clamp_(min=0.0)  # below 0, features that say "no" would count as active

    def activate(self, pre_acts: Tensor) -> Tensor:
        return pre_acts * (pre_acts > self.threshold)

    def support(self, pre_acts: Tensor, slack: int = 1) -> tuple[Tensor, Tensor]:
        return chosen(pre_acts, pre_acts > self.threshold - self.bandwidth / 2)

    def activate_entries(self, entries: Entries, target: Tensor) -> tuple[Tensor, Penalties]:
        thresholds = entries.of(self.threshold)
        acts, steps = _JumpReLU.apply(entries.pre_acts, thresholds, self.bandwidth)
        return acts, {"l0": steps.sum(dim=1).mean()}


class _JumpReLU(torch.autograd.Function):
    """The activations, and the steps that the L0 counts, with their estimated gradients."""

    @staticmethod
    def forward(
        ctx: Any, pre_acts: Tensor, threshold: Tensor, bandwidth: float
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(pre_acts, threshold)
        ctx.bandwidth = bandwidth
        is_active = pre_acts > threshold
        return pre_acts * is_active, is_active.to(pre_acts.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        of_acts, of_steps = grads
        pre_acts, threshold = ctx.saved_tensors
        near = (pre_acts - threshold).abs() < ctx.bandwidth / 2
        of_threshold = of_acts * near * (-threshold / ctx.bandwidth)
        of_threshold -= of_steps * near / ctx.bandwidth
        return of_acts * (pre_acts > threshold), of_threshold, None
