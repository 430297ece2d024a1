"""Which features are active with a feature: on the same token, the one before, the one after."""

import numpy as np

from sae.features.config import CollectConfig
from sae.features.gathered import Array, Gathered
from sae.features.summary import Active

SIDES = {"before": -1, "with": 0, "after": 1}


class Together:
    """Counts of pairs, from at most `n_looked_at` tokens of a feature, evenly spread over them."""

    def __init__(self, gathered: Gathered, d_sae: int, cfg: CollectConfig) -> None:
        self._offsets = gathered.offsets
        self._lengths = np.diff(self._offsets)
        self._indices = gathered.array("indices")
        self._d_sae, self._context_size = d_sae, gathered.state["context_size"]
        self._n_kept, self._n_looked_at = cfg.n_together, cfg.n_looked_at

    def of(self, feature: int, active: Active) -> dict[str, Array]:
        """For each side, the features that are active most often there, and on what share of the
        tokens of this one; -1 and 0 where there are fewer."""
        n = len(active.positions)
        chosen = np.unique(np.arange(self._n_looked_at) * n // self._n_looked_at) if n else []
        at = active.positions[np.asarray(chosen, np.int64)]
        found: dict[str, Array] = {}
        for side, step in SIDES.items():
            # Tokens of the same block: others are of another text.
            there = at[(at % self._context_size + step) // self._context_size == 0] + step
            counts = self._counts(there)
            if side == "with":
                counts[feature] = 0
            others = counts.nonzero()[0]
            best = others[np.lexsort((others, -counts[others]))[: self._n_kept]]
            share = counts[best] / max(1, len(there))
            padding = (0, self._n_kept - len(best))
            found[f"{side}_ids"] = np.pad(best.astype(np.int32), padding, constant_values=-1)
            found[f"{side}_share"] = np.pad(share.astype(np.float32), padding)
        return found

    def _counts(self, positions: Array) -> Array:
        starts, lengths = self._offsets[positions], self._lengths[positions]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        entries = np.repeat(starts, lengths) + within
        return np.bincount(self._indices[entries], minlength=self._d_sae)
