"""ReLU with an L1 penalty. Bricken et al. 2023, "Towards Monosemanticity"; tied in Cunningham et
al. 2023, "Sparse Autoencoders Find Highly Interpretable Features" (arXiv 2309.08600).

    acts = relu((x - b_dec) W_enc + b_enc)
    loss = |x - x_hat|^2 + l1_coeff * sum(acts)

for inputs of mean norm 1. A tied encoder has no gain here: the L1 penalty would pull at it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sae.trainable import Entries, PenalisedConfig, Penalties, TrainableSAE


@dataclass(frozen=True, kw_only=True)
class L1Config(PenalisedConfig):
    """What dictionaries with an L1 penalty have in common."""

    penalty: ClassVar[str] = "l1"
    powers: ClassVar[Mapping[str, int]] = {"l1": 1}

    l1_coeff: float = 0.1
    """Weight of the L1 penalty. It is the sum of the features, or gates, beside the squared error
    of inputs of mean norm 1."""


@dataclass(frozen=True, kw_only=True)
class ReLUConfig(L1Config):
    """The L1 dictionary."""

    architecture: ClassVar[str] = "relu"
    title: ClassVar[str] = "ReLU"
    sparse_by: ClassVar[str] = "an L1 penalty"
    activation = "relu"
    has_gain: ClassVar[bool] = False

    def build(self, d_in: int, *, seed: int = 0) -> "ReLUSAE":
        return ReLUSAE(self, d_in, seed=seed)


class ReLUSAE(TrainableSAE[ReLUConfig]):
    def offset_rates(self) -> Mapping[str, float]:
        return {"b_enc": 1.0}

    def activate(self, pre_acts: Tensor) -> Tensor:
        return pre_acts.relu()

    def activate_entries(self, entries: Entries, target: Tensor) -> tuple[Tensor, Penalties]:
        acts = entries.pre_acts.relu()
        return acts, {"l1": acts.sum(dim=1).mean()}
