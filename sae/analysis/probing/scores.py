"""Accuracy and AUC on held-out documents, with intervals from a bootstrap over documents."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from activation_cache.common.errors import InputError
from sae.analysis.probing.folds import Labels

N_DRAWS = 1000
"""Resamples of a bootstrap."""
LEVEL = 0.95
"""Of the intervals."""


@dataclass(frozen=True)
class Interval:
    """A mean, and the percentiles of its bootstrap that hold 95% of it."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, mean: float, draws: Float[np.ndarray, " draws"]) -> "Interval":
        low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(mean, float(low), float(high))


@dataclass(frozen=True)
class Score:
    """What a probe does on held-out texts."""

    accuracy: float
    auc: float
    features: tuple[int, ...]
    """Those that it reads, the best first; empty for a probe of all columns."""
    log_odds: Float[np.ndarray, " texts"] = field(repr=False)
    """Of class 1, for each held-out text."""


@dataclass(frozen=True)
class CrossValidated:
    """The means of a probe over folds. Intervals are over the held-out documents: they leave out
    that other training documents would give another probe."""

    accuracy: Interval
    auc: Interval
    folds: tuple[Score, ...]
    draws: Float[np.ndarray, "draws 2"] = field(repr=False)
    """Accuracy and AUC of each resample, means over folds. NaN where one had a single class."""


def difference(a: CrossValidated, b: CrossValidated) -> tuple[Interval, Interval]:
    """By how much a is better than b, in accuracy and in AUC.

    For two probes of the same texts, folds and seed: their resamples are of the same documents, so
    the interval is that of the paired difference.
    """
    sizes = [[len(fold.log_odds) for fold in of.folds] for of in (a, b)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"the probes were held out on folds of {sizes[0]} and {sizes[1]} texts: compare those "
            f"of the same set, folds and seed"
        )
    accuracy, auc = (a.draws - b.draws).T
    return (
        Interval.of(a.accuracy.mean - b.accuracy.mean, accuracy),
        Interval.of(a.auc.mean - b.auc.mean, auc),
    )


def over_folds(
    scores: list[Score], labels: list[Labels], documents: list[np.ndarray], seed: int
) -> CrossValidated:
    """Scores of each fold together with the labels and document numbers of its held-out texts."""
    rng = np.random.default_rng(seed)
    drawn = [
        _resampled(score.log_odds, y, ids, rng)
        for score, y, ids in zip(scores, labels, documents, strict=True)
    ]
    draws = np.mean(drawn, axis=0)
    return CrossValidated(
        Interval.of(float(np.mean([score.accuracy for score in scores])), draws[:, 0]),
        Interval.of(float(np.mean([score.auc for score in scores])), draws[:, 1]),
        tuple(scores),
        draws,
    )


def auc_of(
    log_odds: Float[np.ndarray, " texts"], y: Labels, weights: Float[np.ndarray, "draws texts"]
) -> Float[np.ndarray, " draws"]:
    """The chance that a text of class 1 has the higher log-odds than one of class 0, half where
    they are the same. Each text counts with its weight. NaN where a class has none."""
    order = np.argsort(log_odds, kind="stable")
    _, starts = np.unique(log_odds[order], return_index=True)
    ones, zeros = (
        np.add.reduceat(weights[:, order] * (y[order] == label), starts, axis=1) for label in (1, 0)
    )
    pairs = ones.sum(axis=1) * zeros.sum(axis=1)
    below = np.cumsum(zeros, axis=1) - zeros / 2
    return (ones * below).sum(axis=1) / np.where(pairs > 0, pairs, np.nan)


def accuracy_of(
    log_odds: Float[np.ndarray, " texts"], y: Labels, weights: Float[np.ndarray, "draws texts"]
) -> Float[np.ndarray, " draws"]:
    return weights @ ((log_odds > 0) == (y == 1)) / weights.sum(axis=1)


def score_of(log_odds: Float[np.ndarray, " texts"], y: Labels, features: tuple[int, ...]) -> Score:
    """Of a probe with these log-odds on held-out texts."""
    once = np.ones((1, len(y)))
    accuracy, auc = (of(log_odds, y, once).item() for of in (accuracy_of, auc_of))
    return Score(accuracy, auc, features, log_odds)


def _resampled(
    log_odds: Float[np.ndarray, " texts"],
    y: Labels,
    ids: Int[np.ndarray, " texts"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "draws 2"]:
    """Accuracy and AUC of as many documents, drawn from them with replacement, again and again."""
    numbers, ids = np.unique(ids, return_inverse=True)
    n = len(numbers)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=N_DRAWS)[:, ids].astype(np.float64)
    accuracy, auc = (of(log_odds, y, weights) for of in (accuracy_of, auc_of))
    return np.stack([np.where(np.isnan(auc), np.nan, accuracy), auc], axis=1)
