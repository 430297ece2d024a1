"""k-sparse probes: logistic regression on the few features that tell two classes apart.

In the manner of SAEBench (`sparse_probing/probe_training.py`) and sae-probes
(`run_sae_evals.py`, arXiv 2502.16681):

- The k features are those with the largest |mean of class 1 - mean of class 0| on the training
  side, as in SAEBench. (sae-probes has since divided each feature by its mean where it is active.)
- They are standardised with the training side's mean and deviation. Neither project does that for
  features; without it, the penalty of the regression falls on the features of small scale.
- The strength C of the L2 penalty is the one of `PENALTIES` with the best AUC over inner folds of
  training documents, the weakest penalty where several are as good, as in sae-probes. The same
  holds for every probe here, so that none has an advantage by it.

What the features of a text are pooled from is the caller's: `sae.runs.probing.pooled_features`.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from activation_cache.common.errors import InputError
from sae.analysis.probing.folds import (
    Labels,
    document_folds,
    document_ids,
    refuse_bad_labels,
    refuse_leaks,
)
from sae.analysis.probing.scores import CrossValidated, Score, over_folds, score_of

Features = Float[np.ndarray, "_ _"] | sparse.sparray | sparse.spmatrix
"""A row for each text."""

PENALTIES = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)
"""scikit-learn's C, from the weakest penalty to the strongest."""
N_INNER_FOLDS = 3
"""Among which the penalty is chosen."""
MAX_ITER = 2000


def probe(
    features_train: Features,
    y_train: Labels,
    documents_train: Sequence[Hashable],
    features_test: Features,
    y_test: Labels,
    documents_test: Sequence[Hashable],
    k: int | None,
    *,
    transform: BaseEstimator | None = None,
    seed: int = 0,
) -> Score:
    """Train a probe of k features on some documents, and measure it on others.

    k None is the logistic probe on all columns, as for raw activations. `transform` is fitted on
    the training side before features are chosen; PCA for instance. Raises `InputError` for a
    document on both sides, one class only, too few documents, or a k that is none.
    """
    refuse_bad_labels(y_train, documents_train)
    refuse_bad_labels(y_test, documents_test)
    refuse_leaks(documents_train, documents_test)
    train, test = _rows(features_train, y_train, k), _rows(features_test, y_test, k)
    if train.shape[1] != test.shape[1]:
        raise InputError(
            f"{train.shape[1]} features in training and {test.shape[1]} held out: give those of "
            f"one dictionary"
        )
    if transform is not None:
        unfitted: Any = clone(transform)
        fitted = unfitted.fit(train)
        train, test = fitted.transform(train), fitted.transform(test)
    chosen = np.empty(0, np.int64) if k is None else top_features(train, y_train, k)
    if k is not None:
        train, test = (_dense(of[:, chosen]) for of in (train, test))
    log_odds = _fitted(train, y_train, documents_train, seed).decision_function(test)
    return score_of(log_odds, y_test, tuple(chosen.tolist()))


def cross_validated(
    features: Features,
    y: Labels,
    documents: Sequence[Hashable],
    k: int | None,
    *,
    n_folds: int = 5,
    transform: BaseEstimator | None = None,
    seed: int = 0,
) -> CrossValidated:
    """`probe` on each of several folds of documents, with features chosen again in each.

    The interval is from a bootstrap of the held-out documents of each fold. Raises what `probe`
    does.
    """
    rows = _rows(features, y, k)
    ids = document_ids(documents)
    folds = document_folds(y, documents, n_folds, seed)
    scores = [
        probe(
            *(rows[train], y[train], ids[train].tolist()),
            *(rows[test], y[test], ids[test].tolist()),
            k,
            transform=transform,
            seed=seed,
        )
        for train, test in folds
    ]
    held_out = [test for _, test in folds]
    return over_folds(scores, [y[of] for of in held_out], [ids[of] for of in held_out], seed)


def top_features(features: Features, y: Labels, k: int) -> Int[np.ndarray, " k"]:
    """The k columns with the largest |mean of class 1 - mean of class 0|, the largest first; of
    equal ones the first. All, where there are fewer than k."""
    means = [
        np.asarray(_matrix(features)[y == label].mean(axis=0, dtype=np.float64)).ravel()
        for label in (1, 0)
    ]
    return np.argsort(-np.abs(means[0] - means[1]), kind="stable")[:k]


def _fitted(train: Any, y: Labels, documents: Sequence[Hashable], seed: int) -> Any:
    """Standardised logistic regression, with the penalty that is best on inner folds."""
    scaler = StandardScaler(with_mean=not sparse.issparse(train))  # else it would be dense
    rows = scaler.fit_transform(train)
    folds = document_folds(y, documents, N_INNER_FOLDS, seed)

    def regression(C: float, some: Any = slice(None)) -> Any:
        return LogisticRegression(C=C, max_iter=MAX_ITER).fit(rows[some], y[some])

    def auc(C: float) -> float:
        parts = (
            (regression(C, inner).decision_function(rows[held]), held) for inner, held in folds
        )
        return sum(score_of(log_odds, y[held], ()).auc for log_odds, held in parts)

    best = max(PENALTIES, key=auc)  # the first of several
    return make_pipeline(scaler, regression(best))


def _rows(features: Features, y: Labels, k: int | None) -> Any:
    """Features that can be indexed by rows; `InputError` where they do not fit."""
    rows = _matrix(features)
    if rows.shape[0] != len(y):
        raise InputError(f"features of {rows.shape[0]} texts and {len(y)} labels: give one each")
    if k is not None and not 1 <= k <= rows.shape[1]:
        raise InputError(f"k must be from 1 to the {rows.shape[1]} features, got {k}")
    values = rows.data if sparse.issparse(rows) else rows
    if not np.isfinite(values).all():
        raise InputError("the features have values that are not finite: leave those texts out")
    return rows


def _matrix(features: Features) -> Any:
    return sparse.csr_array(features) if sparse.issparse(features) else np.asarray(features)


def _dense(columns: Any) -> Float[np.ndarray, "texts k"]:
    return columns.toarray() if sparse.issparse(columns) else columns
