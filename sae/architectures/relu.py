"""ReLU with an L1 penalty. Bricken et al. 2023, "Towards Monosemanticity"; tied in Cunningham et
al. 2023, "Sparse Autoencoders Find Highly Interpretable Features" (arXiv 2309.08600).

    acts = relu((x - b_dec) W_enc + b_enc)
    loss = |x - x_hat|^2 + l1_coeff * sum(acts)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from activation_cache.common.errors import refuse_below
from sae.trainable import Entries, Penalties, Revival, TrainableConfig, TrainableSAE


@dataclass(frozen=True, kw_only=True)
class L1Config(TrainableConfig):
    """What dictionaries with an L1 penalty have in common."""

    revival: ClassVar[Revival] = "resample"

    l1_coeff: float = 2.0
    """Weight of the L1 penalty. It is the sum of the features, or gates, beside the squared error
    summed over d_in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_below(0, l1_coeff=self.l1_coeff)

    @property
    def coefficients(self) -> Mapping[str, float]:
        return {"l1": self.l1_coeff}


@dataclass(frozen=True, kw_only=True)
class ReLUConfig(L1Config):
    """The L1 dictionary. It starts with a threshold that a twelfth of the features exceed, and at
    least 128: to thin out half of them would take most of a short run, in dense steps. What else
    was tried is in docs/log.md.
    """

    architecture: ClassVar[str] = "relu"
    title: ClassVar[str] = "ReLU"
    sparse_by: ClassVar[str] = "an L1 penalty"
    activation = "relu"

    @property
    def initial_density(self) -> float:
        return min(0.5, max(1 / 12, 128 / self.d_sae))

    def build(self, d_in: int, *, seed: int = 0) -> "ReLUSAE":
        return ReLUSAE(self, d_in, seed=seed)


class ReLUSAE(TrainableSAE[ReLUConfig]):
    def activate(self, pre_acts: Tensor) -> Tensor:
        return pre_acts.relu()

    def activate_entries(self, entries: Entries, target: Tensor) -> tuple[Tensor, Penalties]:
        acts = entries.pre_acts.relu()
        return acts, {"l1": acts.sum(dim=1).mean()}
