"""A gate that chooses features and a magnitude that measures them. Rajamanoharan et al. 2024,
"Improving Dictionary Learning with Gated Sparse Autoencoders" (arXiv 2404.16014).

    gate = (x - b_dec) W_enc + b_enc
    acts = 1[gate > 0] * relu(((x - b_dec) W_enc) * exp(r_mag) + b_mag)
    loss = |x - x_hat|^2 + l1_coeff * sum(relu(gate)) + |x - relu(gate) W_dec' - b_dec'|^2

with W_dec' and b_dec' held constant in the last term, which alone trains the gate to rebuild x; for
inputs of mean norm 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sae.architectures.relu import L1Config
from sae.base import SAE
from sae.trainable import Entries, Penalties, TrainableSAE


@dataclass(frozen=True, kw_only=True)
class GatedConfig(L1Config):
    """The gated dictionary; the penalty is on its gates."""

    architecture: ClassVar[str] = "gated"
    title: ClassVar[str] = "Gated"
    sparse_by: ClassVar[str] = "an L1 penalty on gates"
    activation = "gated"

    @property
    def coefficients(self) -> Mapping[str, float]:
        return {**super().coefficients, "gate_error": 1.0}

    def build(self, d_in: int, *, seed: int = 0) -> "GatedSAE":
        return GatedSAE(self, d_in, seed=seed)


class GatedSAE(TrainableSAE[GatedConfig]):
    STORED_NAMES: ClassVar[Mapping[str, str]] = {**SAE.STORED_NAMES, "b_enc": "b_gate"}

    def __init__(self, cfg: GatedConfig, d_in: int, *, seed: int = 0) -> None:
        super().__init__(cfg, d_in, seed=seed)
        self.r_mag = nn.Parameter(torch.zeros(cfg.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(cfg.d_sae))

    def offsets(self) -> list[Tensor]:
        return [*super().offsets(), self.b_mag]

    @property
    def row_rate(self) -> float:
        """Less where tied: at the full rate a quarter of many gates stay closed (docs/log.md)."""
        return 0.6 if self.cfg.tied else 1.0

    def offset_rates(self) -> Mapping[str, float]:
        return {"b_enc": 1.0, "b_mag": 1.0}

    def activate(self, pre_acts: Tensor) -> Tensor:
        return self._magnitudes(Entries(pre_acts))

    def activate_entries(self, entries: Entries, target: Tensor) -> tuple[Tensor, Penalties]:
        acts, gates = self._magnitudes(entries), entries.pre_acts.relu()
        rebuilt = entries.sum_rows(gates, self.W_dec.detach())
        error = rebuilt + self.b_dec.detach() - target
        penalties = {
            "l1": gates.sum(dim=1).mean(),
            "gate_error": error.square().sum(dim=1).mean(),
        }
        return acts, penalties

    def _magnitudes(self, entries: Entries) -> Tensor:
        b_enc, b_mag, r_mag = map(entries.of, (self.b_enc, self.b_mag, self.r_mag))
        magnitudes = ((entries.pre_acts - b_enc) * r_mag.exp() + b_mag).relu()
        return (entries.pre_acts > 0) * magnitudes
