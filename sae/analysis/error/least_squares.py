"""Linear regression on a stream: normal equations, summed in float64."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.errors import InputError

NEGLIGIBLE = 1e-12
"""Standard deviation over mean below which inputs differ by the rounding of float64 alone."""


@dataclass(frozen=True, eq=False)
class LinearMap:
    """x @ B + b, in float64."""

    B: Float[Tensor, "d_in d_out"]
    b: Float[Tensor, " d_out"]

    def __call__(self, x: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_out"]:
        return x.to(self.B) @ self.B + self.b


class NormalEquations:
    """Sums over rows that the best linear map from inputs to targets follows from.

    They are taken about the mean of the first rows: about 0, an offset that is large beside the
    variance would leave few digits of it.
    """

    def __init__(
        self, inputs: Float[Tensor, "rows d_in"], targets: Float[Tensor, "rows d_out"]
    ) -> None:
        """For rows of the kind of these, which are not added yet. At least one is needed."""
        self._n = 0
        self._origins = (inputs.mean(dim=0), targets.mean(dim=0))
        self._sums = (torch.zeros_like(inputs[0]), torch.zeros_like(targets[0]))
        self._gram = inputs.new_zeros(inputs.shape[1], inputs.shape[1])
        self._cross = inputs.new_zeros(inputs.shape[1], targets.shape[1])

    def add(self, inputs: Float[Tensor, "rows d_in"], targets: Float[Tensor, "rows d_out"]) -> None:
        inputs, targets = inputs - self._origins[0], targets - self._origins[1]
        self._n += len(inputs)
        self._sums[0].add_(inputs.sum(dim=0))
        self._sums[1].add_(targets.sum(dim=0))
        self._gram.addmm_(inputs.T, inputs)
        self._cross.addmm_(inputs.T, targets)

    def best_map(self, ridge: float) -> LinearMap:
        """The least-squares map with an intercept, which is not penalised; ridge * mean diagonal
        of the centred X'X is added to its diagonal.

        Inputs have no weight where none of them varies. `InputError` where the ridge is too small
        for inputs that depend on each other.
        """
        gram, cross = self._centred()
        size = gram.diagonal().mean()
        if size <= NEGLIGIBLE**2 * self._n * self._origins[0].square().mean():
            return self._through_means(torch.zeros_like(cross))
        gram.diagonal().add_(ridge * size)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            raise InputError(
                f"ridge {ridge} is too small for activations whose dimensions depend on each "
                f"other: give a larger one, such as 1e-6"
            )
        return self._through_means(torch.cholesky_solve(cross, factor))

    def best_scale(self, width: int) -> LinearMap:
        """The best map that multiplies all inputs by one number, and adds a vector, to the first
        `width` targets, one for each input."""
        gram, cross = self._centred()
        size = gram.trace()
        scale = cross[:, :width].trace() / size if size > 0 else size
        return self._through_means(scale * torch.eye(width).to(gram))

    def _centred(self) -> tuple[Tensor, Tensor]:
        """X'X and X'Y about the means."""
        inputs, targets = self._sums
        return (
            self._gram - inputs.outer(inputs / self._n),
            self._cross - inputs.outer(targets / self._n),
        )

    def _through_means(self, weights: Tensor) -> LinearMap:
        """The map with these weights that takes the mean input to the mean target."""
        inputs, targets = (o + s / self._n for o, s in zip(self._origins, self._sums, strict=True))
        return LinearMap(weights, targets[: weights.shape[1]] - inputs @ weights)


class Spread:
    """Sums over rows that the variance of each column follows from."""

    def __init__(self) -> None:
        self.n = 0
        self._origin = self._sum = self._squares = torch.zeros(())

    def add(self, rows: Float[Tensor, "rows d"]) -> None:
        if self.n == 0:
            self._origin = rows.mean(dim=0)
            self._sum, self._squares = torch.zeros_like(rows[0]), torch.zeros_like(rows[0])
        self.n += len(rows)
        rows = rows - self._origin
        self._sum += rows.sum(dim=0)
        self._squares += rows.square().sum(dim=0)

    @property
    def total(self) -> Float[Tensor, " d"]:
        """The sum of squared deviations from the mean; 0 for a column that never varies: what a
        rounded mean leaves of it has so few digits that the sums are exact."""
        return (self._squares - self._sum.square() / self.n).clamp_min(0.0)
