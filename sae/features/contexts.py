"""Contexts of features: which tokens are shown, and what is around them."""

from typing import NamedTuple

import numpy as np
import pyarrow

from sae.features.config import CollectConfig
from sae.features.gathered import Array
from sae.features.summary import Group, ranges

SCHEMA = pyarrow.schema(
    {
        "feature": pyarrow.int32(),
        "kind": pyarrow.string(),
        "position": pyarrow.int64(),
        "value": pyarrow.float32(),
        "at": pyarrow.int32(),
        "token_ids": pyarrow.list_(pyarrow.int32()),
        "values": pyarrow.list_(pyarrow.float32()),
    }
)


class Shown(NamedTuple):
    """Which entries of a group are shown, feature by feature, and the kind of each."""

    entries: Array
    kinds: Array


def contexts(group: Group, tokens: Array, context_size: int, cfg: CollectConfig) -> pyarrow.Table:
    """A row for each context of each feature, in the order of the features."""
    entries, kinds = shown(group, context_size, cfg)
    features, positions = group.features[entries], group.positions[entries]
    blocks = positions - positions % context_size
    starts = np.maximum(blocks, positions - cfg.tokens_before)
    ends = np.minimum(blocks + context_size, positions + cfg.tokens_after + 1)
    lists = np.concatenate([[0], np.cumsum(ends - starts)]).astype(np.int32)
    columns = {
        "feature": (features + group.first).astype(np.int32),
        "kind": _names(cfg)[kinds],
        "position": positions,
        "value": group.values[entries],
        "at": (positions - starts).astype(np.int32),
        "token_ids": _lists(lists, tokens[ranges(starts, ends - starts)]),
        "values": _lists(lists, _around(group, features, starts, ends, lists)),
    }
    return pyarrow.table(columns, SCHEMA)


def _lists(offsets: Array, flat: Array) -> pyarrow.Array:
    return pyarrow.ListArray.from_arrays(pyarrow.array(offsets), pyarrow.array(flat))


def _names(cfg: CollectConfig) -> Array:
    """Of the kinds: the top contexts, then the quantiles, the top one first."""
    n = cfg.n_groups
    quantiles = (f"quantile {i / n:g} to {(i + 1) / n:g}" for i in reversed(range(n)))
    return np.array(["top", *quantiles], object)


def shown(group: Group, context_size: int, cfg: CollectConfig) -> Shown:
    """The blocks with the largest values, one token of each, then tokens from each quantile.

    Among equal values, the earlier position comes first. The quantiles are groups of equally many
    tokens, sorted by value; what is shown of one lies evenly in it.
    """
    found = [_top(group, context_size, cfg.n_top)]
    for quantile in range(cfg.n_groups):  # of the ranks from the largest value on
        starts, ends = (group.sizes * (quantile + i) // cfg.n_groups for i in (0, 1))
        evenly = 2 * np.arange(cfg.n_of_group) + 1
        ranks = starts[:, None] + evenly * (ends - starts)[:, None] // (2 * cfg.n_of_group)
        new = np.diff(ranks, axis=1, prepend=-1) > 0
        new &= (starts < ends)[:, None]
        found.append(group.ranked[(group.offsets[:-1, None] + ranks)[new]])
    entries = np.concatenate(found)
    kinds = np.repeat(np.arange(len(found)), [len(its) for its in found])
    order = np.argsort(group.features[entries], kind="stable")
    return Shown(entries[order], kinds[order])


def _top(group: Group, context_size: int, n: int) -> Array:
    """Of each feature the n blocks with the largest values: the entry with the largest in each."""
    if not len(group.positions):
        return group.positions
    ranks = np.empty_like(group.ranked)
    ranks[group.ranked] = np.arange(len(ranks))
    blocks = group.positions // context_size
    is_new = (np.diff(blocks, prepend=-1) != 0) | (np.diff(group.features, prepend=-1) != 0)
    best_of_block = np.zeros(len(ranks), bool)  # by rank
    best_of_block[np.minimum.reduceat(ranks, np.flatnonzero(is_new))] = True
    so_far = np.concatenate([[0], np.cumsum(best_of_block)])
    nth = so_far[1:] - np.repeat(so_far[group.offsets[:-1]], group.sizes)
    return group.ranked[best_of_block & (nth <= n)]


def _around(group: Group, features: Array, starts: Array, ends: Array, lists: Array) -> Array:
    """The values of features from positions to others, 0 where they are not active; flat."""
    n_positions = int(group.positions.max(initial=0)) + 2
    keys = group.features * n_positions + group.positions
    bounds = (np.minimum(its, n_positions - 1) for its in (starts, ends))
    first, last = (np.searchsorted(keys, features * n_positions + its) for its in bounds)
    entries = ranges(first, last - first)
    shift = np.repeat(lists[:-1] - starts, last - first)
    values = np.zeros(lists[-1], np.float32)
    values[group.positions[entries] + shift] = group.values[entries]
    return values
