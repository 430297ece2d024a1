"""Where the activations of a run come from: a model that reads text, or a cache of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from activation_cache import (
    ActivationCache,
    ActivationStream,
    LanguageModel,
    SourceConfig,
    harvest,
    load_model,
)
from activation_cache.models import TINY
from activation_cache.prefetch import Prefetch
from sae.base import SAE
from sae.runs.settings import DTYPES, RunSettings


@dataclass(frozen=True)
class Origin:
    """A loaded model, the cache where there is one, and the settings that these decide."""

    settings: RunSettings
    model: LanguageModel
    cache: ActivationCache | None

    @classmethod
    def open(cls, settings: RunSettings, console: Console) -> "Origin":
        cache = None if settings.cache is None else ActivationCache.open(settings.cache)
        if cache is not None:
            settings = settings.of_cache(cache)
        name = settings.model or TINY
        console.print(f"loading the model {name}")
        if cache is not None:
            model = cache.load_model(device=settings.device)
        else:
            model = load_model(name, device=settings.device, dtype=DTYPES[settings.dtype])
        return cls(settings, model, cache)

    @property
    def hook_names(self) -> tuple[str, ...]:
        """The sites that the settings name, or else the default ones."""
        return self.settings.hook_names(self.model)

    def build(self, settings: RunSettings) -> SAE:
        """A fresh dictionary for the one site of these settings."""
        (hook_name,) = settings.hook_name
        sae = settings.sae_config().build(self.model.width(hook_name), seed=settings.seed)
        sae.metadata = settings.metadata(self.model, hook_name, self._source((hook_name,)))
        return sae.to(self.model.device)

    def stream(self, hook_names: Sequence[str], n_tokens: int) -> ActivationStream | Prefetch:
        """Shuffled batches {hook name: [batch_tokens, width]} for at least `n_tokens` tokens."""
        settings = self.settings
        if self.cache is None:
            return harvest(self.model, settings.harvest_config(tuple(hook_names)))
        return self.cache.batches(
            settings.batch_tokens,
            sites=hook_names,
            seed=settings.data_seed,
            n_tokens=n_tokens,
            n_epochs=settings.epochs,
            window_tokens=settings.buffer_tokens,
        )

    def _source(self, hook_names: tuple[str, ...]) -> SourceConfig:
        if self.cache is not None:
            return self.cache.config
        return self.settings.harvest_config(hook_names)
