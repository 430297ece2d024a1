"""The numbers of an evaluation for tokens at a position, or of a rarity."""

from typing import Any

from sae.evaluation.groups import FREQUENCY, N_RARITIES, POSITION, position_range
from sae.evaluation.metric import Accumulator

NAMES = ("n_tokens", "fvu", "cosine", "l0", "ce_clean", "delta_ce", "kl")
"""Metrics that each group has. Unexplained variance refers to the mean of all tokens."""


def breakdown(totals: Accumulator) -> dict[str, list[dict[str, Any]]]:
    """A row for each group of tokens: where they are, how many, and their metrics."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for by, described in ((POSITION, _positions), (FREQUENCY, _rarity)):
        found = totals.by_group(by)
        rows[by] = [
            {**described(group), **{name: its[name] for name in NAMES if name in its}}
            for group, its in found.items()
        ]
    return {by: its for by, its in rows.items() if its}


def _positions(group: int) -> dict[str, Any]:
    first, last = position_range(group)
    return {"first": first, "last": last}


def _rarity(group: int) -> dict[str, Any]:
    """Quarters of all tokens, those whose id is rarest in the text first."""
    return {"from_share": group / N_RARITIES, "to_share": (group + 1) / N_RARITIES}
