"""The search for the penalty under which a dictionary has the L0 that is wanted."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.trainable import TYPICAL_L0, PenalisedConfig, TrainableSAE

PROPORTIONAL, INTEGRAL = 2.0, 0.05
"""How much the logarithm of the coefficient answers to that of the excess of L0: at once, and per
step. L0 is about inverse to the coefficient, and follows it within some hundred steps."""
SMOOTHING = 0.5
LARGEST_EXCESS = 1.0
"""As a logarithm: an L0 that is far off moves the coefficient no faster than one 2.7 times off."""

FURTHEST = 7.0
"""Clamps the integral (anti-windup), where no coefficient gives the L0: the search goes no further
than a coefficient 1,000 times larger or smaller than at its start."""


class L0Controller:
    """Multiplies a penalty coefficient by what brings L0 to a target, step by step.

    A PI controller (proportional and integral), on logarithms. The target itself falls from the L0
    at the start over the first part of the run, in place of a warm-up of the penalty.
    All is kept on the device, and nothing waits for it.
    """

    def __init__(self, target_l0: float, initial_l0: float, device: torch.device) -> None:
        self.target_l0, self.initial_l0 = target_l0, initial_l0
        # A coefficient that is set is taken for one of a typical L0.
        self.log_factor = torch.full((), math.log(TYPICAL_L0 / target_l0), device=device)
        self.excess = torch.zeros((), device=device)

    @property
    def factor(self) -> Float[Tensor, ""]:
        return (self.log_factor + PROPORTIONAL * self.excess).exp()

    @torch.no_grad()
    def update(self, l0: Float[Tensor, ""], reached: float, counts: Bool[Tensor, ""]) -> None:
        """Take note of a step's L0; `reached` is the share of the way to the target, 1 after it."""
        target = self.initial_l0 * (self.target_l0 / self.initial_l0) ** reached
        excess = (l0.clamp_min(0.01) / target).log().clamp(-LARGEST_EXCESS, LARGEST_EXCESS)
        excess = torch.lerp(excess, self.excess, SMOOTHING)
        self.excess = torch.where(counts, excess, self.excess)
        if reached == 1:  # before, L0 is high because features are new, not for want of a penalty
            moved = self.log_factor + counts * INTEGRAL * self.excess
            self.log_factor = moved.clamp(-FURTHEST, FURTHEST)

    def state_dict(self) -> dict[str, Any]:
        return {"log_factor": self.log_factor, "excess": self.excess}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.log_factor = state["log_factor"].to(self.log_factor.device)
        self.excess = state["excess"].to(self.excess.device)


def controller_of(sae: TrainableSAE) -> L0Controller | None:
    """The search that its config asks for, if it does."""
    cfg = sae.cfg
    if not isinstance(cfg, PenalisedConfig) or cfg.target_l0 is None:
        return None
    return L0Controller(cfg.target_l0, cfg.initial_l0, sae.device)
