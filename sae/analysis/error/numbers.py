"""How well linear maps predict a dictionary's error, from sums over the rows of one side."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.analysis.error.batches import Rows
from sae.analysis.error.least_squares import LinearMap, NormalEquations, Spread


@dataclass(frozen=True, kw_only=True)
class SplitNumbers:
    """The parts of the error e = x - x_hat = linear + nonlinear, linear = x @ B + b.

    R2 of a vector is the mean over its dimensions of each one's R2, as in the paper, without
    dimensions in which e does not vary; "pooled" divides the sums over all dimensions. The R2 of
    |e|^2 is NaN where that is the same for all tokens.
    """

    fvu: float
    """Of x_hat: sum |e|^2 / sum |x - mean|^2."""
    fvu_linear: float
    """Of x_hat + linear, which the nonlinear part alone is missing from: the paper's
    FVU_nonlinear."""
    r2: float
    """Of e, predicted from x."""
    r2_pooled: float
    r2_shrinkage: float
    """Of e, predicted as c (x - mean) + vector with one number c for all dimensions: what of `r2` a
    dictionary has that is dead or too small. Of one whose x_hat is not correlated with its error,
    c and the pooled R2 are the FVU, since x contains the error: `r2` says something above that."""
    r2_shrinkage_pooled: float
    r2_from_x_hat: float
    """Of e, predicted from x_hat, by a map of its own: what another scale of the dictionary's own
    output would remove."""
    r2_from_x_hat_pooled: float
    r2_norm: float
    """Of |e|^2, predicted from x."""
    r2_norm_from_x_norm: float
    """Of |e|^2, predicted from |x|^2 alone."""
    r2_norm_from_x_hat: float
    """Of |e|^2, predicted from x_hat."""
    norm_linear: float
    """Mean |linear| / mean |e|."""
    norm_nonlinear: float
    """Mean |nonlinear| / mean |e|."""


@dataclass(frozen=True)
class Predictors:
    """The maps that predict the error, and its squared length in the last column."""

    from_x: LinearMap
    from_x_hat: LinearMap
    shrinkage: LinearMap
    """Of the error alone."""
    from_squared_norm: LinearMap
    """Of the squared length alone."""


class Regressions:
    """Sums over the rows of the fit side."""

    def __init__(self, first: Rows) -> None:
        """For rows of the kind of these, which are not added yet."""
        self._width = first.x.shape[1]
        self._from_x = NormalEquations(first.x, first.targets)
        self._from_x_hat = NormalEquations(first.x_hat, first.targets)
        self._from_squared_norm = NormalEquations(first.squared_norm, first.squared_error)

    def add(self, rows: Rows) -> None:
        self._from_x.add(rows.x, rows.targets)
        self._from_x_hat.add(rows.x_hat, rows.targets)
        self._from_squared_norm.add(rows.squared_norm, rows.squared_error)

    def best(self, ridge: float) -> Predictors:
        return Predictors(
            self._from_x.best_map(ridge),
            self._from_x_hat.best_map(ridge),
            self._from_x.best_scale(self._width),
            self._from_squared_norm.best_map(ridge),
        )


class Side:
    """Sums over the rows of one side, once the maps are known."""

    def __init__(self, name: str, predictors: Predictors) -> None:
        self._name = name
        self._predictors = predictors
        self._x, self._targets = Spread(), Spread()
        self._left: dict[str, Tensor] = {}
        self._lengths = torch.zeros(3, dtype=torch.float64)
        self._squared_error = 0.0

    @property
    def n(self) -> int:
        return self._x.n

    def add(self, rows: Rows) -> None:
        if not len(rows):
            return
        self._x.add(rows.x)
        self._targets.add(rows.targets)
        self._squared_error += rows.squared_error.sum().item()
        maps = self._predictors
        left = rows.targets - maps.from_x(rows.x)
        self._add_left("x", left)
        self._add_left("x_hat", rows.targets - maps.from_x_hat(rows.x_hat))
        self._add_left("shrinkage", rows.error - maps.shrinkage(rows.x))
        of_norm = rows.squared_error - maps.from_squared_norm(rows.squared_norm)
        self._add_left("squared norm", of_norm)
        nonlinear = left[:, :-1]
        for place, part in enumerate((rows.error, rows.error - nonlinear, nonlinear)):
            self._lengths[place] += part.norm(dim=1).sum().item()

    def numbers(self) -> SplitNumbers:
        """`InputError` where x or the error does not vary, so that there is nothing to explain."""
        of_x = self._x.total.sum().item()
        of_error, of_norm = self._targets.total.tensor_split([-1])
        self._refuse_nothing_to_split(of_x, of_error)
        left = self._left
        vectors = {
            "r2": left["x"][:-1],
            "r2_shrinkage": left["shrinkage"],
            "r2_from_x_hat": left["x_hat"][:-1],
        }
        length, linear, nonlinear = self._lengths.tolist()
        return SplitNumbers(
            fvu=self._squared_error / of_x,
            fvu_linear=left["x"][:-1].sum().item() / of_x,
            **{name: _mean_r2(its, of_error) for name, its in vectors.items()},
            **{f"{name}_pooled": _r2(its.sum(), of_error.sum()) for name, its in vectors.items()},
            r2_norm=_r2(left["x"][-1:], of_norm),
            r2_norm_from_x_norm=_r2(left["squared norm"], of_norm),
            r2_norm_from_x_hat=_r2(left["x_hat"][-1:], of_norm),
            norm_linear=linear / length,
            norm_nonlinear=nonlinear / length,
        )

    def _add_left(self, of: str, residual: Float[Tensor, "rows d"]) -> None:
        squares = residual.square().sum(dim=0)
        self._left[of] = self._left[of] + squares if of in self._left else squares

    def _refuse_nothing_to_split(self, of_x: float, of_error: Tensor) -> None:
        where = f"on all {self.n:,} {self._name} tokens"
        if self._squared_error == 0:
            raise InputError(
                f"the error is exactly 0 {where}: x_hat is x, and there is nothing to split"
            )
        if of_x == 0:
            raise InputError(f"x is the same vector {where}: give activations that vary")
        if not of_error.any():
            raise InputError(
                f"the error is the same vector {where}: there is nothing to split; a bias of the "
                f"dictionary would remove it"
            )


def _r2(left: Tensor, total: Tensor) -> float:
    """NaN where there is nothing to explain."""
    return 1.0 - (left / total).item() if total > 0 else float("nan")


def _mean_r2(left: Float[Tensor, " d"], total: Float[Tensor, " d"]) -> float:
    varies = total > 0
    return 1.0 - (left[varies] / total[varies]).mean().item()
