"""What features respond to, from all tokens on which they are active.

Some features at a time: `Group`. Whatever is found of a group is an array with a row for each of
its features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sae.features.config import CollectConfig
from sae.features.gathered import ENTRIES_AT_ONCE, Array, Gathered

FEATURES_AT_ONCE = 2**16
"""So that the number of a feature in its group has 16 bits, which are sorted in linear time."""


@dataclass(frozen=True)
class Group:
    """Where some features are active: feature by feature, each in the order of the text."""

    first: int
    """The number of the first of them."""
    offsets: Array
    """Where the entries of each feature begin, and where those of the last one end."""
    positions: Array
    values: Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def sizes(self) -> Array:
        """Tokens on which each feature is active."""
        return np.diff(self.offsets)

    @cached_property
    def features(self) -> Array:
        """Of each entry, the number in the group."""
        return np.repeat(np.arange(len(self)), self.sizes)

    @cached_property
    def ranked(self) -> Array:
        """Entries feature by feature, each from the largest value on; equal ones as in the text."""
        order = np.empty(len(self.values), np.int64)
        for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            order[start:end] = np.argsort(-self.values[start:end], kind="stable") + start
        return order

    def of_each(self, ufunc: np.ufunc, numbers: Array) -> Array:
        """The maximum or minimum of a number over the entries of each feature; 0 of none."""
        found = np.zeros(len(self), numbers.dtype)
        some = self.sizes > 0
        if some.any():
            found[some] = ufunc.reduceat(numbers, self.offsets[:-1][some])
        return found

    def sums(self, numbers: Array) -> Array:
        """Of each feature: by itself, so that rounding does not depend on what is beside it."""
        slices = map(slice, self.offsets[:-1], self.offsets[1:])
        return np.array([numbers[its].sum() for its in slices])


def ranges(starts: Array, lengths: Array) -> Array:
    """The numbers from each start on, as many as its length says, one after another."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def by_feature(gathered: Gathered, d_sae: int) -> Iterator[Group]:
    """All features, as many at once as fit into memory."""
    n_entries = np.zeros(d_sae, np.int64)
    for _, features, _ in gathered.chunks():
        n_entries += np.bincount(features, minlength=d_sae)
    ends = np.cumsum(n_entries)
    first = 0
    while first < d_sae:
        before = ends[first - 1] if first else 0
        last = int(np.searchsorted(ends, before + ENTRIES_AT_ONCE, side="right"))
        last = min(max(last, first + 1), first + FEATURES_AT_ONCE)
        offsets = np.concatenate([[0], ends[first:last] - before])
        yield _of_range(gathered, first, last, offsets)
        first = last


def _of_range(gathered: Gathered, first: int, last: int, offsets: Array) -> Group:
    numbers = np.empty(offsets[-1], np.uint16)
    positions, values = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.float32)
    end = 0
    for chunk in gathered.chunks():
        mask = (chunk[1] >= first) & (chunk[1] < last)
        start, end = end, end + np.count_nonzero(mask)
        positions[start:end], values[start:end] = chunk[0][mask], chunk[2][mask]
        numbers[start:end] = chunk[1][mask] - first
    order = np.argsort(numbers, kind="stable")  # within a feature, the order of the text
    return Group(first, offsets, positions[order], values[order])


def statistics(group: Group, tokens: Array, n_counted: int, cfg: CollectConfig) -> dict[str, Array]:
    """Numbers of each feature. All sums are in float64, in the order of the text."""
    values, n = group.values.astype(np.float64), np.maximum(1, group.sizes)
    mean = group.sums(values) / n
    variance = group.sums((values - mean[group.features]) ** 2) / n
    low, high = (
        np.minimum(0.0, group.of_each(np.minimum, values)),
        group.of_each(np.maximum, values),
    )
    ids, counts = _most_frequent(group, tokens[group.positions], cfg.n_tokens)
    return {
        "n_active": group.sizes,
        "density": group.sizes / n_counted,
        "max": high,
        "min": low,
        "mean_active": mean,
        "std_active": np.sqrt(variance),
        "mean_square": group.sums(values**2) / n_counted,
        "histogram": _histogram(
            group, values, low, np.where(high > low, high, low + 1), cfg.n_bins
        ),
        "token_ids": ids,
        "token_counts": counts,
    }


def _histogram(group: Group, values: Array, low: Array, high: Array, n_bins: int) -> Array:
    """That of `numpy.histogram` for each feature, between its own edges."""
    edges = np.linspace(low, high, n_bins + 1, axis=1)
    its = group.features
    bins = ((values - low[its]) / (high - low)[its] * n_bins).astype(np.int64).clip(0, n_bins - 1)
    bins -= values < edges[its, bins]  # rounding took it beyond an edge
    bins += (values >= edges[its, bins + 1]) & (bins < n_bins - 1)
    return np.bincount(its * n_bins + bins, minlength=len(group) * n_bins).reshape(-1, n_bins)


def _most_frequent(group: Group, ids: Array, n: int) -> tuple[Array, Array]:
    """The ids that occur most often and how often, the smaller id first; padded with -1 and 0."""
    n_ids = int(ids.max(initial=0)) + 1
    pairs, counts = np.unique(group.features * n_ids + ids, return_counts=True)
    features, ids = pairs // n_ids, pairs % n_ids
    order = np.argsort(features * (counts.max(initial=0) + 1) - counts, kind="stable")
    sizes = np.bincount(features, minlength=len(group))
    nth = ranges(np.zeros_like(sizes), sizes)
    features, order, nth = features[nth < n], order[nth < n], nth[nth < n]
    best = np.full((len(group), n), -1, np.int32), np.zeros((len(group), n), np.int64)
    best[0][features, nth], best[1][features, nth] = ids[order], counts[order]
    return best
