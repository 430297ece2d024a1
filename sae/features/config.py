"""How much is kept of every feature."""

from dataclasses import asdict, dataclass

from activation_cache.common.errors import refuse_below


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """How much of each feature is kept."""

    n_top: int = 16
    """Contexts with the largest values, each of another block of text."""
    n_groups: int = 5
    """Quantiles: groups of equally many active tokens."""
    n_of_group: int = 4
    """Contexts of each."""
    tokens_before: int = 24
    """Tokens of a context in front of the one that is shown."""
    tokens_after: int = 8
    n_bins: int = 40
    """Of the histogram."""
    n_tokens: int = 10
    """Token ids on which it is active most often, and of the logits on each side."""
    n_neighbours: int = 10
    n_together: int = 10
    """Features that are active at the same place."""
    n_looked_at: int = 128
    """Active tokens, evenly spread, from which these are counted."""

    def __post_init__(self) -> None:
        refuse_below(1, **asdict(self))
