"""An architecture and a metric of another package, as somebody outside would write them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sae.evaluation import Metric
from sae.evaluation.metric import mean
from sae.evaluation.seen import Seen, n_tokens
from sae.trainable import Entries, Penalties, TrainableConfig, TrainableSAE


@dataclass(frozen=True, kw_only=True)
class SoftReLUConfig(TrainableConfig):
    """Features that are squared once they are active, with a penalty on their sum."""

    architecture: ClassVar[str] = "soft_relu"
    title: ClassVar[str] = "SoftReLU"
    sparse_by: ClassVar[str] = "a penalty on squared features"

    softness: float = 0.5
    """Half of this is taken from every pre-activation."""
    square_coeff: float = 0.01
    """Weight of the summed features."""

    @property
    def coefficients(self) -> dict[str, float]:
        return {"square": self.square_coeff}

    def build(self, d_in: int, *, seed: int = 0) -> "SoftReLUSAE":
        return SoftReLUSAE(self, d_in, seed=seed)


class SoftReLUSAE(TrainableSAE[SoftReLUConfig]):
    taken: Tensor

    def __init__(self, cfg: SoftReLUConfig, d_in: int, *, seed: int = 0) -> None:
        super().__init__(cfg, d_in, seed=seed)
        self.register_buffer("taken", torch.full((cfg.d_sae,), cfg.softness / 2))

    def offsets(self) -> list[Tensor]:
        return [*super().offsets(), self.taken]

    def activate(self, pre_acts: Tensor) -> Tensor:
        return (pre_acts - self.taken).relu()

    def activate_entries(self, entries: Entries, target: Tensor) -> tuple[Tensor, Penalties]:
        acts = (entries.pre_acts - entries.of(self.taken)).relu()
        return acts, {"square": acts.square().sum(dim=1).mean()}


def largest(seen: Seen) -> float:
    return seen.error.max().item()


WORST = Metric(
    name="worst",
    convention="mean over batches of the largest |x - x_hat|^2",
    meaning="the token that is rebuilt worst",
    sums=(largest, n_tokens),
    result=mean,
    better="lower",
)
