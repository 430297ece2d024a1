"""Text to tokens to activations to shuffled batches. Knows no dictionary."""

from activation_cache.errors import InputError
from activation_cache.harvest import ActivationStream, HarvestConfig, harvest
from activation_cache.loading import load_model
from activation_cache.manifest import CacheConfig
from activation_cache.models import LanguageModel
from activation_cache.source import SourceConfig
from activation_cache.statistics import ActivationStatistics
from activation_cache.store import ActivationCache

__all__ = [
    "ActivationCache",
    "ActivationStatistics",
    "ActivationStream",
    "CacheConfig",
    "HarvestConfig",
    "InputError",
    "LanguageModel",
    "SourceConfig",
    "harvest",
    "load_model",
]
