"""Features as the files that Neuronpedia takes."""

from sae.features.neuronpedia.export import to_neuronpedia
from sae.features.neuronpedia.source import SourceName

__all__ = ["SourceName", "to_neuronpedia"]
