"""Training and held-out documents. Texts of one document are never on both sides."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Int
from sklearn.model_selection import StratifiedGroupKFold

from activation_cache.common.errors import InputError

Fold = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]
"""The rows of a training side, and those of its held-out side."""

Labels = Int[np.ndarray, " _"]
"""0 or 1 for each text."""


def document_folds(
    y: Labels, documents: Sequence[Hashable], n_folds: int, seed: int = 0
) -> list[Fold]:
    """Folds of whole documents, with both classes in about the same shares in each.

    Raises `InputError` where a class is missing, or has too few documents for both to be on both
    sides of every fold.
    """
    refuse_bad_labels(y, documents)
    if n_folds < 2:
        raise InputError(f"n_folds must be at least 2, got {n_folds}")
    ids = document_ids(documents)
    for label in (0, 1):
        n = len(np.unique(ids[y == label]))
        if n < n_folds:
            raise InputError(
                f"too few documents: class {label} has texts of {n}, and {n_folds} folds need as "
                f"many at least: give texts of more documents, or fewer folds"
            )
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    folds = [(train, test) for train, test in splitter.split(ids, y, ids)]
    for side in (rows for fold in folds for rows in fold):
        if len(np.unique(y[side])) < 2:
            raise InputError(
                f"too few documents: of {n_folds} folds of {len(np.unique(ids))} documents one has "
                f"a side with one class only: give texts of more documents, or fewer folds"
            )
    return folds


def refuse_bad_labels(y: Labels, documents: Sequence[Hashable]) -> None:
    """`InputError` unless there are labels 0 and 1, both, and a document for each."""
    if len(documents) != len(y):
        raise InputError(f"{len(y)} labels and {len(documents)} documents: give one for each text")
    found = np.unique(y).tolist()
    if not set(found) <= {0, 1}:
        raise InputError(f"labels must be 0 or 1, got {found[:5]}: number the two classes so")
    if len(found) < 2:
        raise InputError(f"one class only: every label is {found}: give texts of both classes")


def refuse_leaks(
    train: Sequence[Hashable], test: Sequence[Hashable], what: str = "document"
) -> None:
    """`InputError` where a document, or whatever else is given, is on both sides."""
    shared = set(train) & set(test)
    if shared:
        first = min(map(repr, shared))
        first = first if len(first) <= 60 else f"{first[:60]}..."
        raise InputError(
            f"the probe set leaks: {len(shared)} on both sides of the split, as the {what} "
            f"{first}: keep each {what} on one side"
        )


def document_ids(documents: Sequence[Hashable]) -> Int[np.ndarray, " texts"]:
    """Documents numbered in the order in which they come."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in documents], dtype=np.int64)
