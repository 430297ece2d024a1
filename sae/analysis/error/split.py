"""The split of a dictionary's error into what is linear in the activation and what is not."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.errors import InputError, refuse_not_positive
from sae.analysis.error.advice import warnings_for
from sae.analysis.error.batches import ErrorBatch, Rows, read, refuse_read_once
from sae.analysis.error.documents import in_test
from sae.analysis.error.least_squares import LinearMap
from sae.analysis.error.numbers import Predictors, Regressions, Side, SplitNumbers


@dataclass(frozen=True, kw_only=True)
class ErrorSplit(SplitNumbers):
    """The numbers are those of the test documents; `fit` has the same of the documents that the
    maps were fitted on."""

    fit: SplitNumbers
    shrinkage: float
    """The number c of `r2_shrinkage`: 1 for a dead dictionary, 0.1 where x_hat = 0.9 x."""
    n_fit_tokens: int
    n_test_tokens: int
    n_fit_documents: int
    n_test_documents: int
    linear_map: LinearMap = field(repr=False, compare=False)
    """B [d, d] and b [d], float64: the linear part of the error is x @ B + b."""
    warnings: tuple[str, ...]
    """Why the numbers may say less than they seem to; empty for most."""

    def linear_part(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """What x_hat is missing of x as far as it is linear in x, in the type of x: x_hat +
        linear_part(x) is missing the nonlinear part alone."""
        return self.linear_map(x.reshape(-1, x.shape[-1])).reshape(x.shape).to(x)


@torch.no_grad()
def split_error(batches: Iterable[ErrorBatch], *, seed: int = 0, ridge: float = 1e-6) -> ErrorSplit:
    """Predict e = x - x_hat from x, with an intercept, and report it on documents held out.

    `batches` are (x [rows, d], x_hat [rows, d], documents [rows]), tensors or NumPy arrays. They
    are read twice, so give a list, a data loader or another object that can be: first for the maps
    and then for what these leave. A hash of each document's number and `seed` puts it, with all of
    its tokens, on the fit or the test side (`in_test`); the batches' order and size change nothing.
    `ridge` times the mean variance of the inputs is added to each input's variance: activations
    whose writing weights are centred are of rank d - 1, where least squares alone has weights
    without meaning. The memory is that of 4 d^2 float64 numbers.

    Raises `InputError` where a side has fewer than 2 documents, shapes differ, a number is not
    finite, the error is 0 everywhere, or x or the error does not vary.

    Engels, Riggs, Tegmark 2024, whose regression has no intercept and whose test side is of
    tokens.
    """
    refuse_not_positive(ridge=ridge)
    refuse_read_once(batches, "batches")
    predictors, n_tokens, n_documents = _fitted(batches, seed, ridge)
    fit, test = _measured(batches, seed, predictors)
    if (fit.n, test.n) != n_tokens:
        raise InputError(
            f"the batches had {sum(n_tokens):,} rows at the first reading and {fit.n + test.n:,} "
            f"at the second: give what has the same rows each time"
        )
    held_out = test.numbers()
    d = predictors.from_x.B.shape[0]
    shrinkage = predictors.shrinkage.B[0, 0].item()
    return ErrorSplit(
        **vars(held_out),
        fit=fit.numbers(),
        shrinkage=shrinkage,
        n_fit_tokens=fit.n,
        n_test_tokens=test.n,
        n_fit_documents=n_documents[0],
        n_test_documents=n_documents[1],
        linear_map=LinearMap(predictors.from_x.B[:, :d].clone(), predictors.from_x.b[:d].clone()),
        warnings=tuple(warnings_for(held_out, shrinkage=shrinkage, d=d, n_fit_tokens=fit.n)),
    )


def _fitted(
    batches: Iterable[ErrorBatch], seed: int, ridge: float
) -> tuple[Predictors, tuple[int, int], tuple[int, int]]:
    """The maps, and how many tokens and documents there are to fit and to test."""
    regressions: Regressions | None = None
    n_tokens = [0, 0]
    documents: tuple[set[int], set[int]] = (set(), set())
    for rows in read(batches):
        sides = _sides(rows, seed)
        for side, its in enumerate(sides):
            n_tokens[side] += len(its)
            documents[side].update(its.documents.unique().tolist())
        if len(sides[0]):
            regressions = regressions or Regressions(sides[0])
            regressions.add(sides[0])
    n_fit, n_test = (len(of) for of in documents)
    if regressions is None or min(n_fit, n_test) < 2:
        raise InputError(
            f"of {n_fit + n_test:,} documents, {n_fit:,} are to fit and {n_test:,} to test, and "
            f"each side needs 2: give more documents, or another seed"
        )
    return regressions.best(ridge), (n_tokens[0], n_tokens[1]), (n_fit, n_test)


def _measured(
    batches: Iterable[ErrorBatch], seed: int, predictors: Predictors
) -> tuple[Side, Side]:
    fit, test = Side("fit", predictors), Side("test", predictors)
    for rows in read(batches):
        for side, its in zip((fit, test), _sides(rows, seed), strict=True):
            side.add(its)
    return fit, test


def _sides(rows: Rows, seed: int) -> tuple[Rows, Rows]:
    test = in_test(rows.documents, seed)
    return rows.where(~test), rows.where(test)
