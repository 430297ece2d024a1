"""Where the activations of a run come from: a model that reads text, or a cache of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rich.console import Console

from activation_cache import (
    ActivationCache,
    ActivationStream,
    LanguageModel,
    SourceConfig,
    harvest,
    load_model,
)
from activation_cache.common.errors import InputError
from activation_cache.model.loading import TINY
from activation_cache.stream.prefetch import Prefetch
from sae.base import SAE
from sae.evaluation.evaluate import TextBatch
from sae.runs.evaluation import held_out_batches
from sae.runs.settings.run_settings import DTYPES, RunSettings
from sae.serialization import load


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
        console.print(f"loading the model {name}", markup=False)
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
        """A dictionary for the one site of these settings: fresh, or as another was left."""
        (hook_name,) = settings.hook_name
        sae = settings.sae_config().build(self.model.width(hook_name), seed=settings.seed)
        if settings.start_from is not None:
            _take_weights_(sae, settings.start_from)
        sae.metadata = self._metadata(settings, hook_name)
        return sae.to(self.model.device)

    @cached_property
    def held_out(self) -> list[TextBatch]:
        """The text that dictionaries of any site are evaluated on."""
        return held_out_batches(self.model, self._metadata(self.settings, self.hook_names[0]))

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

    def _metadata(self, settings: RunSettings, hook_name: str) -> dict[str, Any]:
        live = self.settings.harvest_config((hook_name,))
        source: SourceConfig = live if self.cache is None else self.cache.config
        return settings.metadata(self.model, hook_name, source)


def _take_weights_(sae: SAE, folder: str) -> None:
    start = load(folder)
    ours, theirs = (
        f"{of.cfg.architecture}{', tied' if of.cfg.tied else ''}, {of.d_in} to {of.d_sae}"
        for of in (sae, start)
    )
    if ours != theirs:
        raise InputError(
            f"start_from {folder} is a dictionary of another kind ({theirs}) than what is to be "
            f"trained ({ours}): start from one of the same architecture and size"
        )
    sae.load_state_dict(start.state_dict())
    sae.is_fresh = False
