"""What a dictionary looks like, from its weights and one pass over activations, without labels."""

from sae.analysis.structure.activity import Activity, Group
from sae.analysis.structure.meta import Fit, MetaConfig, MetaStructure, meta_structure
from sae.analysis.structure.neighbours import Neighbours, expected_nearest_absolute
from sae.analysis.structure.spread import Spread
from sae.analysis.structure.structure import FeatureStructure, Structure, structure

__all__ = [
    "Activity",
    "FeatureStructure",
    "Fit",
    "Group",
    "MetaConfig",
    "MetaStructure",
    "Neighbours",
    "Spread",
    "Structure",
    "expected_nearest_absolute",
    "meta_structure",
    "structure",
]
