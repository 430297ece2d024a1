"""Which features are active with a feature: on the same token, the one before, the one after."""

import numpy as np

from sae.features.config import CollectConfig
from sae.features.gathered import Array, Gathered
from sae.features.summary import Group, ranges

SIDES = {"before": -1, "with": 0, "after": 1}


class Together:
    """Counts of pairs, from at most `n_looked_at` tokens of a feature, evenly spread over them."""

    def __init__(self, gathered: Gathered, d_sae: int, cfg: CollectConfig) -> None:
        self._offsets = gathered.offsets
        self._lengths = gathered.array("counts")
        self._indices = gathered.array("indices")
        self._d_sae, self._context_size = d_sae, gathered.state["context_size"]
        self._n_kept, self._n_looked_at = cfg.n_together, cfg.n_looked_at

    def of(self, group: Group) -> dict[str, Array]:
        """For each side, the features that are active most often there, and on what share of the
        tokens of each one; -1 and 0 where there are fewer."""
        shape = len(group), self._n_kept
        ids = {side: np.full(shape, -1, np.int32) for side in SIDES}
        shares = {side: np.zeros(shape, np.float32) for side in SIDES}
        for row, n in enumerate(group.sizes):
            chosen = np.unique(np.arange(self._n_looked_at) * n // self._n_looked_at) if n else []
            at = group.positions[group.offsets[row] + np.asarray(chosen, np.int64)]
            for side, step in SIDES.items():
                # Tokens of the same block: others are of another text.
                there = at[(at % self._context_size + step) // self._context_size == 0] + step
                counts = self._counts(there)
                if side == "with":
                    counts[group.first + row] = 0
                best = _largest(counts, self._n_kept)
                ids[side][row, : len(best)] = best
                shares[side][row, : len(best)] = counts[best] / max(1, len(there))
        return {f"{side}_ids": ids[side] for side in SIDES} | {
            f"{side}_share": shares[side] for side in SIDES
        }

    def _counts(self, positions: Array) -> Array:
        entries = ranges(self._offsets[positions], self._lengths[positions])
        return np.bincount(self._indices[entries], minlength=self._d_sae)


def _largest(counts: Array, n: int) -> Array:
    """Where the n largest counts above 0 are, the smaller place first among equal ones."""
    places = np.flatnonzero(counts > 0)
    if len(places) > n:  # sort those alone that can be among them
        its = counts[places]
        places = places[its >= np.partition(its, -n)[-n]]
    return places[np.argsort(-counts[places], kind="stable")[:n]]
