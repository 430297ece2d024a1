"""What a feature responds to, from all tokens on which it is active."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from sae.features.config import CollectConfig
from sae.features.gathered import ENTRIES_AT_ONCE, Array, Gathered


class Active(NamedTuple):
    """The tokens on which a feature is active, in the order of the text."""

    positions: Array
    values: Array


class Found(NamedTuple):
    """A context that is shown: where, and which group it stands for."""

    kind: str
    position: int
    value: float


def by_feature(gathered: Gathered, d_sae: int) -> Iterator[Active]:
    """Where each feature is active, feature by feature: as many at once as fit into memory."""
    n_entries = np.zeros(d_sae, np.int64)
    for _, features, _ in gathered.chunks():
        n_entries += np.bincount(features, minlength=d_sae)
    ends = np.cumsum(n_entries)
    first = 0
    while first < d_sae:
        before = ends[first - 1] if first else 0
        last = int(np.searchsorted(ends, before + ENTRIES_AT_ONCE, side="right"))
        last = max(last, first + 1)
        yield from _of_range(gathered, first, last)
        first = last


def _of_range(gathered: Gathered, first: int, last: int) -> Iterator[Active]:
    parts: list[tuple[Array, Array, Array]] = []
    for chunk in gathered.chunks():
        mask = (chunk[1] >= first) & (chunk[1] < last)
        parts.append((chunk[0][mask], chunk[1][mask], chunk[2][mask]))
    positions, features, values = (np.concatenate(of) for of in zip(*parts, strict=True))
    order = np.argsort(features, kind="stable")  # within a feature, the order of the text
    ends = np.cumsum(np.bincount(features - first, minlength=last - first))[:-1]
    positions, values = np.split(positions[order], ends), np.split(values[order], ends)
    yield from map(Active, positions, values)


def statistics(active: Active, tokens: Array, n_counted: int, cfg: CollectConfig) -> dict[str, Any]:
    """Numbers of one feature. All sums are in float64, in the order of the text."""
    values = active.values.astype(np.float64)
    n = len(values)
    low, high = (min(0.0, values.min()), values.max()) if n else (0.0, 0.0)
    edges = (low, high) if high > low else (low, low + 1)
    ids, counts = _most_frequent(tokens[active.positions], cfg.n_tokens)
    return {
        "n_active": n,
        "density": n / n_counted if n_counted else 0.0,
        "max": high,
        "min": low,
        "mean_active": values.mean() if n else 0.0,
        "std_active": values.std() if n else 0.0,
        "mean_square": (values**2).sum() / n_counted if n_counted else 0.0,
        "histogram": np.histogram(values, cfg.n_bins, edges)[0],
        "token_ids": ids,
        "token_counts": counts,
    }


def _most_frequent(ids: Array, n: int) -> tuple[Array, Array]:
    """The ids that occur most often and how often, the smaller id first; padded with -1 and 0."""
    unique, counts = np.unique(ids, return_counts=True)
    best = np.lexsort((unique, -counts))[:n]
    padding = (0, n - len(best))
    return (
        np.pad(unique[best].astype(np.int32), padding, constant_values=-1),
        np.pad(counts[best], padding),
    )


def contexts(active: Active, context_size: int, cfg: CollectConfig) -> list[Found]:
    """The blocks with the largest values, one token of each, then tokens from each quantile.

    Among equal values, the earlier position comes first. The quantiles are groups of equally many
    tokens, sorted by value; what is shown of one lies evenly in it.
    """
    positions, values = active
    order = np.lexsort((positions, -values))
    blocks = positions[order] // context_size
    firsts = np.sort(np.unique(blocks, return_index=True)[1])[: cfg.n_top]
    found = [("top", i) for i in order[firsts]]
    n, n_groups, each = len(values), cfg.n_groups, cfg.n_of_group
    for group in reversed(range(n_groups)):
        # Of the ranks from the largest value on: the top quantile comes first.
        start, end = ((n_groups - 1 - group + i) * n // n_groups for i in (0, 1))
        if start == end:
            continue
        ranks = start + (2 * np.arange(each) + 1) * (end - start) // (2 * each)
        name = f"quantile {group / n_groups:g} to {(group + 1) / n_groups:g}"
        found += [(name, i) for i in order[np.unique(ranks)]]
    return [Found(kind, int(positions[i]), float(values[i])) for kind, i in found]


def around(active: Active, start: int, end: int) -> Array:
    """The values of the feature from one position to another, 0 where it is not active."""
    values = np.zeros(end - start, np.float32)
    first, last = np.searchsorted(active.positions, (start, end))
    values[active.positions[first:last] - start] = active.values[first:last]
    return values
