"""What section 3 looks at: a size and a grid, and the models found there."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.toy import ToyModels
from sae.toy.phases import ideal_losses


@dataclass(frozen=True)
class Case:
    """A size for which the ideal solutions are known, and the grid on which it is looked at."""

    n: int
    """Features, for one dimension less."""
    points: int
    """Strengths of a feature in the evaluation."""
    importances: tuple[float, ...]
    """Of the last feature; those of the others are 1."""
    densities: tuple[float, ...]

    @property
    def cells(self) -> tuple[Float[Tensor, " cells"], Float[Tensor, " cells"]]:
        """The importance and the density of each: densities change fastest."""
        axes = torch.tensor(self.importances), torch.tensor(self.densities)
        importance, p = torch.meshgrid(*axes, indexing="ij")
        return importance.flatten(), p.flatten()

    @property
    def weights(self) -> Float[Tensor, "cells n"]:
        """The importances of all features."""
        last = self.cells[0][:, None]
        return torch.cat((torch.ones(len(last), self.n - 1), last), dim=1)

    @property
    def probabilities(self) -> Float[Tensor, "cells n"]:
        return self.cells[1][:, None].expand(-1, self.n).contiguous()


@dataclass(frozen=True)
class Found:
    """Trained models of a case, and the best restart in every cell."""

    case: Case
    models: ToyModels
    losses: Float[Tensor, "cells restarts"]
    """Summed over the features, as those of theory are."""
    W: Float[Tensor, "cells m n"]
    """Of the best."""
    labels: Int[Tensor, " cells"]

    @property
    def theory(self) -> Float[Tensor, "cells solutions"]:
        return ideal_losses(self.case.n, *self.case.cells)
