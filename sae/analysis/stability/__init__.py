"""Which features of a dictionary reappear over seeds, which its twins with frozen random weights
have too, and which lie in a subspace that reappears although its axes do not."""

from sae.analysis.stability.activity import Pairing, measure
from sae.analysis.stability.assignment import Match, assign, expected_nearest, nearest
from sae.analysis.stability.dictionaries import SparseDictionary, Without, without
from sae.analysis.stability.seeds import SeedMatches, match_seeds
from sae.analysis.stability.stability import Stability, stability
from sae.analysis.stability.verdicts import VERDICTS, FeatureStability, Thresholds, Verdict

__all__ = [
    "VERDICTS",
    "FeatureStability",
    "Match",
    "Pairing",
    "SeedMatches",
    "SparseDictionary",
    "Stability",
    "Thresholds",
    "Verdict",
    "Without",
    "assign",
    "expected_nearest",
    "match_seeds",
    "measure",
    "nearest",
    "stability",
    "without",
]
