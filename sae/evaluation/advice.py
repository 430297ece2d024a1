"""What to make of numbers that say that something went wrong."""

from collections.abc import Mapping
from typing import Any

from activation_cache.common.numbers import format_number


def advice(metrics: Mapping[str, Any]) -> list[str]:
    """A sentence for each number of an evaluation that makes a dictionary of little use, with what
    to try. Empty for most."""
    found: list[str] = []
    fvu, dead_fraction = metrics.get("fvu", 0.0), metrics.get("dead_fraction", 0.0)
    if fvu > 1:
        found.append(
            f"FVU {format_number(fvu)} is worse than 1, which the mean alone would give: the "
            f"training has diverged or was far too short; try a lower learning rate, or more tokens"
        )
    if dead_fraction > 0.5:
        found.append(
            f"{metrics['dead']:,} of {metrics['d_sae']:,} features ({dead_fraction:.0%}) are dead: "
            f"they fired on none of {metrics['n_tokens']:,} held-out tokens; try fewer features, a "
            f"lower learning rate or penalty, or more tokens"
        )
    return found
