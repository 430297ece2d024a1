"""A gate that chooses features and a magnitude that measures them. Rajamanoharan et al. 2024,
"Improving Dictionary Learning with Gated Sparse Autoencoders" (arXiv 2404.16014).

    gate = (x - b_dec) W_enc + b_enc
    acts = 1[gate > 0] * relu(((x - b_dec) W_enc) * exp(r_mag) + b_mag)
    loss = |x - x_hat|^2 + l1_coeff * sum(relu(gate)) + |x - relu(gate) W_dec' - b_dec'|^2

with W_dec' and b_dec' held constant in the last term, which alone trains the gate to rebuild x.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sae.architectures.relu import L1Config
from sae.base import SAE, TrainingPass
from sae.codes import Codes


@dataclass(frozen=True, kw_only=True)
class GatedConfig(L1Config):
    """The gated dictionary; the penalty is on its gates."""

    architecture: ClassVar[str] = "gated"

    @property
    def coefficients(self) -> Mapping[str, float]:
        return {**super().coefficients, "gate_error": 1.0}

    def build(self, d_in: int, *, seed: int = 0) -> "GatedSAE":
        return GatedSAE(self, d_in, seed=seed)


class GatedSAE(SAE[GatedConfig]):
    STORED_NAMES: ClassVar[Mapping[str, str]] = {**SAE.STORED_NAMES, "b_enc": "b_gate"}

    def __init__(self, cfg: GatedConfig, d_in: int, *, seed: int = 0) -> None:
        super().__init__(cfg, d_in, seed=seed)
        self.r_mag = nn.Parameter(torch.zeros(cfg.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(cfg.d_sae))

    def offsets(self) -> list[Tensor]:
        return [*super().offsets(), self.b_mag]

    @torch.no_grad()
    def reset_features_(self, features: Tensor) -> None:
        super().reset_features_(features)
        self.r_mag[features] = 0.0
        self.b_mag[features] = 0.0

    def nonlinearity(self, pre_acts: Tensor, features: Tensor | None = None) -> Tensor:
        b_enc, b_mag, r_mag = (
            p if features is None else p.index_select(0, features.flatten()).view_as(features)
            for p in (self.b_enc, self.b_mag, self.r_mag)
        )
        magnitude = ((pre_acts - b_enc) * r_mag.exp() + b_mag).relu()
        return (pre_acts > 0) * magnitude

    def penalties(
        self, out: TrainingPass, pre_acts: Tensor, features: Tensor | None
    ) -> dict[str, Tensor]:
        gates = pre_acts.relu()
        if features is None:
            rebuilt = gates @ self.W_dec.detach()
        else:
            rebuilt = Codes(features, gates, self.d_sae).decode(self.W_dec.detach())
        error = rebuilt + self.b_dec.detach() - out.x
        return {"l1": gates.sum(dim=1).mean(), "gate_error": error.square().sum(dim=1).mean()}
