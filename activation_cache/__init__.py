"""Text to tokens to activations to shuffled batches. Knows no dictionary."""

from activation_cache.cache.manifest import CacheConfig
from activation_cache.cache.statistics import ActivationStatistics
from activation_cache.cache.store import ActivationCache
from activation_cache.common.errors import InputError
from activation_cache.model.language_model import LanguageModel
from activation_cache.model.loading import load_model
from activation_cache.stream.harvest import ActivationStream, HarvestConfig, harvest
from activation_cache.stream.source import SourceConfig, text_batches

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
    "text_batches",
]
