"""Dictionaries beside what they must beat: raw activations, principal components, the majority."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from activation_cache.common.errors import InputError
from sae.analysis.probing.folds import Labels, document_folds, document_ids
from sae.analysis.probing.probes import Features, cross_validated
from sae.analysis.probing.scores import CrossValidated, Score, over_folds, score_of

KS = (1, 2, 5, 16)
"""Features of a probe."""

RAW, PCA_BASIS, MAJORITY = "raw", "pca", "majority"


@dataclass(frozen=True)
class Compared:
    """One probe of a comparison."""

    name: str
    """Of the dictionary, or raw, pca or majority."""
    k: int | None
    """None for all columns, and for the majority, which has none."""
    result: CrossValidated


def compare(
    dictionaries: Mapping[str, Features],
    raw: Float[np.ndarray, "texts d_in"],
    y: Labels,
    documents: Sequence[Hashable],
    *,
    ks: Sequence[int] = KS,
    n_folds: int = 5,
    seed: int = 0,
) -> list[Compared]:
    """k-sparse probes on the features of each dictionary, and the baselines, on the same folds.

    `dictionaries` are features by name, a row for each text; a random dictionary of the same width
    should be one of them. The baselines: `raw`, the logistic probe on all activations; `pca`, the k
    principal components of the standardised training activations that are chosen as features are,
    so d_in directions that know nothing of labels; `majority`, the larger class of the training
    side. The differences of `scores.difference` are paired. Raises what `cross_validated` does.
    """
    taken = sorted({RAW, PCA_BASIS, MAJORITY} & set(dictionaries))
    if taken:
        raise InputError(f"a dictionary is called {taken[0]!r}, as a baseline is: rename it")
    basis = make_pipeline(StandardScaler(), PCA(random_state=seed))

    def found() -> Iterator[Compared]:
        for name, features in dictionaries.items():
            for k in ks:
                its = cross_validated(features, y, documents, k, n_folds=n_folds, seed=seed)
                yield Compared(name, k, its)
        its = cross_validated(raw, y, documents, None, n_folds=n_folds, seed=seed)
        yield Compared(RAW, None, its)
        for k in (k for k in ks if k <= raw.shape[1]):
            its = cross_validated(raw, y, documents, k, n_folds=n_folds, transform=basis, seed=seed)
            yield Compared(PCA_BASIS, k, its)
        yield Compared(MAJORITY, None, majority(y, documents, n_folds=n_folds, seed=seed))

    return list(found())


def majority(
    y: Labels, documents: Sequence[Hashable], *, n_folds: int = 5, seed: int = 0
) -> CrossValidated:
    """Whoever always says the larger class of the training side, class 0 where both are as large.
    Its AUC is 1/2."""
    ids = document_ids(documents)
    folds = document_folds(y, documents, n_folds, seed)
    scores: list[Score] = []
    for train, test in folds:
        log_odds = np.full(len(test), 1.0 if 2 * y[train].sum() > len(train) else -1.0)
        scores.append(score_of(log_odds, y[test], ()))
    held_out = [test for _, test in folds]
    return over_folds(scores, [y[of] for of in held_out], [ids[of] for of in held_out], seed)
