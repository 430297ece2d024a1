"""What every feature of a dictionary responds to and does, from one pass over text."""

from sae.features.collect import collect, gather
from sae.features.config import CollectConfig
from sae.features.folder import Context, Feature, Features
from sae.features.folder import open_features as open
from sae.features.neuronpedia import to_neuronpedia

__all__ = [
    "CollectConfig",
    "Context",
    "Feature",
    "Features",
    "collect",
    "gather",
    "open",
    "to_neuronpedia",
]
